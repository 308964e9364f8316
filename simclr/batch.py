"""What travels from the data to the method, one batch at a time."""

from typing import NamedTuple

from torch import Tensor


class PictureBatch(NamedTuple):
    """Before augmentation: pictures uint8 [B, H, W, 3], rows int64 [B] of the store, and the step of the run."""

    pictures: Tensor
    rows: Tensor
    step: int


class ViewBatch(NamedTuple):
    """After it: views float32 [2, B, 3, S, S] in [0, 1]."""

    views: Tensor
