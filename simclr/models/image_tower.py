"""An encoder with its preprocessing, as it leaves the project."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.augment.plain import Plain


class ImageTower(nn.Module):
    """RGB images [N, 3, H, W] from 0 to 1 to features [N, F] and, with a head, embeddings [N, D] of length 1.

    What a run normalises its images by is done here, so that nobody has to remember it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module | None, plain: Plain) -> None:
        super().__init__()
        self.backbone, self.head, self.size = backbone, head, plain.size
        for name, values, nothing in (("mean", plain.mean, 0.0), ("std", plain.std, 1.0)):
            self.register_buffer(name, torch.tensor(values or (nothing,) * 3)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone((images - self.mean) / self.std)
        return (features,) if self.head is None else (features, F.normalize(self.head(features), dim=1))
