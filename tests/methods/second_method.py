"""A second method, as CONTRIBUTING adds one: labels, three views of two sizes, and a target that follows the network.

test_second_method.py copies it into a copy of the project, with its configurations.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.augment.augmentation import Augmentation
from simclr.data.batch import Views
from simclr.methods.base import Method, Scalar


class LabelledTeacher(Method):
    """A small view agrees with a slow copy's idea of two large ones; a classifier learns the labels of the first.

    classes: of the labels. momentum: of the target, from here to 1 over the run. Each view goes by itself.
    """

    reads = frozenset({"labels"})
    scalars: ClassVar = {
        "loss": Scalar("cross-entropy and disagreement", higher_is_better=False, short="loss"),
        "agreement": Scalar("cosine similarity to the target", higher_is_better=True, short="agree"),
        "accuracy": Scalar("training accuracy", "%", True),
    }

    def __init__(self, classes: int, momentum: float, **base: Any) -> None:
        super().__init__(**base)
        self.classifier = nn.Linear(self.backbone.num_features, classes)
        self.target_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.target_head = copy.deepcopy(self.head).requires_grad_(False)
        self.momentum = momentum

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) != 3:
            raise ValueError("it compares a small view with two large ones; use augmentation=small_and_large")

    def parts(self) -> Mapping[str, nn.Module]:
        return {**super().parts(), "target_backbone": self.target_backbone}

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        features = self.backbone(views.images[0])
        scores = self.classifier(features)
        small = self.head(self.backbone(views.images[2]))
        with torch.no_grad():
            large = torch.stack([self.target_head(self.target_backbone(images)) for images in views.images[:2]])
        agreement = F.cosine_similarity(small.expand_as(large), large, dim=-1).mean()
        accuracy = 100 * (scores.argmax(dim=1) == views.columns["labels"]).float().mean()
        loss = F.cross_entropy(scores, views.columns["labels"]) - agreement
        return {"loss": loss, "agreement": agreement, "accuracy": accuracy}

    def after_step(self, progress: float) -> None:
        keep = 1 - (1 - self.momentum) * (1 - progress)
        with torch.no_grad():
            for slow, fast in (
                *zip(self.target_backbone.parameters(), self.backbone.parameters(), strict=True),
                *zip(self.target_head.parameters(), self.head.parameters(), strict=True),
            ):
                slow.lerp_(fast, 1 - keep)
