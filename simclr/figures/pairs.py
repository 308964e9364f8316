"""What an augmentation does: images beside the very views that a run saw of them in its first step."""

from __future__ import annotations

import math
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from simclr.augment import batched
from simclr.augment.augmentation import Augmentation
from simclr.augment.recipe import Draws, Recipe
from simclr.data.store import Splits
from simclr.figures.figure import show_image, titled_figure
from simclr.report.palette import BLUE, GRAY, ORANGE, STYLE, VERMILION
from simclr.training.datamodule import PretrainingData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_BREAK = "\N{NO-BREAK SPACE}"
CELL = 1.5  # inches along the side of an image and its margin
FRAMES = (BLUE, VERMILION, ORANGE)  # of the first view, the second, and any further


class FirstBatch(NamedTuple):
    """The beginning of a run's first batch.

    images: uint8 [P, H, W, 3]; views: V of float32 [P, 3, S, S] in [0, 1]; draws: of each view, for P images or more.
    """

    images: Tensor
    views: list[Tensor]
    draws: list[Draws]


class _Opened(NamedTuple):
    """A source whose images are open already."""

    splits: Splits

    def load(self) -> Splits:
        return self.splits


def first_batch(
    splits: Splits, augmentation: Augmentation, batch_size: int, seed: int, limit_images: int | None, count: int
) -> FirstBatch:
    """The first `count` images of step 0 and their views, made by the data module that the run trains with.

    The arguments before `count` are the data module's; with those of a run, these are the run's own views up to the
    rounding of its device.
    """
    draws: list[Draws] = []

    def engine(batch: Tensor, drawn: Draws, recipe: Recipe) -> Tensor:
        draws.append(drawn)
        shown = replace(recipe, mean=None, std=None)  # to a person, not to a network
        return batched.augment(batch[:count], Draws(*(field[:count] for field in drawn)), shown)

    data = PretrainingData(_Opened(splits), augmentation, batch_size, seed, limit_images, augment=engine)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    views = data.on_after_batch_transfer(batch, 0).images
    return FirstBatch(batch.images[:count], views, draws)


def operations(draws: Draws, place: int, recipe: Recipe, area: int) -> str:
    """What one view's draws do to the image at `place` of `area` pixels, in the recipe's order."""
    share = int(draws.height[place]) * int(draws.width[place]) / area
    places = [f"crop{NO_BREAK}{100 * share:.0f}{NO_BREAK}%", *(["flip"] if draws.flip[place] else [])]
    colours = {"solarise": draws.solarize, "jitter": draws.jitter, "gray": draws.grayscale}
    coloured = [word for word, field in colours.items() if field[place]]
    words = coloured + places if recipe.color_first else places + coloured
    if recipe.blur_kernel > 1 and draws.blur[place]:
        words.append(f"blur{NO_BREAK}{float(draws.sigma[place]):.1f}")
    return ", ".join(words)


def describe(recipe: Recipe) -> str:
    """The recipe in a sentence."""
    smooth = "" if recipe.interpolation == "bilinear" else f", {recipe.interpolation}"
    crop = f"crop of {100 * recipe.crop_scale[0]:g} to {100 * recipe.crop_scale[1]:g} % of the area{smooth}"
    jitter = f"{recipe.brightness:g}, {recipe.contrast:g}, {recipe.saturation:g}, {recipe.hue:g}"
    colours = (
        (recipe.solarize_p, f"solarise at {recipe.solarize_threshold}"),
        (recipe.jitter_p, f"jitter ({jitter})"),
        (recipe.grayscale_p, "grayscale"),
    )
    places = [crop, *([f"flip p {recipe.flip_p:g}"] if recipe.flip_p > 0 else [])]
    coloured = [f"{words} p {probability:g}" for probability, words in colours if probability > 0]
    parts = coloured + places if recipe.color_first else places + coloured
    if recipe.blur_kernel > 1 and recipe.blur_p > 0:
        low, high = recipe.blur_sigma
        seldom = f" p {recipe.blur_p:g}" if recipe.blur_p < 1 else ""
        parts.append(f"blur {recipe.blur_kernel} px, sigma {low:g} to {high:g}{seldom}")
    if recipe.mean is not None:
        parts.append("normalised (not drawn)")
    return "; ".join(parts)


def _notes(recipes: list[Recipe]) -> list[str]:
    """The recipe of all views in a sentence, or one for each where they differ."""
    if all(recipe == recipes[0] for recipe in recipes):
        return [describe(recipes[0])]
    return [f"view {view}, {recipe.size} px: {describe(recipe)}" for view, recipe in enumerate(recipes, start=1)]


def draw(title: str, batch: FirstBatch, recipes: list[Recipe]) -> Figure:
    """A sheet: an image with the crops marked in it, then its views, in two such blocks side by side."""
    import matplotlib
    from matplotlib.patches import Rectangle

    count, (_, height_px, width_px, _) = len(batch.images), batch.images.shape
    views = len(batch.views)
    blocks = min(2, count)
    rows = math.ceil(count / blocks)
    columns = blocks * (views + 1) + blocks - 1
    top, caption = 1.1, 0.52  # inches
    width, height = CELL * (blocks * (views + 1) + 0.3 * (blocks - 1)), (CELL + caption) * rows + top
    ratios = ([*[1.0] * (views + 1), 0.3] * blocks)[:columns]
    with matplotlib.rc_context(STYLE):
        note = "\n".join(line for words in _notes(recipes) for line in textwrap.wrap(words, int(13 * width)))
        figure = titled_figure(width, height, title, note)
        grid = figure.add_gridspec(
            rows, columns, width_ratios=ratios, left=0.01, right=0.99, top=1 - top / height, bottom=caption / height,
            wspace=0.06, hspace=caption / CELL,
        )  # fmt: skip
        for place in range(count):
            row, first = place % rows, place // rows * (views + 2)
            axes = figure.add_subplot(grid[row, first])
            show_image(axes, batch.images[place].numpy(), GRAY, 1)
            for view, drawn in enumerate(batch.draws):
                corner = float(drawn.left[place]) - 0.5, float(drawn.top[place]) - 0.5
                size = float(drawn.width[place]), float(drawn.height[place])
                frame, style = FRAMES[min(view, 2)], "-" if view == 0 else "--"
                # White below the colour, so that a crop's edge shows on any image.
                for colour, line, dash in (("white", 3.0, "-"), (frame, 1.6, style)):
                    box = Rectangle(
                        corner, *size, fill=False, edgecolor=colour, linewidth=line, linestyle=dash, clip_on=False
                    )
                    axes.add_patch(box)
            if row == 0:
                axes.set_title("image, crops", fontsize=10)
            for view, drawn in enumerate(batch.draws):
                axes = figure.add_subplot(grid[row, first + 1 + view])
                pixels = batch.views[view][place].permute(1, 2, 0).clamp(0, 1)
                show_image(axes, pixels.numpy(), FRAMES[min(view, 2)], 2.5)
                words = operations(drawn, place, recipes[view], height_px * width_px)
                axes.set_xlabel("\n".join(textwrap.wrap(words, 24)), fontsize=8, labelpad=3)
                if row == 0:
                    axes.set_title(f"view {view + 1}", fontsize=10, color=FRAMES[min(view, 2)])
    return figure
