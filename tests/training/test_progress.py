"""What is seen of a run while it trains: one line that fits the terminal, and how long the run will still take."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from simclr.training import time_left
from simclr.training.progress import fewer
from simclr.training.time_left import SETTLED, TimeLeft, spoken
from tests.conftest import TINY_RUN, command, environment


def in_a_terminal(columns: int, arguments: list[str], folder: Path) -> list[str]:
    """The lines that a command draws in a terminal of that width, those drawn over included."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = environment() | {"TERM": "xterm"}
    env.pop("COLUMNS", None)
    process = subprocess.Popen(arguments, cwd=folder, env=env, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            drawn += (part := os.read(ours, 4096))
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
    os.close(ours)
    assert process.wait() == 0, drawn.decode()
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode()))


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "shown"), [(80, "images/s"), (120, "lr")])
def test_the_bar_is_one_line_of_the_terminal(tmp_path, columns, shown):
    overrides = ("data.train_count=512", "epochs=2", "callbacks.online_knn=null", "callbacks.label_free=null")
    lines = in_a_terminal(columns, command("train.py", *TINY_RUN, *overrides), tmp_path)
    bars = [line for line in lines if "━" in line and "Epoch" in line and "loss" in line]
    assert bars
    for line in bars:
        assert len(line.rstrip()) <= columns
        assert shown in line
    assert any(re.search(r"\d s left", line) for line in bars)
    assert any(line.startswith("Epoch 2/2: loss") for line in lines)


def test_the_time_left_is_that_of_the_steps_to_come(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now[0])
    left = TimeLeft()
    for step in range(501, 501 + SETTLED):  # a run that goes on, whose first steps are slow
        now[0] += 60
        left.step_done(step)
        assert left.seconds(step, 1000) is None
    for step in range(501 + SETTLED, 601):
        now[0] += 2
        left.step_done(step)
    assert left.seconds(600, 1000) == pytest.approx(2 * 400)
    now[0] += 100  # k-NN between two epochs counts, too
    left.step_done(601)
    assert left.seconds(601, 1000) == pytest.approx((2 * 90 + 100) / 91 * 399)
    assert left.seconds(1000, 1000) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5300, "88 min"), (5400, "1 h 30 min"), (11100, "3 h 05 min")],
)
def test_a_time_in_words(seconds, words):
    assert spoken(seconds) == words


def test_a_narrow_terminal_shows_the_alarm_first_and_the_speed_always():
    shown = {"loss": "1", "top-1": "2%", "top-5": "3%", "lr": "4", "images/s": "5"}
    assert list(fewer(shown)) == ["loss", "top-1", "images/s"]
    assert list(fewer({"COLLAPSED": "features"} | shown)) == ["COLLAPSED", "loss", "images/s"]
    assert list(fewer({})) == []
