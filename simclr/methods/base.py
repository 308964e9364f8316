"""What every pre-training method shares: an encoder to take home, an optimiser, a schedule in steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from simclr.errors import InputError
from simclr.models.backbone import Encoder

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


class Method(pl.LightningModule):
    """A method says how views become a loss, in `compute`; this base does the rest.

    backbone: the encoder that evaluation judges and users take home; pictures [B, 3, H, W] to features.
    optimizer, scheduler: factories, so that a method with several parameter groups can call them as it needs; the
    scheduler is stepped after every optimiser step.
    """

    def __init__(self, backbone: Encoder, optimizer: MakeOptimizer, scheduler: MakeScheduler) -> None:
        super().__init__()
        self.backbone = backbone
        self.make_optimizer, self.make_scheduler = optimizer, scheduler

    def compute(self, batch: Any) -> Mapping[str, Tensor]:
        """Scalars of one batch by name; "loss" is minimised, and every one is logged as train/<name>."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        scalars = self.compute(batch)
        # What is logged stays a tensor where it is, so that no step waits for a GPU: Lightning would move a plain
        # number there, and read back what is meant for its progress bar.
        self.log_dict({f"train/{name}": value.detach() for name, value in scalars.items()})
        self.log("train/lr", torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"]))
        return scalars["loss"]

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self.make_optimizer(self.parameters())
        except ValueError as error:
            raise InputError(f"optimizer: {error}") from error
        # trainer.estimated_stepping_batches is not for here: it would set the loader up before Lightning restores its
        # place, and a resumed run would see the epoch's first batches again.
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }
