"""Batches of images as a function of the step, read ahead by a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from simclr.augment.plan import Parcel
from simclr.data.batch import Batch
from simclr.data.store import ImageStore
from simclr.system.randomness import generator

ALL = slice(None)


class StepLoader:
    """The batches of a run as a function of the step: step s of pass p holds part s of the shuffle (seed, p).

    It yields one epoch an iteration, from `step` on; a resumed run that starts it at its own step goes on with the very
    next batch. The last, partial batch of a pass is dropped. While one batch is in use, the next is read by a thread
    of its own; `pinned` puts it where a GPU can fetch it without waiting.

    part: which of the batch's images to yield; of several processes each has its own part of one and the same batch.
    reads: the columns of the store that go with the images. steps_per_epoch: None for those of one pass over the store.
    plans: what is worked out ahead for the views of a step, in the reader's thread, too.
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
        plans: Callable[[int], Parcel | None] = lambda step: None,
    ) -> None:
        self.plans = plans
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
                images, rows = images.pin_memory(), rows.pin_memory()
                columns = {name: column.pin_memory() for name, column in columns.items()}
            return Batch(images, rows, step, columns, self.plans(step))

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
