"""What an encoder takes for alike: images with their nearest neighbours among the training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from simclr.figures.figure import shortened, show_image, titled_figure
from simclr.report.palette import BLACK, BLUE, STYLE, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 1.12  # inches along the side of an image and its margin


class Row(NamedTuple):
    """One query and its neighbours, nearest first. Labels are None where images have none."""

    query: np.ndarray  # uint8 [H, W, 3]
    label: int | None
    neighbours: np.ndarray  # uint8 [K, H, W, 3]
    labels: np.ndarray | None  # int64 [K]
    similarities: np.ndarray  # float32 [K], cosine


def choose_queries(labels: np.ndarray | None, total: int, count: int, seed: int) -> np.ndarray:
    """Which of `total` images are asked about: int64 [min(count, total)], at random, of as many classes as there are.

    labels: int64 [total], or None. With fewer classes than `count`, no class comes a third time before every class has
    come twice, and so on.
    """
    order = np.random.default_rng(seed).permutation(total)
    if labels is None:
        return order[:count]
    seen: dict[int, int] = {}
    turn = np.empty(total, np.int64)  # how many of its class come before an image
    for place, label in enumerate(labels[order].tolist()):
        turn[place] = seen.get(label, 0)
        seen[label] = seen.get(label, 0) + 1
    return order[np.argsort(turn, kind="stable")[:count]]


def nearest(queries: Tensor, bank: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The features of `bank` [M, F] most similar to each of `queries` [Q, F] by cosine.

    Returns similarities float [Q, K] and places in the bank int64 [Q, K], nearest first; K is `count` or, if less, M.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    found = similarity.topk(min(count, len(bank)), dim=1)
    return found.values, found.indices


def draw(title: str, note: str, rows: list[Row], names: list[str]) -> Figure:
    """A sheet: a query in every row, then its neighbours with class, similarity and, in colour and sign, agreement.

    note: what was searched, printed below the title; names: of all classes.
    """
    import matplotlib

    columns = len(rows[0].neighbours)
    top, bottom = 1.15, 0.05  # inches
    sheet = CELL * (columns + 1.6)  # narrower than the words above it where columns are few
    width, height = max(sheet, 7.0), (CELL + 0.34) * len(rows) + top + bottom
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(width, height, title, note)
        grid = figure.add_gridspec(
            len(rows), columns + 2, width_ratios=[1, 0.25, *[1] * columns], wspace=0.12, hspace=0.42,
            left=0.5 - 0.49 * sheet / width, right=0.5 + 0.49 * sheet / width,
            top=1 - top / height, bottom=(bottom + 0.34) / height,
        )  # fmt: skip
        labelled = rows[0].labels is not None and rows[0].label is not None
        if labelled:
            for x, text, colour in ((0.49, "✓ same class", BLUE), (0.51, "✗ other class", VERMILION)):
                align = "right" if x < 0.5 else "left"
                figure.text(x, 1 - 0.78 / height, text, color=colour, ha=align, va="center", fontsize=11, weight="bold")
        for place, row in enumerate(rows):
            axes = figure.add_subplot(grid[place, 0])
            show_image(axes, row.query, BLACK, 2)
            name = "" if row.label is None else shortened(names[row.label], 15)
            hits = "" if row.labels is None or row.label is None else f"{(row.labels == row.label).sum()} of {columns}"
            axes.set_xlabel(f"{name}\n{hits}".strip(), weight="bold", fontsize=8, labelpad=3)
            if place == 0:
                axes.set_title("image", fontsize=10)
            for column in range(columns):
                axes = figure.add_subplot(grid[place, column + 2])
                caption, colour = f"{row.similarities[column]:.3f}", BLACK
                if row.labels is not None:
                    label = int(row.labels[column])
                    caption = f"{shortened(names[label], 17)}\n{caption}"
                    if row.label is not None:
                        same = label == row.label
                        caption, colour = f"{caption} {'✓' if same else '✗'}", BLUE if same else VERMILION
                show_image(axes, row.neighbours[column], colour, 3)
                axes.set_xlabel(caption, color=colour, fontsize=8, labelpad=3)
                if place == 0:
                    axes.set_title(f"{column + 1}.", fontsize=10)
    return figure
