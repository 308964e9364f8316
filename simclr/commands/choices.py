"""What a training command chooses beside the science: callbacks, logger, precision and threads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from simclr.errors import InputError
from simclr.runs.compose import build
from simclr.runs.targets import logger_of
from simclr.system.precision import check_precision, choose_precision, earlier_choice
from simclr.system.threads import CoreMeter, choose_threads
from simclr.training.periodic import PeriodicMeasure

log = logging.getLogger(__name__)


class Machine(NamedTuple):
    """How a run computes; a checkpoint keeps it, so that a run that goes on computes alike."""

    accelerator: str
    precision: str
    threads: int


def chosen_machine(config: DictConfig, accelerator: str, before: dict[str, Any] | None, meter: CoreMeter) -> Machine:
    """Set torch's threads, and say what is to be said of the choices.

    before: of the checkpoint that the run goes on from, empty where that does not tell; None for a new run. meter: has
    measured, since the command began, how busy others keep the cores.
    """
    began = None
    if before is not None and before.get("accelerator", accelerator) == accelerator:
        began = before.get("precision", earlier_choice(accelerator))
        check_precision(began)
    precision, notice = choose_precision(str(config.precision), accelerator, began)
    threads = choose_threads(config.threads, (before or {}).get("threads"), meter.others())
    torch.set_num_threads(threads.number)
    for line in (notice, threads.notice):
        if line is not None:
            log.info(line)
    return Machine(accelerator, precision, threads.number)


def chosen_callbacks(config: DictConfig) -> list[Any]:
    """Those of the configuration; measures come first, so that others find their values, whatever the order."""
    callbacks = []
    for name, one in config.get("callbacks", {}).items():
        if one is None:
            continue
        if not isinstance(one, DictConfig) or "_target_" not in one:
            raise InputError(f"callbacks.{name}={one} is not usable; name a class with +callbacks.{name}._target_=")
        callbacks.append(build(one))
    return sorted(callbacks, key=lambda callback: not isinstance(callback, PeriodicMeasure))


def chosen_logger(config: DictConfig, run_dir: Path, step: int) -> Any:
    """Lightning's logger, which drops what earlier curves have from `step` on; False for none."""
    chosen = logger_of(config, save_dir=str(run_dir), purge_step=step)
    return False if chosen is None else build(chosen)
