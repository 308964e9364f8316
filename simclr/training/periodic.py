"""What measures of the representation have in common: when they are taken, and under which step they are logged."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from simclr.checks import is_whole
from simclr.errors import InputError


class PeriodicMeasure(Callback):
    """Takes a measure once before training, every `every_n_epochs`, and after the last epoch.

    key: what its settings are called in the configuration, for error messages.
    """

    def __init__(self, every_n_epochs: int, key: str) -> None:
        if not is_whole(every_n_epochs) or every_n_epochs < 1:
            raise InputError(f"{key}.every_n_epochs={every_n_epochs} is not usable; it is a whole number, 1 or more")
        self.every_n_epochs = every_n_epochs

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> dict[str, float]:
        """Values by tag, after `epoch` epochs; 0: before training. All processes call it."""
        raise NotImplementedError

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self._take(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs:
            self._take(trainer, pl_module, epoch)

    def _take(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> None:
        values = self.measure(trainer, pl_module, epoch)
        # For callbacks that monitor a value. It stays until the next is taken, which may be some epochs later.
        trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in values.items()})
        for logger in trainer.loggers:
            # Under the step just done, as the training scalars are: a resume drops what lies after its checkpoint.
            logger.log_metrics(values, step=max(trainer.global_step - 1, 0))
