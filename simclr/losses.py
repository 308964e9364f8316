"""Contrastive losses: pure functions of embeddings."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simclr.system import distributed

# Logits that are held at once: 16 MB in float32. Up to a batch of 1,024 that is all of them; beyond, larger chunks are
# no faster (benchmarks.contrastive).
CHUNK_LOGITS = 2**22


class InfoNCE(NamedTuple):
    """loss: scalar, in nats. rank: int64 [V·N·(V-1)], how many candidates beat (or tie with) each positive."""

    loss: Tensor
    rank: Tensor


def info_nce(embeddings: Tensor, temperature: float, chunk_logits: int = CHUNK_LOGITS) -> InfoNCE:
    """Normalised temperature-scaled cross-entropy over all pairs of views (NT-Xent; Chen et al. 2020, eq. 1).

    embeddings: [V, N, D], V views of N images, any scale. They are compared in float32, in float64 if they are that.
    temperature: > 0, divides cosine similarities; 0.07 gives logits within ±14.3.
    chunk_logits: about how many logits to hold in memory at once. Where all are more, anchors are taken in parts whose
    logits are computed a second time for the gradient, and memory grows with V·N instead of its square.

    The candidates of an anchor are the V·N - 1 other views of the batch, itself excluded. With two views this is the
    paper's loss; with more, the mean over all ordered pairs of views of one image. Identical embeddings give
    log(V·N - 1). The rank is 0 where the positive is strictly the most similar candidate; ties count against it, so
    that a collapsed encoder scores 0 % and not 100 %.

    Of several processes, each with N images, every one takes the mean over its own anchors, against the views of all:
    their mean, and the mean of their gradients, are those of one process with the whole batch.

    Raises ValueError for fewer than two views or a temperature that is not positive.
    """
    if embeddings.ndim != 3 or embeddings.shape[0] < 2:
        raise ValueError(f"InfoNCE needs embeddings [views >= 2, images, dimension], got {list(embeddings.shape)}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature} is not usable; it is a number greater than 0 (recipe: 0.07)")
    views, images, _ = embeddings.shape
    # exp(1/0.07) is 1.6 million: half precision has neither the range nor the digits for these logits.
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)
        everyone = distributed.gather(unit).transpose(0, 1).flatten(1, 2)  # [V, images of all processes, D]
        total = everyone.shape[1]
        candidates = everyone.flatten(0, 1)
        # Row by row: where among the candidates an anchor is itself. The k-th other view of its image lies k·total
        # rows further on, wrapping round.
        image = distributed.rank() * images + torch.arange(images, device=unit.device)
        itself = (torch.arange(views, device=unit.device)[:, None] * total + image).flatten()
        others = torch.arange(1, views, device=unit.device) * total
        positives = (itself[:, None] + others) % len(candidates)

        rows = max(1, chunk_logits // len(candidates))
        parts = list(zip(unit.flatten(0, 1).split(rows), itself.split(rows), positives.split(rows), strict=True))
        if len(parts) == 1:
            loss, rank = _anchors(*parts[0], candidates, temperature)
        else:
            # There are no random numbers in it whose state would have to be kept.
            again = partial(checkpoint, _anchors, use_reentrant=False, preserve_rng_state=False)
            losses, ranks = zip(*(again(*part, candidates, temperature) for part in parts), strict=True)
            loss, rank = torch.stack(losses).sum(), torch.cat(ranks)
    return InfoNCE(loss / positives.numel(), rank)


def _anchors(
    anchors: Tensor, itself: Tensor, positives: Tensor, candidates: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The sum of the losses of some anchors [A, D], and the ranks of their positives, int64 [A·(V-1)].

    itself [A] and positives [A, V-1] index the candidates [M, D]; all have length 1.
    """
    logits = anchors @ candidates.T / temperature
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    positive = logits.gather(1, positives)
    loss = (logits.logsumexp(dim=1, keepdim=True) - positive).sum()
    with torch.no_grad():
        # The comparison counts the positive itself once.
        rank = (logits[:, None, :] >= positive[:, :, None]).sum(dim=-1).flatten() - 1
    return loss, rank


def top_k(rank: Tensor, k: int) -> Tensor:
    """Share of anchors whose positive is among the k most similar candidates, in per cent (scalar, float32)."""
    return (rank < k).float().mean() * 100
