"""train.py as users run it: what a run leaves, sweeps, and what is said of wrong values."""

import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from simclr.runs.checkpoint import last_checkpoint
from tests.conftest import REPOSITORY, TINY_RUN, Run, command, image_bytes, only_run, scalars, weights, write_folder

TAGS = ("train/loss", "train/top1", "train/top5", "train/lr", "train/images_per_second", "val/knn_top1")


def checked_out() -> str | None:
    """The commit that git has checked out here; None where there is no git, or no history."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


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
    assert metrics["images_per_second_by_the_clock"] == pytest.approx(2 * 4 * 16 / metrics["wall_seconds"])
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0]
    commit = checked_out()
    assert metrics["git_commit"] in (commit, f"{commit}-dirty" if commit else None)
    assert "k=20" in metrics["protocol"]["val/knn_top1"]
    assert metrics["val_images_in_train"] == 0
    judged = json.loads((run_dir / "linear_eval.json").read_text())
    for key in ("train_images_key", "val_images_key"):
        assert metrics[key] == judged[key]
    config = OmegaConf.load(run_dir / "config.yaml")
    assert config.method.temperature == 0.07
    assert len(curves["train/loss"]) == 8
    assert curves["train/lr"][0][1] == pytest.approx(3e-4)
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}


@pytest.mark.slow
def test_a_leak_is_said_before_training_and_beside_every_figure(run: Run, tmp_path):
    random = np.random.default_rng(0)
    images = [image_bytes(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(48)]
    files = {f"train/{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(images[:32])}
    files |= {f"val/{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(images[16:])}
    root = write_folder(tmp_path / "images", files)
    (root / "val" / "a" / "link.png").symlink_to("../../train/a/0.png")
    folder = ("data=image_folder", f"data.root={root}", "data.size=16", "batch_size=16", "epochs=1", "precision=32")
    lines = run("train.py", *folder).stdout.splitlines()
    leak = "LEAK: 17 of the 33 validation images are training images too"
    told = next(i for i, line in enumerate(lines) if line.startswith(f"{leak}, which may flatter"))
    figures = [i for i, line in enumerate(lines) if "k-NN top-1" in line]
    assert told < figures[0]
    assert len(figures) == 3  # untrained, after the epoch, and at the end
    assert all(lines[i].endswith(f"; {leak}") for i in figures)
    metrics = json.loads((only_run(tmp_path / "outputs") / "metrics.json").read_text())
    assert metrics["val_images_in_train"] == 17
    assert all(leak in metrics["protocol"][tag] for tag in ("val/knn_top1", "val/knn_top1_untrained"))
    assert metrics["train_images_key"] != metrics["val_images_key"]


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


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("temperature=-1", "temperature=-1 is not usable; it is a number greater than 0"),
        ("epochs=0", "epochs=0 is not usable; it is a whole number, 1 or more"),
        ("seed=4294967296", "seed=4294967296 is not usable; it is a whole number, 0 to 4294967295"),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0 is not usable; it is a whole number, 1 or more"),
        pytest.param("optimizer.lr=-1", "optimizer: Invalid learning rate: -1", marks=pytest.mark.slow),
        pytest.param("resume=nothing.ckpt", "there is no checkpoint nothing.ckpt", marks=pytest.mark.slow),
    ],
)
def test_bad_values_end_with_one_line(run: Run, override, said):
    done = run("train.py", *TINY_RUN, override, check=False)
    assert done.returncode == 1
    assert f"error: {said}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("batch_size=1,65,true,7.5", ["a whole number, 2 or more", "batch_size=65 is larger than", "=True", "=7.5"]),
        ("optimizer.lr=nan,inf,abc,null", ["optimizer: ", "optimizer.lr=inf is", "optimizer: ", "optimizer: "]),
        (
            "temperature=0,nan,inf,true,hot",
            ["temperature=0 is not", "=nan is", "=inf is", "=True is", "=hot is"],
        ),
        ("augmentation.blur_kernel=33,2,nan", ["views are only 16 pixels wide", "odd and positive", "blur_kernel=nan"]),
        ("epochs=0,-1,0.5,nan", ["epochs=0 ", "epochs=-1 ", "epochs=0.5 ", "epochs=nan "]),
        ("limit_images=0,-5,abc,8", ["=0 is", "=-5 is", "=abc is", "number of training images, 8"]),
        ("checkpoint_minutes=0,nan,never", [f"checkpoint_minutes={value} is" for value in (0, "nan", "never")]),
        ("data.train_count=0,1.5", ["data.train_count=0 is", "data.train_count=1.5 is"]),
        ("on_nan=hide,null", ["on_nan=hide is not known", "on_nan=None is not known"]),
    ],
)
def test_every_value_out_of_range_gets_a_line_and_trains_nothing(run: Run, tmp_path, override, said):
    done = run("train.py", "-m", *TINY_RUN, override, check=False)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == override.count(",") + 2  # one each, and the sweep's own
    for line, part in zip(lines, said, strict=False):
        assert part in line
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("multirun/grid/*/checkpoints"))


def test_a_value_that_has_to_be_given(run: Run):
    done = run("train.py", "data=image_folder", check=False)
    assert done.returncode == 1
    assert done.stderr == "error: data.root has no default; give it a value\n"


@pytest.mark.slow
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


@pytest.mark.gpu
def test_a_gpu_computes_in_half_precision(tmp_path):
    done = subprocess.run(
        command("train.py", *TINY_RUN, "precision=16"), cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((only_run(tmp_path / "outputs") / "metrics.json").read_text())
    assert metrics["precision"] == "16"
    assert metrics["device"] == torch.cuda.get_device_name()
    assert 0 < metrics["train/loss"] < 10


@pytest.mark.slow
def test_a_sweep_leaves_one_named_run_for_each_cell_from_the_same_backbone(run: Run, tmp_path):
    run("train.py", "-m", *TINY_RUN, "epochs=1", "head=baseline,slim", "optimizer.lr=0", "callbacks.online_knn=null")
    runs = sorted(path for path in (tmp_path / "multirun" / "grid").iterdir() if path.is_dir())
    names = [path.name.rsplit("-", 1)[0] for path in runs]
    assert names == ["simclr-modified-baseline-shapes-seed0", "simclr-modified-slim-shapes-seed0"]
    baseline, slim = (weights(path) for path in runs)
    backbone = [name for name in slim if name.startswith("backbone.")]
    assert all(torch.equal(slim[name], baseline[name]) for name in backbone)  # one seed, nothing learned
    assert len(backbone) > 100
    for path in runs:
        assert "train/loss" in json.loads((path / "metrics.json").read_text())


@pytest.mark.slow
def test_one_bad_cell_does_not_stop_a_sweep(run, tmp_path):
    done = run("train.py", "-m", *TINY_RUN, "epochs=1", "temperature=-1,0.1", "callbacks.online_knn=null", check=False)
    assert done.returncode == 1
    assert "temperature=-1 is not usable" in done.stderr
    assert "1 of the sweep's runs failed" in done.stderr
    assert len(list((tmp_path / "multirun" / "grid").glob("*/metrics.json"))) == 1


@pytest.mark.slow
@pytest.mark.realdata
def test_real_images_train(run, real_subset, tmp_path):
    """Two short epochs on real images: the loss falls below guessing's log(127), top-5 rises above its chance."""
    data = (f"data.root={real_subset}", f"data.store={tmp_path}/store", "limit_images=2560")
    run("train.py", *data, "epochs=2", "batch_size=64", "precision=32", "callbacks.online_knn=null")
    curves = scalars(only_run(tmp_path / "outputs"))
    first, second = ([value for step, value in curves["train/loss"] if step // 40 == epoch] for epoch in (0, 1))
    assert first[0] == pytest.approx(math.log(127), abs=0.4)
    assert sum(second) / len(second) < math.log(127) - 0.05
    top5 = [value for step, value in curves["train/top5"] if step >= 40]
    assert sum(top5) / len(top5) > 2 * 100 * 5 / 127  # twice what guessing gives


@pytest.mark.slow
def test_quickstart_learns_shape(run, tmp_path):
    run("train.py", "experiment=quickstart")
    metrics = json.loads((only_run(tmp_path / "outputs") / "metrics.json").read_text())
    assert metrics["val/knn_top1"] > metrics["val/knn_top1_untrained"] + 10


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    done = run("train.py", *TINY_RUN, "compile=true", check=False, fresh=True)
    assert done.returncode == 1
    assert "error: compile=true, but torch.compile does not work on this machine" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_leaves_what_any_run_leaves(run, tmp_path):
    """Names in the export are torchvision's, and the first loss, before any step, is the eager run's."""
    exports, losses = [], []
    for choice in ("true", "false"):
        root = tmp_path / choice
        run("train.py", *TINY_RUN, "epochs=1", f"compile={choice}", f"output_root={root}")
        exports.append(load_file(only_run(root) / "backbone.safetensors"))
        losses.append(scalars(only_run(root))["train/loss"][0][1])
    assert exports[0].keys() == exports[1].keys()
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
