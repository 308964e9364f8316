"""What is known of images beside their pixels, one column for each kind of it: labels, boxes, and what is to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Column:
    """values: [N, ...], a row for each image of a store. names: what whole numbers stand for, as labels for classes.

    Where an image has several names, as captions, values are int64 [N, 2]: the first, and the one after the last.
    """

    values: np.ndarray
    names: tuple[str, ...] = ()

    def select(self, indices: np.ndarray) -> Column:
        """The rows at `indices`, in that order."""
        return replace(self, values=self.values[indices])

    @property
    def several(self) -> bool:
        """Whether an image has several names, of which one is drawn a step."""
        return bool(self.names) and self.values.ndim == 2

    def texts(self) -> list[str]:
        """The names of all images in their order, where an image has several."""
        return [self.names[i] for start, end in self.values for i in range(start, end)]

    def gather(self, indices: np.ndarray) -> Tensor:
        """The rows at `indices`, copied, as a tensor [B, ...]."""
        return torch.from_numpy(self.values[indices])

    def draw(self, indices: np.ndarray, uniform: Tensor) -> Tensor:
        """One of the names of each image at `indices`, int64 [B]; uniform: float64 [B], from 0 up to 1, says which."""
        first, end = self.gather(indices).unbind(dim=1)
        return first + (uniform * (end - first)).long()


def labels(values: Sequence[int] | np.ndarray, classes: Sequence[str]) -> Column:
    """The class of every image, int64 [N], as an index into the names of the classes."""
    return Column(np.ascontiguousarray(values, np.int64), tuple(classes))


def captions(of_images: Sequence[Sequence[str]]) -> Column:
    """The sentences of every image, one or more each. Raises ValueError for an image without any."""
    ends = np.cumsum([len(texts) for texts in of_images], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    if (starts == ends).any():
        raise ValueError(f"image {int((starts == ends).argmax())} has no caption")
    return Column(np.stack([starts, ends], axis=1), tuple(text for texts in of_images for text in texts))


UNKNOWN = 255  # in a mask: a pixel that nobody has judged, such as an object's edge


def masks(values: np.ndarray, classes: Sequence[str]) -> Column:
    """What every pixel shows, uint8 [N, H, W], as an index into the names of the classes; or UNKNOWN."""
    return Column(np.ascontiguousarray(values, np.uint8), tuple(classes))


def boxes(values: Sequence[Sequence[int]] | np.ndarray) -> Column:
    """The object of every image, int16 [N, 4]: x0, y0, x1, y1, its first and last pixels; -1 where unknown."""
    return Column(np.ascontiguousarray(values, np.int16))
