"""What the figures have in common: colours that the colour-blind tell apart, sheets of images, whole files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simclr.checks import is_whole
from simclr.errors import InputError
from simclr.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito (2008), "Color Universal Design", without its yellow, which is lost on white paper.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, BLACK)
GRAY = "#BBBBBB"
MARKERS = "os^DvPX"
MAX_SYMBOLS = 2 * len(COLOURS)
DPI = 150
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign in a folder's name is a dollar sign
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 9,
}


def check_installed(*modules: str) -> None:
    """Raise InputError for a package that drawing needs and that is not there."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise InputError(f'drawing needs {" and ".join(missing)}, not installed here; pip install -e ".[report]"')


def check_count(key: str, value: Any, low: int, high: int) -> None:
    """Raise InputError unless `value`, that of `key`, is a whole number from `low` to `high`."""
    if not is_whole(value) or not low <= value <= high:
        raise InputError(f"{key}={value} is not usable; it is a whole number from {low} to {high}")


def symbol(index: int) -> dict[str, Any]:
    """How the class at place `index`, below MAX_SYMBOLS, of a legend is drawn: matplotlib's colour, marker, filling.

    The first seven are filled; the next have the colours again, hollow and with the marker of another colour.
    """
    hollow, place = divmod(index, len(COLOURS))
    return {
        "color": COLOURS[place],
        "marker": MARKERS[(place + 3 * hollow) % len(MARKERS)],
        "fillstyle": "none" if hollow else "full",
    }


def shortened(text: str, length: int) -> str:
    """`text` in one line of at most `length` characters; a longer one loses its middle, for names differ at the end."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    head = length // 2
    return f"{text[:head]}…{text[len(text) - (length - head - 1) :]}"


def blank_figure(width: float, height: float) -> Figure:
    """A white figure of so many inches. It belongs to no window, so it needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def show_image(axes: Axes, pixels: np.ndarray, frame: str, width: float) -> None:
    """A image, uint8 [H, W, 3] or float [H, W, 3] in [0, 1], in a coloured frame of `width` points."""
    axes.imshow(pixels, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(edgecolor=frame, linewidth=width)


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG, whole or not at all, the same bytes for the same figure."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=DPI)
