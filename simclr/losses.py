"""Contrastive losses: pure functions of embeddings."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.errors import InputError


class InfoNCE(NamedTuple):
    """loss: scalar, float32, in nats. rank: int64 [V·N·(V-1)], how many candidates beat (or tie with) each positive."""

    loss: Tensor
    rank: Tensor


def info_nce(embeddings: Tensor, temperature: float) -> InfoNCE:
    """Normalised temperature-scaled cross-entropy over all pairs of views (NT-Xent; Chen et al. 2020, eq. 1).

    embeddings: [V, N, D], V views of N pictures, any scale and dtype (they are normalised here, in float32).
    temperature: > 0, divides cosine similarities; 0.07 gives logits within ±14.3.

    The candidates of an anchor are the V·N - 1 other views of the batch, itself excluded. With two views this is the
    paper's loss; with more, the mean over all ordered pairs of views of one picture. Identical embeddings give
    log(V·N - 1). The rank is 0 where the positive is strictly the most similar candidate; ties count against it, so
    that a collapsed encoder scores 0 % and not 100 %.

    Raises InputError for fewer than two views or a temperature that is not positive.
    """
    if embeddings.ndim != 3 or embeddings.shape[0] < 2:
        raise InputError(f"InfoNCE needs embeddings [views >= 2, pictures, dimension], got {list(embeddings.shape)}")
    if not temperature > 0:
        raise InputError(f"temperature must be greater than 0, got {temperature}; the recipe uses 0.07")
    views, pictures, _ = embeddings.shape
    # exp(1/0.07) is 1.6 million: half precision has neither the range nor the digits for these logits.
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.float(), dim=-1).flatten(0, 1)
        logits = unit @ unit.T / temperature
        logits.fill_diagonal_(float("-inf"))
        anchor = torch.arange(views * pictures, device=logits.device)
        # The k-th other view of an anchor lies k·N rows further on, wrapping round.
        others = torch.arange(1, views, device=logits.device) * pictures
        positive = logits.gather(1, (anchor[:, None] + others) % (views * pictures))
        loss = (logits.logsumexp(dim=1, keepdim=True) - positive).mean()
        with torch.no_grad():
            # The comparison counts the positive itself once.
            rank = (logits[:, None, :] >= positive[:, :, None]).sum(dim=-1).flatten() - 1
    return InfoNCE(loss, rank)


def top_k(rank: Tensor, k: int) -> Tensor:
    """Share of anchors whose positive is among the k most similar candidates, in per cent (scalar, float32)."""
    return (rank < k).float().mean() * 100
