"""Random numbers of the network, such as dropout's, that do not depend on what was drawn before."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from simclr.system import distributed
from simclr.system.randomness import generator


class StepSeed(Callback):
    """Seed torch, on the CPU and on GPUs, before every step: a function of seed, step and rank.

    So a run that goes on draws what it would have drawn without the interruption.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        torch.manual_seed(generator("step", self.seed, trainer.global_step, distributed.rank()).initial_seed())
