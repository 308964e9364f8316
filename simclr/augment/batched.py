"""The batched engine: whole batches on their own device, every picture with its own draw.

Operations take pictures [B, 3, H, W], float32 in [0, 1], and one parameter a picture, [B]; they return the same shape.
Each agrees with torchvision's operation of the same name at the same parameter.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.augment.recipe import Draws, Recipe

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision and PIL use it


def augment(pictures: Tensor, draws: Draws, recipe: Recipe) -> Tensor:
    """One augmented view of every picture.

    pictures: uint8 [B, H, W, 3] on any device. Returns float32 [B, 3, size, size] in [0, 1] on that device.
    """
    view = resized_crop(pictures, draws, recipe.size)
    view = _apply(partial(solarize, threshold=recipe.solarize_threshold), view, draws.solarize)
    view = color_jitter(view, draws)
    view = _apply(grayscale, view, draws.grayscale)
    return gaussian_blur(view, draws.sigma.to(view.device), recipe.blur_kernel)


def _apply(operation: Callable[..., Tensor], pictures: Tensor, chosen: Tensor, *parameters: Tensor) -> Tensor:
    """Replace the pictures marked in `chosen` (bool [B]) by operation(pictures, *parameters) of those alone.

    chosen and parameters, each [B], are on the CPU: picking the subset there spares a GPU the wait for its size.
    """
    index = chosen.nonzero().squeeze(1)
    if len(index) == 0:
        return pictures
    device = pictures.device
    on_device = index.to(device, non_blocking=True)
    changed = operation(
        pictures[on_device], *(parameter[index].to(device, non_blocking=True) for parameter in parameters)
    )
    return pictures.index_copy(0, on_device, changed)


def resized_crop(pictures: Tensor, draws: Draws, size: int) -> Tensor:
    """Crop, resize (bilinear, anti-aliased) to size × size, and flip: uint8 [B, H, W, 3] to float [B, 3, size, size].

    Resizing is linear in rows and in columns, so each picture costs two matrix products, and the flip only reverses
    the order of the column weights.
    """
    batch, height, width, channels = pictures.shape
    device = pictures.device
    rows = _resize_weights(draws.top.to(device), draws.height.to(device), height, size)
    columns = _resize_weights(draws.left.to(device), draws.width.to(device), width, size)
    columns = torch.where(draws.flip.to(device)[:, None, None], columns.flip(1), columns)
    x = pictures.float().div_(255).flatten(2)  # [B, H, W·3]
    x = torch.bmm(rows, x).view(batch, size, width, channels)
    x = x.transpose(1, 2).reshape(batch, width, size * channels)
    x = torch.bmm(columns, x).view(batch, size, size, channels)  # [B, x, y, 3]
    return x.permute(0, 3, 2, 1).contiguous().clamp_(0, 1)


def _resize_weights(start: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """[B, target, source]: row t holds the share of each source pixel in target pixel t of the crop [start, +length).

    The anti-aliased triangle filter of PIL and torchvision; when enlarging it is plain bilinear interpolation.
    """
    scale = length.float()[:, None, None] / target
    support = scale.clamp(min=1)
    target_pixel = torch.arange(target, device=start.device)[None, :, None]
    source_pixel = torch.arange(source, device=start.device)[None, None, :]
    centre = start[:, None, None] + (target_pixel + 0.5) * scale
    weights = (1 - (source_pixel + 0.5 - centre).abs() / support).clamp(min=0)
    inside = (source_pixel >= start[:, None, None]) & (source_pixel < (start + length)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(dim=2, keepdim=True)


def solarize(pictures: Tensor, threshold: int) -> Tensor:
    """Invert the values at or above `threshold` (of 255)."""
    return torch.where(pictures >= threshold / 255, 1 - pictures, pictures)


def color_jitter(pictures: Tensor, draws: Draws) -> Tensor:
    """The four adjustments, in each picture's own order, for the pictures that draws.jitter marks."""
    adjustments = (
        (adjust_brightness, draws.brightness),
        (adjust_contrast, draws.contrast),
        (adjust_saturation, draws.saturation),
        (adjust_hue, draws.hue),
    )
    for position in range(len(adjustments)):
        for which, (adjust, parameter) in enumerate(adjustments):
            chosen = draws.jitter & (draws.jitter_order[:, position] == which)
            pictures = _apply(adjust, pictures, chosen, parameter)
    return pictures


def _blend(pictures: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    factor = factor[:, None, None, None]
    return (factor * pictures + (1 - factor) * other).clamp_(0, 1)


def _luma(pictures: Tensor) -> Tensor:
    red, green, blue = pictures.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def adjust_brightness(pictures: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(pictures, 0.0, factor)


def adjust_contrast(pictures: Tensor, factor: Tensor) -> Tensor:
    """Blend with the picture's mean gray."""
    return _blend(pictures, _luma(pictures).mean(dim=(2, 3), keepdim=True), factor)


def adjust_saturation(pictures: Tensor, factor: Tensor) -> Tensor:
    """Blend with the picture's own grayscale."""
    return _blend(pictures, _luma(pictures), factor)


def adjust_hue(pictures: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` (in turns); value and saturation stay."""
    red, green, blue = pictures.unbind(1)
    value = pictures.amax(dim=1)
    chroma = value - pictures.amin(dim=1)
    safe = torch.where(chroma == 0, 1, chroma)
    # Hue in sixths of a turn, measured from the sector of the largest channel.
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * shift[:, None, None]
    # Each channel is `value` less the chroma's share at its distance from the hue (Smith 1978, in closed form).
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)


def grayscale(pictures: Tensor) -> Tensor:
    """Gray in all three channels."""
    return _luma(pictures).expand_as(pictures)


def gaussian_blur(pictures: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur with a kernel × kernel Gaussian of sigma pixels, edges reflected: again two matrix products a picture."""
    rows = _blur_weights(sigma, kernel, pictures.shape[2])[:, None]
    columns = _blur_weights(sigma, kernel, pictures.shape[3])[:, None]
    return (rows @ pictures @ columns.mT).clamp_(0, 1)


def _blur_weights(sigma: Tensor, kernel: int, size: int) -> Tensor:
    """[B, size, size]: the blur of one axis, with the reflected edge folded into the matrix."""
    half = kernel // 2
    offset = torch.arange(-half, half + 1, device=sigma.device)
    weight = torch.softmax(-0.5 * (offset / sigma[:, None]) ** 2, dim=1)  # [B, kernel]
    pixel = torch.arange(size, device=sigma.device)
    source = (pixel[:, None] + offset).abs()  # reflect at 0 ...
    source = size - 1 - (size - 1 - source).abs()  # ... and at the far edge
    return torch.einsum("bk,pks->bps", weight, F.one_hot(source, size).float())
