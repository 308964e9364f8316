"""SimCLR: a simple framework for contrastive learning of visual representations (Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from simclr.augment.augmentation import Augmentation
from simclr.data.batch import Views
from simclr.losses import check_temperature, info_nce, top_k
from simclr.methods.base import Method, Scalar
from simclr.methods.gradient_cache import check_micro_batch, embed_views


class SimCLR(Method):
    """The views of an image attract each other and repel all other views of the batch (algorithm 1 of the paper).

    temperature: of InfoNCE, greater than 0.
    micro_batch: images that the network sees at a time, in each process; None for all. A smaller number lets a batch
    of any size fit into memory, for a third more work (gradient_cache.py; batch norm then sees that many).
    decoupled: leave the image's own views out of the denominator (DCL; Yeh et al. 2022).
    The rest is the base's. All views of one size go through the network together, and share batch norm's statistics.
    """

    scalars: ClassVar = {
        "loss": Scalar("InfoNCE loss", higher_is_better=False, short="loss"),
        "top1": Scalar("contrastive top-1", "%", True, "top-1"),
        "top5": Scalar("contrastive top-5", "%", True, "top-5"),
    }

    def __init__(
        self, temperature: float, micro_batch: int | None = None, decoupled: bool = False, **base: Any
    ) -> None:
        super().__init__(**base)
        check_temperature(temperature)
        check_micro_batch(micro_batch)
        if not isinstance(decoupled, bool):
            raise ValueError(f"decoupled={decoupled} is not usable; choose true or false")
        self.temperature, self.micro_batch, self.decoupled = temperature, micro_batch, decoupled

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) < 2:
            raise ValueError("contrasting takes two views of an image or more; use augmentation.views=2")

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        embeddings = embed_views(self, views, self.micro_batch)
        loss, rank = info_nce(embeddings, self.temperature, decoupled=self.decoupled)
        return {"loss": loss, "top1": top_k(rank, 1), "top5": top_k(rank, 5)}
