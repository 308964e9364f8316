"""What every pre-training method shares: an encoder to take home, an optimiser, a schedule in steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from simclr.checks import is_finite
from simclr.errors import InputError
from simclr.models.backbone import Encoder
from simclr.system import distributed

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


SKIPS_IN_A_ROW = 10

log = logging.getLogger(__name__)


class Method(pl.LightningModule):
    """A method says how views become a loss, in `compute`; this base does the rest.

    backbone: the encoder that evaluation judges and users take home; images [B, 3, H, W] to features [B, F].
    head: features [B, F] to the embeddings [B, D] that the loss compares.
    optimizer, scheduler: factories, so that a method with several parameter groups can call them as it needs; the
    scheduler is stepped after every optimiser step.
    on_nan: what to do where a batch's loss is not finite. "stop" raises FloatingPointError before weights are touched;
    "skip" leaves weights, optimiser and batch-norm statistics as they were, counts the step in train/skipped_steps, and
    raises after SKIPS_IN_A_ROW of them, since then it is not the batch that is wrong.
    """

    def __init__(
        self,
        backbone: Encoder,
        head: nn.Module,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler,
        on_nan: str = "stop",
    ) -> None:
        super().__init__()
        if on_nan not in ("stop", "skip"):
            raise InputError(f"on_nan={on_nan} is not known; choose stop or skip")
        self.backbone, self.head, self.on_nan = backbone, head, on_nan
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.skipped_steps = self.skipped_in_a_row = 0
        self.skipping = False
        self.undo: list[tuple[Tensor, Tensor]] = []

    def compute(self, batch: Any) -> Mapping[str, Tensor]:
        """Scalars of one batch by name; "loss" is minimised, and every one is logged as train/<name>."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.undo = [(buffer, buffer.clone()) for buffer in self.buffers()] if self.on_nan == "skip" else []
        scalars = self.compute(batch)
        # Of several processes each has its part of the batch; what is logged, and judged, is the whole.
        means = distributed.mean(torch.stack([value.detach().float() for value in scalars.values()]))
        logged = dict(zip(scalars, means, strict=True))
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.skipping = not logged["loss"].isfinite()  # a GPU is waited for here, once a step, after its forward pass
        if self.skipping:
            self._count_skip(logged["loss"].item(), rate)
        else:
            self.skipped_in_a_row = 0
            # What is logged stays a tensor where it is: Lightning would move a plain number to the GPU, and read back
            # what is meant for its progress bar.
            self.log_dict({f"train/{name}": value for name, value in logged.items()})
        self.log("train/lr", torch.tensor(rate))
        if self.on_nan == "skip":
            self.log("train/skipped_steps", torch.tensor(float(self.skipped_steps)))
        return scalars["loss"]

    def on_after_backward(self) -> None:
        if not self.skipping:
            return
        # Backward has run, as it must in several processes, which share their gradients in it.
        for parameter in self.parameters():
            if self.trainer.precision == "16-mixed" and parameter.grad is not None:
                parameter.grad.fill_(torch.nan)  # what the loss scaler sees, to leave the step out
            else:
                parameter.grad = None  # without gradients an optimiser changes nothing
        with torch.no_grad():
            for buffer, value in self.undo:
                buffer.copy_(value)

    def _count_skip(self, loss: float, rate: float) -> None:
        self.skipped_steps, self.skipped_in_a_row = self.skipped_steps + 1, self.skipped_in_a_row + 1
        where = f"the loss is {loss} at step {self.trainer.global_step}, learning rate {rate:.3g}"
        if self.on_nan == "stop":
            raise FloatingPointError(where)
        if self.skipped_in_a_row == SKIPS_IN_A_ROW:
            raise FloatingPointError(f"{where}, as it was in the {SKIPS_IN_A_ROW - 1} steps before")
        log.warning("The step is skipped: %s.", where)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = (self.skipped_steps, self.skipped_in_a_row)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The first versions skipped no step.
        self.skipped_steps, self.skipped_in_a_row = checkpoint.get("skipped_steps", (0, 0))

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self.make_optimizer(self.parameters())
            rates = [group["lr"] for group in optimizer.param_groups]
            if not all(is_finite(rate) for rate in rates):
                raise ValueError(f"a learning rate of {rates[0]} is not usable")
        except (TypeError, ValueError) as error:
            raise InputError(f"optimizer: {error}") from error
        # trainer.estimated_stepping_batches is not for here: it would set the loader up before Lightning restores its
        # place, and a resumed run would see the epoch's first batches again.
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }
