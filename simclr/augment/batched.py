"""The batched engine: whole batches on their own device, every image with its own draw.

Operations take images [B, 3, H, W], float32 in [0, 1], and one parameter an image, [B]; they return the same shape.
Each agrees with torchvision's operation of the same name at the same parameter.

What makes it fast is few passes over the pixels, each of a kind that vectorises: docs/performance.md has the price of
each. Masks are floats for that reason; `torch.where` on a CPU costs forty times as much as a multiplication.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.augment.crop import crop, crop_taps
from simclr.augment.plan import Parcel, Plan, Turn, channel_values, gaussian_lines, jitter_turns, make_plan
from simclr.augment.recipe import Draws, Recipe

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision and PIL use it
CPU_PIXELS = 2**18  # that a CPU works on at a time, so that what one operation wrote the next finds in its cache


def plan(draws: Draws, recipe: Recipe, height: int, width: int, device: torch.device) -> list[Plan]:
    """What `augment` has to know of the draws for images of height × width; one plan for each part that it works on."""
    pixels = max(recipe.size**2, height * width) if recipe.color_first else recipe.size**2
    count = len(draws.flip)
    part = max(1, CPU_PIXELS // pixels) if device.type == "cpu" else count
    parts = zip(*(field.split(part) for field in draws), strict=True)
    return [make_plan(Draws(*own), recipe, height, width) for own in parts]


def augment(images: Tensor, draws: Draws | list[Plan], recipe: Recipe, fused: bool = False) -> Tensor:
    """One augmented view of every image.

    images: uint8 [B, H, W, 3] on any device. draws: or what `plan` has made of them, on that device.
    fused: run the colour operations through torch.compile, where it works.
    Returns float32 [B, 3, size, size] on that device, in [0, 1] or normalised, as the recipe has it.
    """
    if isinstance(draws, Draws):
        _, height, width, _ = images.shape
        plans = Parcel(plan(draws, recipe, height, width, images.device)).to(images.device)
    else:
        plans = draws
    parts = zip(images.split([one.images for one in plans]), plans, strict=True)
    views = [_augment(some, one, recipe, fused) for some, one in parts]
    return views[0] if len(views) == 1 else torch.cat(views)


def _augment(images: Tensor, plan: Plan, recipe: Recipe, fused: bool) -> Tensor:
    if recipe.color_first:
        whole = _recolor(images.permute(0, 3, 1, 2).contiguous().float().div_(255), plan, recipe, fused)
        view = crop(whole.permute(0, 2, 3, 1), plan.rows, plan.columns)
    else:
        view = _recolor(crop(images, plan.rows, plan.columns), plan, recipe, fused)
    if len(plan.blurred) == plan.images:
        view = _blur(view, plan.lines)
    else:
        _apply(_blur, view, plan.blurred, plan.lines)
    return _normalize(view, plan.normal)


def _recolor(view: Tensor, plan: Plan, recipe: Recipe, fused: bool) -> Tensor:
    _apply(partial(solarize, threshold=recipe.solarize_threshold), view, plan.solarized)
    view = _jitter(view, plan.turns, fused)
    _apply(grayscale, view, plan.grayed)
    return view


def _apply(operation: Callable[..., Tensor], images: Tensor, index: Tensor, *parameters: Tensor) -> None:
    """Replace, in place, the images at `index` by operation(images, *parameters) of those alone."""
    if len(index):
        images.index_copy_(0, index, operation(images.index_select(0, index), *parameters))


def resized_crop(images: Tensor, draws: Draws, size: int, interpolation: str = "bilinear") -> Tensor:
    """Crop, resize (anti-aliased) to size × size, and flip: [B, H, W, 3] to float32 [B, 3, size, size] in [0, 1].

    images: uint8, or float32 in [0, 1]. interpolation: bilinear or bicubic.
    """
    _, height, width, _ = images.shape
    return crop(images, *Parcel(crop_taps(draws, height, width, size, interpolation)).to(images.device))


def _broadcast(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]


def normalize(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """Subtract each channel's mean, and divide by its standard deviation, in place; None for both: change nothing."""
    return _normalize(images, Parcel(channel_values(mean, std)).to(images.device))


def _normalize(images: Tensor, values: tuple[Tensor, ...]) -> Tensor:
    return images.sub_(values[0]).div_(values[1]) if values else images


def solarize(images: Tensor, threshold: int) -> Tensor:
    """Invert the values at or above `threshold` (of 255)."""
    inverted = torch.ge(images, threshold / 255, out=torch.empty_like(images))
    return torch.addcmul(images, inverted, 1 - 2 * images)


def color_jitter(images: Tensor, draws: Draws, fused: bool = False) -> Tensor:
    """The four adjustments, in each image's own order, for the images that draws.jitter marks."""
    return _jitter(images, Parcel(jitter_turns(draws)).to(images.device), fused)


def _jitter(images: Tensor, turns: Sequence[Turn], fused: bool) -> Tensor:
    blend, turn_hue = (_fused(_blend), _fused(adjust_hue)) if fused else (_blend, adjust_hue)
    for turn in turns:
        images = blend(images, turn.factor, turn.to_mean, turn.to_gray)
        _apply(turn_hue, images, turn.hued, turn.shift)
    return images


@cache
def _fused(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(operation, dynamic=True)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _blend(images: Tensor, factor: Tensor, to_mean: Tensor | float, to_gray: Tensor | float) -> Tensor:
    """Blend with the image's mean gray (to_mean 1), its own grayscale (to_gray 1) or black (both 0)."""
    gray = _luma(images)
    mean = gray.mean(dim=(1, 2, 3))
    other = torch.addcmul(_broadcast((1 - factor) * to_mean * mean), gray, _broadcast((1 - factor) * to_gray))
    return torch.addcmul(other, images, _broadcast(factor)).clamp_(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(images, factor, to_mean=0, to_gray=0)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean gray."""
    return _blend(images, factor, to_mean=1, to_gray=0)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's own grayscale."""
    return _blend(images, factor, to_mean=0, to_gray=1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` (in turns); value and saturation stay."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = (value - low).mul_(6)  # in sixths of a turn, as hues below are in turns
    scale = chroma.clamp(min=1e-9).reciprocal_()  # a gray has no hue, and any will do
    is_red, is_green = ((channel - value).sign_().add_(1) for channel in (red, green))  # 1 or, where below `value`, 0
    # The hue, measured from the sector of the largest channel, and a turn further on, so that it stays positive.
    hue = (red - green).mul_(scale).add_(4 / 6)
    hue.lerp_((blue - red).mul_(scale).add_(2 / 6), is_green)
    hue.lerp_((green - blue).mul_(scale), is_red)
    hue.add_(1 + shift[:, None, None]).frac_()
    # Each channel loses chroma with its distance from its own hue, from a sixth of a turn to two (Smith 1978, in closed
    # form). Green and blue fall from `value`; red, whose own hue is both 0 and 1, rises from `low` about cyan, at 1/2.
    above, below = value.add_(chroma, alpha=1 / 6), low.sub_(chroma, alpha=1 / 6)
    distances = ((hue - centre).abs_().clamp_(1 / 6, 2 / 6) for centre in (3 / 6, 2 / 6, 4 / 6))
    ends = ((below, 1), (above, -1), (above, -1))
    turned = [end.addcmul(distance, chroma, value=sign) for (end, sign), distance in zip(ends, distances, strict=True)]
    return torch.stack(turned, dim=1)


def grayscale(images: Tensor) -> Tensor:
    """Gray in all three channels."""
    return _luma(images).expand_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur with a kernel × kernel Gaussian of sigma pixels, edges reflected; sigma, [B], is on the CPU."""
    return _blur(images, gaussian_lines(sigma, kernel).to(images.device))


def _blur(images: Tensor, lines: Tensor) -> Tensor:
    """Blur each image with the square of its own line, [B, kernel], edges reflected."""
    batch, channels, height, width = images.shape
    half = lines.shape[1] // 2
    square = lines[:, :, None] * lines[:, None, :]
    # Every channel of every image is a channel, with a kernel of its own, of one image.
    padded = F.pad(images, (half, half, half, half), mode="reflect").flatten(0, 1)[None]
    blurred = F.conv2d(padded, square.repeat_interleave(channels, dim=0)[:, None], groups=batch * channels)
    return blurred.view(batch, channels, height, width).clamp_(0, 1)
