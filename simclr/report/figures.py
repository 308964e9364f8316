"""The figures of a report, drawn with matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simclr.report import palette
from simclr.report.curves import over_seeds
from simclr.report.factors import Cell
from simclr.report.outcomes import KNN, on_the_way, scalars
from simclr.report.study import Study

WIDTH = 5.2  # inches, so that letters of 9 points are still read on a phone's width
LINES = ("-", "--", ":", "-.")  # neighbours differ in colour and in line, to be told apart in black and white as well
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def draw_all(study: Study, folder: Path) -> dict[str, Path]:
    """Write the figures that the runs allow into `folder`, as SVG; name -> path."""
    written = {}
    with matplotlib.rc_context(palette.STYLE | STYLE):
        for draw in (_cells, _effects, _curves, _on_the_way, _time, _ranking):
            figure = draw(study)
            if figure is not None:
                name = draw.__name__.removeprefix("_")
                written[name] = folder / f"{name}.svg"
                palette.save(figure, written[name])
    return written


def _looks(study: Study) -> dict[Cell, dict[str, Any]]:
    return {cell: palette.symbol(i) | {"label": study.design.label(cell)} for i, cell in enumerate(study.cells)}


def _panels(rows: int, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _legend(figure: Figure, axes: Axes) -> Figure:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = max(1, min(len(labels), 64 // (max(map(len, labels)) + 8)))
        figure.set_figheight(figure.get_figheight() + 0.18 * math.ceil(len(labels) / columns))  # panels keep theirs
        figure.legend(handles, labels, loc="outside upper center", ncols=columns)
    return figure


def _rows(height: float, labels: list[str], x_label: str) -> tuple[Figure, Axes]:
    """A figure with a row a label, the first on top."""
    figure, (axes,) = _panels(1, height)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel(x_label)
    return figure, axes


def _cells(study: Study) -> Figure:
    """The primary outcome of every run, its seeds joined across cells, and each cell's mean."""
    values = {cell: study.values(study.primary.column, cell) for cell in study.cells}
    cells = [cell for cell in values if len(values[cell])]
    figure, axes = _rows(1.1 + 0.42 * len(cells), [study.design.label(cell) for cell in cells], study.primary.axis)
    row = pd.Series({run: place for place, cell in enumerate(cells) for run in values[cell].index})
    number = study.sweep.number(study.primary.column)
    for _, runs in study.sweep.seeds[row.index].groupby(study.sweep.seeds):
        axes.plot(number[runs.index], row[runs.index], color="#c4c4c4", linewidth=0.8, zorder=1)
    for place, cell in enumerate(cells):
        look, of_cell = _looks(study)[cell], values[cell]
        axes.plot(of_cell, [place] * len(of_cell), linestyle="none", markersize=4.7, **look)
        axes.plot([of_cell.mean()] * 2, [place - 0.28, place + 0.28], color=look["color"], linewidth=2.2, zorder=3)
    return figure


def _effects(study: Study) -> Figure | None:
    """Each effect on the primary outcome: its mean and interval, and the seeds it comes from."""
    drawn = [(effect, effect.estimate) for effect in study.primary_effects if effect.estimate is not None]
    if not drawn:
        return None
    labels = [
        f"{effect.factors[0]}\n{effect.levels[0]} against {effect.references[0]}"
        if effect.is_main
        else "interaction\n" + " × ".join(effect.levels)
        for effect, _ in drawn
    ]
    unit = f" ({study.primary.unit})" if study.primary.unit else ""
    figure, axes = _rows(0.9 + 0.62 * len(drawn), labels, f"change of {study.primary.label}{unit}")
    for row, (effect, estimate) in enumerate(drawn):
        colour = palette.VERMILION if effect.claimed else palette.BLUE
        seeds = list(effect.differences.values())
        axes.plot(seeds, [row + 0.24] * len(seeds), "o", color="#666666", markersize=3.7, fillstyle="none")
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([estimate.mean], [row], "o", color=colour, markersize=6)
    axes.axvline(0, color="black", linewidth=0.9)
    return figure


