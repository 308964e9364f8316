"""SimCLR: a simple framework for contrastive learning of visual representations (Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from simclr.augment.augmentation import Augmentation
from simclr.checks import is_finite, is_whole
from simclr.data.batch import Views
from simclr.losses import info_nce, top_k
from simclr.methods.base import Method, Scalar
from simclr.methods.gradient_cache import embed_in_parts


class SimCLR(Method):
    """The views of an image attract each other and repel all other views of the batch (algorithm 1 of the paper).

    temperature: of InfoNCE, greater than 0.
    micro_batch: images that the network sees at a time, in each process; None for all. A smaller number lets a batch
    of any size fit into memory, for a third more work (gradient_cache.py; batch norm then sees that many).
    The rest is the base's. All views of one size go through the network together, and share batch norm's statistics.
    """

    scalars: ClassVar = {
        "loss": Scalar("InfoNCE loss", higher_is_better=False, short="loss"),
        "top1": Scalar("contrastive top-1", "%", True, "top-1"),
        "top5": Scalar("contrastive top-5", "%", True, "top-5"),
    }

    def __init__(self, temperature: float, micro_batch: int | None = None, **base: Any) -> None:
        super().__init__(**base)
        if not is_finite(temperature) or not temperature > 0:
            raise ValueError(f"temperature={temperature} is not usable; it is a number greater than 0 (recipe: 0.07)")
        if micro_batch is not None and (not is_whole(micro_batch) or micro_batch < 1):
            raise ValueError(f"micro_batch={micro_batch} is not usable; write a whole number, 1 or more, or null")
        self.temperature, self.micro_batch = temperature, micro_batch

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) < 2:
            raise ValueError("contrasting takes two views of an image or more; use augmentation.views=2")

    def embed(self, views: Tensor) -> Tensor:
        """Embeddings [V, N, D] of views [V, N, 3, H, W]."""
        # Convolutions of this depth run up to twice as fast with the channels innermost, on a CPU as on a GPU.
        images = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.head(self.backbone(images)).unflatten(0, views.shape[:2])

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        embedded: dict[int, Tensor] = {}
        for size in {images.shape[-1] for images in views.images}:
            places = [place for place, images in enumerate(views.images) if images.shape[-1] == size]
            alike = torch.stack([views.images[place] for place in places])
            parts = embed_in_parts(self, self.embed, alike, self.micro_batch or alike.shape[1])
            embedded |= dict(zip(places, parts, strict=True))
        embeddings = torch.stack([embedded[place] for place in range(len(embedded))])
        loss, rank = info_nce(embeddings, self.temperature)
        return {"loss": loss, "top1": top_k(rank, 1), "top5": top_k(rank, 5)}
