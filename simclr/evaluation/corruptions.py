"""What happens to photographs: noise, blur, light, compression, each at five strengths (Hendrycks and Dietterich 2019).

The strengths are those of Tiny-ImageNet-C, whose images are 64 pixels wide; blurs grow with the image. Of its kinds
those are here that need no image of frost and no outline of a drop, each one function for a whole batch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

STRENGTHS = 5
SIDE = 64  # pixels of the images that the strengths are for


class Corruption(NamedTuple):
    """apply: of images [B, 3, H, W] from 0 to 1 and one of the five parameters, with random numbers of a generator."""

    apply: Callable[[Tensor, Any, Generator], Tensor]
    parameters: Sequence[Any]


def corrupted(images: Tensor, name: str, strength: int, random: Generator) -> Tensor:
    """Images uint8 [B, H, W, 3] on the CPU after one of CORRUPTIONS, as they would be stored: the same.

    strength: from 1 to 5. random: a CPU generator.
    """
    apply, parameters = CORRUPTIONS[name]
    changed = apply(images.permute(0, 3, 1, 2).float() / 255, parameters[strength - 1], random)
    return (changed.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def gaussian_noise(images: Tensor, sigma: float, random: Generator) -> Tensor:
    """Of a sensor in little light: normal, the same everywhere."""
    return images + sigma * torch.randn(images.shape, generator=random)


def shot_noise(images: Tensor, photons: float, random: Generator) -> Tensor:
    """Of light that comes in photons, so many where it is white."""
    return torch.poisson(images * photons, generator=random) / photons


def impulse_noise(images: Tensor, share: float, random: Generator) -> Tensor:
    """Salt and pepper: a share of all values is 0 or 1, either as often."""
    drawn = torch.rand(images.shape, generator=random)
    images = torch.where(drawn < share / 2, torch.zeros(()), images)
    return torch.where(drawn > 1 - share / 2, torch.ones(()), images)


def gaussian_blur(images: Tensor, sigma: float, random: Generator) -> Tensor:
    """sigma: in pixels of an image of 64."""
    width = sigma * images.shape[-1] / SIDE
    radius = math.ceil(4 * width)
    kernel = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * width**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    across = F.conv2d(F.pad(images, (radius, radius, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(across, (0, 0, radius, radius), mode="replicate"), kernel.mT, groups=3)


def defocus_blur(images: Tensor, spot: tuple[float, float], random: Generator) -> Tensor:
    """A disk. spot: its radius, and the sigma of the Gaussian that makes its rim soft, in pixels of an image of 64."""
    radius, soft = (length * images.shape[-1] / SIDE for length in spot)
    reach, fine = math.ceil(radius), 8  # parts along the side of a pixel
    place = (torch.arange(fine * (2 * reach + 1)) + 0.5) / fine - reach - 0.5
    disk = F.avg_pool2d((place[:, None].square() + place.square() <= radius**2).float()[None, None], fine)
    rim = torch.exp(-torch.tensor([1.0, 0, 1]) / (2 * soft**2))
    kernel = F.conv2d(F.pad(disk, (2, 2, 2, 2)), (rim[:, None] * rim)[None, None])
    kernel = (kernel / kernel.sum()).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(images, (reach + 1,) * 4, mode="replicate"), kernel, groups=3)


def zoom_blur(images: Tensor, furthest: float, random: Generator) -> Tensor:
    """A camera that moves in while it is open: the mean of the image and of zooms by 1 to `furthest`, 0.01 apart."""
    zooms = torch.arange(1, furthest, 0.01).tolist()
    total = images.clone()
    for zoom in zooms:
        shrink = torch.tensor([[1 / zoom, 0.0, 0.0], [0.0, 1 / zoom, 0.0]]).expand(len(images), -1, -1)
        grid = F.affine_grid(shrink, list(images.shape), align_corners=False)
        total += F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return total / (len(zooms) + 1)


def brightness(images: Tensor, more: float, random: Generator) -> Tensor:
    """The value of HSV is raised; hue and saturation stay."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-6), raised)


def saturate(images: Tensor, change: tuple[float, float], random: Generator) -> Tensor:
    """The saturation of HSV times the first plus the second number; gray is of red's hue there."""
    factor, more = change
    value, least = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    depth = value - least
    wanted = (depth / value.clamp(min=1e-6) * factor + more).clamp(0, 1) * value
    reddish = value - wanted * torch.tensor([0.0, 1.0, 1.0])[:, None, None]
    return torch.where(depth > 0, value - (value - images) * wanted / depth.clamp(min=1e-6), reddish)


def contrast(images: Tensor, factor: float, random: Generator) -> Tensor:
    """Towards the mean of each channel."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + factor * (images - mean)


def pixelate(images: Tensor, share: float, random: Generator) -> Tensor:
    """Fewer pixels along a side, each larger."""
    few = max(1, int(images.shape[-1] * share))
    box = Image.Resampling.BOX
    return _one_by_one(images, lambda image: image.resize((few, few), box).resize(image.size, box))


def jpeg_compression(images: Tensor, quality: int, random: Generator) -> Tensor:
    """Through a JPEG file of that quality, of 100."""

    def through_a_file(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _one_by_one(images, through_a_file)


def _one_by_one(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """What Pillow makes of each image."""
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(one))) for one in pixels])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).float() / 255


CORRUPTIONS = {
    "gaussian_noise": Corruption(gaussian_noise, (0.04, 0.08, 0.12, 0.15, 0.18)),
    "shot_noise": Corruption(shot_noise, (250, 100, 50, 30, 15)),
    "impulse_noise": Corruption(impulse_noise, (0.01, 0.02, 0.05, 0.08, 0.14)),
    "gaussian_blur": Corruption(gaussian_blur, (0.5, 0.75, 1, 1.25, 1.5)),
    "defocus_blur": Corruption(defocus_blur, ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1))),
    "zoom_blur": Corruption(zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "brightness": Corruption(brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "saturate": Corruption(saturate, ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2))),
    "contrast": Corruption(contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": Corruption(pixelate, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "jpeg_compression": Corruption(jpeg_compression, (65, 58, 50, 40, 25)),
}
