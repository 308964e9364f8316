"""VICReg: variance-invariance-covariance regularisation (Bardes, Ponce & LeCun 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
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


def vicreg(embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance s, variance v and covariance c (Bardes et al. 2022, eqs. 5, 1 and 3), each a scalar, in float32.

    embeddings: [N, D] of each of V views, of all processes together. Of two views v is the mean and c the sum over the
    views, as in the paper's code; of more, s is the mean over pairs and c twice the mean over views.
    """
    with torch.autocast(embeddings[0].device.type, enabled=False):
        whole = [distributed.gather(wide(z)).flatten(0, 1) for z in embeddings]
        invariance = torch.stack([F.mse_loss(a, b) for a, b in combinations(whole, 2)]).mean()
        variances, covariances = [], []
        for z in whole:
            z = z - z.mean(dim=0)
            variances.append(F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean())
            covariance = z.T @ z / (len(z) - 1)
            covariances.append((covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1])
        return invariance, torch.stack(variances).mean(), 2 * torch.stack(covariances).mean()


class VICReg(Method):
    """Views of an image have one embedding, each dimension of which varies over the batch, and none repeats another.

    invariance, variance, covariance: what each of the three counts (λ, μ, ν). The rest is the base's.
    Any number of views of any sizes. Each goes through the network by itself: batch norm's statistics are of one view.
    """

    scalars: ClassVar = {
        "loss": Scalar("VICReg loss", higher_is_better=False, short="loss"),
        "invariance": Scalar("distance of the views", higher_is_better=False),
        "variance": Scalar("missing standard deviation", higher_is_better=False, short="var"),
        "covariance": Scalar("covariance of the dimensions", higher_is_better=False),
    }

    def __init__(self, invariance: float, variance: float, covariance: float, **base: Any) -> None:
        super().__init__(**base)
        for name, weight in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
            if not is_finite(weight) or not weight >= 0:
                raise ValueError(f"{name}={weight} is not usable; it is a number, 0 or more")
        self.weights = invariance, variance, covariance

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) < 2:
            raise ValueError("it compares views of an image; use augmentation.views=2")

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        terms = vicreg([self.project(images) for images in views.images])
        loss = torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()
        return {"loss": loss, **dict(zip(("invariance", "variance", "covariance"), terms, strict=True))}
