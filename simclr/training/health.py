"""Numbers that say when a machine, and not the method, makes a run slow or wrong."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer


class OverflowSteps:
    """How many optimiser steps a gradient scaler has left out, because FP16 gradients overflowed.

    Create it for the optimiser, call `attempted` before every step that is handed to the scaler. Never waits for a GPU.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self.attempts = 0
        self.executed = torch.zeros((), device=device)
        optimizer.register_step_post_hook(self._executed)

    def attempted(self) -> None:
        self.attempts += 1

    def _executed(self, optimizer: Optimizer, *_: Any) -> None:
        # Where gradients overflowed, a scaler leaves the step of most optimisers out; a fused one is called, and told.
        found = getattr(optimizer, "found_inf", None)
        self.executed += 1 if found is None else 1 - found.to(self.executed.device)

    @property
    def count(self) -> torch.Tensor:
        """Scalar, on the device."""
        return self.attempts - self.executed


class Health(Callback):
    """Tell the machine's state at every logged step.

    `system/wall_seconds` since this process began to train, `system/memory_gb` (resident, of this process) and
    `system/cpu_mhz` where the machine tells it; on a GPU its `system/gpu_memory_gb` (peak) and `system/gpu_mhz`, and
    under FP16 `train/overflow_steps`, the steps that the scaler left out so far.
    """

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.overflow: OverflowSteps | None = None
        self.earlier_overflows = 0.0
        self.started_at = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started_at = time.monotonic()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)  # what an earlier run of a sweep needed
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            self.overflow = OverflowSteps(trainer.optimizers[0], pl_module.device)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.overflow is not None:
            self.overflow.attempted()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        values = {f"system/{name}": torch.tensor(value) for name, value in self._machine(pl_module.device).items()}
        if self.overflow is not None:
            values["train/overflow_steps"] = self.earlier_overflows + self.overflow.count
        trainer.callback_metrics.update(values)

    def _machine(self, device: torch.device) -> dict[str, float]:
        values = {
            "wall_seconds": time.monotonic() - self.started_at,
            "memory_gb": self.process.memory_info().rss / 1e9,
        }
        with suppress(Exception):  # not every system tells, and each has its own way to say so
            values["cpu_mhz"] = psutil.cpu_freq().current
        if device.type == "cuda":
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
            with suppress(Exception):
                values["gpu_mhz"] = float(torch.cuda.clock_rate(device))
        return values

    def state_dict(self) -> dict[str, Any]:
        now = 0.0 if self.overflow is None else self.overflow.count.item()
        return {"overflow_steps": self.earlier_overflows + now}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier_overflows = state_dict["overflow_steps"]
