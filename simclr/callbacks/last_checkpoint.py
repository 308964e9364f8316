"""Keep `last.ckpt` so fresh that a kill costs minutes."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from simclr.errors import InputError

log = logging.getLogger(__name__)


class LastCheckpoint(Checkpoint):
    """Write `path` every `minutes` and at the end of every epoch.

    config: plain dicts and lists, stored in the file, from which evaluation rebuilds the model.
    The new file gets its name only when it is whole and on disk, so a kill while writing leaves the old one.
    """

    def __init__(self, path: Path, minutes: float, config: dict[str, Any]) -> None:
        if not minutes > 0:
            raise InputError(f"checkpoint_minutes={minutes} is not usable; it must be greater than 0")
        self.path = path
        self.minutes, self.config = minutes, config
        self.saved_at = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # After an epoch's last batch comes its end, which saves too: going on from between the two would skip the end.
        if batch_idx + 1 < trainer.num_training_batches and time.monotonic() - self.saved_at >= self.minutes * 60:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            log.info("Interrupted at step %d; the same command goes on from the last checkpoint.", trainer.global_step)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config

    def _save(self, trainer: pl.Trainer) -> None:
        unfinished = self.path.with_name(self.path.name + ".part")
        trainer.save_checkpoint(unfinished, weights_only=False)  # False: with optimiser and position
        if trainer.is_global_zero:
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(self.path)
        self.saved_at = time.monotonic()
