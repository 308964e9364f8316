"""The default recipe's first losses, held against those of the code before it was taken apart and put together anew."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.augment.augmentation import Augmentation
from simclr.augment.recipe import Draws, Recipe
from simclr.data.store import ImageStore, Splits
from simclr.runs.assemble import assemble
from simclr.runs.compose import compose_config
from simclr.training.datamodule import PretrainingData

# In float64, of commit 7419a5f; equal to the last digit with AVX2 and AVX-512, on one thread and on two.
LOSSES = [
    3.772364998316224, 3.96562723761281, 3.673317206066672, 3.705614575253765, 3.681413322926551,
    3.525704394678706, 3.6702169363263466, 3.6687225176807305, 3.6924566474463054, 3.7859169763280462,
    3.3011078055101004, 3.4765077709637615, 3.6942803760359193, 3.512499378642986, 3.6177549505436555,
    3.5159868976938693, 3.5743833099519104, 3.59093332206934, 3.5174163660570272, 3.5912638539639916,
]  # fmt: skip


class RandomImages:
    def load(self) -> Splits:
        pixels = np.random.default_rng(0).integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
        return Splits.of(ImageStore.of(pixels, key="random"), None)


def float64_engine(images: Tensor, draws: Draws, recipe: Recipe) -> Tensor:
    """Crop, flip, inversion and gray by the draws of the recipe, which float64 computes alike on every processor."""
    views = []
    for place, image in enumerate(images):
        top, left, height, width = (int(field[place]) for field in draws[:4])
        crop = image[top : top + height, left : left + width].permute(2, 0, 1)[None].double() / 255
        view = F.interpolate(crop, size=(recipe.size, recipe.size), mode="bilinear", align_corners=False)
        view = view.flip(3) if draws.flip[place] else view
        view = 1 - view if draws.solarize[place] else view
        views.append(view.mean(dim=1, keepdim=True).expand_as(view) if draws.grayscale[place] else view)
    return torch.cat(views)


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_) -> None:
        self.found.append(outputs["loss"].item())


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_the_first_losses_are_what_they_were(float64):
    _, augmentation, method = assemble(compose_config("augmentation.size=32"))
    assert isinstance(augmentation, Augmentation)
    losses = Losses()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=4,
        precision="64-true",
        callbacks=[losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, PretrainingData(RandomImages(), augmentation, batch_size=16, seed=0, augment=float64_engine))
    assert losses.found[:20] == pytest.approx(LOSSES, abs=1e-9)
