"""SimSiam: exploring simple Siamese representation learning (Chen & He 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.augment.augmentation import Augmentation
from simclr.data.batch import Views
from simclr.losses import spread, wide
from simclr.methods.base import MakeHead, Method, Scalar, make_predictor


def negative_cosine(prediction: Tensor, projection: Tensor) -> Tensor:
    """D(p, z) = -p̄·z̄, the mean over a batch [N, D], without gradient to z (Chen & He 2021, algorithm 1), in float32."""
    with torch.autocast(prediction.device.type, enabled=False):
        return -F.cosine_similarity(wide(prediction), wide(projection.detach()), dim=1).mean()


class SimSiam(Method):
    """Each of two views predicts the other one's projection, which gets no gradient (algorithm 1 of the paper).

    predictor: factory of the head that predicts; None for none, with which it collapses. The rest is the base's.
    Each view goes through the networks by itself: batch norm's statistics are of one view.
    """

    scalars: ClassVar = {
        "loss": Scalar("negative cosine similarity", higher_is_better=False, short="loss"),
        "spread": Scalar("spread of the projections", higher_is_better=True, short="spread"),
    }

    def __init__(self, predictor: MakeHead | None, **base: Any) -> None:
        super().__init__(**base)
        self.predictor = make_predictor(predictor, self.head.out_features)

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) != 2:
            raise ValueError("each view predicts the other; use augmentation.views=2")

    def parts(self) -> Mapping[str, nn.Module]:
        return {**super().parts(), "predictor": self.predictor}

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        first, second = (self.project(images) for images in views.images)
        loss = negative_cosine(self.predictor(first), second) + negative_cosine(self.predictor(second), first)
        return {"loss": loss / 2, "spread": spread(first)}