def _curves(study: Study) -> Figure | None:
    """What the method measures while it trains, over steps."""
    drawn = [scalar for scalar in scalars(study.sweep) if scalar.column in set(study.curves["tag"])]
    if not drawn:
        return None
    figure, panels = _panels(len(drawn), 2.9)
    for axes, scalar in zip(panels, drawn, strict=True):
        _draw_curves(study, axes, scalar.column)
        axes.set(xlabel="step", ylabel=scalar.axis)
    return _legend(figure, panels[0])


def _draw_curves(study: Study, axes: Axes, tag: str, x_per_step: Mapping[Cell, float] | None = None) -> None:
    for place, (cell, look) in enumerate(_looks(study).items()):
        curves = study.curves[(study.curves["tag"] == tag) & study.curves["run"].isin(study.cells[cell])]
        if len(curves):
            seeds = over_seeds(curves)
            x = seeds.index * (1 if x_per_step is None else x_per_step[cell])
            look |= {} if len(seeds) < 12 else {"marker": ""}
            axes.plot(x, seeds["mean"], linestyle=LINES[place % 4], linewidth=1.6, markersize=4, **look)
            if curves["run"].nunique() > 1:
                axes.fill_between(x, seeds["min"], seeds["max"], color=look["color"], alpha=0.18, linewidth=0)


def _on_the_way(study: Study) -> Figure | None:
    """Linear and k-NN accuracy of the checkpoints that were judged, over epochs."""
    if not study.sweep.numbers.filter(regex="^linear_eval_epoch-").size:
        return None
    figure, panels = _panels(2, 2.5)
    low, high = (on_the_way(study.sweep, f"top1_{end}") for end in ("low", "high"))
    for axes, key, name in zip(panels, ("top1", "knn_top1"), ("linear top-1", "k-NN top-1"), strict=True):
        known = on_the_way(study.sweep, key)
        for place, (cell, look) in enumerate(_looks(study).items()):
            runs = study.cells[cell]
            means = known.loc[runs].mean().dropna()
            axes.plot(means.index, means, linestyle=LINES[place % 4], **look)
            if key == "top1" and len(runs) == 1:
                axes.vlines(low.columns, low.loc[runs[0]], high.loc[runs[0]], color=look["color"], linewidth=1.6)
        axes.set(xlabel="epoch (0: before training)", ylabel=f"{name}, per cent")
    return _legend(figure, panels[0])


def _time(study: Study) -> Figure | None:
    """k-NN accuracy while training goes on, and the primary outcome at its end, over minutes of training."""
    minutes = study.sweep.number("wall_seconds") / 60
    final = study.sweep.number(study.primary.column)
    if (minutes + final).isna().all():
        return None
    figure, panels = _panels(1 + study.has_knn_curves, 2.7)
    if study.has_knn_curves:
        # Time is taken to pass evenly: what a process's own clock says starts anew whenever a run is resumed.
        per_step = minutes / study.curves.groupby("run")["step"].max()
        _draw_curves(
            study, panels[0], KNN[-1].column, {cell: per_step[runs].mean() for cell, runs in study.cells.items()}
        )
        panels[0].set(xlabel="minutes of training (mean over seeds)", ylabel="k-NN top-1, per cent", xlim=(0, None))
    for cell, look in _looks(study).items():
        runs = study.cells[cell]
        panels[-1].plot(minutes[runs], final[runs], linestyle="none", markersize=5, **look)
    panels[-1].set(xlabel="minutes of training, whole run", ylabel=study.primary.axis)
    return _legend(figure, panels[-1])


def _ranking(study: Study) -> Figure | None:
    """Every metric against the primary outcome, one dot a run."""
    ranked = study.rankings.dropna(subset="rho")
    if ranked.empty:
        return None
    columns = min(2, len(ranked))
    figure, panels = _panels(math.ceil(len(ranked) / columns), 2.5, columns)
    for axes, r in zip(panels, ranked.itertuples(), strict=False):
        x, y = study.sweep.number(r.metric), study.sweep.number(study.primary.column)
        for cell, look in _looks(study).items():
            axes.plot(x[study.cells[cell]], y[study.cells[cell]], linestyle="none", markersize=4.2, **look)
        axes.set_xlabel(r.label + (" (less is better)" if r.smaller_is_better else ""))
        axes.set_title(f"rho {r.rho:+.2f}".replace("-", "−"), fontsize=9)
        axes.locator_params(nbins=4)
    for axes in panels[len(ranked) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(study.primary.axis)
    return _legend(figure, panels[0])
