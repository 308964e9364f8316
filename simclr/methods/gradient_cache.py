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

from simclr.checks import is_whole
from simclr.data.batch import Views
from simclr.methods.base import Method
from simclr.models.buffers import remember_buffers


def embed_views(
    method: Method, views: Views, micro_batch: int | None, project: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Embeddings [V, N, D] of all views; those of one size go together, and share batch norm's statistics.

    micro_batch: images that the network sees at a time, as in `embed_in_parts`; None for all. project: embeddings
    [B, D] of images, with weights of the method alone; None for `Method.project`.
    """

    def embed(alike: Tensor) -> Tensor:
        return (project or method.project)(alike.flatten(0, 1)).unflatten(0, alike.shape[:2])

    embedded: dict[int, Tensor] = {}
    for size in {images.shape[-1] for images in views.images}:
        places = [place for place, images in enumerate(views.images) if images.shape[-1] == size]
        alike = torch.stack([views.images[place] for place in places])
        parts = embed_in_parts(method, embed, alike, micro_batch or alike.shape[1])
        embedded |= dict(zip(places, parts, strict=True))
    return torch.stack([embedded[place] for place in range(len(embedded))])


def check_micro_batch(micro_batch: int | None) -> None:
    """Raise ValueError for what is no number of images."""
    if micro_batch is not None and (not is_whole(micro_batch) or micro_batch < 1):
        raise ValueError(f"micro_batch={micro_batch} is not usable; write a whole number, 1 or more, or null")


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
