"""Images as a backbone is shown them outside training: un-augmented, at the size that it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.augment.batched import normalize
from simclr.augment.recipe import Recipe, check_normalisation, check_size

AT_ONCE = 2**22  # pixels that are held as floats before they are scaled
ALL = slice(None)


@dataclass(frozen=True)
class Plain:
    """Makes a network's input of stored images, as `Recipe` makes views.

    size: pixels; None for images as they are. interpolation: of those that are scaled. mean, std: of the channels,
    which are normalised by them; None for values in [0, 1]. Raises ValueError for what cannot be.
    """

    size: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            check_size(self.size)
        check_normalisation(self.mean, self.std)

    @classmethod
    def of(cls, views: Sequence[Recipe]) -> Plain:
        """As a run shows images to its backbone that makes these views: at the size of the largest."""
        largest = max(views, key=lambda recipe: recipe.size)
        mean, std = (None if values is None else tuple(values) for values in (largest.mean, largest.std))
        return cls(largest.size, largest.interpolation, mean, std)

    def __call__(self, images: Tensor, rows: slice = ALL) -> Tensor:
        """uint8 [B, H, W, 3] to float32 [B, 3, size, size]; images of that size keep every value.

        Others are scaled as a whole, anti-aliased. rows: which of a store they are; all are made alike.
        """
        return normalize(self._scaled(images), self.mean, self.std)

    def _scaled(self, images: Tensor) -> Tensor:
        if self.size is None or not self.scales(images.shape[1]):
            # Stored images have their channels innermost; permute alone hands them over in that layout.
            return images.permute(0, 3, 1, 2).float() / 255
        _, height, width, _ = images.shape
        parts = images.permute(0, 3, 1, 2).split(max(1, AT_ONCE // (height * width)))
        size, how = (self.size, self.size), self.interpolation
        scaled = (
            F.interpolate(part.float() / 255, size, mode=how, align_corners=False, antialias=True) for part in parts
        )
        return torch.cat([part.clamp_(0, 1) for part in scaled])

    def scales(self, size: int) -> bool:
        """Whether images of that many pixels are made larger or smaller."""
        return self.size not in (None, size)

    def changes(self, size: int) -> bool:
        """Whether images of that many pixels are anything but their own values in [0, 1]."""
        return self.scales(size) or self.mean is not None

    def words(self, size: int) -> str:
        """What to say beside a number taken on images of that many pixels; empty where there is nothing to say."""
        scaled = f"; images of {size} pixels are scaled to {self.size}, as learned" if self.scales(size) else ""
        if self.mean is None or self.std is None:
            return scaled
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{scaled}; normalised by mean ({mean}) and standard deviation ({std})"
