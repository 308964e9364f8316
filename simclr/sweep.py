"""A sweep (-m), whoever runs its jobs: what has to be installed, what their processes need, what became of each."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from simclr.errors import Refused
from simclr.files import replacing
from simclr.memory import keep_freed_memory
from simclr.requeue import Requeue

# Hydra's plugins by the package that has them, and this project's extra that installs it.
EXTRAS = {
    "hydra_joblib_launcher": "joblib",
    "hydra_submitit_launcher": "slurm",
    "hydra_ray_launcher": "ray",
    "hydra_optuna_sweeper": "optuna",
}
SAVING_SECONDS = 300  # how long jobs may take to save themselves after a SIGTERM

refused: dict[str, str] = {}  # this process's jobs that ended with a clear error: directory and error


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that a process started now could use, as CUDA_VISIBLE_DEVICES names them; asks no torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


OmegaConf.register_new_resolver("jobs_at_once", lambda: len(visible_gpus()) or 2, replace=True)
OmegaConf.register_new_resolver("gpus_of_a_job", lambda: min(1, len(visible_gpus())), replace=True)


class Sweep(Callback):
    """Prepares the processes in which a launcher runs a sweep's jobs, and keeps account of the jobs.

    Launchers copy this object into the jobs' processes, where nothing that it learns finds a way back; so what became
    of a job is a small file in the sweep's directory, until the end of the sweep.
    """

    def __init__(self) -> None:
        self.notes: Path | None = None
        self.home = (socket.gethostname(), os.getpid())

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global _current
        HydraConfig.instance().set_config(config)  # the folder's name refers to it; Hydra does this a moment later
        message = _missing(config)
        if message is not None:
            print(f"error: {message}", file=sys.stderr)
            raise Refused(1)
        # The same command finds, and removes, what it left when it was killed.
        overrides = json.dumps([*config.hydra.overrides.task, *config.hydra.overrides.hydra])
        self.notes = (
            Path(config.hydra.sweep.dir).absolute() / f".jobs-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"
        )
        shutil.rmtree(self.notes, ignore_errors=True)
        self.notes.mkdir(parents=True)
        _current = self
        _tell_of_lost_processes(config.hydra.launcher._target_)
        logging.getLogger("alembic").setLevel(logging.WARNING)  # Optuna's storage lists its own plugins
        # joblib replaces a worker that has grown, and loading torch is growth.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
        if isinstance(config.requeue_exit_code, int):
            signal.signal(signal.SIGTERM, lambda *_: self._end_jobs(config.requeue_exit_code))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if self.notes is None:
            return  # a single run
        if self._elsewhere():
            self._settle_in(config)
        run_dir = Path(config.hydra.runtime.output_dir)
        if config.resume == "auto" and (run_dir / "metrics.json").exists():
            will = "had finished"
        elif config.resume == "never" or (config.resume == "auto" and not any(run_dir.glob("checkpoints/*.ckpt"))):
            will = "trained"
        else:
            will = "resumed"
        self._note(config, outcome="running", will=will)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if self.notes is None:
            return
        note = json.loads(self._file(config).read_text())
        error = refused.get(config.hydra.runtime.output_dir)
        if job_return.status is not JobStatus.COMPLETED:
            error = repr(job_return._return_value)
            if self._elsewhere():
                # An exception travels to the sweep's own process without the place where it was raised.
                traceback.print_exception(job_return._return_value)
        self._note(config, outcome=note["will"] if error is None else "failed", error=error)

    def jobs(self) -> list[dict[str, Any]]:
        """What is known of each job: directory, outcome (running, had finished, resumed, trained, failed), process."""
        assert self.notes is not None
        return [json.loads(path.read_text()) for path in sorted(self.notes.glob("*.json"))]

    def _file(self, config: DictConfig) -> Path:
        assert self.notes is not None
        return self.notes / f"{config.hydra.job.num}.json"

    def _note(self, config: DictConfig, **content: Any) -> None:
        about = {"run_dir": config.hydra.runtime.output_dir, "host": socket.gethostname(), "pid": os.getpid()}
        with replacing(self._file(config)) as unfinished:
            unfinished.write_text(json.dumps({**content, **about}))

    def _elsewhere(self) -> bool:
        return self.home != (socket.gethostname(), os.getpid())

    def _settle_in(self, config: DictConfig) -> None:
        """What run_command does for the sweep's own process; and this one ends with that one, on a GPU of its own."""
        keep_freed_memory()
        logging.raiseExceptions = False
        if self.home == (socket.gethostname(), os.getppid()):
            _end_with_the_sweep()
        if "joblib" in config.hydra.launcher._target_:
            _take_a_gpu(self.notes)

    def _end_jobs(self, requeue_exit_code: int) -> None:
        """SIGTERM: pass it on, wait until the jobs on this machine have saved themselves, and ask to be run again."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        host = socket.gethostname()
        running = [job for job in self.jobs() if job["outcome"] == "running" and job["host"] == host]
        running = [job for job in running if job["pid"] != os.getpid()]
        for job in running:
            with suppress(ProcessLookupError):
                os.kill(job["pid"], signal.SIGTERM)
        for job in running:
            with suppress(Timeout), FileLock(Path(job["run_dir"]) / ".lock").acquire(timeout=SAVING_SECONDS):
                pass
        raise Requeue(requeue_exit_code)


_current: Sweep | None = None
_gpu_lock: FileLock | None = None  # held as long as this process lives


# What joblib, submitit and Ray raise where a job's process has ended without an answer.
LOST = {"TerminatedWorkerError", "UncompletedJobError", "FailedJobError", "WorkerCrashedError"}


def _tell_of_lost_processes(launcher: str) -> None:
    """Let this launcher class say in one line that a job's process was killed; Hydra would print its insides."""
    launcher_class: Any = Plugins.instance().class_name_to_class[launcher]
    launch = launcher_class.launch

    def launch_or_tell(*arguments: Any, **named: Any) -> Any:
        try:
            return launch(*arguments, **named)
        except Exception as error:
            if type(error).__name__ not in LOST:
                raise
            print(
                "error: the process of a job was killed (out of memory?); repeat the command to go on", file=sys.stderr
            )
            raise Refused(1) from None

    launcher_class.launch = launch_or_tell


