"""Who runs a sweep's jobs: the launchers that Hydra's plugins bring, what they need, and what their processes do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import threading
import time
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from simclr.system.locks import Locked, locked

# Hydra's plugins by the package that has them, and this project's extra that installs it.
EXTRAS = {
    "hydra_joblib_launcher": "joblib",
    "hydra_submitit_launcher": "slurm",
    "hydra_optuna_sweeper": "optuna",
}
# What joblib and submitit raise where a job's process has ended without an answer.
LOST = {"TerminatedWorkerError", "UncompletedJobError", "FailedJobError"}

_held = ExitStack()  # the GPU that this process has taken


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


def missing(config: DictConfig) -> str | None:
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


@cache
def end_with_the_sweep() -> None:
    """Let this process, which the sweep's own has started, save its job and end where that one is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        while True:  # the first ends the job, which saves itself; one after it ends the process
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    threading.Thread(target=watch, daemon=True).start()


@cache
def take_a_gpu(folder: Path) -> None:
    """Let this process, as long as it lives, see one GPU alone, which no other process of the sweep sees.

    folder: the sweep's own, for the locks. A second call, of a worker that has run a job before, changes nothing.
    """
    names = visible_gpus()
    while names:  # joblib may replace a worker while the old one is still leaving
        for name in names:
            with suppress(Locked):
                _held.enter_context(locked(folder / f"gpu-{name}.lock"))
                os.environ["CUDA_VISIBLE_DEVICES"] = name
                return
        time.sleep(0.1)
