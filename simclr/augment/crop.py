"""Crop, resize and flip a batch, each image by its own draws: the first pass of the batched engine over the pixels."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from simclr.augment.recipe import Draws


def triangle(distance: Tensor) -> Tensor:
    """Weights of pixels at that distance, in pixels: linear from 1 to 0 at 1."""
    return (1 - distance).clamp_(min=0)


def keys(distance: Tensor) -> Tensor:
    """Keys' cubic convolution (1981, eq. 4) with a = -1/2, as PIL's BICUBIC: 1 at 0, 0 at 1 and from 2 on."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))


FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {"bilinear": (triangle, 1), "bicubic": (keys, 2)}


class Taps(NamedTuple):
    """Which pixels of the image make each pixel along one side of the view, T of them, for B images."""

    source: Tensor  # int64 [T, B, size]
    weight: Tensor  # float32 [T, B, size]


def crop_taps(draws: Draws, height: int, width: int, size: int, interpolation: str) -> tuple[Taps, Taps]:
    """How rows, then columns, of images of height × width become those of the views."""
    rows = _taps(draws.top, draws.height, height, size, interpolation)
    return rows, _taps(draws.left, draws.width, width, size, interpolation, mirrored=draws.flip)


def crop(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """The views of images [B, H, W, 3], float32 [B, 3, size, size] in [0, 1], by taps on their device.

    Resizing is linear in rows and in columns: each row of the view is the weighted sum of a few rows of the image
    (two, bicubic four, unless the crop shrinks), then each column of a few columns; the flip only reverses the order
    of these.
    """
    batch, height, width, channels = images.shape
    size = rows.source.shape[-1]
    planes = images.permute(0, 3, 1, 2).reshape(-1, width)  # a line for each row of each channel
    first_line = torch.arange(0, len(planes), height, device=images.device).view(batch, channels, 1)
    view: Tensor | None = None
    for source, weight in zip(*rows, strict=True):
        lines = (first_line + source[:, None]).flatten()
        row = planes.index_select(0, lines).view(batch, channels, size, width).float()
        view = _add_weighted(view, row, weight[:, None, :, None])
    assert view is not None
    shorter, view = view, None
    for source, weight in zip(*columns, strict=True):
        column = shorter.gather(3, source[:, None, None].expand(batch, channels, size, size))
        view = _add_weighted(view, column, weight[:, None, None])
    assert view is not None
    return (view.div_(255) if images.dtype == torch.uint8 else view).clamp_(0, 1)


def _add_weighted(total: Tensor | None, term: Tensor, weight: Tensor) -> Tensor:
    return term.mul_(weight) if total is None else total.addcmul_(term, weight)


def _taps(
    start: Tensor, length: Tensor, source: int, target: int, interpolation: str, mirrored: Tensor | None = None
) -> Taps:
    """Which source pixels make each target pixel of the crop [start, +length).

    The anti-aliased filters of PIL and torchvision, which reach the further the more a crop shrinks; when enlarging,
    plain interpolation of two taps, or four.
    start, length (int64) and mirrored (bool), each [B], are on the CPU, where the number of taps costs no wait.
    """
    scale = (length / target)[:, None]
    (weigh, radius), stretch = FILTERS[interpolation], scale.clamp(min=1)
    support = radius * stretch
    target_pixel = torch.arange(target)
    if mirrored is not None:
        target_pixel = torch.where(mirrored[:, None], target_pixel.flip(0), target_pixel)
    start, length = start[:, None], length[:, None]
    centre = start + (target_pixel + 0.5) * scale
    first = (centre - support - 0.5).floor().long() + 1
    pixels, weights = [], []
    for tap in range(math.ceil(2 * float(support.max()))):
        pixel = first + tap
        weight = weigh((pixel + 0.5 - centre).abs() / stretch)
        weight *= (pixel >= start) & (pixel < start + length)
        pixels.append(pixel.clamp_(0, source - 1))
        weights.append(weight)
    weight = torch.stack(weights)
    return Taps(torch.stack(pixels), weight / weight.sum(dim=0))
