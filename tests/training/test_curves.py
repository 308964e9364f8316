"""What a run writes of its steps, against what Lightning itself writes of them."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from simclr.data.shapes import Shapes
from simclr.methods.simclr import SimCLR
from simclr.models.backbone import resnet18_encoder
from simclr.models.heads import ProjectionHead
from simclr.optim.schedules import cosine
from simclr.training.curves import Curves
from simclr.training.datamodule import PretrainingData
from simclr.training.not_finite import NotFinite
from tests.augment.test_engines import RECIPE
from tests.conftest import scalars, two_views


class Logged(SimCLR):
    """Logs the same again by `self.log`; asks for the end of the run in step `last`, and poisons step `poisoned`."""

    def __init__(self, last: int, poisoned: int, **base: Any) -> None:
        super().__init__(**base)
        self.last, self.poisoned = last, poisoned

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images = [view * (torch.nan if self.global_step == self.poisoned else 1.0) for view in batch.images]
        loss = super().training_step(batch._replace(images=images), batch_idx)
        if loss.isfinite():
            self.log("lightning/loss", loss)
        self.log("lightning/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.trainer.should_stop = self.global_step == self.last
        return loss


class Stale(Callback):
    """A value that was there before training, as of a checkpoint, and one of another kind."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.callback_metrics["train/of_before"] = torch.tensor(1.0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        trainer.callback_metrics["val/knn_top1"] = torch.tensor(1.0)


@pytest.mark.parametrize(("every", "last", "steps"), [(1, 99, [*range(8)]), (3, 99, [2, 5]), (3, 6, [2, 5, 6])])
def test_the_curves_are_those_that_lightning_would_write(tmp_path: Path, every: int, last: int, steps: list[int]):
    """At the same steps the same values. A skipped step has no loss of its own: Lightning repeats the one before it,
    which here is written once."""
    torch.manual_seed(0)
    method = Logged(
        last,
        poisoned=5,
        backbone=partial(resnet18_encoder, "standard"),
        head=partial(ProjectionHead, hidden_features=32, out_features=16),
        optimizer=torch.optim.Adam,
        scheduler=cosine,
        temperature=0.07,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=TensorBoardLogger(tmp_path, name="", version=""),
        callbacks=[Stale(), NotFinite("skip"), Curves()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=every,
    )
    views = two_views(replace(RECIPE, size=32))
    trainer.fit(method, PretrainingData(Shapes(32, 10, 32, seed=0), views, batch_size=8, seed=0))
    curves = scalars(tmp_path)
    assert [step for step, _ in curves["train/lr"]] == steps
    assert curves["train/lr"] == curves["lightning/lr"]
    assert curves["train/skipped_steps"] == [(step, float(step >= 5)) for step in steps]
    assert curves["train/loss"] == [point for point in curves["lightning/loss"] if every > 1 or point[0] != 5]
    assert "train/of_before" not in curves
    assert "val/knn_top1" not in curves
