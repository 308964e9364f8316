"""A sweep (-m), whoever runs its jobs: what has to be installed, what their processes need, what became of each."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
import traceback
import uuid
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from simclr.errors import Refused
from simclr.runs import launchers
from simclr.system.files import replacing
from simclr.system.locks import Locked, locked
from simclr.system.memory import keep_freed_memory
from simclr.system.output import outlive_readers
from simclr.system.signals import INTERRUPTED, Requeue, ignore_stop_signals, stop_signals, to_others

SAVING_SECONDS = 300  # how long jobs may take to save themselves after a SIGTERM
LOOK_AGAIN_SECONDS = 2  # how often to see whether a run that another process trains is free
SAY_AGAIN_SECONDS = 300
LEFT, THEIRS = "left to others", "trained by others"

# What became of this process's jobs, by directory.
refused: dict[str, str] = {}  # they ended with this clear error
left: set[str] = set()  # another process trains it
theirs: set[str] = set()  # another process has trained it since the sweep began
found_finished: set[str] = set()  # there was nothing to train


class Sweep(Callback):
    """Prepares the processes in which a launcher runs a sweep's jobs, and keeps account of the jobs.

    Launchers copy this object into the jobs' processes, where nothing that it learns finds a way back; so what became
    of a job is a small file in the sweep's directory, until the end of the sweep. Every command has a folder of its own
    for them: the same sweep may have been started more than once, on this machine or another, and shares its runs.
    """

    def __init__(self) -> None:
        self.notes: Path | None = None
        self.home = (socket.gethostname(), os.getpid())
        self.finished_before: dict[str, Any] = {}
        self.will = ""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global _current
        HydraConfig.instance().set_config(config)  # the folder's name refers to it; Hydra does this a moment later
        message = launchers.missing(config)
        if message is not None:
            print(f"error: {message}", file=sys.stderr)
            raise Refused(1)
        folder = Path(os.path.abspath(config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.finished_before = {str(path.parent): _version(path) for path in folder.rglob("metrics.json")}
        self.notes = _open_account(folder)
        _current = self
        self._look_after(config.hydra.launcher._target_)
        logging.getLogger("alembic").setLevel(logging.WARNING)  # Optuna's storage lists its own plugins
        if config.hydra.sweeper.get("storage"):
            _create_storage(config.hydra.sweeper.storage, folder)
        # joblib replaces a worker that has grown, and loading torch is growth.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
        if isinstance(config.requeue_exit_code, int):
            for number in stop_signals():
                signal.signal(number, lambda number, _: self._end_jobs(number, config.requeue_exit_code))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if self.notes is None:
            return  # a single run
        if self._elsewhere():
            self._settle_in(config)
        run_dir = Path(config.hydra.runtime.output_dir)
        refused.pop(str(run_dir), None)
        for known in (left, theirs, found_finished):
            known.discard(str(run_dir))
        if self._trained_meanwhile(run_dir):
            theirs.add(str(run_dir))
            self.will = THEIRS
        elif config.resume == "auto" and (run_dir / "metrics.json").exists():
            self.will = "had finished"
        elif config.resume == "never" or (config.resume == "auto" and not any(run_dir.glob("checkpoints/*.ckpt"))):
            self.will = "trained"
        else:
            self.will = "resumed"
        self._note(config, outcome="running")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if self.notes is None:
            return
        run_dir = config.hydra.runtime.output_dir
        error = refused.get(run_dir)
        if job_return.status is not JobStatus.COMPLETED:
            error = repr(job_return._return_value)
            if self._elsewhere():
                # An exception travels to the sweep's own process without the place where it was raised.
                traceback.print_exception(job_return._return_value)
        if error is not None:
            outcome = "failed"
        elif run_dir in left:
            outcome = LEFT
        elif run_dir in found_finished and self.will in ("trained", "resumed"):
            outcome = THEIRS  # while this process was about to begin
        else:
            outcome = self.will
        self._note(config, outcome=outcome, error=error)

    def jobs(self) -> list[dict[str, Any]]:
        """What is known of each job: number, directory, process, and outcome.

        That is running, had finished, resumed, trained, failed, left to others, or trained by others.
        """
        assert self.notes is not None
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.notes.glob("*.json"))]

    def _note(self, config: DictConfig, **content: Any) -> None:
        assert self.notes is not None
        number = config.hydra.job.num
        content |= {"number": number, "run_dir": config.hydra.runtime.output_dir}
        with replacing(self.notes / f"{number}.json") as unfinished:
            unfinished.write_text(
                json.dumps(content | {"host": socket.gethostname(), "pid": os.getpid()}), encoding="utf-8"
            )

    def _trained_meanwhile(self, run_dir: Path) -> bool:
        """Whether others have trained this run since the sweep began here."""
        if _version(run_dir / "metrics.json") in (None, self.finished_before.get(str(run_dir))):
            return False
        # A search may propose the same run twice, and a cluster may start a job again.
        return not any(job["run_dir"] == str(run_dir) and job["outcome"] != LEFT for job in self.jobs())

    def _elsewhere(self) -> bool:
        return self.home != (socket.gethostname(), os.getpid())

    def _settle_in(self, config: DictConfig) -> None:
        """What run_command does for the sweep's own process; and this one ends with that one, on a GPU of its own."""
        outlive_readers()
        keep_freed_memory()
        logging.raiseExceptions = False
        if self.home == (socket.gethostname(), os.getppid()):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: that process answers, and passes it on
            launchers.end_with_the_sweep()
        if "joblib" in config.hydra.launcher._target_:
            assert self.notes is not None
            launchers.take_a_gpu(self.notes)

    def _look_after(self, launcher: str) -> None:
        """Let this launcher class come back to the jobs that were left to others, until none is.

        And let it say in one line that a job's process was killed; Hydra would print its insides.
        """
        launcher_class: Any = Plugins.instance().class_name_to_class[launcher]
        launch = launcher_class.launch

        def launch_or_tell(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
            try:
                return launch(launcher, job_overrides, first)
            except Exception as error:
                if type(error).__name__ not in launchers.LOST:
                    raise
                print(
                    "error: the process of a job was killed (out of memory?); repeat the command to go on",
                    file=sys.stderr,
                )
                raise Refused(1) from None

        def launch_all(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
            results = list(launch_or_tell(launcher, job_overrides, initial_job_idx))
            while again := self._wait_for_others(range(initial_job_idx, initial_job_idx + len(results))):
                places = [number - initial_job_idx for number in again]
                redone = launch_or_tell(launcher, [job_overrides[place] for place in places], _Numbers(again))
                for place, result in zip(places, redone, strict=True):
                    results[place] = result
            return results

        launcher_class.launch = launch_all

    def _wait_for_others(self, numbers: range) -> list[int]:
        """The jobs of these numbers to start again, as soon as there are any; none where none was left to others.

        That is all that were left when nobody trains them any more; before that, those whose process has died.
        """
        runs = {job["number"]: Path(job["run_dir"]) for job in self.jobs() if job["outcome"] == LEFT}
        runs = {number: runs[number] for number in numbers if number in runs}
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
        ignore_stop_signals()
        host = socket.gethostname()
        running = [job for job in self.jobs() if job["outcome"] == "running" and job["host"] == host]
        running = [job for job in running if job["pid"] != os.getpid()]
        for job in running:
            with suppress(ProcessLookupError):
                os.kill(job["pid"], to_others(number))
        for job in running:
            with suppress(Locked, OSError), locked(Path(job["run_dir"]) / ".lock", SAVING_SECONDS):
                pass
        raise Requeue(INTERRUPTED if number == signal.SIGINT else requeue_exit_code)


_current: Sweep | None = None
_held = ExitStack()  # the lock of this command's account, until it is closed


class _Numbers(int):
    """The numbers of some jobs in place of the first one's, to which launchers add a job's place in their list."""

    numbers: list[int]

    def __new__(cls, numbers: list[int]) -> _Numbers:
        self = super().__new__(cls, numbers[0])
        self.numbers = numbers
        return self

    def __add__(self, place: int) -> int:
        return self.numbers[place]


def _open_account(folder: Path) -> Path:
    """A new folder in `folder` for this command's notes; those of commands that were killed are removed."""
    for old in (path for path in folder.glob(".jobs-*") if path.is_dir()):
        with suppress(Locked, OSError), locked(_lock_of(old)):
            _close_account(old)
    new = folder / f".jobs-{uuid.uuid4().hex[:8]}"
    _held.enter_context(locked(_lock_of(new)))
    new.mkdir()  # last: another command would take one that is not locked for a dead one's
    return new


def _close_account(notes: Path) -> None:
    shutil.rmtree(notes, ignore_errors=True)
    with suppress(OSError):
        _lock_of(notes).unlink()


def _lock_of(notes: Path) -> Path:
    return notes.with_name(f"{notes.name}.lock")


def _create_storage(url: str, folder: Path) -> None:
    """Make Optuna's tables where there are none, which fails for searches that do it at the same moment."""
    import optuna

    with locked(folder / ".optuna.lock", timeout=None):
        optuna.storages.get_storage(url)


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


def conclude() -> int:
    """Say in a line what became of the sweep's jobs, and return how many failed; 0 where there was no sweep."""
    global _current
    if _current is None:
        return len(refused)
    jobs, home = _current.jobs(), _current.home
    assert _current.notes is not None
    _held.close()
    _close_account(_current.notes)
    _current = None
    if not jobs:
        return len(refused)
    counts = Counter(job["outcome"] for job in jobs)
    others = [outcome for outcome in (THEIRS, LEFT) if counts[outcome]]
    told = ", ".join(
        f"{counts[outcome]} {outcome}" for outcome in ("had finished", "resumed", "trained", *others, "failed")
    )
    cut = f", {counts['running']} cut off; repeat the command to go on" if counts["running"] else ""
    print(f"{len(jobs)} run{'s' if len(jobs) > 1 else ''}: {told}{cut}", flush=True)
    for job in jobs:
        if job["outcome"] == "failed" and (job["host"], job["pid"]) != home:  # what it printed may be in another place
            print(f"error: {job['run_dir']}: {job['error']}", file=sys.stderr)
    return counts["failed"]
