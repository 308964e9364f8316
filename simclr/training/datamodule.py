"""Batches of views: gathered by step number from the store, augmented on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor

from simclr.augment import batched
from simclr.augment.augmentation import Augmentation
from simclr.augment.plain import Plain
from simclr.augment.recipe import Draws, Recipe
from simclr.checks import is_whole
from simclr.data.batch import Batch, Views
from simclr.data.store import ImageStore, Splits
from simclr.errors import InputError
from simclr.system import distributed
from simclr.system.randomness import generator

ALL = slice(None)


class Source(Protocol):
    """Where images come from; see data/tiny_imagenet.py, shapes.py, folder.py."""

    def load(self) -> Splits:
        """Open the images, making what is missing. Safe to call from several processes at once."""


class StepLoader:
    """The batches of a run as a function of the step: step s of pass p holds part s of the shuffle (seed, p).

    It yields one epoch an iteration, from `step` on; a resumed run that starts it at its own step goes on with the very
    next batch. The last, partial batch of a pass is dropped. While one batch is in use, the next is read by a thread
    of its own; `pinned` puts it where a GPU can fetch it without waiting.

    part: which of the batch's images to yield; of several processes each has its own part of one and the same batch.
    reads: the columns of the store that go with the images. steps_per_epoch: None for those of one pass over the store.
    """

    def __init__(
        self,
        store: ImageStore,
        batch_size: int,
        seed: int,
        step: int = 0,
        part: slice = ALL,
        pinned: bool = False,
        reads: Iterable[str] = (),
        steps_per_epoch: int | None = None,
    ) -> None:
        self.store, self.batch_size, self.seed, self.step = store, batch_size, seed, step
        self.part, self.pinned, self.reads = part, pinned, sorted(reads)
        self.steps_per_pass = len(store) // batch_size
        self.steps_per_epoch = steps_per_epoch or self.steps_per_pass

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        @lru_cache(maxsize=1)
        def shuffle(number: int) -> Tensor:
            return torch.randperm(len(self.store), generator=generator("order", self.seed, number))

        def read(step: int) -> Batch:
            order = shuffle(step // self.steps_per_pass)
            start = step % self.steps_per_pass * self.batch_size
            rows = order[start : start + self.batch_size][self.part]
            images = self.store.gather(rows.numpy())
            columns = {name: self._known(name, order, start, step) for name in self.reads}
            if self.pinned:
                images, columns = images.pin_memory(), {name: column.pin_memory() for name, column in columns.items()}
            return Batch(images, rows, step, columns)

        end = (self.step // len(self) + 1) * len(self)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as reader:
            ahead = reader.submit(read, self.step)
            while self.step < end:
                batch = ahead.result()
                self.step += 1
                if self.step < end:
                    ahead = reader.submit(read, self.step)
                yield batch

    def _known(self, name: str, order: Tensor, start: int, step: int) -> Tensor:
        """What is known of the images of this process; of several names one each, drawn for the batch as a whole."""
        column, rows = self.store.columns[name], order[start : start + self.batch_size][self.part].numpy()
        if not column.several:
            return column.gather(rows)
        random = generator(name, self.seed, step)
        return column.draw(rows, torch.rand(self.batch_size, dtype=torch.float64, generator=random)[self.part])

    # Lightning takes a loader with these two for one that can go on in mid-epoch. There is nothing to keep: the step
    # comes from the trainer, in train_dataloader.
    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


class PretrainingData(pl.LightningDataModule):
    """The views of every image of a batch, and what the method reads beside them.

    source: the images. augmentation: a recipe for each view. seed: of image order and augmentation.
    batch_size: images a step, of all processes together; each works on its equal share.
    limit_images: learn from the first N images of a fixed shuffle, which is the same for every seed.
    images_per_epoch: how many images make an epoch, which may be several passes over a set or a part of one; None for
    one pass.
    reads: the columns that the method reads. wants: others that are read where the images have them.
    augment: the engine, batched.augment or reference.augment.
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
        self.source, self.augmentation, self.augment = source, augmentation, augment
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
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        part, step = distributed.shard(self.batch_size), self.trainer.global_step
        return StepLoader(self.pretrain, self.batch_size, self.seed, step, part, on_gpu, self.reads, steps)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Views:
        """Augment on the device. The draws are a function of (seed, step, view, place in the batch) and nothing else;
        the views' size is one of the share of the run that lies before the step.

        Every process draws for the whole batch and keeps what its rank has of it, so that an image gets the same views
        whatever the number of processes.
        """
        _, height, width, _ = batch.images.shape
        part = distributed.shard(self.batch_size)
        views = []
        for view, recipe in enumerate(self.augmentation.at(self._progress(batch.step))):
            draws = recipe.draw(self.batch_size, height, width, generator("augment", self.seed, batch.step, view))
            own = Draws(*(field[part] for field in draws))
            views.append(self.augment(batch.images, own, recipe))
        return Views(views, batch.columns)

    def _progress(self, step: int) -> float:
        """The share of the run that lies before a step; 0 outside a run."""
        if self.trainer is None:
            return 0.0
        return step / ((self.trainer.max_epochs or 1) * self.steps_per_epoch)
