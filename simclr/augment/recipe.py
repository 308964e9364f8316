"""What the augmentation is: its parameters, and the random draws that one view of every image of a batch gets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from simclr.checks import MAX_SIZE, MIN_SIZE, is_finite, is_whole

MAX_STRENGTH = 100  # of brightness, contrast and saturation; float32 blends stay finite
INTERPOLATIONS = ("bilinear", "bicubic")
PAIRS = {"crop_scale": (1e-6, 1), "crop_ratio": (0.01, 100), "blur_sigma": (1e-3, 1e3)}  # bounds of [low, high]
CHANNELS = {"mean": (0, 1), "std": (1e-3, 1)}  # bounds of [red, green, blue]
CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop tries as often before it falls back to a centre crop


class Draws(NamedTuple):
    """One view's random choices for N images; every field is a CPU tensor whose first dimension is N.

    Applying draws is deterministic, so an engine can be compared with another at the very same draws.
    """

    top: Tensor  # int64, crop box in source pixels
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor  # bool
    solarize: Tensor  # bool
    jitter: Tensor  # bool
    jitter_order: Tensor  # int64 [N, 4]: which of brightness, contrast, saturation, hue (0-3) comes 1st, 2nd, ...
    brightness: Tensor  # float32 factors, 1 changes nothing
    contrast: Tensor
    saturation: Tensor
    hue: Tensor  # float32 shift in turns of the colour circle, 0 changes nothing
    grayscale: Tensor  # bool
    sigma: Tensor  # float32, blur in pixels of the view
    blur: Tensor  # bool


def check_size(size: object) -> None:
    """Raise ValueError unless images can be `size` pixels wide."""
    if not is_whole(size) or not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size={size} is not usable: views are {MIN_SIZE} to {MAX_SIZE} pixels wide")


def check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise ValueError unless images can be normalised by `mean` and `std`, or both are None."""
    for (name, (low, high)), value in zip(CHANNELS.items(), (mean, std), strict=True):
        listed = isinstance(value, list | tuple) and len(value) == 3 and all(map(is_finite, value))
        if value is not None and not (listed and all(low <= number <= high for number in value)):
            rule = f"write three numbers from {low:g} to {high:g}, of red, green and blue, or null"
            raise ValueError(f"{name}={value} is not usable: {rule}")
    if (mean is None) != (std is None):
        one = "mean" if mean is None else "std"
        raise ValueError(f"{one}=None is not usable: give mean and std, or neither")


