"""A sweep (-m), whoever runs its jobs: its start, what each job's process needs, and what became of each job."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from simclr.errors import Refused
from simclr.runs import launchers, search
from simclr.runs.account import Account
from simclr.system.locks import Locked, locked
from simclr.system.memory import keep_freed_memory
from simclr.system.output import outlive_readers
from simclr.system.signals import INTERRUPTED, Requeue, ignore_stop_signals, stop_signals, to_others

SAVING_SECONDS = 300  # how long jobs may take to save themselves after a SIGTERM
LOOK_AGAIN_SECONDS = 2  # how often to see whether a run that another process trains is free
SAY_AGAIN_SECONDS = 300
FINISHED, RESUMED, TRAINED, FAILED = "had finished", "resumed", "trained", "failed"
THEIRS, LEFT = "trained by others", "left to others"

# What became of this process's jobs, by directory.
refused: dict[str, str] = {}  # they ended with this clear error
left: set[str] = set()  # another process trains it
theirs: set[str] = set()  # another process has trained it since the sweep began
found_finished: set[str] = set()  # there was nothing to train

_account: Account | None = None  # of the sweep that this process has started


class Sweep(Callback):
    """Prepares the processes in which a launcher runs a sweep's jobs, and keeps account of the jobs.

    Launchers copy this object into the jobs' processes, where nothing that it learns finds a way back but through the
    account's files.
    """

    def __init__(self) -> None:
        self.account: Account | None = None  # None in a single run
        self.finished_before: dict[str, Any] = {}
        self.will = ""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global _account
        HydraConfig.instance().set_config(config)  # the folder's name refers to it; Hydra does this a moment later
        message = launchers.missing(config) or search.unusable(config)
        if message is not None:
            print(f"error: {message}", file=sys.stderr)
            raise Refused(1)
        folder = Path(os.path.abspath(config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.finished_before = {str(path.parent): _version(path) for path in folder.rglob("metrics.json")}
        self.account = _account = Account(folder)
        launchers.repeat(config.hydra.launcher._target_, self._wait_for_others)
        search.register()
        # joblib replaces a worker that has grown, and loading torch is growth.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
        if isinstance(config.requeue_exit_code, int):
            for number in stop_signals():
                signal.signal(number, lambda number, _: self._end_jobs(number, config.requeue_exit_code))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if self.account is None:
            return
        if self.account.kept_elsewhere():
            self._settle_in(self.account, config)
        run_dir = Path(config.hydra.runtime.output_dir)
        refused.pop(str(run_dir), None)
        for known in (left, theirs, found_finished):
            known.discard(str(run_dir))
        if self._trained_meanwhile(self.account, run_dir):
            theirs.add(str(run_dir))
            self.will = THEIRS
        elif config.resume == "auto" and (run_dir / "metrics.json").exists():
            self.will = FINISHED
        elif config.resume == "never" or (config.resume == "auto" and not any(run_dir.glob("checkpoints/*.ckpt"))):
            self.will = TRAINED
        else:
            self.will = RESUMED
        self.account.note(config.hydra.job.num, config.hydra.runtime.output_dir, outcome="running")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if self.account is None:
            return
        run_dir = config.hydra.runtime.output_dir
        error = refused.get(run_dir)
        if job_return.status is not JobStatus.COMPLETED:
            error = repr(job_return._return_value)
            if self.account.kept_elsewhere():
                # An exception travels to the sweep's own process without the place where it was raised.
                traceback.print_exception(job_return._return_value)
        if error is not None:
            outcome = FAILED
        elif run_dir in left:
            outcome = LEFT
        elif run_dir in found_finished and self.will in (TRAINED, RESUMED):
            outcome = THEIRS  # while this process was about to begin
        else:
            outcome = self.will
        self.account.note(config.hydra.job.num, run_dir, outcome=outcome, error=error)

    def _trained_meanwhile(self, account: Account, run_dir: Path) -> bool:
        """Whether others have trained this run since the sweep began here."""
        if _version(run_dir / "metrics.json") in (None, self.finished_before.get(str(run_dir))):
            return False
        # A search may propose the same run twice, and a cluster may start a job again.
        return not any(job["run_dir"] == str(run_dir) and job["outcome"] != LEFT for job in account.jobs())

    @staticmethod
    def _settle_in(account: Account, config: DictConfig) -> None:
        """What run_command does for the sweep's own process; and this one ends with that one, on a GPU of its own."""
        outlive_readers()
        keep_freed_memory()
        logging.raiseExceptions = False
        if account.kept_by_parent():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: that process answers, and passes it on
            launchers.end_with_the_sweep()
        if "joblib" in config.hydra.launcher._target_:
            launchers.take_a_gpu(account.folder)

    def _wait_for_others(self, numbers: range) -> list[int]:
        """The jobs of these numbers to start again, as soon as there are any; none where none was left to others.

        That is all that were left when nobody trains them any more; before that, those whose process has died.
        """
        assert self.account is not None
        jobs = {job["number"]: job for job in self.account.jobs()}
        runs = {n: Path(jobs[n]["run_dir"]) for n in numbers if n in jobs and jobs[n]["outcome"] == LEFT}
        said = -float("inf")
        while runs:
            time.sleep(LOOK_AGAIN_SECONDS)
            busy = {number: who for number, run_dir in runs.items() if (who := _who_trains(run_dir)) is not None}
            free = [number for number in runs if number not in busy]
            died = [number for number in free if not (runs[number] / "metrics.json").exists()]
            if died or len(free) == len(runs):
                return died or free
            if time.monotonic() - said >= SAY_AGAIN_SECONDS:
                told = ", ".join(
                    f"{runs[number]} ({who})" if who else str(runs[number]) for number, who in busy.items()
                )
                print(f"Waiting for what other processes train: {told}", flush=True)
                said = time.monotonic()
        return []

    def _end_jobs(self, number: int, requeue_exit_code: int) -> None:
        """Pass the signal on, wait until the jobs on this machine have saved themselves, and ask to be run again."""
        assert self.account is not None
        ignore_stop_signals()
        host, own = self.account.home
        running = [job for job in self.account.jobs() if job["outcome"] == "running" and job["host"] == host]
        running = [job for job in running if job["pid"] != own]
        for job in running:
            with suppress(ProcessLookupError):
                os.kill(job["pid"], to_others(number))
        for job in running:
            with suppress(Locked, OSError), locked(Path(job["run_dir"]) / ".lock", SAVING_SECONDS):
                pass
        raise Requeue(INTERRUPTED if number == signal.SIGINT else requeue_exit_code)


