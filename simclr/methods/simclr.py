"""SimCLR: a simple framework for contrastive learning of visual representations (Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simclr.batch import ViewBatch
from simclr.errors import InputError
from simclr.losses import info_nce, top_k
from simclr.methods.base import MakeOptimizer, MakeScheduler, Method
from simclr.models.backbone import Encoder


class SimCLR(Method):
    """Two views of a picture attract each other and repel all other views of the batch (algorithm 1 of the paper).

    head: projects features [B, F] to the embeddings [B, D] that InfoNCE compares at `temperature`.
    """

    def __init__(
        self,
        backbone: Encoder,
        head: nn.Module,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler,
        temperature: float,
    ) -> None:
        super().__init__(backbone, optimizer, scheduler)
        if not isinstance(temperature, int | float) or not temperature > 0:
            raise InputError(f"temperature={temperature} is not usable; it is a number greater than 0 (recipe: 0.07)")
        self.head, self.temperature = head, temperature

    def compute(self, batch: ViewBatch) -> Mapping[str, Tensor]:
        # Convolutions of this depth run up to twice as fast with the channels innermost, on a CPU as on a GPU.
        views = batch.views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        embeddings = self.head(self.backbone(views)).unflatten(0, batch.views.shape[:2])
        loss, rank = info_nce(embeddings, self.temperature)
        return {"loss": loss, "top1": top_k(rank, 1), "top5": top_k(rank, 5)}
