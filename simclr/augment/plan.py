"""What a view's draws ask of the batched engine, worked out on the CPU, and how it travels to where images are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simclr.augment.crop import Taps, crop_taps
from simclr.augment.recipe import Draws, Recipe

ALIGNMENT = 16  # bytes; more than any number's, so that each tensor of a packed buffer begins where it may


class Turn(NamedTuple):
    """One of the four turns of colour jitter: a blend of every image, and a hue's shift for some."""

    factor: Tensor  # float32 [B]; 1 leaves the image as it is
    to_mean: Tensor  # float32 [B], 1 where the blend is with the image's mean gray
    to_gray: Tensor  # float32 [B], 1 where it is with its own grayscale
    hued: Tensor  # int64 [N], which images' hue is shifted
    shift: Tensor  # float32 [N], in turns of the colour circle


class Plan(NamedTuple):
    """One view of B images. Where an operation is for some of them, their indices are listed, int64."""

    rows: Taps
    columns: Taps
    solarized: Tensor
    turns: tuple[Turn, ...]
    grayed: Tensor
    blurred: Tensor
    lines: Tensor  # float32 [N, kernel], a line of the Gaussian kernel of each image that is blurred
    normal: tuple[Tensor, ...]  # mean and standard deviation of the channels, [1, 3, 1, 1]; nothing: leave them

    @property
    def images(self) -> int:
        return len(self.turns[0].factor)


def make_plan(draws: Draws, recipe: Recipe, height: int, width: int) -> Plan:
    """The plan for images of height × width, of which `draws` holds a view each."""
    blurred = indices(draws.blur)
    return Plan(
        *crop_taps(draws, height, width, recipe.size, recipe.interpolation),
        solarized=indices(draws.solarize),
        turns=jitter_turns(draws),
        grayed=indices(draws.grayscale),
        blurred=blurred,
        lines=gaussian_lines(draws.sigma[blurred], recipe.blur_kernel),
        normal=channel_values(recipe.mean, recipe.std),
    )


def indices(chosen: Tensor) -> Tensor:
    """Of which images `chosen`, bool [B], is true. Counted on the CPU, it costs a GPU no wait."""
    return chosen.nonzero().squeeze(1)


def jitter_turns(draws: Draws) -> tuple[Turn, ...]:
    """Colour jitter as four turns, in each image's own order.

    Three of the adjustments are blends, so whichever of the three is an image's turn, one blend serves all images at
    once; a factor of 1 leaves the others as they are.
    """
    turns = []
    for turn in draws.jitter_order.unbind(1):
        brightness, contrast, saturation, hue = (draws.jitter & (turn == which) for which in range(4))
        factor = torch.ones(len(turn))
        blends = ((brightness, draws.brightness), (contrast, draws.contrast), (saturation, draws.saturation))
        for chosen, drawn in blends:
            factor = torch.where(chosen, drawn, factor)
        hued = indices(hue)
        turns.append(Turn(factor, contrast.float(), saturation.float(), hued, draws.hue[hued]))
    return tuple(turns)


def channel_values(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, ...]:
    """What images are normalised by, each [1, 3, 1, 1]; nothing for None."""
    values = () if mean is None or std is None else (mean, std)
    return tuple(torch.tensor(value).view(1, -1, 1, 1) for value in values)


def gaussian_lines(sigma: Tensor, kernel: int) -> Tensor:
    """Gaussians of sigma pixels, [N], at the whole pixels of a kernel: [N, kernel], each of sum 1."""
    half = kernel // 2
    line = torch.exp(-0.5 * (torch.arange(-half, half + 1) / sigma[:, None]) ** 2)
    return line / line.sum(dim=1, keepdim=True)


class Parcel:
    """Nested lists and tuples of CPU tensors, which a GPU gets as parts of one copy.

    pinned: in memory from which it fetches them without waiting. `to` is what Lightning calls with a batch's device.
    """

    def __init__(self, content: list | tuple, pinned: bool = False) -> None:
        self.content = content
        self.buffer = packed(content).pin_memory() if pinned else None

    def to(self, device: torch.device) -> Any:
        """The content on that device."""
        if device.type == "cpu":
            return self.content
        buffer = packed(self.content) if self.buffer is None else self.buffer
        # On Apple's GPUs, a copy that is not waited for may read what has been freed meanwhile.
        return unpacked(self.content, buffer.to(device, non_blocking=device.type == "cuda"))


def _leaves(nested: Tensor | list | tuple) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    else:
        for part in nested:
            yield from _leaves(part)


def _room(tensor: Tensor) -> int:
    """Bytes that a tensor takes up in a buffer."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def packed(content: list | tuple) -> Tensor:
    """All tensors of the content, one behind the other, as bytes."""
    leaves = list(_leaves(content))
    buffer = torch.empty(sum(map(_room, leaves)), dtype=torch.uint8)
    start = 0
    for leaf in leaves:
        buffer[start : start + leaf.nbytes].view(leaf.dtype).copy_(leaf.flatten())
        start += _room(leaf)
    return buffer


def unpacked(content: list | tuple, buffer: Tensor) -> Any:
    """The content again, its tensors parts of the buffer."""
    start = 0

    def rebuilt(nested: Any) -> Any:
        nonlocal start
        if isinstance(nested, Tensor):
            part = buffer[start : start + nested.nbytes].view(nested.dtype).view(nested.shape)
            start += _room(nested)
            return part
        parts = [rebuilt(part) for part in nested]
        return type(nested)(*parts) if hasattr(nested, "_fields") else type(nested)(parts)

    return rebuilt(content)
