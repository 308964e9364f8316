"""BYOL: bootstrap your own latent (Grill et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.augment.augmentation import Augmentation
from simclr.data.batch import Views
from simclr.losses import spread, wide
from simclr.methods.base import MakeHead, Scalar, make_predictor
from simclr.methods.momentum import MomentumMethod


def byol_loss(predictions: Sequence[Tensor], targets: Mapping[int, Tensor]) -> Tensor:
    """Mean squared error of normalised vectors, ‖q̄ - z̄'‖² = 2 - 2·cos(q, z') (Grill et al. 2020, eq. 2), in float32.

    predictions: [N, D] of each view. targets: [N, D] by the number of their view. Each view predicts the target of
    every other view. Returns the mean over these pairs, from 0 to 4: with two views half the paper's symmetric sum.
    """

    with torch.autocast(predictions[0].device.type, enabled=False):
        unit = [F.normalize(wide(prediction), dim=1) for prediction in predictions]
        aims = {view: F.normalize(wide(target), dim=1) for view, target in targets.items()}
        cosines = [(q * z).sum(dim=1) for view, q in enumerate(unit) for other, z in aims.items() if other != view]
        return 2 - 2 * torch.stack(cosines).mean()


class BYOL(MomentumMethod):
    """An online network predicts what a slow copy of it, the target, makes of another view; there are no negatives.

    predictor: factory of the head that the online network alone has; None for none, with which it collapses. momentum:
    of the target. The rest is the base's.
    Any number of views: each predicts the target of every other view of the largest size (small crops are not targets).
    Each view goes through the networks by itself: batch norm's statistics are of one view.
    """

    scalars: ClassVar = {
        "loss": Scalar("BYOL loss", higher_is_better=False, short="loss"),
        "spread": Scalar("spread of the projections", higher_is_better=True, short="spread"),
    }

    def __init__(self, predictor: MakeHead | None, momentum: float, **base: Any) -> None:
        super().__init__(momentum=momentum, **base)
        self.predictor = make_predictor(predictor, self.head.out_features)

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) < 2:
            raise ValueError("each view predicts another one; use augmentation.views=2")

    def parts(self) -> Mapping[str, nn.Module]:
        return {**super().parts(), "predictor": self.predictor}

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        largest = max(images.shape[-1] for images in views.images)
        targets = {view: self.target(images) for view, images in enumerate(views.images) if images.shape[-1] == largest}
        projections = [self.project(images) for images in views.images]
        loss = byol_loss([self.predictor(projection) for projection in projections], targets)
        return {"loss": loss, "spread": spread(projections[0])}
