"""Who runs a sweep's jobs: the launchers that Hydra's plugins bring, what they need, and what their processes do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from simclr.errors import Refused
from simclr.runs import search
from simclr.system.locks import Locked, locked

# What a launcher or sweeper needs, and this project's extra that installs it.
EXTRAS = {
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "slurm",
    "optuna": "optuna",
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
        target = config.hydra[group]._target_
        package = "optuna" if target == search.NAME else ".".join(target.split(".")[:2])
        choice = f"hydra/{group}={config.hydra.runtime.choices[f'hydra/{group}']}"
        if package in EXTRAS and not _installed(package):
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


def repeat(launcher: str, again: Callable[[range], list[int]]) -> None:
    """Let this launcher class start jobs again for as long as `again` names any of those that it has run.

    And let it say in one line that a job's process was killed; Hydra would print its insides.
    """
    launcher_class: Any = Plugins.instance().class_name_to_class[launcher]
    launch = launcher_class.launch

    def launch_or_tell(self: Any, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        try:
            return launch(self, job_overrides, first)
        except Exception as error:
            if type(error).__name__ not in LOST:
                raise
            print(
                "error: the process of a job was killed (out of memory?); repeat the command to go on", file=sys.stderr
            )
            raise Refused(1) from None

    def launch_all(self: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        results = list(launch_or_tell(self, job_overrides, initial_job_idx))
        while numbers := again(range(initial_job_idx, initial_job_idx + len(results))):
            places = [number - initial_job_idx for number in numbers]
            redone = launch_or_tell(self, [job_overrides[place] for place in places], _Numbers(numbers))
            for place, result in zip(places, redone, strict=True):
                results[place] = result
        return results

    launcher_class.launch = launch_all


class _Numbers(int):
    """The numbers of some jobs in place of the first one's, to which launchers add a job's place in their list."""

    numbers: list[int]

    def __new__(cls, numbers: list[int]) -> _Numbers:
        self = super().__new__(cls, numbers[0])
        self.numbers = numbers
        return self

    def __add__(self, place: int) -> int:
        return self.numbers[place]


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
