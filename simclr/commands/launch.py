"""One command, several processes: torchrun's agent starts them on this machine, watches them and ends them together."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from simclr.commands.arguments import for_hydra
from simclr.errors import InputError, InUse, Refused
from simclr.system.shell import started_by_torchrun
from simclr.system.signals import INTERRUPTED, Requeue, Stop, to_others

OURS = "launched-"  # how the name of a group of processes begins that `launch` has started
IN_USE = 2  # the exit status of one of them that finds the run in use


def started_by_launch() -> bool:
    """Whether this process is one of several that a command, which is `launch` below, has started."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(OURS)


def first_to_fail() -> bool:
    """Whether no other process of this job has met an error before: one failure fails all, and one is to be told."""
    if not started_by_torchrun():
        return True
    from simclr.system.distributed import agent_store

    try:
        return agent_store(timedelta(seconds=5)).add("failed", 1) == 1
    except RuntimeError:
        return True  # whoever keeps the store is gone already


def processes_here(devices: Any, accelerator: str, strategy: str, **_: Any) -> int:
    """How many processes are to train on this machine.

    devices: a number, "auto" or -1 (as many as there are GPUs, else 1), or a list of GPUs. Under torchrun its own
    number counts, and `devices` is "auto" or agrees. strategy: "auto" for one process, "ddp" for several.
    Raises InputError for values that cannot be, with what to do.
    """
    import torch

    from simclr.system.precision import check_gpus, choose_accelerator

    accelerator = choose_accelerator(str(accelerator), "trainer.accelerator")
    gpus = torch.cuda.device_count() if accelerator == "cuda" else 0
    if devices in ("auto", -1, "-1"):
        count = max(1, gpus) if strategy == "ddp" else 1
    elif isinstance(devices, Sequence) and not isinstance(devices, str):
        count = len(devices)
    elif isinstance(devices, int) and not isinstance(devices, bool) and devices >= 1:
        count = devices
    else:
        raise InputError(f"trainer.devices={devices} is not usable; write a number, auto, or a list of GPUs, as [0,1]")
    if started_by_torchrun():
        started, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        if total > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise InputError(
                f"torchrun has started {total} processes, which a sweep cannot share; start it without torchrun: "
                "python train.py -m trainer=ddp trainer.devices=N"
            )
        if total > 1 and strategy != "ddp":
            raise InputError(f"torchrun has started {total} processes; add trainer=ddp, so that they train together")
        if devices not in ("auto", -1, "-1") and count != started:
            raise InputError(
                f"torchrun has started {started} processes here, and trainer.devices={devices}; leave trainer.devices "
                "out"
            )
        count = started
    elif count > 1 and strategy != "ddp":
        raise InputError(f"trainer.devices={devices} needs several processes; add trainer=ddp")
    check_gpus(count, accelerator)
    return count


def placement(devices: Any, plugins: Sequence[Any] = ()) -> dict[str, Any]:
    """Trainer arguments by which Lightning trains in the processes that there are, or in this one alone.

    plugins: further ones for the Trainer.
    """
    from lightning_fabric.plugins.environments import LightningEnvironment
    from pytorch_lightning.strategies import DDPStrategy

    here, everywhere = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if started_by_torchrun() and everywhere > 1:
        listed = isinstance(devices, Sequence) and not isinstance(devices, str)
        several = {"devices": devices if listed else here, "num_nodes": everywhere // here}
        # Batch norm's statistics are equal in all processes as it is: see models/batch_norm.py.
        return several | {"strategy": DDPStrategy(broadcast_buffers=False), "plugins": [*plugins]}
    # Inside SLURM, Lightning would otherwise answer its signals with checkpoints of its own.
    alone = {"strategy": "auto", "plugins": [*plugins, LightningEnvironment()]}
    return alone | ({"devices": 1} if devices in ("auto", -1, "-1") else {})


def launch(module: str, run_dir: Path, processes: int, stop: Stop) -> None:
    """Run this Hydra job's `module` in that many processes in `run_dir`, and return when all are done.

    Where one fails, the others are stopped within seconds. Raises Refused where one has printed its error, InputError
    where one was killed, InUse where another command was faster, Requeue where they asked to be run again or this
    process was asked to stop, as they are then.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Saving, and k-NN at the end of an epoch, may take longer than the half minute that the agent would wait.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    # Processes that each take every core for themselves get in each other's way.
    share = "OMP_NUM_THREADS" not in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=OURS + uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        # By default it takes those that `stop` handles as well, even SIGHUP under nohup; a second one ends its waiting.
        signals_to_handle="SIGQUIT",
    )

    def pass_on() -> None:
        assert stop.received is not None
        # The agent sends it to its processes and waits for them.
        raise SignalException("asked to stop", to_others(stop.received))

    stop.action = pass_on
    handler = signal.getsignal(signal.SIGQUIT)
    logging.disable(logging.ERROR)  # the agent's own words: the processes have said what failed, or it is said below
    try:
        elastic_launch(config, sys.executable)("-m", module, *_same_job(run_dir))
    except SignalException as interruption:
        if stop.received is not None:
            raise Requeue(stop.exit_code) from None
        raise SystemExit(128 + interruption.sigval) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise InputError(
                f"process {rank} of {processes} was killed by {name} (out of memory?); the others were stopped. Repeat "
                "the command to go on from the last checkpoint"
            ) from None
        if failure.exitcode == IN_USE:
            raise InUse(f"another process is training in {run_dir}; wait for it or stop it") from None
        asked = failure.exitcode in (stop.requeue_exit_code, INTERRUPTED)
        raise (Requeue if asked else Refused)(failure.exitcode) from None
    finally:
        if share:  # the jobs of a sweep that come after it choose for themselves
            os.environ.pop("OMP_NUM_THREADS", None)
        logging.disable(logging.NOTSET)
        if stop.received is None:
            stop.action = stop.leave
        signal.signal(signal.SIGQUIT, handler)


def _same_job(run_dir: Path) -> list[str]:
    """Command-line arguments that compose this Hydra job's configuration, in `run_dir`."""
    hydra = HydraConfig.get()
    arguments = ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        flag = {"main": "--config-path", "command-line": "--config-dir"}.get(source.provider)
        if flag is not None:
            arguments += [flag, source.path]
    fixed = ("hydra.run.dir=", "hydra.sweep.", "hydra.mode=")
    arguments += [override for override in hydra.overrides.hydra if not override.startswith(fixed)]
    return [*arguments, *hydra.overrides.task, "hydra.mode=RUN", f"hydra.run.dir={for_hydra(str(run_dir))}"]
