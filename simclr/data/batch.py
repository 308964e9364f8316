"""What travels from the data to the method, one batch at a time."""

from typing import Any, NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Before augmentation: images uint8 [B, H, W, 3], their rows int64 [B] of the store, and the step of the run.

    columns: what the method reads of each image beside its pixels, and nothing else: labels int64 [B], for instance.
    plans: what the views' draws ask of the engine, worked out ahead; None where it was not (see PretrainingData).
    """

    images: Tensor
    rows: Tensor
    step: int
    columns: dict[str, Tensor]
    plans: Any = None


class Views(NamedTuple):
    """After it: V views of every image, each float32 [B, 3, S, S]; S may differ from view to view.

    Values lie in [0, 1], unless the recipe normalises them.
    """

    images: list[Tensor]
    columns: dict[str, Tensor]
