"""A Lightning callback that lets `train.py`, otherwise as it is, take turns with other programs (see turns.py)."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from benchmarks.turns import Player


class Gate(Callback):
    """pipe: file descriptor of the pipe to the program that gives the turns."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.player = Player(self.pipe, pl_module.device)
        data = trainer.datamodule  # type: ignore[attr-defined]
        to_views = data.on_after_batch_transfer

        def timed(*arguments: Any) -> Any:
            self.player.stage("wait for data")
            views = to_views(*arguments)
            self.player.stage("augment")
            return views

        data.on_after_batch_transfer = timed
        if not self.player.wait():
            trainer.should_stop = True

    def on_before_backward(self, *arguments: Any) -> None:
        self.player.stage("forward")

    def on_after_backward(self, *arguments: Any) -> None:
        self.player.stage("backward")

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self.player.stage("optimiser")
        if not self.player.step_done():
            trainer.should_stop = True
