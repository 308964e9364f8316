"""What travels from the data to the method, one batch at a time."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Before augmentation: images uint8 [B, H, W, 3], rows int64 [B] of the store, and the step of the run."""

    images: Tensor
    rows: Tensor
    step: int


class Views(NamedTuple):
    """After it: views float32 [2, B, 3, S, S] in [0, 1]."""

    views: Tensor
