"""The reference engine: torchvision's own operations, one image at a time, at given draws.

Slow and plain: it is what the batched engine is held against, and the pipeline that the study ran.
"""

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from simclr.augment.recipe import Draws, Recipe


def augment(images: Tensor, draws: Draws, recipe: Recipe) -> Tensor:
    """One augmented view of every image: uint8 [B, H, W, 3] to float32 [B, 3, size, size], as the recipe has it."""
    views = []
    for i, image in enumerate(images):
        one = Draws(*(field[i] for field in draws))
        views.append(augment_image(image.permute(2, 0, 1), one, recipe))
    return torch.stack(views)


def augment_image(image: Tensor, draw: Draws, recipe: Recipe) -> Tensor:
    """One view of one image: uint8 [3, H, W] to float32 [3, size, size]; `draw` holds one image's scalars."""
    box = (int(draw.top), int(draw.left), int(draw.height), int(draw.width))
    view = _recolor(image, draw, recipe) if recipe.color_first else image
    how = InterpolationMode(recipe.interpolation)
    view = tv.resized_crop(view, *box, size=[recipe.size, recipe.size], interpolation=how, antialias=True)
    if draw.flip:
        view = tv.horizontal_flip(view)
    view = view if recipe.color_first else _recolor(view, draw, recipe)
    if draw.blur:
        view = tv.gaussian_blur(view, [recipe.blur_kernel, recipe.blur_kernel], [float(draw.sigma)] * 2)
    view = tv.to_dtype(view, torch.float32, scale=True)
    if recipe.mean is not None and recipe.std is not None:
        view = tv.normalize(view, list(recipe.mean), list(recipe.std))
    return view


def _recolor(view: Tensor, draw: Draws, recipe: Recipe) -> Tensor:
    if draw.solarize:
        view = tv.solarize(view, threshold=recipe.solarize_threshold)
    if draw.jitter:
        for which in draw.jitter_order.tolist():
            if which == 0:
                view = tv.adjust_brightness(view, float(draw.brightness))
            elif which == 1:
                view = tv.adjust_contrast(view, float(draw.contrast))
            elif which == 2:
                view = tv.adjust_saturation(view, float(draw.saturation))
            else:
                view = tv.adjust_hue(view, float(draw.hue))
    if draw.grayscale:
        view = tv.rgb_to_grayscale(view, num_output_channels=3)
    return view
