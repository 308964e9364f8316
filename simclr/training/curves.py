"""Write what every step has to the loggers, for less than Lightning's own `self.log` costs."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

WRITTEN = ("train/", "system/")  # what else is measured is logged as it is measured


class Curves(Callback):
    """Every `trainer.log_every_n_steps` steps, all that callbacks have put into `trainer.callback_metrics` since.

    Five calls of `self.log` at every step took a fifth of a step without a network, time in which a GPU would have
    nothing to do; an entry in a dictionary takes none. What somebody's own callback logs is left to Lightning.
    Comes after all other callbacks: it writes their values of the step, and the last of all where one asks for the end.
    """

    def __init__(self) -> None:
        self.known: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.known = dict(trainer.callback_metrics)  # of the checkpoint that the run goes on from

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        # Here, since the schedule moves on before the step has ended.
        trainer.callback_metrics["train/lr"] = torch.tensor(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps and not trainer.should_stop:  # type: ignore[attr-defined]
            return
        fresh = {
            tag: value
            for tag, value in trainer.callback_metrics.items()
            if tag.startswith(WRITTEN) and value is not self.known.get(tag) and tag not in trainer.logged_metrics
        }
        self.known |= fresh
        values = {tag: value.item() for tag, value in fresh.items()} | {"epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step - 1)
            logger.save()
