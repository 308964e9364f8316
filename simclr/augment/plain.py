"""Images as a backbone is shown them outside training: un-augmented, at the size that it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.augment.recipe import Recipe

AT_ONCE = 2**22  # pixels that are held as floats before they are scaled
ALL = slice(None)


@dataclass(frozen=True)
class Plain:
    """Makes a network's input of stored images. size: pixels; None for images as they are."""

    size: int | None = None

    @classmethod
    def of(cls, views: Sequence[Recipe]) -> Plain:
        """As a run shows images to its backbone that makes these views: at the size of the largest."""
        return cls(max(recipe.size for recipe in views))

    def __call__(self, images: Tensor, rows: slice = ALL) -> Tensor:
        """uint8 [B, H, W, 3] to float32 [B, 3, size, size] in [0, 1]; images of that size keep every value.

        Others are scaled as a whole, bilinearly and anti-aliased. rows: which of a store they are; all are made alike.
        """
        if self.size is None or not self.scales(images.shape[1]):
            # Stored images have their channels innermost; permute alone hands them over in that layout.
            return images.permute(0, 3, 1, 2).float() / 255
        _, height, width, _ = images.shape
        parts = images.permute(0, 3, 1, 2).split(max(1, AT_ONCE // (height * width)))
        return torch.cat([_scaled(part.float() / 255, self.size) for part in parts])

    def scales(self, size: int) -> bool:
        """Whether images of that many pixels are made larger or smaller."""
        return self.size not in (None, size)

    def words(self, size: int) -> str:
        """What to say beside a number taken on images of that many pixels; empty where there is nothing to say."""
        return f"; images of {size} pixels are scaled to {self.size}, as learned" if self.scales(size) else ""


def _scaled(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True).clamp_(0, 1)