@dataclass(frozen=True)
class Recipe:
    """SimCLR's augmentation (Chen et al. 2020, appendix A), optionally with RandomSolarize (BYOL, Grill et al. 2020).

    In this order: random resized crop to `size` pixels, horizontal flip, solarise (invert the values at or above
    `solarize_threshold`, of 255), colour jitter (the four adjustments in random order), grayscale, Gaussian blur,
    float in [0, 1]. Parameters mean what they mean in torchvision's transforms; `*_p` are probabilities.

    interpolation: of the crop, bilinear or bicubic; shrinking is anti-aliased. color_first: solarise, jitter and
    grayscale come before crop and flip, so they see the whole image. mean, std: of red, green and blue, which are
    normalised by them last of all; None for both: not at all.
    Raises ValueError for a parameter outside its range.
    """

    size: int
    crop_scale: Sequence[float]
    crop_ratio: Sequence[float]
    flip_p: float
    solarize_p: float
    solarize_threshold: int
    jitter_p: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grayscale_p: float
    blur_p: float
    blur_kernel: int
    blur_sigma: Sequence[float]
    interpolation: str
    color_first: bool
    mean: Sequence[float] | None
    std: Sequence[float] | None

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise ValueError(f"{name}={getattr(self, name)} is not usable: {rule}")

        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in PAIRS:
                low, high = PAIRS[field.name]
                rule = f"write [low, high], both from {low:g} to {high:g}"
                check(isinstance(value, list | tuple) and len(value) == 2, field.name, rule)
                check(all(is_finite(number) for number in value), field.name, rule)
                check(low <= value[0] <= value[1] <= high, field.name, rule)
            elif field.name not in ("interpolation", "color_first", *CHANNELS):
                check(is_finite(value), field.name, "write a number")
        for name in ("size", "solarize_threshold", "blur_kernel"):
            check(is_whole(getattr(self, name)), name, "write a whole number")
        for name in ("flip_p", "solarize_p", "jitter_p", "grayscale_p", "blur_p"):
            check(0 <= getattr(self, name) <= 1, name, "a probability lies between 0 and 1")
        for name in ("brightness", "contrast", "saturation"):
            check(0 <= getattr(self, name) <= MAX_STRENGTH, name, f"a jitter strength is 0 to {MAX_STRENGTH}")
        check(0 <= self.hue <= 0.5, "hue", "a hue shift lies between 0 and 0.5 turns")
        check(0 <= self.solarize_threshold <= 255, "solarize_threshold", "a threshold lies between 0 and 255")
        check_size(self.size)
        check(self.blur_kernel % 2 == 1 and self.blur_kernel > 0, "blur_kernel", "a kernel is odd and positive")
        check(self.blur_kernel // 2 < self.size, "blur_kernel", f"views are only {self.size} pixels wide")
        check(self.interpolation in INTERPOLATIONS, "interpolation", f"choose {' or '.join(INTERPOLATIONS)}")
        check(isinstance(self.color_first, bool), "color_first", "choose true or false")
        check_normalisation(self.mean, self.std)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Draw one view for `count` images of height × width pixels."""

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(count).uniform_(low, high, generator=generator)

        def chance(probability: float) -> Tensor:
            return torch.rand(count, generator=generator) < probability

        def factor(strength: float) -> Tensor:
            return uniform(max(0.0, 1 - strength), 1 + strength)

        return Draws(
            *self._draw_crop(count, height, width, generator),
            flip=chance(self.flip_p),
            solarize=chance(self.solarize_p),
            jitter=chance(self.jitter_p),
            jitter_order=torch.rand(count, 4, generator=generator).argsort(dim=1),
            brightness=factor(self.brightness),
            contrast=factor(self.contrast),
            saturation=factor(self.saturation),
            hue=uniform(-self.hue, self.hue),
            grayscale=chance(self.grayscale_p),
            sigma=uniform(*self.blur_sigma),
            blur=chance(self.blur_p),
        )

    def _draw_crop(
        self, count: int, height: int, width: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Crop boxes (top, left, height, width), each int64 [count]: area uniform in crop_scale, log-uniform ratio.

        A box that does not fit is drawn again, up to CROP_ATTEMPTS times; then the largest centred box whose ratio is
        allowed is taken, as torchvision does.
        """
        tries = (count, CROP_ATTEMPTS)
        area = height * width * torch.empty(tries).uniform_(*self.crop_scale, generator=generator)
        low, high = self.crop_ratio
        ratio = torch.empty(tries).uniform_(math.log(low), math.log(high), generator=generator).exp()
        widths = (area * ratio).sqrt().round().long()
        heights = (area / ratio).sqrt().round().long()
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first = fits.int().argmax(dim=1, keepdim=True)  # argmax takes the first of equals
        box_width = widths.gather(1, first).squeeze(1)
        box_height = heights.gather(1, first).squeeze(1)

        def offset(room: Tensor) -> Tensor:  # uniform over 0 .. room
            return (torch.rand(count, generator=generator) * (room + 1)).long().minimum(room)

        top, left = offset((height - box_height).clamp(min=0)), offset((width - box_width).clamp(min=0))

        nothing_fits = ~fits.any(dim=1)
        whole_width = min(width, max(1, round(height * high)))
        whole_height = min(height, max(1, round(width / low)))
        box_width = torch.where(nothing_fits, whole_width, box_width)
        box_height = torch.where(nothing_fits, whole_height, box_height)
        top = torch.where(nothing_fits, (height - whole_height) // 2, top)
        left = torch.where(nothing_fits, (width - whole_width) // 2, left)
        return top, left, box_height, box_width
