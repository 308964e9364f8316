"""Batches of two views: gathered by step number from the store, augmented on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor

from simclr.augment import batched
from simclr.augment.recipe import Draws, Recipe
from simclr.checks import is_whole
from simclr.data.batch import Batch, Views
from simclr.data.store import ImageStore, Splits
from simclr.errors import InputError
from simclr.system import distributed
from simclr.system.randomness import generator

VIEWS = 2
ALL = slice(None)


class Source(Protocol):
    """Where images come from; see tiny_imagenet.py, shapes.py, folder.py."""

    def load(self) -> Splits:
        """Open the images, making what is missing. Safe to call from several processes at once."""


class StepLoader:
    """The batches of a run as a function of the step: step s of epoch e holds part s of the shuffle (seed, e).

    It yields one epoch an iteration, from `step` on; a resumed run that starts it at its own step goes on with the very
    next batch. The last, partial batch of an epoch is dropped. While one batch is in use, the next is read by a thread
    of its own; `pinned` puts it where a GPU can fetch it without waiting.

    part: which of the batch's images to yield; of several processes each has its own part of one and the same batch.
    """

    def __init__(
        self,
        store: ImageStore,
        batch_size: int,
        seed: int,
        step: int = 0,
        part: slice = ALL,
        pinned: bool = False,
    ) -> None:
        self.store, self.batch_size, self.seed, self.step = store, batch_size, seed, step
        self.part, self.pinned = part, pinned

    def __len__(self) -> int:
        return len(self.store) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.step // len(self)
        order = torch.randperm(len(self.store), generator=generator("order", self.seed, epoch))

        def read(step: int) -> Batch:
            start = step % len(self) * self.batch_size
            rows = order[start : start + self.batch_size][self.part]
            images = self.store.gather(rows.numpy())
            return Batch(images.pin_memory() if self.pinned else images, rows, step)

        end = (epoch + 1) * len(self)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as reader:
            ahead = reader.submit(read, self.step)
            while self.step < end:
                batch = ahead.result()
                self.step += 1
                if self.step < end:
                    ahead = reader.submit(read, self.step)
                yield batch

    # Lightning takes a loader with these two for one that can go on in mid-epoch. There is nothing to keep: the step
    # comes from the trainer, in train_dataloader.
    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


class TwoViews(pl.LightningDataModule):
    """Two augmented views of every image of a batch.

    source: the images. recipe: the augmentation. seed: of image order and augmentation.
    batch_size: images a step, of all processes together; each works on its equal share.
    limit_images: train on the first N images of a fixed shuffle, which is the same for every seed.
    augment: the engine, batched.augment or reference.augment.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        batch_size: int,
        seed: int,
        limit_images: int | None = None,
        augment: Callable[[Tensor, Draws, Recipe], Tensor] = batched.augment,
    ) -> None:
        super().__init__()
        if not is_whole(batch_size) or batch_size < 2:
            raise InputError(f"batch_size={batch_size} leaves no negatives to contrast with; use 2 or more")
        processes = distributed.world_size()
        if batch_size % processes:
            raise InputError(
                f"batch_size={batch_size} cannot be split over {processes} processes; use a multiple of {processes}"
            )
        self.source, self.recipe, self.augment = source, recipe, augment
        self.batch_size, self.seed, self.limit_images = batch_size, seed, limit_images
        self.images: Splits | None = None

    def setup(self, stage: str | None = None) -> None:
        """Open the images. Raises InputError where they do not fill one batch."""
        if self.images is not None:
            return
        train, val = self.source.load()
        if self.limit_images is not None:
            train = train.first_of_shuffle(self.limit_images)
        if len(train) < self.batch_size:
            raise InputError(
                f"batch_size={self.batch_size} is larger than the number of training images, {len(train)}; use a "
                "smaller batch_size or more images"
            )
        self.images = Splits(train, val)

    @property
    def train(self) -> ImageStore:
        """The images that are trained on."""
        assert self.images is not None, "setup() opens the images"
        return self.images.train

    @property
    def val(self) -> ImageStore | None:
        """The validation images, None where the source has none."""
        assert self.images is not None, "setup() opens the images"
        return self.images.val

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_dataloader())

    def train_dataloader(self) -> StepLoader:
        if self.trainer is None:
            return StepLoader(self.train, self.batch_size, self.seed)
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        part = distributed.shard(self.batch_size)
        return StepLoader(self.train, self.batch_size, self.seed, self.trainer.global_step, part, pinned=on_gpu)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Views:
        """Augment on the device. The draws are a function of (seed, step, view, place in the batch) and nothing else.

        Every process draws for the whole batch and keeps what its rank has of it, so that a image gets the same views
        whatever the number of processes.
        """
        _, height, width, _ = batch.images.shape
        part = distributed.shard(self.batch_size)
        views = []
        for view in range(VIEWS):
            source = generator("augment", self.seed, batch.step, view)
            draws = self.recipe.draw(self.batch_size, height, width, source)
            own = Draws(*(field[part] for field in draws))
            views.append(self.augment(batch.images, own, self.recipe))
        return Views(torch.stack(views))
