"""The commands as users run them: a run's files, sweeps, resume after a kill, evaluation."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simclr.checkpoint import last_checkpoint, load_checkpoint
from tests.conftest import TINY_RUN, Run, command, environment

TAGS = ("train/loss", "train/top1", "train/top5", "train/lr", "train/images_per_second", "val/knn_top1")


def only_run(root: Path) -> Path:
    (found,) = (path for path in root.iterdir() if path.is_dir())
    return found


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run_dir))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(last_checkpoint(run_dir))["state_dict"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The working directory of one finished run, and of its linear evaluation."""
    folder = tmp_path_factory.mktemp("finished")
    for script in ("train.py", "linear_eval.py"):
        arguments = TINY_RUN if script == "train.py" else (f"run={only_run(folder / 'outputs')}",)
        done = subprocess.run(
            command(script, *arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        (folder / f"{script}.txt").write_text(done.stdout + done.stderr)
    return folder


def test_a_run_directory_holds_what_the_contract_says(finished):
    run_dir = only_run(finished / "outputs")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    curves = scalars(run_dir)
    for tag in TAGS:
        assert metrics[tag] == pytest.approx(curves[tag][-1][1])
    assert metrics["images_seen"] == 2 * 4 * 16
    assert metrics["epochs"] == 2
    assert metrics["precision"] == "32"
    assert metrics["images_per_second"] > 0
    assert metrics["wall_seconds"] > 0
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", metrics["git_commit"])
    assert "k=20" in metrics["protocol"]["val/knn_top1"]
    config = OmegaConf.load(run_dir / "config.yaml")
    assert config.method.temperature == 0.07
    assert len(curves["train/loss"]) == 8
    assert curves["train/lr"][0][1] == pytest.approx(3e-4)
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"last.ckpt"}


def test_a_checkpoint_is_plain_data(finished):
    path = last_checkpoint(only_run(finished / "outputs"))
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 8
    assert checkpoint["config"]["batch_size"] == 16


def test_the_log_is_for_people(finished):
    text = (finished / "train.py.txt").read_text()
    assert "Traceback" not in text
    assert "Warning" not in text
    assert "k-NN top-1 of the untrained encoder" in text
    assert re.search(r"Epoch 2/2: loss \d\.\d+, top-1 [\d.]+%, top-5 [\d.]+%, lr \d\.\d\de-\d+, images/s \d+", text)
    assert "python linear_eval.py run=" in text


def test_the_same_command_again_does_no_work(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.suffix in (".ckpt", ".json")}
    done = subprocess.run(
        command("train.py", *TINY_RUN), cwd=finished, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0
    assert "finished already" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_linear_evaluation_reports_and_records(finished):
    run_dir = only_run(finished / "outputs")
    result = json.loads((run_dir / "linear_eval.json").read_text())
    assert {"top1", "top5", "top1_low", "top1_high", "knn_top1", "l2", "protocol", "train_images"} <= result.keys()
    assert 0 <= result["top1_low"] <= result["top1"] <= result["top1_high"] <= 100
    assert (result["train_images"], result["val_images"]) == (64, 20)
    assert Path(result["checkpoint"]).name == "last.ckpt"
    # The k-NN of the command is that of training: same weights, same pictures.
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert result["knn_top1"] == pytest.approx(metrics["val/knn_top1"])
    assert scalars(run_dir)["linear_eval/top1"] == [(8, pytest.approx(result["top1"]))]
    text = (finished / "linear_eval.py.txt").read_text()
    assert f"linear top-1 {result['top1']:.2f} %" in text


def test_a_bare_checkpoint_and_the_untrained_encoder_are_judged_too(finished, tmp_path, run):
    run_dir = only_run(finished / "outputs")
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(last_checkpoint(run_dir).read_bytes())
    run("linear_eval.py", f"ckpt={alone}")
    bare, full = (json.loads((d / "linear_eval.json").read_text()) for d in (tmp_path, run_dir))
    assert bare["top1"] == full["top1"]
    run("linear_eval.py", f"ckpt={alone}", "untrained=true")
    untrained = json.loads((tmp_path / "linear_eval_untrained.json").read_text())
    metrics = json.loads((run_dir / "metrics.json").read_text())
    # Rebuilt from the seed, the untrained encoder is the very one that the run started with.
    assert untrained["knn_top1"] == pytest.approx(metrics["val/knn_top1_untrained"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either run=RUN_DIR or ckpt=PATH"),
        (("run=nowhere",), "there is no checkpoint nowhere/checkpoints/last.ckpt"),
        (("ckpt=damaged.ckpt",), "damaged.ckpt cannot be read as a checkpoint"),
    ],
)
def test_evaluation_of_nothing(run: Run, tmp_path, arguments, said):
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    done = run("linear_eval.py", *arguments, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("temperature=-1", "temperature=-1 is not usable; it must be greater than 0"),
        ("epochs=0", "epochs=0 is not usable; use 1 or more"),
        ("resume=nothing.ckpt", "there is no checkpoint nothing.ckpt"),
    ],
)
def test_bad_values_end_with_one_line(run: Run, override, said):
    done = run("train.py", *TINY_RUN, override, check=False)
    assert done.returncode == 1
    assert f"error: {said}" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_data_and_no_network_tells_all_that_is_needed(run: Run, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    done = run("train.py", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for part in (
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
        "data/tiny-imagenet-200.zip",
        "experiment=quickstart",
    ):
        assert part in done.stderr


def test_a_cpu_never_computes_in_half_precision(run: Run, tmp_path):
    done = run("train.py", *TINY_RUN, "precision=16", "epochs=1")
    assert done.stdout.count("precision=16 needs a GPU") == 1
    metrics = json.loads((only_run(tmp_path / "outputs") / "metrics.json").read_text())
    assert metrics["precision"] in ("32", "bf16")


def test_a_sweep_leaves_one_named_run_for_each_cell_from_the_same_backbone(run: Run, tmp_path):
    run("train.py", "-m", *TINY_RUN, "epochs=1", "head=baseline,slim", "optimizer.lr=0", "callbacks.online_knn=null")
    runs = sorted(path for path in (tmp_path / "multirun" / "grid").iterdir() if path.is_dir())
    names = [path.name.rsplit("-", 1)[0] for path in runs]
    assert names == ["simclr-modified-baseline-seed0", "simclr-modified-slim-seed0"]
    baseline, slim = (weights(path) for path in runs)
    backbone = [name for name in slim if name.startswith("backbone.")]
    assert all(torch.equal(slim[name], baseline[name]) for name in backbone)  # one seed, nothing learned
    assert len(backbone) > 100
    for path in runs:
        assert "train/loss" in json.loads((path / "metrics.json").read_text())


def start(folder: Path, *overrides: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command("train.py", *overrides),
        cwd=folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_a_killed_run_goes_on_and_ends_as_if_never_stopped(tmp_path, run):
    """SIGKILL in mid-epoch, then the same command: the weights equal an undisturbed run's, bit for bit."""
    overrides = (*TINY_RUN, "epochs=6", "checkpoint_minutes=0.005", "callbacks.online_knn=null")
    (tmp_path / "killed").mkdir()
    process = start(tmp_path / "killed", *overrides)
    deadline = time.monotonic() + 120
    while not (found := list(tmp_path.glob("killed/outputs/*/checkpoints/last.ckpt"))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    while load_checkpoint(found[0])["global_step"] % 4 in (0, 3):  # away from the end of an epoch
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run_dir = only_run(tmp_path / "killed" / "outputs")
    stopped_at = load_checkpoint(last_checkpoint(run_dir))["global_step"]
    assert 0 < stopped_at < 24
    assert not (run_dir / "metrics.json").exists()

    again = start(tmp_path / "killed", *overrides)
    text, _ = again.communicate(timeout=240)
    assert again.returncode == 0, text
    assert f"last.ckpt, step {stopped_at}." in text
    run("train.py", *overrides)
    whole = only_run(tmp_path / "outputs")
    ours, theirs = weights(run_dir), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    resumed, uninterrupted = scalars(run_dir)["train/loss"], scalars(whole)["train/loss"]
    assert resumed == uninterrupted  # no step twice, none missing
    assert json.loads((run_dir / "metrics.json").read_text())["images_seen"] == 24 * 16


def test_resume_never_starts_over(finished, tmp_path, run):
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    run_dir = only_run(tmp_path / "outputs")
    (run_dir / "metrics.json").write_text("{}")
    done = run("train.py", *TINY_RUN, "resume=never")
    assert "Epoch 1/2" in done.stdout
    assert json.loads((run_dir / "metrics.json").read_text())["epochs"] == 2
    assert len(list(run_dir.glob("events.out.tfevents.*"))) == 1
    assert not (run_dir / "linear_eval.json").exists()  # it judged weights that are gone
    old, new = weights(only_run(finished / "outputs")), weights(run_dir)
    assert all(torch.equal(old[name], new[name]) for name in old)  # the same command, the same weights


def test_a_run_goes_on_from_a_named_checkpoint(finished, run, tmp_path):
    path = last_checkpoint(only_run(finished / "outputs"))
    done = run("train.py", *TINY_RUN, "epochs=3", f"resume={path}")
    assert "Epoch 3/3" in done.stdout
    assert "Epoch 2/3" not in done.stdout
    assert load_checkpoint(last_checkpoint(only_run(tmp_path / "outputs")))["global_step"] == 12


def test_a_directory_of_another_configuration_is_refused(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(run("train.py", *TINY_RUN, "--cfg", "job", "--resolve").stdout)
    done = run("train.py", *TINY_RUN, "seed=5", f"hydra.run.dir={tmp_path}/mine", check=False)
    assert done.returncode == 1
    assert "belongs to a run with another seed" in done.stderr


@pytest.mark.slow
@pytest.mark.realdata
def test_real_pictures_train(run, real_subset, tmp_path):
    """One epoch on 5,120 real pictures: the loss falls from log(511) and the encoder's contrastive accuracy rises."""
    run("train.py", f"data.root={real_subset}", f"data.store={tmp_path}/store", "limit_images=5120", "epochs=2")
    run_dir = only_run(tmp_path / "outputs")
    loss = [value for _, value in scalars(run_dir)["train/loss"]]
    assert len(loss) == 20 * 2 // 2
    assert loss[0] > 6.0
    assert sum(loss[-3:]) / 3 < 6.1


@pytest.mark.slow
def test_quickstart_learns_shape(run, tmp_path):
    run("train.py", "experiment=quickstart")
    metrics = json.loads((only_run(tmp_path / "outputs") / "metrics.json").read_text())
    assert metrics["val/knn_top1"] > metrics["val/knn_top1_untrained"] + 10
