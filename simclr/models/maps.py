"""The feature maps behind a backbone's pooled features: where in an image something is."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from simclr.errors import InputError


def feature_maps(backbone: Any, images: Tensor) -> list[Tensor]:
    """The map at the end of every stage, finest first: images [B, 3, H, W] to maps float [B, C, h, w].

    Of a vision transformer every block ends a stage, and a map has a place for each patch. Raises InputError for a
    network that has no maps.
    """
    if hasattr(backbone, "maps"):
        return backbone.maps(images)
    if hasattr(backbone, "forward_intermediates"):  # timm's
        return backbone.forward_intermediates(images, intermediates_only=True)
    raise InputError(
        f"this backbone, {type(backbone).__name__}, has no maps that say where something is; use another backbone="
    )


class LastMap(nn.Module):
    """A backbone's last map in place of its mean: images [B, 3, H, W] to features [B, C·h·w].

    cells: along each side; a map with more is pooled to that many.
    """

    def __init__(self, backbone: nn.Module, cells: int) -> None:
        super().__init__()
        self.backbone, self.cells = backbone, cells

    def forward(self, images: Tensor) -> Tensor:
        last = feature_maps(self.backbone, images)[-1]
        if max(last.shape[2:]) > self.cells:
            last = F.adaptive_avg_pool2d(last, self.cells)
        return last.flatten(1)
