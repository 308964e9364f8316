"""Measure the run, for `metrics.json`."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from simclr.data.checks import in_both
from simclr.methods.base import Method
from simclr.runs.results import last_scalars, provenance
from simclr.training.datamodule import PretrainingData

WARM_UP_STEPS = 3  # after every start or pause; they pay for memory, kernels and caches
WINDOW = 10  # steps that the shown speed is averaged over


class RunMetrics(Callback):
    """Measure `train/images_per_second`, and sum the run up when training has ended.

    An image is a source image, which costs two views. The speed counts everything from the end of one step to the
    end of the next (data, augmentation, forward, backward, optimiser), and no evaluation between epochs.
    precision: the name that the run was asked for or chose ("16", "bf16", "32"). batch_size: images a step.
    other_settings: whether the run goes on with settings other than the checkpoint's, so that an end which a callback
    had asked for there is none any more.
    """

    def __init__(self, run_dir: Path, precision: str, batch_size: int, other_settings: bool = False) -> None:
        self.run_dir, self.precision, self.batch_size = run_dir, precision, batch_size
        self.step_seconds: list[float] = []
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.last_values: dict[str, float] = {}  # of every tag, at the checkpoint that the run goes on from
        self.other_settings = other_settings
        self.ended = False  # a callback had asked for the end at that checkpoint
        self.earlier_seconds = 0.0  # wall time of the processes before this one, up to the checkpoint
        self.started_at = self.step_ended_at = time.perf_counter()
        self.skip = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.trainer = trainer
        self.started_at = time.perf_counter()
        self.skip = WARM_UP_STEPS

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step_ended_at = time.perf_counter()  # a run resumed in mid-epoch has no epoch start
        trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in self.last_values.items()})
        trainer.should_stop = self.ended and not self.other_settings

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step_ended_at = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        seconds, self.step_ended_at = now - self.step_ended_at, now
        if self.skip > 0:
            self.skip -= 1
            self.recent.clear()  # shown, but not counted
        else:
            self.step_seconds.append(seconds)
        self.recent.append(seconds)
        speed = self.batch_size * len(self.recent) / sum(self.recent)
        trainer.callback_metrics["train/images_per_second"] = torch.tensor(speed)

    def summary(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The content of `metrics.json`: the last value of every TensorBoard tag, speed, cost and provenance."""
        for logger in trainer.loggers:
            logger.save()
        curves = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        scalars = last_scalars(self.run_dir) if curves else _last_values(trainer)
        speed, how = self._speed()
        method = cast(Method, trainer.lightning_module)
        words = {f"train/{name}": scalar.words for name, scalar in method.scalars.items()}
        protocols = {
            ", ".join(words): f"one training batch, the last that was logged: {', '.join(words.values())}",
            "images_per_second": how,
            "images_per_second_by_the_clock": "images_seen / wall_seconds, with all that comes between the steps",
        }
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            for tag, text in getattr(callback, "protocols", {}).items():
                if tag in scalars:
                    unknown = "" if math.isfinite(scalars[tag]) else "null, as what it is taken of is not finite; "
                    protocols[tag] = unknown + text
        images, seconds = trainer.global_step * self.batch_size, self._wall_seconds()
        return scalars | {
            "images_per_second": speed,
            "images_per_second_by_the_clock": images / seconds,
            "wall_seconds": seconds,
            "images_seen": images,
            "epochs": trainer.current_epoch,
            **_images(cast(PretrainingData, trainer.datamodule)),  # type: ignore[attr-defined]
            "precision": self.precision,
            "parameters": _trainable(method),
            "encoder_parameters": _trainable(method.parts()["backbone"]),
            "scalars": {f"train/{name}": scalar._asdict() for name, scalar in method.scalars.items()},
            "protocol": protocols,
            **provenance(trainer.strategy.root_device),
        }

    def _speed(self) -> tuple[float | None, str]:
        """Images a second, and how that was measured."""
        seconds, how = self.step_seconds, f"median over steps, {WARM_UP_STEPS} left out after every start"
        if not seconds:
            seconds, how = list(self.recent), "the last step alone, as all were warm-up"
        if not seconds:
            return None, "null, as the run went on with nothing left to train, and no time of its few steps was kept"
        return self.batch_size / statistics.median(seconds), f"source images; {how}"

    def _wall_seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started_at

    def state_dict(self) -> dict[str, Any]:
        return {
            "last_values": _last_values(self.trainer),
            "ended": self.trainer.should_stop,
            "step_seconds": self.step_seconds,
            "recent": list(self.recent),
            "wall_seconds": self._wall_seconds(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step_seconds = state_dict["step_seconds"]
        self.recent.extend(state_dict.get("recent", []))  # earlier releases did not keep it
        self.earlier_seconds = state_dict["wall_seconds"]
        self.last_values = state_dict.get("last_values", {})
        self.ended = state_dict.get("ended", False)


def _images(data: PretrainingData) -> dict[str, Any]:
    """Which images were trained on and judged by: keys are equal for equal contents."""
    trained_on = {"train_images_key": data.pretrain.key}
    if data.val is None:
        return trained_on
    return trained_on | {"val_images_key": data.val.key, "val_images_in_train": in_both(data.train, data.val)}


def _last_values(trainer: pl.Trainer) -> dict[str, float]:
    """The last value of every tag."""
    return {tag: float(value) for tag, value in trainer.callback_metrics.items()}


def _trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
