"""How many threads to compute with, where other programs use the cores too.

Threads wait for each other at the end of every parallel loop. One that another program keeps from its core holds up
all: with one of two cores taken, two threads made 15 to 22 images/s, one 97, and both cores free 200.
"""

from __future__ import annotations

import math
import os
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil
import torch


class Threads(NamedTuple):
    """number: to compute with. notice: what is to be said of the choice, None where it is torch's own."""

    number: int
    notice: str | None


@cache
def default_threads() -> int:
    """What torch takes by itself, or by OMP_NUM_THREADS: the first answer in a process, before anybody sets another."""
    return torch.get_num_threads()


def cores() -> int:
    """How many cores this process may use, by affinity and by its control group's quota."""
    return max(1, math.ceil(min(len(_cores()), _quota())))


class CoreMeter:
    """Measures how many of this process's cores other programs keep busy, from its creation, or the last answer, on."""

    def __init__(self) -> None:
        self._restart()

    def others(self) -> float:
        """How many others kept busy on average; the next answer begins here. At least 0.1 s are measured."""
        time.sleep(max(0.0, self.started_at + 0.1 - time.monotonic()))
        started_at, busy, own = self.started_at, self.busy, self.own
        self._restart()
        taken = (self.busy - busy) - (self.own - own)
        return min(max(0.0, taken / (self.started_at - started_at)), len(_cores()))

    def _restart(self) -> None:
        times = psutil.cpu_times(percpu=True)
        # Programs that give way to others ("nice") are no hindrance.
        kinds = ("user", "system", "irq", "softirq", "steal", *(["nice"] if psutil.Process().nice() > 0 else []))
        self.busy = sum(getattr(times[core], kind, 0.0) for core in _cores() if core < len(times) for kind in kinds)
        spent = psutil.Process().cpu_times()
        self.own = spent.user + spent.system + spent.children_user + spent.children_system
        self.started_at = time.monotonic()


def fitting(others: float) -> int:
    """How many threads find a core of their own, where others keep so many busy; at least one."""
    return max(1, min(cores(), math.floor(len(_cores()) - others + 0.5)))


def choose_threads(requested: int | str, before: int | None, others: float) -> Threads:
    """How many threads a run computes with.

    requested: a number, or "auto": OMP_NUM_THREADS where that is set; else what the run began with, since another
    number sums in another order; else as many as find a core of their own. before: what the run began with, None for a
    new one. others: the cores that other programs keep busy.
    """
    all_of_them = default_threads()
    given = requested if isinstance(requested, int) else all_of_them if "OMP_NUM_THREADS" in os.environ else None
    if given is not None:
        changed = f"This run began on {_threads(before)} and goes on on {given}: its numbers will differ by rounding."
        return Threads(given, changed if before not in (None, given) else None)
    if before is not None:
        few = before > all_of_them
        slow = f", though there are cores for {all_of_them}: threads={all_of_them} is faster, and differs by rounding"
        said = f"It goes on on {_threads(before)}, as it began{slow if few else ''}."
        return Threads(before, said if before != all_of_them else None)
    count = min(all_of_them, fitting(others))
    if count == all_of_them:
        return Threads(count, None)
    why = f"other programs keep {others:.1f} of {len(_cores())} cores busy" if others >= 0.5 else "no more are granted"
    return Threads(
        count,
        f"threads=auto takes {_threads(count)} of {all_of_them}: {why}, and threads that share a core hold up all. It "
        f"may cost {100 * (1 - count / all_of_them):.0f} % of the speed, also when the run goes on; "
        f"threads={all_of_them} takes all.",
    )


def _threads(count: int | None) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _quota() -> float:
    """The cores that control groups (of a container, or a scheduler) grant; infinity where they do not limit them."""
    granted = [math.inf]
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    folder = Path("/sys/fs/cgroup") / own
    for path in (folder, *folder.parents):
        try:
            quota, period = (path / "cpu.max").read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            granted.append(int(quota) / int(period))
    return min(granted)
