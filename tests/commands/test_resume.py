"""Going on after a kill or from a checkpoint, and whose a run directory is."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
import torch
from filelock import FileLock

from simclr.errors import InputError
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint, previous_checkpoint
from tests.conftest import TINY_RUN, Started, command, environment, only_run, scalars, weights


def wait_for_a_checkpoint(folder: Path, process: Started, of_steps: range) -> None:
    """Return when the run in `folder` has saved a step that lies, within its epoch of 12 steps, in `of_steps`."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, "the run was over before it could be stopped"
        assert time.monotonic() < deadline
        found = list(folder.glob("outputs/*/checkpoints/last.ckpt"))
        with suppress(InputError):  # between two renames there is none of this name
            if found and load_checkpoint(found[0])["global_step"] % 12 in of_steps:
                return
        time.sleep(0.01)


GROWING = "augmentation.size_until=[[0.3,12],[0.7,14]]"  # so that every kill comes in mid-schedule
# 12 steps an epoch, in one of which the second pass over the images begins
LONGER = (*TINY_RUN, "data.train_count=208", "images_per_epoch=192", "callbacks.online_knn=null", GROWING)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, start_training) -> Path:
    """The run directory of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start_training(folder, *LONGER, "checkpoint_minutes=0.002")
    assert process.wait() == 0, process.said
    return only_run(folder / "outputs")


def assert_equal(run_dir: Path, undisturbed: Path) -> None:
    """Weights, buffers and optimiser to the bit; curves without a step twice or missing."""
    ours, theirs = (load_checkpoint(last_checkpoint(path)) for path in (run_dir, undisturbed))
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    assert all(torch.equal(ours["state_dict"][name], tensor) for name, tensor in theirs["state_dict"].items())
    moments, expected = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (ours, theirs))
    assert all(torch.equal(moments[i]["exp_avg_sq"], expected[i]["exp_avg_sq"]) for i in expected)
    for tag in ("train/loss", "train/top1", "train/top5", "train/lr"):
        assert scalars(run_dir)[tag] == scalars(undisturbed)[tag]


def test_the_same_command_again_does_no_work(finished, start_training):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.suffix in (".ckpt", ".json")}
    done = start_training(finished, *TINY_RUN)
    assert done.wait() == 0
    assert "finished already" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_a_killed_run_goes_on_even_from_the_checkpoint_before_a_damaged_one(tmp_path, undisturbed, start_training):
    """SIGKILL in mid-epoch, a bit of the last checkpoint flips, then the same command: as if never stopped."""
    overrides = (*LONGER, "checkpoint_minutes=0.002")
    process = start_training(tmp_path, *overrides)
    wait_for_a_checkpoint(tmp_path, process, range(3, 10))  # away from the end of an epoch
    process.kill()
    run_dir = only_run(tmp_path / "outputs")
    assert not (run_dir / "metrics.json").exists()
    last = last_checkpoint(run_dir)
    if last.exists():  # else the kill fell between the two renames
        content = bytearray(last.read_bytes())
        content[len(content) // 2] ^= 1
        last.write_bytes(content)
    before = load_checkpoint(previous_checkpoint(run_dir))["global_step"]

    again = start_training(tmp_path, *overrides)
    assert again.wait() == 0, again.said
    assert "Falling back to the one before" in again.said
    assert f"previous.ckpt, step {before}." in again.said
    assert_equal(run_dir, undisturbed)
    assert json.loads((run_dir / "metrics.json").read_text())["images_seen"] == 24 * 16


@pytest.mark.parametrize(
    ("name", "status"),
    [
        pytest.param("SIGTERM", 75, marks=pytest.mark.slow),
        pytest.param("SIGUSR1", 75, marks=pytest.mark.slow),
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_asks_to_be_requeued(tmp_path, undisturbed, start_training, name, status):
    """Checkpoints only at the ends of epochs and by the signal, in the middle of the second."""
    overrides = (*LONGER, "checkpoint_minutes=60")
    process = start_training(tmp_path, *overrides)
    wait_for_a_checkpoint(tmp_path, process, range(1))
    process.send_signal(signal.Signals[name])
    assert process.wait(60) == status, process.said
    stopped_at = int(re.search(rf"{name}: stopped at step (\d+)", process.said)[1])
    assert 12 <= stopped_at < 24
    assert "Traceback" not in process.said

    again = start_training(tmp_path, *overrides)
    assert again.wait() == 0, again.said
    assert f"last.ckpt, step {stopped_at}." in again.said
    assert_equal(only_run(tmp_path / "outputs"), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [False, True])
def test_a_run_outlives_its_terminal_or_saves_itself_when_that_is_closed(tmp_path, nohup):
    """In a terminal of its own, with a progress bar; under nohup it goes on to its end."""
    overrides = command("train.py", *LONGER, "checkpoint_minutes=60")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        arguments = ["nohup", *overrides] if nohup else overrides
        os.execvpe(arguments[0], arguments, environment())
    Thread(target=read_all, args=(terminal,), daemon=True).start()
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    run_dir = only_run(tmp_path / "outputs")
    log = (run_dir / "train.log").read_text(encoding="utf-8")
    step = load_checkpoint(last_checkpoint(run_dir))["global_step"]
    if nohup:
        assert (status, step) == (0, 24), log
        assert "SIGHUP" not in log
    else:
        assert status == 75, log
        assert 12 <= step < 24
        assert f"SIGHUP: stopped at step {step};" in log


def read_all(descriptor: int) -> None:
    """As a terminal does, until it is closed."""
    with suppress(OSError):
        while os.read(descriptor, 4096):
            pass


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_line_and_costs_nothing(tmp_path, undisturbed, start_training):
    """No file may grow beyond 60 MB, which is less than a checkpoint; then there is room again."""
    process = start_training(tmp_path, *LONGER, "checkpoint_minutes=0.002")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (60_000_000, 60_000_000))
    assert process.wait() == 1, process.said
    assert "error: cannot write" in process.stderr
    assert "free some space" in process.stderr
    assert "Traceback" not in process.said
    run_dir = only_run(tmp_path / "outputs")
    assert list((run_dir / "checkpoints").iterdir()) == []
    again = start_training(tmp_path, *LONGER, "checkpoint_minutes=0.002")
    assert again.wait() == 0, again.said
    assert_equal(run_dir, undisturbed)


def test_a_place_that_cannot_be_written_to_is_named(run, tmp_path):
    (tmp_path / "a file").write_text("")
    done = run("train.py", *TINY_RUN, f"output_root={tmp_path}/a file/runs", check=False)
    assert done.returncode == 1
    assert f"error: cannot write into {tmp_path}/a file/runs/simclr" in done.stderr
    assert "output_root=" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_short_run_that_was_killed_at_its_very_end_ends(run, tmp_path):
    """Two steps, of which none is timed past the warm-up, and all is done but metrics.json; as if never stopped."""
    overrides = (*TINY_RUN, "data.train_count=32", "epochs=1")
    run("train.py", *overrides)
    metrics = only_run(tmp_path / "outputs") / "metrics.json"
    expected = json.loads(metrics.read_text())
    metrics.unlink()
    run("train.py", *overrides)
    again = json.loads(metrics.read_text())
    by_the_clock = ("wall_seconds", "images_per_second_by_the_clock")
    assert all(again.pop(key) > 0 for key in by_the_clock)
    assert again == {key: value for key, value in expected.items() if key not in by_the_clock}
    assert {"train/loss", "val/knn_top1", "val/knn_top1_untrained", "features/std"} <= again.keys()
    assert again["images_per_second"] > 0
    assert (again["images_seen"], again["epochs"]) == (32, 1)


@pytest.mark.slow
def test_a_short_run_of_an_earlier_release_ends_without_a_speed(run, tmp_path):
    """Its checkpoint does not keep the times of the warm-up."""
    overrides = (*TINY_RUN, "data.train_count=32", "epochs=1")
    run("train.py", *overrides)
    run_dir = only_run(tmp_path / "outputs")
    checkpoint = load_checkpoint(last_checkpoint(run_dir))
    del checkpoint["callbacks"]["RunMetrics"]["recent"]
    torch.save(checkpoint, last_checkpoint(run_dir))
    (run_dir / "metrics.json").unlink()
    run("train.py", *overrides)
    again = json.loads((run_dir / "metrics.json").read_text())
    assert again["images_per_second"] is None
    assert again["protocol"]["images_per_second"].startswith("null, as ")


@pytest.mark.slow
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


@pytest.mark.slow
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
    [
        ("head=baseline", "head.hidden_features="),
        pytest.param("batch_size=8", "batch_size=16", marks=pytest.mark.slow),
        pytest.param("epochs=1", "beyond this run", marks=pytest.mark.slow),
    ],
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