@cache
def _end_with_the_sweep() -> None:
    """Let this process, which the sweep's own has started, save its job and end where that one is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        while True:  # the first ends the job, which saves itself; one after it ends the process
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    threading.Thread(target=watch, daemon=True).start()


def _take_a_gpu(folder: Path | None) -> None:
    """Let this process see one GPU alone, which no other process of this sweep sees."""
    global _gpu_lock
    assert folder is not None
    if _gpu_lock is not None:
        return  # a worker that has run a job before
    locks = {name: FileLock(folder / f"gpu-{name}.lock") for name in visible_gpus()}
    while locks:  # joblib may replace a worker while the old one is still leaving
        for name, lock in locks.items():
            with suppress(Timeout):
                lock.acquire(timeout=0)
                _gpu_lock, os.environ["CUDA_VISIBLE_DEVICES"] = lock, name
                return
        time.sleep(0.1)


def _missing(config: DictConfig) -> str | None:
    """What the chosen launcher and sweeper need and this machine lacks, with the remedy; None if nothing."""
    for group in ("launcher", "sweeper"):
        package = config.hydra[group]._target_.split(".")[1]
        choice = f"hydra/{group}={config.hydra.runtime.choices[f'hydra/{group}']}"
        if package in EXTRAS and not _installed(f"hydra_plugins.{package}"):
            return f'{choice} needs a package that is not installed: pip install -e ".[{EXTRAS[package]}]"'
    target = config.hydra.launcher._target_
    if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        return "hydra/launcher=submitit_slurm finds no SLURM here; start it where sbatch works, or use another launcher"
    gpus = visible_gpus() if target.endswith(".JoblibLauncher") else []
    jobs = config.hydra.launcher.get("n_jobs")
    if gpus and not 1 <= jobs <= len(gpus):
        return (
            f"hydra.launcher.n_jobs={jobs} is not usable; every job gets a GPU of its own, and this machine has "
            f"{len(gpus)}: use 1 to {len(gpus)}"
        )
    return None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def conclude() -> int:
    """Say in a line what became of the sweep's jobs, and return how many failed; 0 where there was no sweep."""
    global _current
    if _current is None:
        return len(refused)
    jobs, home = _current.jobs(), _current.home
    assert _current.notes is not None
    shutil.rmtree(_current.notes, ignore_errors=True)
    _current = None
    if not jobs:
        return len(refused)
    counts = Counter(job["outcome"] for job in jobs)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("had finished", "resumed", "trained", "failed"))
    cut = f", {counts['running']} cut off; repeat the command to go on" if counts["running"] else ""
    print(f"{len(jobs)} run{'s' if len(jobs) > 1 else ''}: {told}{cut}", flush=True)
    for job in jobs:
        if job["outcome"] == "failed" and (job["host"], job["pid"]) != home:  # what it printed may be in another place
            print(f"error: {job['run_dir']}: {job['error']}", file=sys.stderr)
    return counts["failed"]
