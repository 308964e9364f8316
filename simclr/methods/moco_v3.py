"""MoCo v3: an empirical study of training self-supervised vision transformers (Chen, Xie & He 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.augment.augmentation import Augmentation
from simclr.data.batch import Views
from simclr.losses import check_temperature, top_k, wide
from simclr.methods.base import MakeHead, Scalar, make_predictor
from simclr.methods.momentum import MomentumMethod
from simclr.system import distributed


def ctr(queries: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """ctr(q, k) = 2τ · cross-entropy of q·k/τ against the own key (Chen, Xie & He 2021, algorithm 1), in float32.

    queries, keys: [N, D], any scale; the keys get no gradient. Of several processes, the keys of all are candidates.
    Returns the scalar loss, and the rank of each query's own key among the candidates, int64 [N].
    """
    with torch.autocast(queries.device.type, enabled=False):
        q = F.normalize(wide(queries), dim=1)
        k = distributed.gather(F.normalize(wide(keys.detach()), dim=1)).flatten(0, 1)
        logits = q @ k.T / temperature
        own = distributed.rank() * len(q) + torch.arange(len(q), device=q.device)
        loss = 2 * temperature * F.cross_entropy(logits, own)
        rank = (logits >= logits.gather(1, own[:, None])).sum(dim=1) - 1
        return loss, rank


class MoCoV3(MomentumMethod):
    """Each view's prediction finds the target's key of the other view among the keys of the batch; there is no queue.

    temperature: of the cross-entropy, greater than 0. predictor: factory of the head that the online network alone has;
    None for none. momentum: of the target. The rest is the base's. Needs two views.
    Each view goes through the networks by itself: batch norm's statistics are of one view.
    """

    scalars: ClassVar = {
        "loss": Scalar("MoCo v3 loss", higher_is_better=False, short="loss"),
        "top1": Scalar("contrastive top-1", "%", True, "top-1"),
        "top5": Scalar("contrastive top-5", "%", True, "top-5"),
    }

    def __init__(self, temperature: float, predictor: MakeHead | None, momentum: float, **base: Any) -> None:
        super().__init__(momentum=momentum, **base)
        check_temperature(temperature)
        self.predictor = make_predictor(predictor, self.head.out_features)
        self.temperature = temperature

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) != 2:
            raise ValueError("each view's query finds the other's key; use augmentation.views=2")

    def parts(self) -> Mapping[str, nn.Module]:
        return {**super().parts(), "predictor": self.predictor}

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        first, second = views.images
        keys = [self.target(first), self.target(second)]
        queries = [self.predictor(self.project(first)), self.predictor(self.project(second))]
        (one, one_rank), (other, other_rank) = (
            ctr(query, key, self.temperature) for query, key in zip(queries, reversed(keys), strict=True)
        )
        rank = torch.cat([one_rank, other_rank])
        return {"loss": one + other, "top1": top_k(rank, 1), "top5": top_k(rank, 5)}
