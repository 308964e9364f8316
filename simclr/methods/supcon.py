"""SupCon: supervised contrastive learning (Khosla et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from simclr.augment.augmentation import Augmentation
from simclr.data.batch import Views
from simclr.losses import check_temperature, sup_con, top_k
from simclr.methods.base import Method, Scalar
from simclr.methods.gradient_cache import check_micro_batch, embed_views


class SupCon(Method):
    """SimCLR with labels: the views of all images of a class attract each other (L_out, eq. 2 of the paper).

    temperature and micro_batch: as SimCLR's. The rest is the base's. Any number of views of any sizes.
    All views of one size go through the network together, and share batch norm's statistics.
    """

    reads = frozenset({"labels"})
    scalars: ClassVar = {
        "loss": Scalar("SupCon loss", higher_is_better=False, short="loss"),
        "top1": Scalar("contrastive top-1 of classes", "%", True, "top-1"),
        "top5": Scalar("contrastive top-5 of classes", "%", True, "top-5"),
    }

    def __init__(self, temperature: float, micro_batch: int | None = None, **base: Any) -> None:
        super().__init__(**base)
        check_temperature(temperature)
        check_micro_batch(micro_batch)
        self.temperature, self.micro_batch = temperature, micro_batch

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) < 2:
            raise ValueError("every view needs another one of its image; use augmentation.views=2")

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        loss, rank = sup_con(embed_views(self, views, self.micro_batch), views.columns["labels"], self.temperature)
        return {"loss": loss, "top1": top_k(rank, 1), "top5": top_k(rank, 5)}
