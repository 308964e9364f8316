"""What a person sees while a run trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.text import Text

from simclr.methods.base import Method
from simclr.training.time_left import TimeLeft, spoken

log = logging.getLogger(__name__)

READ_EVERY_SECONDS = 0.5  # reading a value makes the processor wait for the GPU
WIDE = 110  # columns of a terminal in which all fits into one line
FEW = 3  # values that fit into 80: an alarm, a loss and an accuracy, images/s


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


def fewer(shown: Mapping[str, str]) -> dict[str, str]:
    """The first of them, and images/s: what fits beside the bar in a narrow terminal."""
    speed = {name: shown[name] for name in shown if name == "images/s"}
    others = {name: value for name, value in shown.items() if name not in ("lr", "images/s")}
    return dict(list(others.items())[: FEW - len(speed)]) | speed


class RunTimeColumn(ProgressColumn):
    """How long the run, not the epoch, will still take."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""

    def render(self, task: Task) -> Text:
        return Text(self.words, style="dim")


class TrainingProgress(RichProgressBar):
    """A bar in a terminal, of one line, and one line in the log after every epoch.

    Where the output is no terminal (a file, a scheduler's log), or a dumb one, there is no bar, but a line about once a
    minute.
    """

    def __init__(self, line_every_seconds: float) -> None:
        super().__init__(refresh_rate=4)  # Lightning's 100 a second take time from training on a CPU
        self.line_every_seconds = line_every_seconds
        self.shown: dict[str, str] = {}
        self.read_at = -READ_EVERY_SECONDS
        self.said_at = time.monotonic()
        self.time_left, self.run_time = TimeLeft(), RunTimeColumn()
        self.is_wide = Console().width >= WIDE
        if not Console().is_interactive:
            self.disable()

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        description, bar, steps, *_ = super().configure_columns(trainer)  # images/s says more than steps/s
        bar.bar_width = 20 if self.is_wide else 10
        return [description, bar, *([steps] if self.is_wide else []), self.run_time]

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"  # Lightning counts from 0; the log from 1

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        if time.monotonic() - self.read_at >= READ_EVERY_SECONDS:
            self.shown = shown_metrics(trainer)
            self.read_at = time.monotonic()
        return dict(self.shown) if self.is_wide else fewer(self.shown)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        step, total = trainer.global_step, int(trainer.estimated_stepping_batches)
        self.time_left.step_done(step)
        left = self.time_left.seconds(step, total)
        self.run_time.words = "" if left is None else f"{spoken(left)} left"
        super().on_train_batch_end(trainer, pl_module, *args)
        if self.is_disabled and time.monotonic() - self.said_at >= self.line_every_seconds:
            self._say(trainer, f"step {step}/{total}" + ("" if left is None else f", {spoken(left)} left"))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._say(trainer, f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def _say(self, trainer: pl.Trainer, where: str) -> None:
        values = shown_metrics(trainer)
        log.info("%s: %s", where, ", ".join(f"{name} {value}" for name, value in values.items()))
        self.said_at = time.monotonic()
