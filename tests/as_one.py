"""Run by torchrun in two processes, and alone: the same work either way, written to a file for a test to compare.

python tests/as_one.py FILE
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simclr.augment import batched
from simclr.augment.augmentation import Augmentation
from simclr.commands.launch import placement
from simclr.data.batch import Views
from simclr.data.shapes import Shapes
from simclr.evaluation.features import extract
from simclr.methods.simclr import SimCLR
from simclr.models.backbone import resnet18_encoder
from simclr.models.batch_norm import synchronise_batch_norm
from simclr.models.heads import ProjectionHead
from simclr.optim.schedules import cosine
from simclr.system import distributed
from simclr.training.datamodule import PretrainingData
from simclr.training.not_finite import NotFinite

Numbers = dict[str, Tensor]


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class OneBadImage(SimCLR):
    """In the third step the last image of the batch, which only the last process sees, is not a number."""

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        if self.global_step == 2 and distributed.rank() == distributed.world_size() - 1:
            for images in views.images:
                images[-1] = torch.nan
        return super().compute(views)


def simclr(kind: type[SimCLR] = SimCLR, **options: Any) -> SimCLR:
    pl.seed_everything(0, verbose=False)
    method = kind(
        backbone=partial(resnet18_encoder, "standard"),
        head=partial(ProjectionHead, hidden_features=32, out_features=16),
        optimizer=torch.optim.Adam,
        scheduler=cosine,
        temperature=0.07,
        **options,
    )
    synchronise_batch_norm(method)
    return method


def own(whole: Tensor, dim: int) -> Tensor:
    part = distributed.shard(whole.shape[dim])
    return whole.narrow(dim, part.start, part.stop - part.start)


def step_of(method: SimCLR) -> Numbers:
    """Loss, gradient of every parameter and every running statistic after one step on eight images in float64."""
    method.double()
    network: nn.Module = _Loss(method)
    if distributed.world_size() > 1:
        network = DistributedDataParallel(network)
    loss = network(own(numbers(0, 2, 8, 3, 32, 32), dim=1))
    loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in method.named_parameters() if p.grad is not None}
    assert len(gradients) == 64
    return {"loss": distributed.mean(loss)} | gradients | dict(method.named_buffers())


class _Loss(nn.Module):
    """What DistributedDataParallel wraps: its forward is the loss."""

    def __init__(self, method: SimCLR) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Tensor) -> Tensor:
        return self.method.compute(Views([*views], {}))["loss"]


def gradients() -> Numbers:
    return step_of(simclr())


def gradients_in_parts() -> Numbers:
    """Batch norm in eval mode, as it has to be for parts to be exact."""
    method = simclr(micro_batch=3)
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return step_of(method)


def short_run() -> Numbers:
    return after_six_steps(simclr())


def skipped_step() -> Numbers:
    skipping = NotFinite("skip")
    weights = after_six_steps(simclr(OneBadImage), skipping)
    assert skipping.skipped == 1
    return weights


def after_six_steps(method: SimCLR, *callbacks: pl.Callback) -> Numbers:
    """Weights and buffers after two epochs of images with Lightning's Trainer in float64."""
    augmentation = Augmentation(
        views=2,
        size=32,
        crop_scale=[0.3, 1.0],
        crop_ratio=[0.75, 1.33],
        flip_p=0.5,
        solarize_p=0.2,
        solarize_threshold=128,
        jitter_p=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        grayscale_p=0.2,
        blur_p=0.5,
        blur_kernel=3,
        blur_sigma=[0.1, 1.0],
        interpolation="bilinear",
        color_first=False,
        mean=None,
        std=None,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        precision="64-true",
        logger=False,
        callbacks=[*callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"devices": 1} | placement("auto")),
    )

    def augment(*arguments: Any) -> Tensor:
        return batched.augment(*arguments).double()

    trainer.fit(
        method, PretrainingData(Shapes(24, 10, 32, seed=0), augmentation, batch_size=8, seed=0, augment=augment)
    )
    assert trainer.global_step == 6
    return method.state_dict()


def features() -> Numbers:
    """Of seven images, and of one, which leaves the second process without any."""
    encoder = resnet18_encoder("standard")
    encoder.load_state_dict(simclr().backbone.state_dict())
    images = Shapes(7, 1, 32, seed=0).load()
    assert images.val is not None
    return {"train": extract(encoder, images.train, "cpu"), "val": extract(encoder, images.val, "cpu")}


WORK = (gradients, gradients_in_parts, short_run, skipped_step, features)

if __name__ == "__main__":
    with distributed.joined():
        results = {work.__name__: work() for work in WORK}
        if distributed.rank() == 0:
            torch.save(results, Path(sys.argv[1]))