def conclude() -> int:
    """Say in a line what became of the sweep's jobs, and return how many failed; 0 where there was no sweep."""
    global _account
    account, _account = _account, None
    jobs = [] if account is None else account.jobs()
    if account is not None:
        account.close()
    if account is None or not jobs:
        return len(refused)
    counts = Counter(job["outcome"] for job in jobs)
    others = [outcome for outcome in (THEIRS, LEFT) if counts[outcome]]
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in (FINISHED, RESUMED, TRAINED, *others, FAILED))
    cut = f", {counts['running']} cut off; repeat the command to go on" if counts["running"] else ""
    print(f"{len(jobs)} run{'s' if len(jobs) > 1 else ''}: {told}{cut}", flush=True)
    for job in jobs:
        if job["outcome"] == FAILED and (job["host"], job["pid"]) != account.home:  # what it printed may be elsewhere
            print(f"error: {job['run_dir']}: {job['error']}", file=sys.stderr)
    return counts[FAILED]


def _version(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that replaces it later; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _who_trains(run_dir: Path) -> str | None:
    """What is known of the process that trains in this directory, which may be nothing; None where none does."""
    try:
        with locked(run_dir / ".lock"):
            return None
    except Locked as other:
        return str(other)
    except FileNotFoundError:  # it was refused, and left nothing
        return None
