"""Tell what a method has computed of a batch; where its loss is not finite, stop, or leave that step out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from simclr.errors import InputError
from simclr.methods.base import Method
from simclr.models.buffers import remember_buffers
from simclr.system.transfer import fetched

SKIPS_IN_A_ROW = 10

log = logging.getLogger(__name__)


class NotFinite(Callback):
    """policy: "stop" raises FloatingPointError before weights are touched.

    "skip" leaves weights, optimiser, batch norm's statistics and FP16's scale as they were, counts the step in
    train/skipped_steps, and raises after SKIPS_IN_A_ROW of them, since then it is not the batch that is wrong.
    """

    def __init__(self, policy: str) -> None:
        if policy not in ("stop", "skip"):
            raise InputError(f"on_nan={policy} is not known; choose stop or skip")
        self.policy = policy
        self.skipped = self.in_a_row = 0
        self.skipping = False
        self.put_buffers_back: Callable[[], None] = lambda: None
        self.arriving: Callable[[], Tensor]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if _has_scaler(trainer):
            for optimizer in trainer.optimizers:
                optimizer.register_step_pre_hook(self._leave_out)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.policy == "skip":
            self.put_buffers_back = remember_buffers(pl_module)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self.arriving = fetched(cast(Method, pl_module).means)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Of the whole batch, so that all processes do the same. A GPU has the backward pass before it by now: it works
        # on, while the host sees what came of the forward pass.
        means = dict(zip(cast(Method, pl_module).scalars, self.arriving(), strict=True))
        value = means["loss"].item()
        self.skipping = not math.isfinite(value)
        if self.skipping:
            self._count(value, trainer)
        else:
            self.in_a_row = 0
            trainer.callback_metrics.update({f"train/{name}": mean for name, mean in means.items()})
        if self.policy == "skip":
            trainer.callback_metrics["train/skipped_steps"] = torch.tensor(float(self.skipped))
        if not self.skipping:
            return
        for parameter in pl_module.parameters():
            if _has_scaler(trainer) and parameter.grad is not None:
                # It looks at the gradients first: NaN would be an overflow to it, none at all an error.
                parameter.grad.zero_()
            else:
                parameter.grad = None  # without gradients an optimiser changes nothing
        self.put_buffers_back()

    def _leave_out(self, optimizer: Optimizer, *_: Any) -> None:
        if self.skipping:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _count(self, loss: float, trainer: pl.Trainer) -> None:
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        where = f"the loss is {loss} at step {trainer.global_step}, learning rate {rate:.3g}"
        if self.policy == "stop":
            raise FloatingPointError(where)
        if self.in_a_row == SKIPS_IN_A_ROW:
            raise FloatingPointError(f"{where}, as it was in the {SKIPS_IN_A_ROW - 1} steps before")
        log.warning("The step is skipped: %s.", where)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        checkpoint["skipped_steps"] = (self.skipped, self.in_a_row)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        # The first versions skipped no step.
        self.skipped, self.in_a_row = checkpoint.get("skipped_steps", (0, 0))


def _has_scaler(trainer: pl.Trainer) -> bool:
    """Whether FP16's gradient scaler comes between backward and the optimiser."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None
