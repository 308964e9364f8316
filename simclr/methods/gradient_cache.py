"""Batches larger than memory: embeddings of the whole batch first, then gradients in parts (Gao et al. 2021).

A contrastive loss couples all images of a batch, so its gradient cannot be added up from the losses of smaller
batches. What can be done in parts is the network: it embeds every part without keeping what backward needs; the loss of
all embeddings says what gradient each of them gets; then backward takes one part after another, each embedded a second
time. That is a third more work, and memory for the activations of one part only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simclr.models.buffers import remember_buffers


def embed_in_parts(network: nn.Module, embed: Callable[[Tensor], Tensor], views: Tensor, images: int) -> Tensor:
    """embed(views), at most that many `images` at a time; loss and gradients of the result are those of the whole.

    network: the module whose weights `embed` uses. views: [V, N, ...]; embed gives [V, N, D] and takes any N.

    Exact for a network that treats every image by itself. Batch norm does not: in training it sees the statistics of
    one part (all V views of its images) instead of the whole batch, as it would on one of many GPUs.
    """
    if images >= views.shape[1]:
        return embed(views)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _buffers_kept(network)

    parts = [checkpoint(embed, part, use_reentrant=False, context_fn=contexts) for part in views.split(images, dim=1)]
    return torch.cat(parts, dim=1)


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    """Undo what happens to buffers meanwhile: batch norm's running statistics count every part once, not twice."""
    put_back = remember_buffers(network)
    try:
        yield
    finally:
        put_back()
