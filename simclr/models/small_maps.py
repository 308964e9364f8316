"""Convolutions on maps of a few pixels, computed as matrix products; the same numbers, to rounding, in less time.

Where an output map has four pixels, a 3×3 convolution spends more than half of its work on the padding around it, and
a CPU's convolution routines are far from their best there. Each output pixel is then one matrix product: the patch of
the input that it sees, times the part of the kernel that does not hang over the edge. docs/performance.md has the
times, and benchmarks.convolutions measures them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.system.precision import cpu_has_bf16_matrix_units


def convolution_by_pixels(images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """conv2d(images, weight, stride=stride, padding=padding), one matrix product for each pixel of the output.

    images: [B, C, H, W]; weight: [O, C, K, K], of the same dtype. Returns [B, O, H', W'], channels innermost.
    """
    height, width = images.shape[2:]
    kernel = weight.shape[2]
    images, weight = images.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)  # channels last
    rows, columns = (_windows(size, kernel, stride, padding) for size in (height, width))
    pixels = [
        _product(images[:, y, x].flatten(1), weight[:, in_kernel_y, in_kernel_x].flatten(1))
        for y, in_kernel_y in rows
        for x, in_kernel_x in columns
    ]
    return torch.stack(pixels, dim=1).unflatten(1, (len(rows), len(columns))).permute(0, 3, 1, 2)


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Pixels along one side of a convolution's output map."""
    return (size + 2 * padding - kernel) // stride + 1


def _windows(size: int, kernel: int, stride: int, padding: int) -> list[tuple[slice, slice]]:
    """For each output pixel along one side: the input pixels that it sees, and which part of the kernel sees them."""
    windows = []
    for start in range(-padding, output_size(size, kernel, stride, padding) * stride - padding, stride):
        first, last = max(start, 0), min(start + kernel, size)
        windows.append((slice(first, last), slice(first - start, last - start)))
    return windows


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right.T: [M, K] and [N, K] to [M, N]."""
    if left.device.type == "cpu" and left.dtype == torch.float32:
        # As a 1×1 convolution of one image of M pixels, which lies in memory just as `left` does: for float32 torch's
        # convolutions come from oneDNN and its matrix products from MKL, which does AMD processors less than justice.
        image = left.T[None, :, :, None]
        return F.conv2d(image, right[:, :, None, None]).squeeze(3).squeeze(0).T
    return left @ right.T


class SmallMapConv2d(nn.Conv2d):
    """A Conv2d, with the same weights under the same name, that takes `convolution_by_pixels` where that is faster.

    Which is faster was measured, and the choice follows from shape, type and device alone: a choice timed anew by every
    process would not repeat, and equal runs would compute different numbers.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.has_matrix_units = cpu_has_bf16_matrix_units()

    @classmethod
    def like(cls, convolution: nn.Conv2d) -> SmallMapConv2d:
        """The same convolution, holding the very same weights."""
        twin = cls(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,
            convolution.stride,
            convolution.padding,
            bias=False,
            device="meta",
        )
        twin.weight = convolution.weight
        return twin

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight
        if torch.is_autocast_enabled(images.device.type):
            dtype = torch.get_autocast_dtype(images.device.type)
            images, weight = images.to(dtype), weight.to(dtype)
        if self.by_pixels_is_faster(images):
            return convolution_by_pixels(images, weight, self.stride[0], int(self.padding[0]))
        return self._conv_forward(images, weight, None)

    def by_pixels_is_faster(self, images: Tensor) -> bool:
        """Whether images of this shape, type and device take `convolution_by_pixels`."""
        if images.device.type != "cpu" or self.kernel_size[0] == 1 or self.in_channels < 128:
            return False
        height, width = (
            output_size(size, self.kernel_size[0], self.stride[0], int(self.padding[0])) for size in images.shape[2:]
        )
        # With AMX, oneDNN's bfloat16 weight gradient runs at a fifth of the matrix product's speed up to 4×4.
        large = images.dtype == torch.bfloat16 and self.in_channels >= 256 and self.has_matrix_units
        return height * width <= (16 if large else 4)


def use_small_maps(network: nn.Module) -> None:
    """Replace, in place, every plain convolution of `network` by its SmallMapConv2d.

    Plain is square, padded with zeros, without bias, groups or dilation, as ResNet's convolutions are.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and _is_plain(child):
                setattr(module, name, SmallMapConv2d.like(child))


def _is_plain(convolution: nn.Conv2d) -> bool:
    square = all(len(set(sides)) == 1 for sides in (convolution.kernel_size, convolution.stride, convolution.padding))
    zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    return square and zeros and convolution.bias is None and convolution.groups == 1 and convolution.dilation == (1, 1)
