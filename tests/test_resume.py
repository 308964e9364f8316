"""Going on after a kill or from a checkpoint, and whose a run directory is."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from simclr.checkpoint import last_checkpoint, load_checkpoint
from tests.conftest import TINY_RUN, command, environment, only_run, scalars, weights


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


def test_the_same_command_again_does_no_work(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.suffix in (".ckpt", ".json")}
    done = subprocess.run(
        command("train.py", *TINY_RUN), cwd=finished, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0
    assert "finished already" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_killed_run_goes_on_and_ends_as_if_never_stopped(tmp_path, run):
    """SIGKILL in mid-epoch, then the same command: the weights equal an undisturbed run's, bit for bit."""
    overrides = (*TINY_RUN, "data.train_count=192", "checkpoint_minutes=0.002", "callbacks.online_knn=null")
    (tmp_path / "killed").mkdir()
    process = start(tmp_path / "killed", *overrides)
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, "the run was over before it could be killed"
        assert time.monotonic() < deadline
        found = list(tmp_path.glob("killed/outputs/*/checkpoints/last.ckpt"))
        if found and load_checkpoint(found[0])["global_step"] % 12 in range(1, 10):  # away from the end of an epoch
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run_dir = only_run(tmp_path / "killed" / "outputs")
    stopped_at = load_checkpoint(last_checkpoint(run_dir))["global_step"]
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


def test_a_run_that_goes_on_from_an_epochs_end_equals_one_that_never_stopped(run, tmp_path):
    # A schedule that does not depend on the length of the run, so that one epoch is the beginning of two.
    overrides = (*TINY_RUN, "scheduler=study", "callbacks.online_knn=null")
    run("train.py", *overrides, "epochs=1", "output_root=one")
    first = last_checkpoint(only_run(tmp_path / "one"))
    done = run("train.py", *overrides, f"resume={first}", "output_root=resumed")
    assert "Epoch 2/2" in done.stdout
    assert "Epoch 1/2" not in done.stdout
    run("train.py", *overrides, "output_root=whole")
    ours, theirs = (weights(only_run(tmp_path / root)) for root in ("resumed", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("override", "said"),
    [("head=baseline", "head="), ("batch_size=8", "batch_size=16"), ("epochs=1", "beyond this run")],
)
def test_a_checkpoint_that_does_not_fit_is_refused(finished, run, override, said):
    path = last_checkpoint(only_run(finished / "outputs"))
    done = run("train.py", *TINY_RUN, f"resume={path}", override, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    assert said in done.stderr


def test_two_processes_do_not_share_a_run_directory(run, tmp_path):
    (tmp_path / "mine").mkdir()
    with FileLock(tmp_path / "mine" / ".lock"):
        done = run("train.py", *TINY_RUN, f"hydra.run.dir={tmp_path}/mine", check=False)
    assert done.returncode == 1
    assert "another process is training in" in done.stderr


def test_a_directory_of_another_configuration_is_refused(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(run("train.py", *TINY_RUN, "--cfg", "job", "--resolve").stdout)
    done = run("train.py", *TINY_RUN, "seed=5", f"hydra.run.dir={tmp_path}/mine", check=False)
    assert done.returncode == 1
    assert "belongs to a run with another seed" in done.stderr
