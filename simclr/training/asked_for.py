"""What the configuration asks of optimiser and schedule holds, whatever the checkpoint had that a run goes on from."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class AskedFor(Callback):
    """Loading a checkpoint brings the optimiser's moments back, and leaves its settings as they were configured.

    The learning rate is at once that of the configured schedule where that is a LambdaLR, as this project's are; where
    nothing was changed, it is the checkpoint's own to the bit.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for optimizer in trainer.optimizers:  # which are there; their states are loaded after this
            optimizer.register_load_state_dict_pre_hook(_with_own_settings)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if isinstance(schedule, LambdaLR):
                groups = schedule.optimizer.param_groups
                schedule.base_lrs = [group["initial_lr"] for group in groups]
                for group, base, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                    group["lr"] = base * factor(schedule.last_epoch)


def _with_own_settings(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    groups = [
        saved | {key: value for key, value in own.items() if key not in ("params", "lr")}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return state | {"param_groups": groups}
