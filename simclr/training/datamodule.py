"""Batches of views: images of a step from the store, augmented on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from typing import Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor

from simclr.augment import batched
from simclr.augment.augmentation import Augmentation
from simclr.augment.plain import Plain
from simclr.augment.plan import Parcel
from simclr.augment.recipe import Draws, Recipe
from simclr.checks import is_whole
from simclr.data.batch import Batch, Views
from simclr.data.store import ImageStore, Splits
from simclr.errors import InputError
from simclr.system import distributed
from simclr.system.randomness import generator
from simclr.training.step_loader import StepLoader


class Source(Protocol):
    """Where images come from; see data/tiny_imagenet.py, shapes.py, folder.py."""

    def load(self) -> Splits:
        """Open the images, making what is missing. Safe to call from several processes at once."""


class PretrainingData(pl.LightningDataModule):
    """The views of every image of a batch, and what the method reads beside them.

    source: the images. augmentation: a recipe for each view. seed: of image order and augmentation.
    batch_size: images a step, of all processes together; each works on its equal share.
    limit_images: learn from the first N images of a fixed shuffle, which is the same for every seed.
    images_per_epoch: how many images make an epoch, which may be several passes over a set or a part of one; None for
    one pass.
    reads: the columns that the method reads. wants: others that are read where the images have them.
    augment: the engine, batched.augment or reference.augment. plan: batched.plan, which works out ahead, while another
    step is under way, what it takes in place of the draws; None leaves that to the engine.
    """

    def __init__(
        self,
        source: Source,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        limit_images: int | None = None,
        images_per_epoch: int | None = None,
        reads: Iterable[str] = (),
        wants: Iterable[str] = (),
        augment: Callable[[Tensor, Draws, Recipe], Tensor] = batched.augment,
        plan: Callable[[Draws, Recipe, int, int, torch.device], list] | None = None,
    ) -> None:
        super().__init__()
        if not is_whole(batch_size) or batch_size < 2:
            raise InputError(f"batch_size={batch_size} leaves an image nothing to be compared with; use 2 or more")
        processes = distributed.world_size()
        if batch_size % processes:
            raise InputError(
                f"batch_size={batch_size} cannot be split over {processes} processes; use a multiple of {processes}"
            )
        if images_per_epoch is not None and (not is_whole(images_per_epoch) or images_per_epoch < batch_size):
            raise InputError(
                f"images_per_epoch={images_per_epoch} is not usable; it is a whole number, a batch's {batch_size} or "
                "more, or null"
            )
        self.source, self.augmentation, self.augment, self.plan = source, augmentation, augment, plan
        self.images_per_epoch = images_per_epoch
        self.batch_size, self.seed, self.limit_images = batch_size, seed, limit_images
        self.reads, self.wants = list(reads), set(wants)
        self.splits: Splits | None = None

    def setup(self, stage: str | None = None) -> None:
        """Open the images. Raises InputError where they do not fill one batch, or lack what the method reads."""
        if self.splits is not None:
            return
        pretrain, train, val = self.source.load()
        limited = pretrain.first_of_shuffle(self.limit_images)
        pretrain, train = limited, limited if train is pretrain else train
        if len(pretrain) < self.batch_size:
            raise InputError(
                f"batch_size={self.batch_size} is larger than the number of training images, {len(pretrain)}; use a "
                "smaller batch_size or more images"
            )
        missing = [name for name in self.reads if name not in pretrain.columns]
        if missing:
            raise InputError(
                f"the method learns from {' and '.join(missing)}, which these images lack; choose others with data=, "
                "or another method="
            )
        self.reads += sorted(self.wants & pretrain.columns.keys() - set(self.reads))
        self.splits = Splits(pretrain, train, val)

    @property
    def pretrain(self) -> ImageStore:
        """The images that the method learns from."""
        assert self.splits is not None, "setup() opens the images"
        return self.splits.pretrain

    @property
    def train(self) -> ImageStore:
        """The images that probes are fitted on."""
        assert self.splits is not None, "setup() opens the images"
        return self.splits.train

    @property
    def val(self) -> ImageStore | None:
        """The validation images, None where the source has none."""
        assert self.splits is not None, "setup() opens the images"
        return self.splits.val

    @property
    def plain(self) -> Plain:
        """How the backbone is shown images outside training."""
        return Plain.of(self.augmentation.views)

    @property
    def steps_per_epoch(self) -> int:
        return (self.images_per_epoch or len(self.pretrain)) // self.batch_size

    def train_dataloader(self) -> StepLoader:
        steps = self.steps_per_epoch
        if self.trainer is None:
            return StepLoader(self.pretrain, self.batch_size, self.seed, reads=self.reads, steps_per_epoch=steps)
        device = self.trainer.strategy.root_device
        part, step, on_gpu = distributed.shard(self.batch_size), self.trainer.global_step, device.type == "cuda"
        plans = partial(self._plans, device=device)
        return StepLoader(self.pretrain, self.batch_size, self.seed, step, part, on_gpu, self.reads, steps, plans)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Views:
        """Augment on the device. The draws are a function of (seed, step, view, place in the batch) and nothing else;
        the views' size is one of the share of the run that lies before the step.
        """
        images, (_, height, width, _) = batch.images, batch.images.shape
        together = self._together(batch.step, images.device)
        draws = batch.plans or [self._draws(batch.step, views, height, width) for _, views in together]
        made: list[Tensor] = []
        for (recipe, views), drawn in zip(together, draws, strict=True):
            several = images if len(views) == 1 else images.repeat(len(views), 1, 1, 1)
            made += self.augment(several, drawn, recipe).split(len(images))
        return Views(made, batch.columns)

    def _together(self, step: int, device: torch.device) -> list[tuple[Recipe, list[int]]]:
        """Which views the engine makes at once, and by which recipe: on a GPU neighbours of one recipe.

        There a call costs the more, the more operations it starts; a CPU works on parts of a batch anyway.
        """
        numbered = enumerate(self.augmentation.at(self._progress(step)))
        if device.type == "cpu":
            return [(recipe, [view]) for view, recipe in numbered]
        return [(recipe, [view for view, _ in own]) for recipe, own in groupby(numbered, key=lambda pair: pair[1])]

    def _draws(self, step: int, views: Iterable[int], height: int, width: int) -> Draws:
        """The draws of some of a step's views, one behind the other, for images of height × width.

        Every process draws for the whole batch and keeps what its rank has of it, so that an image gets the same views
        whatever the number of processes.
        """
        part, recipes = distributed.shard(self.batch_size), self.augmentation.at(self._progress(step))
        drawn = [
            recipes[view].draw(self.batch_size, height, width, generator("augment", self.seed, step, view))
            for view in views
        ]
        return Draws(*(torch.cat([field[part] for field in fields]) for fields in zip(*drawn, strict=True)))

    def _plans(self, step: int, device: torch.device) -> Parcel | None:
        """What can be worked out of a step's views before its images are on the device; None without a `plan`."""
        if self.plan is None:
            return None
        _, height, width, _ = self.pretrain.pixels.shape
        plans = [
            self.plan(self._draws(step, views, height, width), recipe, height, width, device)
            for recipe, views in self._together(step, device)
        ]
        return Parcel(plans, pinned=device.type == "cuda")

    def _progress(self, step: int) -> float:
        """The share of the run that lies before a step; 0 outside a run."""
        if self.trainer is None:
            return 0.0
        return step / ((self.trainer.max_epochs or 1) * self.steps_per_epoch)
