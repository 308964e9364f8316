"""Measure the run and write `metrics.json`, its summary."""

from __future__ import annotations

import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from simclr.results import last_scalars, provenance, write_json

WARM_UP_STEPS = 3  # after every start or pause; they pay for memory, kernels and caches
WINDOW = 10  # steps that the shown speed is averaged over


class RunMetrics(Callback):
    """Log `train/images_per_second`, and write `metrics.json` to `run_dir` when training has ended.

    An image is a source picture, which costs two views. The speed counts everything from the end of one step to the
    end of the next (data, augmentation, forward, backward, optimiser), and no evaluation between epochs.
    precision: the name that the run was asked for or chose ("16", "bf16", "32"). batch_size: pictures a step.
    """

    def __init__(self, run_dir: Path, precision: str, batch_size: int) -> None:
        self.run_dir, self.precision, self.batch_size = run_dir, precision, batch_size
        self.step_seconds: list[float] = []
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.earlier_seconds = 0.0  # wall time of the processes before this one, up to the checkpoint
        self.started_at = self.step_ended_at = time.perf_counter()
        self.skip = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started_at = time.perf_counter()
        self.skip = WARM_UP_STEPS

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step_ended_at = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        seconds, self.step_ended_at = now - self.step_ended_at, now
        self.recent.append(seconds)
        if self.skip > 0:
            self.skip -= 1
        else:
            self.step_seconds.append(seconds)
        speed = self.batch_size * len(self.recent) / sum(self.recent)
        pl_module.log("train/images_per_second", speed, prog_bar=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.interrupted:
            return
        for logger in trainer.loggers:
            logger.save()
        protocols = {"train/*": "contrastive accuracy and loss of one training batch, the last that was logged"}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            protocols |= getattr(callback, "protocols", {})
        metrics = last_scalars(self.run_dir) | {
            "images_per_second": self.batch_size / statistics.median(self.step_seconds or self.recent),
            "wall_seconds": self._wall_seconds(),
            "images_seen": trainer.global_step * self.batch_size,
            "epochs": trainer.current_epoch,
            "precision": self.precision,
            "protocol": protocols,
            **provenance(pl_module.device),
        }
        write_json(self.run_dir / "metrics.json", metrics)

    def _wall_seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started_at

    def state_dict(self) -> dict[str, Any]:
        return {"step_seconds": self.step_seconds, "wall_seconds": self._wall_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step_seconds = state_dict["step_seconds"]
        self.earlier_seconds = state_dict["wall_seconds"]
