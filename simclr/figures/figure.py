"""What the figures have in common: a titled sheet, framed images, names cut to length."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from simclr.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def check_installed(*modules: str) -> None:
    """Raise InputError for a package that drawing needs and that is not there."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise InputError(f'drawing needs {" and ".join(missing)}, not installed here; pip install -e ".[report]"')


def shortened(text: str, length: int) -> str:
    """`text` in one line of at most `length` characters; a longer one loses its middle, for names differ at the end."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    head = length // 2
    return f"{text[:head]}…{text[len(text) - (length - head - 1) :]}"


def titled_figure(width: float, height: float, title: str, note: str) -> Figure:
    """A white figure of so many inches under a title and a note. It belongs to no window, so it needs no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    figure.suptitle(shortened(title, int(9 * width)), fontsize=13, y=1 - 0.12 / height, va="top")
    figure.text(0.5, 1 - 0.4 / height, note, ha="center", va="top", fontsize=10)
    return figure


def show_image(axes: Axes, pixels: np.ndarray, frame: str, width: float) -> None:
    """An image, uint8 [H, W, 3] or float [H, W, 3] in [0, 1], in a coloured frame of `width` points."""
    axes.imshow(pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(edgecolor=frame, linewidth=width)
