"""TensorBoard's files: whole curves for readers of one file after another, whatever clock and evaluation do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from simclr.commands.judge import show
from simclr.report.curves import read_curves
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from simclr.runs.events import read_scalars, sorted_last
from simclr.runs.results import last_scalars
from tests.conftest import REPOSITORY, TINY_RUN, command, environment, only_run, scalars, wait_until

HOUR = 3600


def write(folder: Path, start: int, stop: int, value: float, clock: float = 0.0, in_order: bool = True) -> None:
    """What a process leaves that goes on from `start` and is stopped before `stop`, its clock wrong by `clock`."""
    true_time = time.time
    time.time = lambda: true_time() + clock
    try:
        if in_order:
            with sorted_last(folder):
                events = SummaryWriter(str(folder), purge_step=start)
        else:
            events = SummaryWriter(str(folder), purge_step=start)
        for step in range(start, stop):
            events.add_scalar("train/loss", value + step, step)
        events.close()
    finally:
        time.time = true_time


EXPECTED = [(step, 100.0 + step) for step in range(8)] + [(step, 200.0 + step) for step in range(8, 16)]


@pytest.mark.parametrize("clock", [HOUR, 0, -HOUR])
def test_a_run_that_goes_on_has_whole_curves_whatever_the_clock_does(tmp_path, clock):
    """By TensorBoard's own reader: the first process, its clock wrong, got to step 10 from its checkpoint at 8."""
    write(tmp_path, 0, 11, 100, clock)
    write(tmp_path, 8, 16, 200)
    assert scalars(tmp_path)["train/loss"] == EXPECTED
    assert list(read_scalars(tmp_path)["train/loss"].items()) == EXPECTED


def test_a_reader_that_follows_the_run_is_told_of_the_next_process(tmp_path):
    write(tmp_path, 0, 8, 100, HOUR)
    follower = EventAccumulator(str(tmp_path))
    follower.Reload()
    write(tmp_path, 8, 16, 200)
    follower.Reload()
    assert [(e.step, e.value) for e in follower.Scalars("train/loss")] == EXPECTED


def test_files_that_an_earlier_release_named_by_a_wrong_clock_are_read_right(tmp_path):
    write(tmp_path, 0, 11, 100, HOUR, in_order=False)
    write(tmp_path, 8, 16, 200, in_order=False)
    assert scalars(tmp_path)["train/loss"] != EXPECTED  # what readers make of such names
    assert list(read_scalars(tmp_path)["train/loss"].items()) == EXPECTED
    assert last_scalars(tmp_path) == {"train/loss": 215.0}
    curves = read_curves({"name": tmp_path}, ["train/loss"], tmp_path / "none")
    assert list(curves[["step", "value"]].itertuples(index=False, name=None)) == EXPECTED


def test_a_run_that_starts_over_beside_its_old_files_is_the_later_one(tmp_path):
    """As when checkpoints were deleted: three processes, the last from the start, by other code."""
    write(tmp_path, 0, 11, 100)
    write(tmp_path, 8, 16, 200)
    write(tmp_path, 0, 16, 300)
    expected = [(step, 300.0 + step) for step in range(16)]
    assert scalars(tmp_path)["train/loss"] == expected
    assert list(read_scalars(tmp_path)["train/loss"].items()) == expected


def test_the_true_time_stays_in_the_events(tmp_path):
    write(tmp_path, 0, 4, 100, HOUR)
    write(tmp_path, 4, 8, 200)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert abs(events.Scalars("train/loss")[-1].wall_time - time.time()) < HOUR / 2


def test_an_evaluation_in_mid_training_leaves_its_readers_their_file(tmp_path):
    with SummaryWriter(str(tmp_path), purge_step=0) as training:
        training.add_scalar("train/loss", 3.0, 0)
        training.flush()
        follower = EventAccumulator(str(tmp_path))
        follower.Reload()
        for top1 in (20.0, 30.0):  # judged twice at one step
            show(tmp_path, "linear_eval", {"top1": top1, "l2": None}, step=1)
        show(tmp_path, "transfer_eval_[a]", {"top1": 40.0}, step=1)
        follower.Reload()
        training.add_scalar("train/loss", 2.0, 1)
        training.flush()
        follower.Reload()
        assert [(e.step, e.value) for e in follower.Scalars("train/loss")] == [(0, 3.0), (1, 2.0)]
    assert scalars(tmp_path / "evaluation") == {"linear_eval/top1": [(1, 30.0)], "transfer_eval_[a]/top1": [(1, 40.0)]}
    assert last_scalars(tmp_path) == {"train/loss": 2.0}


@pytest.mark.slow
def test_a_run_that_was_stopped_an_hour_ahead_keeps_its_curves_and_its_last_numbers(run, tmp_path):
    """Its first process has a clock an hour ahead, its second the right one; beside it a run that nobody stopped."""
    overrides = (*TINY_RUN, "data.train_count=192", "checkpoint_minutes=60")
    ahead = (
        "import runpy, sys, time; true_time = time.time; "
        f"time.time = lambda: true_time() + {HOUR}; sys.path.insert(0, {str(REPOSITORY)!r}); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = [sys.executable, "-c", ahead, *command("train.py", *overrides, "output_root=stopped")[1:]]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE)
    wait_until(lambda: any(tmp_path.glob("stopped/*/checkpoints/last.ckpt")), process)
    os.kill(process.pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 75, text
    for root in ("stopped", "whole"):
        run("train.py", *overrides, f"output_root={root}")
    stopped, whole = only_run(tmp_path / "stopped"), only_run(tmp_path / "whole")
    assert load_checkpoint(last_checkpoint(stopped))["global_step"] == 24
    ours, theirs = scalars(stopped), scalars(whole)
    for tag in ("train/loss", "train/lr", "val/knn_top1", "features/std"):
        assert ours[tag] == theirs[tag]
    metrics, expected = (json.loads((path / "metrics.json").read_text("utf-8")) for path in (stopped, whole))
    for tag in ("train/loss", "train/lr", "val/knn_top1", "val/knn_top1_untrained"):
        assert metrics[tag] == expected[tag]
