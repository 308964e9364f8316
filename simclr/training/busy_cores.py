"""Say so when other programs take the cores that a run computes on."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from simclr.system.threads import CoreMeter, fitting

log = logging.getLogger(__name__)


class BusyCores(Callback):
    """Look every `seconds` of training on a CPU whether its threads still find a core each, and warn where they do not.

    Once each time that others come. batch_size: images a step, for the speed that the warning tells.
    """

    def __init__(self, batch_size: int, seconds: float = 30.0) -> None:
        self.batch_size, self.seconds = batch_size, seconds
        self.meter = CoreMeter()
        self.steps, self.spent, self.step_ended_at = 0, 0.0, time.monotonic()
        self.undisturbed: float | None = None  # images/s
        self.disturbed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.meter = CoreMeter()
        self.step_ended_at = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step_ended_at = time.monotonic()  # what is done between epochs is not timed

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        now = time.monotonic()
        self.steps, self.spent, self.step_ended_at = self.steps + 1, self.spent + now - self.step_ended_at, now
        if self.spent < self.seconds or pl_module.device.type != "cpu":
            return
        others, speed = self.meter.others(), self.batch_size * self.steps / self.spent
        self.steps, self.spent, self.step_ended_at = 0, 0.0, time.monotonic()
        threads, room = torch.get_num_threads(), fitting(others)
        if threads <= room or others < 0.5:
            self.undisturbed, self.disturbed = speed, False
        elif not self.disturbed:
            self.disturbed = True
            before = "" if self.undisturbed is None else f", after {self.undisturbed:.0f}"
            log.warning(
                "Other programs keep %.1f cores busy, and the %d threads of this run wait for each other: "
                "%.0f images/s%s. Stop them, or stop this run and repeat its command with threads=%d (its numbers will "
                "then differ by rounding).",
                others,
                threads,
                speed,
                before,
                room,
            )
