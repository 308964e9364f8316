"""Several processes that train as one: the numbers are those of one process, and the end of one is the end of all."""

import json
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from tests.conftest import REPOSITORY, TINY_RUN, Run, command, environment, only_run, scalars, weights

TWO = ("trainer=ddp", "trainer.devices=2")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, dict[str, dict[str, torch.Tensor]]]:
    """What tests/as_one.py computes in one process and in two."""
    script, folder = str(REPOSITORY / "tests" / "as_one.py"), tmp_path_factory.mktemp("as_one")
    found = {}
    for processes, starter in ((1, (sys.executable,)), (2, TORCHRUN)):
        file = folder / f"{processes}.pt"
        done = subprocess.run(
            [*starter, script, str(file)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        found[processes] = torch.load(file, weights_only=True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "tolerance"),
    [
        ("gradients", 1e-10),
        ("gradients_in_parts", 1e-10),
        ("short_run", 1e-10),
        ("skipped_step", 1e-10),
        ("features", 1e-4),
    ],
)
def test_two_processes_compute_what_one_does(results, what, tolerance):
    """float64: the loss, every parameter's gradient and batch norm's statistics of a step; the weights of a run."""
    two, one = (results[processes][what] for processes in (2, 1))
    assert two.keys() == one.keys()
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.slow
def test_a_command_starts_its_processes_and_leaves_one_run(run: Run, tmp_path, finished):
    done = run("train.py", *TINY_RUN, *TWO)
    assert "2 processes: each works on 8 images of a batch of 16." in done.stdout
    assert done.stdout.count("Epoch 2/2") == 1  # one of them speaks
    assert "Warning" not in done.stdout + done.stderr
    ours, alone = only_run(tmp_path / "outputs"), only_run(finished / "outputs")
    metrics = json.loads((ours / "metrics.json").read_text())
    assert metrics["images_seen"] == 2 * 4 * 16
    two, one = scalars(ours), scalars(alone)
    assert [step for step, _ in two["train/loss"]] == [step for step, _ in one["train/loss"]]
    # The same images and views, so the same loss; later steps differ by rounding, which Adam makes larger.
    assert two["train/loss"][0][1] == pytest.approx(one["train/loss"][0][1], abs=1e-4)
    assert two["val/knn_top1"][0][1] == pytest.approx(one["val/knn_top1"][0][1], abs=5)


@pytest.mark.slow
def test_a_sweep_of_runs_with_several_processes(run: Run, tmp_path):
    run("train.py", "-m", *TINY_RUN, *TWO, "seed=1,2", "epochs=1", "callbacks.online_knn=null")
    runs = [path for path in (tmp_path / "multirun" / "grid").iterdir() if path.is_dir()]
    assert sorted(re.findall(r"seed\d", " ".join(path.name for path in runs))) == ["seed1", "seed2"]
    assert all("train/loss" in json.loads((path / "metrics.json").read_text()) for path in runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "SIGKILL to one of them",
        "SIGTERM to the command",
        "SIGUSR1 to the command",
        "SIGINT to the command",
        "SIGKILL to the command",
    ],
)
def test_the_end_of_one_process_is_the_end_of_all_and_the_run_goes_on(tmp_path, run: Run, how):
    """Within seconds, with its reason; and then alone or together, since the batch is the same."""
    overrides = (*TINY_RUN, *TWO, "data.train_count=160", "epochs=3", "callbacks.online_knn=null")
    starter = command("train.py", *overrides, "checkpoint_minutes=0.002")
    process = subprocess.Popen(
        starter, cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not list(tmp_path.glob("outputs/*/checkpoints/previous.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    name, receiver = how.split(" to ")
    (process if receiver == "the command" else workers[1]).send_signal(signal.Signals[name])
    started = time.monotonic()
    if name == "SIGUSR1":  # a scheduler that says it twice
        time.sleep(0.2)
        process.send_signal(signal.SIGUSR1)
    text, _ = process.communicate(timeout=60)
    assert time.monotonic() - started < 30, text
    # Where the command itself was killed, who takes its children over may leave them as zombies.
    psutil.wait_procs(workers, timeout=10)
    assert not [w for w in workers if w.is_running() and w.status() != psutil.STATUS_ZOMBIE]
    assert "Traceback" not in text
    if receiver == "the command":
        assert process.returncode == {"SIGKILL": -signal.SIGKILL, "SIGINT": 130}.get(name, 75), text
        assert f"{name if name == 'SIGUSR1' else 'SIGTERM'}: stopped at step" in text
    else:
        assert process.returncode == 1
        assert "process 1 of 2 was killed by SIGKILL" in text
    stopped_at = load_checkpoint(last_checkpoint(only_run(tmp_path / "outputs")))["global_step"]
    again = run("train.py", *overrides)
    assert f"step {stopped_at}." in again.stdout
    steps = [step for step, _ in scalars(only_run(tmp_path / "outputs"))["train/loss"]]
    assert steps == sorted(set(steps))
    assert len(steps) == 30


@pytest.mark.slow
def test_torchrun_restarts_what_died_and_it_goes_on(tmp_path):
    overrides = (*TINY_RUN, "trainer=ddp", "data.train_count=160", "epochs=3", "callbacks.online_knn=null")
    script = [str(REPOSITORY / "train.py"), *overrides, "checkpoint_minutes=0.002"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*TORCHRUN, "--max-restarts", "2", *script], cwd=tmp_path, env=environment(), stdout=log, stderr=log
        )
        while not list(tmp_path.glob("outputs/*/checkpoints/previous.ckpt")):
            assert process.poll() is None
            time.sleep(0.05)
        psutil.Process(process.pid).children()[0].send_signal(signal.SIGKILL)
        assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    assert re.search(r"Going on from .*, step \d+\.", (tmp_path / "log").read_text())
    steps = [step for step, _ in scalars(only_run(tmp_path / "outputs"))["train/loss"]]
    assert len(steps) == len(set(steps)) == 30


@pytest.mark.slow
def test_torchrun_shares_an_evaluation(tmp_path, finished):
    run_dir = only_run(finished / "outputs")
    alone = json.loads((run_dir / "linear_eval.json").read_text())
    checkpoint = tmp_path / "copy.ckpt"
    checkpoint.write_bytes(last_checkpoint(run_dir).read_bytes())
    script = [str(REPOSITORY / "linear_eval.py"), f"ckpt={checkpoint}"]
    done = subprocess.run(
        [*TORCHRUN, *script], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("linear top-1") == 1
    shared = json.loads((tmp_path / "linear_eval_copy.json").read_text())
    assert shared["knn_top1"] == pytest.approx(alone["knn_top1"], abs=5)
    assert shared["top1"] == pytest.approx(alone["top1"], abs=5)
    done = subprocess.run(  # the features come from the disk now, which the first process alone reads
        [*TORCHRUN, *script, "layer=head"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "linear_eval_head_copy.json").read_text())["layer"] == "head"


@pytest.mark.slow
def test_several_processes_evaluate_what_they_have_trained(run, tmp_path):
    two = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    run("train.py", *TINY_RUN, *two, "evaluate=[linear,knn]")
    written = {path.name for path in only_run(tmp_path / "outputs").glob("*_eval.json")}
    assert written == {"linear_eval.json", "knn_eval.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.devices=2"], "trainer.devices=2 needs several processes; add trainer=ddp"),
        (
            ["trainer=ddp", "trainer.devices=none"],
            "trainer.devices=none is not usable; write a number, auto, or a list",
        ),
        (["trainer=ddp", "trainer.devices=3"], "batch_size=16 cannot be split over 3 processes; use a multiple of 3"),
        ([*TWO, "temperature=-1"], "temperature=-1 is not usable"),
    ],
)
def test_what_cannot_be_shared_is_said_once(run: Run, overrides, said):
    done = run("train.py", *TINY_RUN, *overrides, check=False)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_processes_of_torchrun_without_ddp_are_refused(tmp_path):
    script = [str(REPOSITORY / "train.py"), *TINY_RUN]
    done = subprocess.run([*TORCHRUN, *script], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("torchrun has started 2 processes; add trainer=ddp") == 1
    assert not list(tmp_path.glob("outputs/*/checkpoints"))


@pytest.mark.slow
def test_weights_are_the_same_whatever_wrote_them(run: Run, tmp_path, finished):
    """A run of two processes goes on from the checkpoint of one."""
    path = last_checkpoint(only_run(finished / "outputs"))
    done = run("train.py", *TINY_RUN, *TWO, "epochs=3", f"resume={path}", "callbacks.online_knn=null")
    assert "Going on from" in done.stdout
    assert "Epoch 3/3" in done.stdout
    assert weights(only_run(tmp_path / "outputs")).keys() == weights(only_run(finished / "outputs")).keys()
