"""The latent space as a map, at several moments of a run: one sees the classes come apart, or not."""

from __future__ import annotations

import difflib
import math
import os
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from simclr.checks import is_whole
from simclr.data.files.archive import composed
from simclr.errors import InputError
from simclr.figures.figure import shortened, titled_figure
from simclr.report.palette import GRAY, MAX_SYMBOLS, STYLE, symbol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST_POINTS = 10
EARLY, LATE = 250, 500  # t-SNE's steps with exaggeration and without, openTSNE's defaults
REPORT_EVERY = 50
LEGEND_COLUMNS = 5
OTHERS: dict[str, Any] = {"color": GRAY, "marker": "o", "markeredgewidth": 0}


class Panel(NamedTuple):
    """One moment of the run. layout: float64 [P, 2], a place for each image. accuracy: k-NN top-1, per cent."""

    title: str
    layout: np.ndarray
    accuracy: float


def choose_classes(choice: int | str | Sequence[object], classes: list[str], names: list[str]) -> list[int]:
    """The labels that get a colour: so many spread evenly over the list of classes, or those named.

    choice: a number (all classes where there are fewer), or one class or several, each by its label or its shown name.
    Raises InputError for a number outside 1 to MAX_SYMBOLS and for a name that no class has.
    """
    if isinstance(choice, str):
        choice = [choice]
    if isinstance(choice, Sequence):
        known = {composed(name): label for label, name in reversed(list(enumerate(names)))}
        known |= {composed(name): label for label, name in enumerate(classes)}
        chosen = [composed(str(name)) for name in choice]
        for name in chosen:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                guess = f"; did you mean {close[0]}?" if close else f"; there are {shortened(', '.join(classes), 80)}"
                raise InputError(f"latent_space.classes: no class is called {name}{guess}")
        if not 1 <= len(set(chosen)) <= MAX_SYMBOLS:
            raise InputError(
                f"latent_space.classes names {len(set(chosen))} classes; colours tell 1 to {MAX_SYMBOLS} apart"
            )
        return list(dict.fromkeys(known[name] for name in chosen))
    if not is_whole(choice) or not 1 <= choice <= MAX_SYMBOLS:
        raise InputError(
            f"latent_space.classes={choice} is not usable; it is a whole number from 1 to {MAX_SYMBOLS}, or names"
        )
    return [int(label) for label in np.linspace(0, len(classes) - 1, min(choice, len(classes))).round()]


def choose_points(labels: np.ndarray, chosen: list[int], count: int, seed: int) -> np.ndarray:
    """Which images are drawn: int64 [min(count, N)], ascending. Those of the chosen classes come first, at random
    where they are more than `count`, and others at random fill what is left.

    labels: int64 [N]. Raises InputError where fewer than FEWEST_POINTS images remain.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    named = np.isin(labels[order], chosen)
    points = np.concatenate([order[named], order[~named]])[:count]
    if len(points) < FEWEST_POINTS:
        raise InputError(
            f"latent_space.png needs {FEWEST_POINTS} validation images, and there are {len(points)}; choose others "
            "with data=, or figures=[augmented_pairs]"
        )
    return np.sort(points)


def layout(
    features: Tensor, start: np.ndarray | None, perplexity: float, seed: int, progress: Callable[[int], None]
) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton 2008) of features [P, F] compared by direction: float64 [P, 2].

    start: the layout [P, 2] of the same images to begin with, so that what has not changed stays where it was (Kobak
    & Berens 2019, "The art of using t-SNE", on initialisation); None for the first two principal components.
    perplexity: cut to a third of the number of images. progress: called with the number of steps just done.
    One thread and one seed: the same arguments give the same layout.
    """
    # scikit-learn, which finds the neighbours, would count the cores through joblib, and where that fails (no lscpu, no
    # /sys, ARM) a warning and a traceback follow.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import openTSNE

    # Squared Euclidean distance of unit vectors is twice the cosine distance, which k-NN compares them by.
    unit = F.normalize(features.double(), dim=1).cpu().numpy()
    if start is None:
        # An encoder that gives all images one feature has no principal components.
        begin: str | np.ndarray = "pca" if unit.std(axis=0).max() > 1e-9 else "random"
    else:
        begin = openTSNE.initialization.rescale(start)  # small, or the forces could not move points far

    def report(step: int, error: float, embedding: np.ndarray) -> None:
        progress(REPORT_EVERY)

    embedding = openTSNE.TSNE(
        perplexity=min(perplexity, (len(unit) - 1) / 3),
        initialization=begin,
        early_exaggeration_iter=EARLY,
        n_iter=LATE,
        neighbors="exact",
        negative_gradient_method="bh",
        n_jobs=1,
        random_state=seed,
        callbacks=report,
        callbacks_every_iters=REPORT_EVERY,
    ).fit(unit)
    return np.asarray(embedding, dtype=np.float64)


