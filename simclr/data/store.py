"""The image store: every image of a data set as uint8 in one memory-mapped array, built once, read at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from simclr.checks import MAX_SIZE, MIN_SIZE, is_whole
from simclr.data.columns import Column
from simclr.errors import InputError


@dataclass(frozen=True)
class ImageStore:
    """Images of one size with what is known about them.

    pixels: uint8 [M, H, W, 3], usually memory-mapped; rows: int64 [N], which of them belong to this store, in order.
    digests: S16 [N], equal for images that are equal pixel by pixel. columns: what is known of each, N rows each.
    key: equal for equal contents (pixels in their order, and all columns), wherever they came from.
    """

    pixels: np.ndarray
    rows: np.ndarray
    digests: np.ndarray
    columns: Mapping[str, Column]
    key: str

    @classmethod
    def of(
        cls,
        pixels: np.ndarray,
        columns: Mapping[str, Column] | None = None,
        digests: np.ndarray | None = None,
        key: str | None = None,
    ) -> ImageStore:
        """A store that holds all of `pixels`; what is not given of digests and key is computed."""
        columns = columns or {}
        digests = digests_of(pixels) if digests is None else digests
        if key is None:
            further = sorted(columns.keys() - {"labels", "boxes"})
            names = list(columns["labels"].names) if "labels" in columns else []
            arrays = [columns[name].values if name in columns else None for name in ("labels", "boxes", *further)]
            about = [[name, *columns[name].names] for name in further]
            key = digest_of([names, pixels.shape, *about], [digests, *arrays])[:16]
        return cls(pixels, np.arange(len(pixels)), digests, columns, key)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Pixels along a side of every image."""
        return self.pixels.shape[1]

    @property
    def labels(self) -> np.ndarray | None:
        """The class of every image, int64 [N]; None where they have none."""
        return self.columns["labels"].values if "labels" in self.columns else None

    @property
    def classes(self) -> list[str]:
        """The names that labels index; none without labels."""
        return list(self.columns["labels"].names) if "labels" in self.columns else []

    @property
    def boxes(self) -> np.ndarray | None:
        """int16 [N, 4], as columns.boxes has them; None where they have none."""
        return self.columns["boxes"].values if "boxes" in self.columns else None

    def gather(self, indices: np.ndarray | slice) -> Tensor:
        """The images at `indices` of this store, copied: uint8 [B, H, W, 3]."""
        return torch.from_numpy(self.pixels[self.rows[indices]])

    def select(self, indices: np.ndarray) -> ImageStore:
        """A store of the images at `indices`, in that order; the pixels are shared, not copied."""
        return replace(
            self,
            rows=self.rows[indices],
            digests=self.digests[indices],
            columns={name: column.select(indices) for name, column in self.columns.items()},
            key=digest_of(self.key, [indices])[:16],
        )

    def first_of_shuffle(self, limit: int | None) -> ImageStore:
        """The first `limit` images, None for all, of a shuffle that depends on their number alone, not on the run."""
        if limit is None:
            return self
        if not is_whole(limit) or limit < 1:
            raise InputError(f"limit_images={limit} leaves no images; use null for all of them")
        return self.select(np.random.default_rng(len(self)).permutation(len(self))[:limit])


class Splits(NamedTuple):
    """What a source yields.

    pretrain: what a method learns from; labels are not needed. train: what probes are fitted on; the same store where a
    set has one. val: what is judged on, and never chosen on; None where there is nothing to judge with.
    """

    pretrain: ImageStore
    train: ImageStore
    val: ImageStore | None

    @classmethod
    def of(cls, train: ImageStore, val: ImageStore | None) -> Splits:
        """Of a set whose training images are what a method learns from, too."""
        return cls(train, train, val)


class Split(NamedTuple):
    """The images that one split of a store is to hold, and what is known of each.

    names: members of the archive, one an image. pixels: uint8 [N, H, W, 3] in place of them, where the archive's own
    files are arrays.
    """

    names: list[str]
    columns: Mapping[str, Column] = {}
    pixels: np.ndarray | None = None

    @property
    def images(self) -> int:
        return len(self.names if self.pixels is None else self.pixels)


Plan = Mapping[str, Split]  # what to decode: "train", and "pretrain" and "val" where there are such splits


def digests_of(pixels: np.ndarray) -> np.ndarray:
    """A digest of every image's pixels: S16 [N] of uint8 [N, H, W, 3]."""
    return np.array([hashlib.blake2b(image.data, digest_size=16).digest() for image in pixels], "S16")


def check_size(size: int) -> None:
    """Raise ValueError for a side, in pixels, that no store is kept at."""
    if not is_whole(size) or not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size={size} is not usable: it is a whole number from {MIN_SIZE} to {MAX_SIZE} (pixels)")


def digest_of(plain: object, arrays: Sequence[np.ndarray | None]) -> str:
    """A digest of what JSON can say and of the bytes of arrays."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for array in arrays:
        digest.update(b"none" if array is None else array.tobytes())
    return digest.hexdigest()
