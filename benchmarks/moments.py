"""Keeping a network's weights at given minutes of its training, in whatever loop it is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from simclr.runs.results import write_json


class Moments:
    """Writes `network`'s state dict to `folder` when so many minutes of training are over, and ends it after the last.

    The clock stands still while weights are written. moments.json says of each file how many steps it has seen, and
    when it was written; it is there as soon as the training has ended, and not before.
    """

    def __init__(self, minutes: Sequence[float], folder: Path, network: nn.Module) -> None:
        self.left = sorted(minutes)
        self.folder, self.network = folder, network
        self.kept: list[dict[str, float | str]] = []
        self.steps = 0

    def wait(self) -> bool:
        """Start the clock."""
        self.started = time.perf_counter()
        return True

    def stage(self, name: str) -> None:
        """The parts of a step are not told apart."""

    def step_done(self) -> bool:
        """False where the program is to end."""
        self.steps += 1
        while self.left and self._minutes() >= self.left[0]:
            self._keep(self.left.pop(0))
        return bool(self.left)

    def ended(self) -> None:
        """The training is over; where that was before the last moment, its end is one."""
        if self.left:
            self._keep(self._minutes())
        write_json(self.folder / "moments.json", {"moments": self.kept})

    def _minutes(self) -> float:
        return (time.perf_counter() - self.started) / 60

    def _keep(self, moment: float) -> None:
        now = time.perf_counter()
        file = f"{moment:.3g}-minutes.pt"
        torch.save(self.network.state_dict(), self.folder / file)
        self.kept.append({"minutes": (now - self.started) / 60, "steps": self.steps, "file": file})
        self.started += time.perf_counter() - now


class AtMoments(Callback):
    """The same for the backbone that `train.py` trains, otherwise as it is."""

    def __init__(self, minutes: Sequence[float], folder: str) -> None:
        self.minutes, self.folder = minutes, Path(folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.moments = Moments(self.minutes, self.folder, pl_module.backbone)  # type: ignore[arg-type]
        self.moments.wait()

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: object) -> None:
        if not self.moments.step_done():
            trainer.should_stop = True

    def on_train_end(self, *arguments: object) -> None:
        self.moments.ended()
