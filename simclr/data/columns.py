"""What is known of images beside their pixels, one column for each kind of it: labels, boxes, and what is to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Column:
    """values: [N, ...], a row for each image of a store. names: what whole numbers stand for, as labels for classes."""

    values: np.ndarray
    names: tuple[str, ...] = ()

    def select(self, indices: np.ndarray) -> Column:
        """The rows at `indices`, in that order."""
        return replace(self, values=self.values[indices])

    def gather(self, indices: np.ndarray) -> Tensor:
        """The rows at `indices`, copied, as a tensor [B, ...]."""
        return torch.from_numpy(self.values[indices])


def labels(values: Sequence[int] | np.ndarray, classes: Sequence[str]) -> Column:
    """The class of every image, int64 [N], as an index into the names of the classes."""
    return Column(np.ascontiguousarray(values, np.int64), tuple(classes))


def boxes(values: Sequence[Sequence[int]] | np.ndarray) -> Column:
    """The object of every image, int16 [N, 4]: x0, y0, x1, y1, its first and last pixels; -1 where unknown."""
    return Column(np.ascontiguousarray(values, np.int16))