def draw(title: str, panels: list[Panel], labels: np.ndarray, chosen: list[int], names: list[str], note: str) -> Figure:
    """The panels side by side, at one scale, under one legend.

    labels: int64 [P] of the images; chosen: the labels that get a colour, the others are gray; names: of all labels.
    note: how it was made, printed below.
    """
    import matplotlib

    columns = len(panels) if len(panels) <= 3 else math.ceil(len(panels) / 2)
    rows = math.ceil(len(panels) / columns)
    top, bottom = 1.0, 0.8 + 0.25 * math.ceil((len(chosen) + 1) / LEGEND_COLUMNS)  # inches
    reach = _reach(panels)
    width = 3.6 * max(columns, 2)
    height = 3.6 * rows * reach[1] / reach[0] + 0.3 * (rows - 1) + top + bottom
    first, last = panels[0], panels[-1]
    with matplotlib.rc_context(STYLE):
        summary = f"k-NN top-1: {first.accuracy:.1f} % ({first.title}), {last.accuracy:.1f} % ({last.title})"
        figure = titled_figure(width, height, title, summary)
        grid = figure.add_gridspec(
            rows, columns, left=0.02, right=0.98, top=1 - top / height, bottom=bottom / height, wspace=0.04,
            hspace=0.3 / 3.6 * reach[0] / reach[1],
        )  # fmt: skip
        for place, panel in enumerate(panels):
            _scatter(figure.add_subplot(grid[place // columns, place % columns]), panel, labels, chosen, reach)
        _legend(figure, [names[label] for label in chosen], not np.isin(labels, chosen).all(), 0.55 / height)
        figure.text(0.5, 0.1 / height, "\n".join(textwrap.wrap(note, int(16 * width))), ha="center", fontsize=8)
    return figure


def _reach(panels: list[Panel]) -> tuple[float, float]:
    """How far the axes of every panel go from its middle, in x and in y, so that all points of all panels are seen."""
    x, y = 1.05 * np.max([np.abs(panel.layout - panel.layout.mean(axis=0)).max(axis=0) for panel in panels], axis=0)
    return max(x, y / 1.25), max(y, x / 1.8)  # no flatter and no steeper than that


def _scatter(axes: Axes, panel: Panel, labels: np.ndarray, chosen: list[int], reach: tuple[float, float]) -> None:
    points = panel.layout - panel.layout.mean(axis=0)
    others = points[~np.isin(labels, chosen)]
    axes.plot(others[:, 0], others[:, 1], linestyle="none", markersize=2, **OTHERS)
    for index, label in enumerate(chosen):
        own = points[labels == label]
        axes.plot(own[:, 0], own[:, 1], linestyle="none", markersize=4, markeredgewidth=0.7, **symbol(index))
    x, y = reach
    axes.set(xlim=(-x, x), ylim=(-y, y), aspect="equal", xticks=[], yticks=[])
    axes.set_title(f"{panel.title}: {panel.accuracy:.1f} %", fontsize=11)
    for spine in axes.spines.values():
        spine.set_edgecolor(GRAY)


def _legend(figure: Figure, names: list[str], with_others: bool, bottom: float) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="none", markersize=7, **symbol(index)) for index in range(len(names))]
    if with_others:
        handles.append(Line2D([], [], linestyle="none", markersize=4, **OTHERS))
    # Given as labels, names that begin with an underscore would be left out.
    legend = figure.legend(
        handles,
        [""] * len(handles),
        loc="lower center",
        bbox_to_anchor=(0.5, bottom),
        ncols=LEGEND_COLUMNS,
        frameon=False,
        fontsize=10,
    )
    for text, name in zip(legend.get_texts(), [*names, "other classes"], strict=False):
        text.set_text(shortened(name, 20))
