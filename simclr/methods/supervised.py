"""Supervised learning on the same views and budget: what labels would have bought."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.augment.augmentation import Augmentation
from simclr.data.batch import Views
from simclr.data.columns import Column
from simclr.losses import wide
from simclr.methods.base import Method, Scalar


class Supervised(Method):
    """Cross-entropy of a linear classifier behind the head, which by default is none, on every view.

    What it takes is the base's. Any number of views of any sizes.
    Each goes through the network by itself: batch norm's statistics are of one view.
    """

    reads = frozenset({"labels"})
    scalars: ClassVar = {
        "loss": Scalar("cross-entropy", higher_is_better=False, short="loss"),
        "accuracy": Scalar("training accuracy", "%", True, "acc"),
    }
    classifier: nn.Linear

    def prepare(self, columns: Mapping[str, Column]) -> None:
        width: Any = self.head.out_features
        self.classifier = nn.Linear(width, len(columns["labels"].names))

    def check(self, augmentation: Augmentation) -> None:
        if not augmentation.views:
            raise ValueError("it needs a view of every image; use augmentation.views=2")

    def parts(self) -> Mapping[str, nn.Module]:
        return {**super().parts(), "classifier": self.classifier}

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        scores = [wide(self.classifier(self.project(images))) for images in views.images]
        labels = views.columns["labels"]
        loss = torch.stack([F.cross_entropy(of_view, labels) for of_view in scores]).mean()
        right = torch.stack([of_view.argmax(dim=1) == labels for of_view in scores])
        return {"loss": loss, "accuracy": 100 * right.float().mean()}
