"""The figures of a report, drawn with matplotlib in colours that colour-blind readers tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simclr.report.curves import over_seeds
from simclr.report.effects import Effect
from simclr.report.factors import Cell
from simclr.report.outcomes import having, moments
from simclr.report.study import Study
from simclr.report.wording import is_claimed
from simclr.system.files import replacing

# Okabe and Ito (2008), without the yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")  # one fewer than colours, so that many cells get pairs of their own
GREY = "#666666"
WIDTH = 5.2  # inches, so that letters of 9 points are still read on a phone's width
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "path",  # the same letters on every machine
    "svg.hashsalt": "report",  # the same file from the same runs
}


def draw_all(study: Study, folder: Path) -> dict[str, Path]:
    """Write the figures that the runs allow into `folder`, as SVG; name -> path."""
    drawings: dict[str, Callable[[Study], Figure | None]] = {
        "cells": _cells,
        "effects": _effects,
        "curves": _curves,
        "on_the_way": _on_the_way,
        "time": _time,
        "ranking": _ranking,
    }
    written = {}
    with matplotlib.rc_context(STYLE):
        for name, draw in drawings.items():
            figure = draw(study)
            if figure is not None:
                written[name] = folder / f"{name}.svg"
                with replacing(written[name]) as unfinished:
                    figure.savefig(unfinished, format="svg", metadata={"Date": None})
    return written


def _look(study: Study, cell: Cell) -> dict[str, Any]:
    index = study.design.ordered_cells().index(cell)
    return {"color": COLOURS[index % len(COLOURS)], "label": study.design.label(cell)}


def _marker(study: Study, cell: Cell) -> str:
    return MARKERS[study.design.ordered_cells().index(cell) % len(MARKERS)]


def _line(study: Study, cell: Cell) -> str:
    # Neighbours differ in colour and in line, so that they are told apart in black and white as well.
    return LINES[study.design.ordered_cells().index(cell) % len(LINES)]


def _panels(rows: int, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = max(1, min(len(labels), 64 // (max(map(len, labels)) + 8)))
        figure.set_figheight(figure.get_figheight() + 0.18 * math.ceil(len(labels) / columns))  # panels keep theirs
        figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def _in_words(study: Study) -> str:
    return f"{study.primary.label}, per cent" if study.primary.unit == "points" else study.primary.label


def _cells(study: Study) -> Figure | None:
    """The primary outcome of every run, its seeds joined across cells, and each cell's mean."""
    values = study.values(study.primary)
    cells = [cell for cell in study.design.ordered_cells() if cell in values]
    figure, (axes,) = _panels(1, 1.1 + 0.42 * len(cells))
    for seed in study.seeds:
        points = [(values[cell][seed], row) for row, cell in enumerate(cells) if seed in values[cell]]
        axes.plot(*zip(*points, strict=True), color="#c4c4c4", linewidth=0.8, zorder=1) if points else None
    for row, cell in enumerate(cells):
        look = _look(study, cell)
        of_cell = list(values[cell].values())
        axes.scatter(of_cell, [row] * len(of_cell), s=22, color=look["color"], marker=_marker(study, cell), zorder=2)
        mean = sum(of_cell) / len(of_cell)
        axes.plot([mean, mean], [row - 0.28, row + 0.28], color=look["color"], linewidth=2.2, zorder=3)
    axes.set_yticks(range(len(cells)), [study.design.label(cell) for cell in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel(_in_words(study))
    return figure


def _effects(study: Study) -> Figure | None:
    """Each effect on the primary outcome: its mean and interval, and the seeds it comes from."""
    tested = [t for t in study.primary_effects if t.effect.estimate is not None]
    if not tested:
        return None
    figure, (axes,) = _panels(1, 0.9 + 0.62 * len(tested))
    for row, (effect, adjusted) in enumerate((t.effect, t.adjusted_p) for t in tested):
        estimate = effect.estimate
        assert estimate is not None
        colour = COLOURS[1] if is_claimed(effect, adjusted) else COLOURS[0]
        seeds = list(effect.differences.values())
        axes.scatter(seeds, [row + 0.24] * len(seeds), s=14, facecolors="none", edgecolors=GREY, linewidths=0.8)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([estimate.mean], [row], "o", color=colour, markersize=6)
    axes.axvline(0, color="black", linewidth=0.9)
    axes.set_yticks(range(len(tested)), [_short(t.effect) for t in tested])
    axes.set_ylim(len(tested) - 0.4, -0.5)
    axes.grid(False, axis="y")
    unit = f" ({study.primary.unit})" if study.primary.unit else ""
    axes.set_xlabel(f"change of {study.primary.label}{unit}")
    return figure


def _short(effect: Effect) -> str:
    if effect.kind == "interaction":
        return "interaction\n" + " × ".join(effect.levels)
    return f"{effect.factors[0]}\n{effect.levels[0]} against {effect.references[0]}"


def _curves(study: Study) -> Figure | None:
    """Loss and contrastive accuracy over steps."""
    titles = {"train/loss": "training loss", "train/top1": "contrastive top-1, per cent"}
    tags = [tag for tag in titles if any(tag == of for _, of in study.curves)]
    if not tags:
        return None
    figure, panels = _panels(len(tags), 2.9)
    for axes, tag in zip(panels, tags, strict=True):
        _draw_curves(study, axes, tag, lambda steps, cell: steps)
        axes.set_ylabel(titles[tag])
        axes.set_xlabel("step")
    _legend(figure, panels[0])
    return figure


def _draw_curves(study: Study, axes: Axes, tag: str, x_axis: Callable[[Any, Cell], Any]) -> None:
    for cell in study.design.ordered_cells():
        curves = [study.curves[run.name, tag] for run in study.of_cell(cell) if (run.name, tag) in study.curves]
        if curves:
            steps, mean, low, high = over_seeds(curves)
            look = _look(study, cell)
            x = x_axis(steps, cell)
            marker = _marker(study, cell) if len(steps) < 12 else None
            axes.plot(x, mean, linestyle=_line(study, cell), linewidth=1.6, marker=marker, markersize=4, **look)
            if len(curves) > 1:
                axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)


def _on_the_way(study: Study) -> Figure | None:
    """Linear and k-NN accuracy of the checkpoints that were judged, over epochs."""
    if not any("epoch-" in file for run in study.runs for file in moments(run).values()):
        return None
    figure, panels = _panels(2, 2.5)
    for axes, key, name in zip(panels, ("top1", "knn_top1"), ("linear top-1", "k-NN top-1"), strict=True):
        for cell in study.design.ordered_cells():
            runs = study.of_cell(cell)
            found: dict[int, list[float]] = {}
            for run in runs:
                for epoch, file in moments(run).items():
                    if (value := run.number(file, key)) is not None:
                        found.setdefault(epoch, []).append(value)
            epochs = sorted(found)
            means = [sum(found[epoch]) / len(found[epoch]) for epoch in epochs]
            axes.plot(epochs, means, linestyle=_line(study, cell), marker=_marker(study, cell), **_look(study, cell))
            if key == "top1" and len(runs) == 1:
                files = [moments(runs[0])[epoch] for epoch in epochs]
                low, high = ([runs[0].number(file, f"top1_{end}") or 0.0 for file in files] for end in ("low", "high"))
                axes.vlines(epochs, low, high, color=_look(study, cell)["color"], linewidth=1.6)
        axes.set_ylabel(f"{name}, per cent")
        axes.set_xlabel("epoch (0: before training)")
    _legend(figure, panels[0])
    return figure


def _time(study: Study) -> Figure | None:
    """k-NN accuracy while training goes on, and the primary outcome at its end, over minutes of training."""
    timed = [run for run in having(study.runs, study.primary) if run.number("metrics", "wall_seconds") is not None]
    if not timed:
        return None
    has_curves = any(tag == "val/knn_top1" for _, tag in study.curves)
    figure, panels = _panels(1 + has_curves, 2.7)
    if has_curves:
        _draw_curves(study, panels[0], "val/knn_top1", lambda steps, cell: steps * _minutes_a_step(study, cell))
        panels[0].set_ylabel("k-NN top-1, per cent")
        panels[0].set_xlabel("minutes of training (mean over seeds)")
        panels[0].set_xlim(left=0)
    for cell in study.design.ordered_cells():
        runs = [run for run in timed if study.design.cells[run.name] == cell]
        minutes = [(run.number("metrics", "wall_seconds") or 0) / 60 for run in runs]
        look = _look(study, cell)
        final = [study.primary.of(run) or 0.0 for run in runs]
        panels[-1].scatter(minutes, final, marker=_marker(study, cell), s=26, **look)
    panels[-1].set_ylabel(_in_words(study))
    panels[-1].set_xlabel("minutes of training, whole run")
    _legend(figure, panels[-1])
    return figure


def _minutes_a_step(study: Study, cell: Cell) -> float:
    """Time is taken to pass evenly: what a process's own clock says starts anew whenever a run is resumed."""
    ratios = []
    for run in study.of_cell(cell):
        tags = [study.curves[name, tag][0] for name, tag in study.curves if name == run.name]
        if tags:
            ratios.append((run.number("metrics", "wall_seconds") or 0.0) / 60 / max(float(s[-1]) for s in tags))
    return sum(ratios) / len(ratios)


def _ranking(study: Study) -> Figure | None:
    """Every metric against the primary outcome, one dot a run."""
    ranked = [r for r in study.rankings if r.correlation.rho is not None]
    if not ranked:
        return None
    columns = min(2, len(ranked))
    figure, panels = _panels((len(ranked) + columns - 1) // columns, 2.5, columns)
    for axes, r in zip(panels, ranked, strict=False):
        for cell in study.design.ordered_cells():
            runs = having(having(study.of_cell(cell), r.metric), study.primary)
            x, y = ([outcome.of(run) or 0.0 for run in runs] for outcome in (r.metric, study.primary))
            axes.scatter(x, y, s=18, marker=_marker(study, cell), **_look(study, cell))
        axes.set_xlabel(r.metric.label + (" (less is better)" if r.metric.smaller_is_better else ""))
        axes.set_title(f"rho {r.correlation.rho:+.2f}".replace("-", "−"), fontsize=9)
        axes.locator_params(nbins=4)
    for axes in panels[len(ranked) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(_in_words(study))
    _legend(figure, panels[0])
    return figure
