"""Contrastive losses: pure functions of embeddings."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simclr.checks import is_finite
from simclr.system import distributed

# Logits that are held at once: 16 MB in float32. Up to a batch of 1,024 that is all of them; beyond, larger chunks are
# no faster (benchmarks.contrastive).
CHUNK_LOGITS = 2**22


class InfoNCE(NamedTuple):
    """loss: scalar, in nats. rank: int64 [V·N·(V-1)], how many candidates beat (or tie with) each positive."""

    loss: Tensor
    rank: Tensor


def info_nce(
    embeddings: Tensor, temperature: float, chunk_logits: int = CHUNK_LOGITS, decoupled: bool = False
) -> InfoNCE:
    """Normalised temperature-scaled cross-entropy over all pairs of views (NT-Xent; Chen et al. 2020, eq. 1).

    embeddings: [V, N, D], V views of N images, any scale. They are compared in float32, in float64 if they are that.
    temperature: > 0, divides cosine similarities; 0.07 gives logits within ±14.3.
    decoupled: leave the views of the anchor's own image out of the denominator (DCL; Yeh et al. 2022, eq. 6), which
    takes two images or more. The loss may then be negative.
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
    unit, candidates, itself, positives, rows = _compared(embeddings, temperature, chunk_logits)
    # exp(1/0.07) is 1.6 million: half precision has neither the range nor the digits for these logits.
    with torch.autocast(embeddings.device.type, enabled=False):
        parts = zip(unit.split(rows), itself.split(rows), positives.split(rows), strict=True)
        loss, rank = in_parts(partial(_anchors, decoupled=decoupled), list(parts), candidates, temperature)
    return InfoNCE(loss / positives.numel(), rank)


def sup_con(embeddings: Tensor, labels: Tensor, temperature: float, chunk_logits: int = CHUNK_LOGITS) -> InfoNCE:
    """Supervised contrastive loss, L_out (Khosla et al. 2020, eq. 2): all views of an anchor's class are its positives.

    embeddings: [V, N, D], labels: int64 [N]; the rest, several processes included, as in `info_nce`, whose loss this is
    where all labels differ and V is 2. Returns the mean over anchors, and for each, int64 [V·N], how many candidates of
    other classes beat (or tie with) the most similar of its own.
    Raises ValueError as `info_nce` does.
    """
    unit, candidates, itself, _, rows = _compared(embeddings, temperature, chunk_logits)
    with torch.autocast(embeddings.device.type, enabled=False):
        views, own = len(embeddings), labels.repeat(len(embeddings))
        everyone = distributed.gather(labels).flatten().repeat(views)
        parts = zip(unit.split(rows), itself.split(rows), own.split(rows), strict=True)
        loss, rank = in_parts(partial(_of_class, classes=everyone), list(parts), candidates, temperature)
    return InfoNCE(loss / len(unit), rank)


def _compared(embeddings: Tensor, temperature: float, chunk_logits: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The anchors [A, D] and the candidates of all processes [M, D], of length 1, and how many anchors to take at once.

    Between these two: where among the candidates each anchor is itself [A], and the other views of its image [A, V-1].
    """
    if embeddings.ndim != 3 or embeddings.shape[0] < 2:
        raise ValueError(f"InfoNCE needs embeddings [views >= 2, images, dimension], got {list(embeddings.shape)}")
    check_temperature(temperature)
    views, images, _ = embeddings.shape
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(wide(embeddings), dim=-1)
        everyone = distributed.gather(unit).transpose(0, 1).flatten(1, 2)  # [V, images of all processes, D]
        total = everyone.shape[1]
        candidates = everyone.flatten(0, 1)
        # Row by row: where among the candidates an anchor is itself. The k-th other view of its image lies k·total
        # rows further on, wrapping round.
        image = distributed.rank() * images + torch.arange(images, device=unit.device)
        itself = (torch.arange(views, device=unit.device)[:, None] * total + image).flatten()
        others = torch.arange(1, views, device=unit.device) * total
        positives = (itself[:, None] + others) % len(candidates)
    return unit.flatten(0, 1), candidates, itself, positives, max(1, chunk_logits // len(candidates))


def in_parts(
    compare: Callable[..., tuple[Tensor, Tensor]],
    parts: Sequence[tuple[Tensor, ...]],
    candidates: Tensor,
    temperature: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """The sum of the losses and all ranks of compare(*part, candidates, temperature), whose logits are not kept."""
    if len(parts) == 1:
        return compare(*parts[0], candidates, temperature)
    # There are no random numbers in it whose state would have to be kept.
    again = partial(checkpoint, compare, use_reentrant=False, preserve_rng_state=False)
    losses, ranks = zip(*(again(*part, candidates, temperature) for part in parts), strict=True)
    return torch.stack(losses).sum(), torch.cat(ranks)


def _anchors(
    anchors: Tensor, itself: Tensor, positives: Tensor, candidates: Tensor, temperature: float, decoupled: bool
) -> tuple[Tensor, Tensor]:
    """The sum of the losses of some anchors [A, D], and the ranks of their positives, int64 [A·(V-1)].

    itself [A] and positives [A, V-1] index the candidates [M, D]; all have length 1.
    """
    logits = anchors @ candidates.T / temperature
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    positive = logits.gather(1, positives)
    against = logits.scatter(1, positives, float("-inf")) if decoupled else logits
    loss = (against.logsumexp(dim=1, keepdim=True) - positive).sum()
    with torch.no_grad():
        # The comparison counts the positive itself once.
        rank = (logits[:, None, :] >= positive[:, :, None]).sum(dim=-1).flatten() - 1
    return loss, rank


def _of_class(
    anchors: Tensor, itself: Tensor, labels: Tensor, candidates: Tensor, temperature: float, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for the supervised loss, int64 [A] ranks. labels: of the anchors [A]; classes: of the candidates [M]."""
    logits = anchors @ candidates.T / temperature
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    alike = (labels[:, None] == classes).scatter(1, itself[:, None], False)
    mean = torch.where(alike, logits, 0).sum(dim=1) / alike.sum(dim=1)
    loss = (logits.logsumexp(dim=1) - mean).sum()
    with torch.no_grad():
        best = logits.masked_fill(~alike, float("-inf")).amax(dim=1, keepdim=True)
        rank = ((logits >= best) & ~alike).sum(dim=1)
    return loss, rank


def top_k(rank: Tensor, k: int) -> Tensor:
    """Share of anchors whose positive is among the k most similar candidates, in per cent (scalar, float32)."""
    return (rank < k).float().mean() * 100


def spread(embeddings: Tensor) -> Tensor:
    """Standard deviation of embeddings [N, D] of length 1, times √D: 1 for uniform directions, 0 where all are one."""
    unit = F.normalize(wide(embeddings.detach()), dim=1)
    return unit.std(dim=0).mean() * unit.shape[1] ** 0.5


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is that: half precision has not the digits for what is summed."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_temperature(temperature: float) -> None:
    """Raise ValueError for a temperature that logits cannot be divided by."""
    if not is_finite(temperature) or not temperature > 0:
        raise ValueError(f"temperature={temperature} is not usable; it is a number greater than 0 (recipe: 0.07)")
