"""The curves of training: read from TensorBoard events or a CSV file, thinned, averaged over seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from simclr.errors import InputError
from simclr.report.runs import Run

TAGS = ("train/loss", "train/top1", "val/knn_top1")
POINTS = 100  # of a stored curve: more cannot be told apart in a figure, and a file of them stays small
HEADER = ["run", "tag", "step", "value"]

Curve = tuple[np.ndarray, np.ndarray]  # steps and values
Curves = Mapping[tuple[str, str], Curve]  # (run, tag) -> curve


def read_curves(runs: Sequence[Run], table: Path) -> Curves:
    """Each run's curves from its events, or from the CSV file `table` where it has none."""
    stored = _read_table(table) if table.exists() else {}
    curves: dict[tuple[str, str], Curve] = {}
    for run in runs:
        if any(run.path.glob("events.out.tfevents.*")):
            curves |= {(run.name, tag): curve for tag, curve in _read_events(run.path).items()}
        else:
            curves |= {key: curve for key, curve in stored.items() if key[0] == run.name}
    return curves


def _read_events(run_dir: Path) -> dict[str, Curve]:
    from simclr.runs.events import read_scalars

    curves = {}
    for tag, points in read_scalars(run_dir).items():
        known = [(step, value) for step, value in points.items() if math.isfinite(value)]
        if tag in TAGS and known:
            steps, values = np.array(known, float).T
            curves[tag] = thinned(steps, values)
    return curves


def thinned(steps: np.ndarray, values: np.ndarray) -> Curve:
    """At most POINTS points: means of equally many neighbours. A curve that short stays as it is."""
    parts = min(POINTS, len(steps))
    return (
        np.array([part.mean() for part in np.array_split(steps, parts)]),
        np.array([part.mean() for part in np.array_split(values, parts)]),
    )


def _read_table(path: Path) -> dict[tuple[str, str], Curve]:
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if next(rows, None) != HEADER:
                raise ValueError(f"its first line is not {','.join(HEADER)}")
            for run, tag, step, value in rows:
                points.setdefault((run, tag), []).append((float(step), float(value)))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table of curves ({error}); delete it") from error
    return {key: (np.array(of)[:, 0], np.array(of)[:, 1]) for key, of in points.items()}


def table_rows(curves: Curves) -> list[list[str]]:
    """The content of `curves.csv` without its header, in six digits."""
    return [
        [run, tag, f"{step:.6g}", f"{value:.6g}"]
        for (run, tag), (steps, values) in sorted(curves.items())
        for step, value in zip(steps, values, strict=True)
    ]


def over_seeds(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean, lowest and highest value of several seeds' curves, over the steps that all of them reached."""
    last = min(steps[-1] for steps, _ in curves)
    grid = curves[0][0][curves[0][0] <= last]
    stacked = np.stack([np.interp(grid, steps, values) for steps, values in curves])
    return grid, stacked.mean(0), stacked.min(0), stacked.max(0)
