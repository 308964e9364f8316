"""LeJEPA: provable and scalable self-supervised learning without the heuristics (Balestriero & LeCun 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.augment.augmentation import Augmentation
from simclr.checks import is_finite, is_whole
from simclr.data.batch import Views
from simclr.losses import wide
from simclr.methods.base import Method, Scalar
from simclr.system import distributed
from simclr.system.randomness import generator

REACH, POINTS = 5.0, 17  # of the integral over t: from -REACH to REACH by the trapezoid rule (listing 1 of the paper)


def sigreg(embeddings: Tensor, directions: Tensor) -> Tensor:
    """How far embeddings are from N(0, I): the mean Epps-Pulley statistic over directions, a scalar, in float32.

    embeddings: [N, D]. directions: [D, M] of length 1. Along each, N·∫|φ_N(t) - e^(-t²/2)|² e^(-t²/2) dt with the
    empirical characteristic function φ_N, of all processes together (section 4.2, listing 1).
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        x = wide(embeddings)
        t = torch.linspace(-REACH, REACH, POINTS, dtype=x.dtype, device=x.device)
        gauss = (-0.5 * t.square()).exp()
        angles = (x @ directions.to(x)).unsqueeze(-1) * t  # [N, M, POINTS]
        real, imaginary = (distributed.gather(part.mean(dim=0)).mean(dim=0) for part in (angles.cos(), angles.sin()))
        distance = ((real - gauss).square() + imaginary.square()) * gauss
        return torch.trapezoid(distance, t, dim=-1).mean() * len(x) * distributed.world_size()


def distance_to_centre(embeddings: Sequence[Tensor], large: Sequence[int]) -> Tensor:
    """Mean squared distance of every view from the mean of the large ones (listing 2), a scalar, in float32.

    embeddings: [N, D] of each view. large: the numbers of the views that make the centre.
    """
    with torch.autocast(embeddings[0].device.type, enabled=False):
        every = torch.stack([wide(z) for z in embeddings])
        return (every[list(large)].mean(dim=0) - every).square().mean()


class LeJEPA(Method):
    """The views of an image agree, and embeddings are spread as an isotropic Gaussian; no teacher, no stop-gradient.

    L = (1 - λ)·distance of the views from their centre + λ·SIGReg, the mean over views.
    weight: λ, from 0 to 1. slices: how many directions embeddings are projected on, new ones in each step, equal in
    all processes. The rest is the base's.
    Any number of views; the largest make the centre. Each goes through the network by itself: batch norm's statistics
    are of one view.
    """

    scalars: ClassVar = {
        "loss": Scalar("LeJEPA loss", higher_is_better=False, short="loss"),
        "distance": Scalar("distance of the views from their centre", higher_is_better=False),
        "sigreg": Scalar("distance of the embeddings from a Gaussian", higher_is_better=False, short="sigreg"),
    }

    def __init__(self, weight: float, slices: int, **base: Any) -> None:
        super().__init__(**base)
        if not is_finite(weight) or not 0 <= weight <= 1:
            raise ValueError(f"weight={weight} is not usable; it is a number from 0 to 1 (paper: 0.05)")
        if not is_whole(slices) or not 1 <= slices <= 2**16:
            raise ValueError(f"slices={slices} is not usable; it is a whole number from 1 to {2**16}")
        self.weight, self.slices = weight, slices

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) < 2:
            raise ValueError("it compares views of an image; use augmentation.views=2")

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        embeddings = [self.project(images) for images in views.images]
        largest = max(images.shape[-1] for images in views.images)
        large = [view for view, images in enumerate(views.images) if images.shape[-1] == largest]
        distance = distance_to_centre(embeddings, large)
        directions = self._directions(embeddings[0])
        gaussian = torch.stack([sigreg(z, directions) for z in embeddings]).mean()
        return {
            "loss": (1 - self.weight) * distance + self.weight * gaussian,
            "distance": distance,
            "sigreg": gaussian,
        }

    def _directions(self, embeddings: Tensor) -> Tensor:
        """[D, slices], of length 1: those of the step, whatever was drawn before."""
        random = generator("lejepa", self.global_step)
        drawn = torch.randn(embeddings.shape[1], self.slices, generator=random)
        return F.normalize(drawn, dim=0).to(embeddings.device)
