"""Barlow Twins: self-supervised learning via redundancy reduction (Zbontar et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.augment.augmentation import Augmentation
from simclr.checks import is_finite
from simclr.data.batch import Views
from simclr.losses import wide
from simclr.methods.base import Method, Scalar
from simclr.system import distributed


def barlow_twins(first: Tensor, second: Tensor, off_diagonal: float) -> tuple[Tensor, Tensor]:
    """Σ_i (1 - C_ii)² + λ·Σ_i Σ_{j≠i} C_ij² (Zbontar et al. 2021, eqs. 1 and 2), in float32.

    first, second: embeddings [N, D] of two views. C is the correlation of their dimensions over the batch, of all
    processes together. off_diagonal: λ. Returns the scalar loss, and the mean of the diagonal, which is to become 1.
    """
    with torch.autocast(first.device.type, enabled=False):
        whole = (distributed.gather(wide(z)).flatten(0, 1) for z in (first, second))
        a, b = (F.batch_norm(z, None, None, training=True) for z in whole)  # mean 0, standard deviation 1
        correlation = a.T @ b / len(a)
        diagonal = correlation.diagonal()
        on = (1 - diagonal).square().sum()
        off = correlation.square().sum() - diagonal.square().sum()
        return on + off_diagonal * off, diagonal.mean()


class BarlowTwins(Method):
    """Two views of an image correlate in every dimension of the embedding, and different dimensions do not.

    off_diagonal: λ, what the second counts. The rest is the base's. Needs two views.
    Each view goes through the network by itself: batch norm's statistics are of one view.
    """

    scalars: ClassVar = {
        "loss": Scalar("Barlow Twins loss", higher_is_better=False, short="loss"),
        "correlation": Scalar("correlation of the views", higher_is_better=True, short="corr"),
    }

    def __init__(self, off_diagonal: float, **base: Any) -> None:
        super().__init__(**base)
        if not is_finite(off_diagonal) or not off_diagonal >= 0:
            raise ValueError(f"off_diagonal={off_diagonal} is not usable; it is a number, 0 or more (paper: 0.005)")
        self.off_diagonal = off_diagonal

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) != 2:
            raise ValueError("it correlates one view with another; use augmentation.views=2")

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        first, second = (self.project(images) for images in views.images)
        loss, correlation = barlow_twins(first, second, self.off_diagonal)
        return {"loss": loss, "correlation": correlation}
