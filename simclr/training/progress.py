"""What a person sees while a run trains."""

from __future__ import annotations

import logging
import time
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console

from simclr.methods.base import Method

log = logging.getLogger(__name__)

READ_EVERY_SECONDS = 0.5  # reading a value makes the processor wait for the GPU


def alarms(trainer: pl.Trainer) -> list[str]:
    """What has collapsed, where a callback has said so."""
    found = [getattr(callback, "alarm", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return [alarm for alarm in found if alarm is not None]


def shown_metrics(trainer: pl.Trainer) -> dict[str, str]:
    """Short names and formatted values, in reading order, of what the bar and the log show."""
    described = cast(Method, trainer.lightning_module).scalars
    shown = {f"train/{name}": (s.short, "{:.1f}%" if s.unit == "%" else "{:.3f}") for name, s in described.items()}
    shown |= {"train/lr": ("lr", "{:.2e}"), "train/images_per_second": ("images/s", "{:.0f}")}
    metrics, collapsed = trainer.callback_metrics, alarms(trainer)
    return ({"COLLAPSED": ", ".join(collapsed)} if collapsed else {}) | {
        short: form.format(float(metrics[tag])) for tag, (short, form) in shown.items() if short and tag in metrics
    }


class TrainingProgress(RichProgressBar):
    """A bar in a terminal, and one line in the log after every epoch.

    Where the output is no terminal (a file, a scheduler's log) there is no bar, but a line about once a minute.
    """

    def __init__(self, line_every_seconds: float) -> None:
        super().__init__(refresh_rate=4)  # Lightning's 100 a second take time from training on a CPU
        self.line_every_seconds = line_every_seconds
        self.shown: dict[str, str] = {}
        self.read_at = -READ_EVERY_SECONDS
        self.said_at = time.monotonic()
        if not Console().is_terminal:
            self.disable()

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        description, bar, steps, times, _ = super().configure_columns(trainer)  # images/s says more than steps/s
        bar.bar_width = 20
        return [description, bar, steps, times]

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"  # Lightning counts from 0; the log from 1

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        if time.monotonic() - self.read_at >= READ_EVERY_SECONDS:
            self.shown = shown_metrics(trainer)
            self.read_at = time.monotonic()
        return dict(self.shown)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        if self.is_disabled and time.monotonic() - self.said_at >= self.line_every_seconds:
            self._say(trainer, f"step {trainer.global_step}/{trainer.estimated_stepping_batches}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._say(trainer, f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def _say(self, trainer: pl.Trainer, where: str) -> None:
        values = shown_metrics(trainer)
        log.info("%s: %s", where, ", ".join(f"{name} {value}" for name, value in values.items()))
        self.said_at = time.monotonic()
