"""What CLIP finds: sentences with the images nearest to them, and images with the sentences nearest to them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from simclr.figures.figure import shortened, show_image, titled_figure
from simclr.report.palette import BLACK, BLUE, GRAY, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 1.12  # inches along the side of an image and its margin
LETTERS = 34  # in a line beside images
LONGEST = 95  # letters of a sentence beside an image


class Images(NamedTuple):
    """A sentence and the images nearest to it, uint8 [K, H, W, 3], nearest first; own: which of them it is about."""

    sentence: str
    found: np.ndarray
    own: list[bool]


class Sentences(NamedTuple):
    """An image, uint8 [H, W, 3], and the sentences nearest to it, nearest first; own: which of them are about it."""

    image: np.ndarray
    found: list[str]
    own: list[bool]


def nearest(similarity: Tensor, count: int) -> list[int]:
    """Where the `count` greatest of a row's similarities [M] are, the greatest first."""
    return similarity.topk(min(count, len(similarity))).indices.tolist()


def draw(title: str, note: str, to_images: list[Images], to_sentences: list[Sentences]) -> Figure:
    """A sheet: sentences with their images above, images with their sentences below; own ones in a blue frame, ✓.

    note: what was searched, printed below the title.
    """
    import matplotlib

    columns = max(len(row.found) for row in to_images)
    text, top, between = 2.6, 0.95, 0.45  # inches
    width = text + CELL * columns + 0.2
    height = top + CELL * (len(to_images) + len(to_sentences)) + between + 0.1
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(width, height, title, note)

        def cell(place: int, left: float, below: float = 0.0, size: float = CELL) -> tuple[float, float, float, float]:
            """Where a square lies in the figure: `place` rows down and `left` inches from the side."""
            bottom = height - top - below - (place + 1) * CELL
            return left / width, bottom / height, 0.92 * size / width, 0.92 * size / height

        for place, row in enumerate(to_images):
            lines = textwrap.fill(shortened(row.sentence, 4 * LETTERS), LETTERS)
            y = 1 - (top + (place + 0.5) * CELL) / height
            figure.text((text - 0.1) / width, y, lines, ha="right", va="center", fontsize=9)
            for column, (image, own) in enumerate(zip(row.found, row.own, strict=True)):
                axes = figure.add_axes(cell(place, text + column * CELL))
                show_image(axes, image, BLUE if own else GRAY, 3.5 if own else 1)
        below = between
        for place, answer in enumerate(to_sentences, start=len(to_images)):
            axes = figure.add_axes(cell(place, text - CELL, below))
            show_image(axes, answer.image, BLACK, 2)
            for line, (sentence, own) in enumerate(zip(answer.found, answer.own, strict=True)):
                y = 1 - (top + below + (place + 0.12 + 0.17 * line) * CELL) / height
                words = f"{'✓' if own else '   '} {shortened(sentence, LONGEST)}"
                style: dict[str, Any] = {"color": BLUE, "weight": "bold"} if own else {"color": BLACK}
                figure.text((text + 0.05) / width, y, words, va="center", fontsize=8, **style)
    return figure
