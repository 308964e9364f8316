"""The choice of threads, held against programs that really keep cores busy."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from simclr.system import threads
from simclr.system.threads import CoreMeter, choose_threads, cores, fitting


@pytest.fixture(autouse=True)
def eight_cores(request, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if "real" not in request.node.name:
        monkeypatch.setattr(threads, "_cores", lambda: list(range(8)))
        monkeypatch.setattr(threads, "_quota", lambda: 6.0)
        monkeypatch.setattr(threads, "default_threads", lambda: 4)


def usable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def busy(programs: int):
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    time.sleep(0.3)
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def test_real_programs_are_seen_and_this_one_is_none_of_them():
    """Others that run on this machine only add to what is found."""
    count = usable()
    with busy(count):
        meter, before, began = CoreMeter(), psutil.Process().cpu_times(), time.monotonic()
        while time.monotonic() - began < 1.0:
            pass
        others = meter.others()
        spent, wall = psutil.Process().cpu_times(), time.monotonic() - began
        own = (spent.user + spent.system - before.user - before.system) / wall
    assert others > 0.3 * count
    assert others + own < count + 0.2  # there is no more to be had; its own time is not counted as theirs
    assert choose_threads("auto", None, count).number == 1


def test_the_real_cores_are_the_systems():
    assert 1 <= cores() <= psutil.cpu_count()


def test_those_that_find_a_core_of_their_own():
    assert [fitting(others) for others in (0.0, 1.9, 3.0, 4.6, 7.2, 8.0)] == [6, 6, 5, 3, 1, 1]


@pytest.mark.parametrize(
    ("requested", "before", "others", "count", "said"),
    [
        ("auto", None, 0.3, 4, None),  # all that torch would take
        ("auto", None, 4.0, 4, None),  # of eight, four are left
        ("auto", None, 6.0, 2, "threads=auto takes 2 threads of 4: other programs keep 6.0 of 8 cores busy.* 50 %"),
        ("auto", 4, 6.0, 4, None),  # a run that goes on is exact
        ("auto", 2, 0.0, 2, "goes on on 2 threads, as it began"),
        (3, None, 6.0, 3, None),
        (3, 2, 6.0, 3, "began on 2 threads and goes on on 3: its numbers will differ by rounding"),
    ],
)
def test_choice(requested, before, others, count, said):
    choice = choose_threads(requested, before, others)
    assert choice.number == count
    assert (choice.notice is None) == (said is None)
    if said is not None:
        assert re.search(said, choice.notice)


def test_what_the_environment_says_wins(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert choose_threads("auto", None, 8.0) == (4, None)
    assert "began on 2 threads and goes on on 4" in choose_threads("auto", 2, 8.0).notice
    assert choose_threads(1, None, 8.0).number == 1


def test_a_quota_of_a_control_group_counts(monkeypatch):
    monkeypatch.setattr(threads, "_quota", lambda: 1.5)
    assert choose_threads("auto", None, 0.0).number == 2
    assert "no more are granted" in choose_threads("auto", None, 0.0).notice
