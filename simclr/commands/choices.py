"""What a training command chooses beside the science: callbacks, logger, precision and threads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from simclr.errors import InputError, first_line
from simclr.runs.build import build
from simclr.runs.identity import COMPUTES, GOES_ON, kind
from simclr.runs.targets import loggers_of
from simclr.system.precision import check_precision, choose_precision, earlier_choice
from simclr.system.threads import CoreMeter, choose_threads
from simclr.training.periodic import PeriodicMeasure

log = logging.getLogger(__name__)

GROUPS = ("data", "augmentation", "backbone", "head", "method", "optimizer", "scheduler")
KEYS = ("seed", "epochs", "batch_size", "temperature", "optimizer.lr", "limit_images")


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


def settings(config: DictConfig) -> dict[str, Any]:
    """What people compare runs by: the choice of every group that decides what is learned, the usual keys, and whatever
    the command has changed."""
    hydra = HydraConfig.get()
    groups = {group: hydra.runtime.choices.get(group) for group in GROUPS}
    asked = (override.lstrip("+").partition("=")[0] for override in hydra.overrides.task if override[0] != "~")
    keys = [*KEYS, *(key for key in asked if kind(key) in (COMPUTES, GOES_ON) and key not in groups)]
    values = {key: OmegaConf.select(config, key) for key in keys}
    return groups | {key: value for key, value in values.items() if value is not None}


def chosen_loggers(config: DictConfig, run_dir: Path, step: int) -> list[Any]:
    """Lightning's loggers, which drop what earlier curves have from `step` on where they can."""
    name = run_dir.name
    own = {"save_dir": str(run_dir), "purge_step": step, "name": name, "run_name": name, "id": name}
    return [_opened(logger) for logger in loggers_of(config, **own)]


def _opened(config: DictConfig) -> Any:
    """One logger. Raises InputError where its package is missing, or its server does not take the run."""
    called = config._target_.rpartition(".")[2]
    try:
        logger = build(config)
        if not called.startswith("TensorBoard"):  # whose file is opened where its name is decided
            _ = logger.experiment
    except InputError:
        raise
    except Exception as error:  # each service has errors of its own
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        remedy = "" if not isinstance(cause, ModuleNotFoundError) else '; pip install -e ".[loggers]"'
        raise InputError(
            f"{config._get_full_key('')}: {called} cannot be opened: {first_line(cause)}{remedy}"
        ) from error
    return logger
