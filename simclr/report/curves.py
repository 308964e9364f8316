"""The curves of training: read from TensorBoard events or a CSV file, thinned, averaged over seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from simclr.errors import InputError

POINTS = 100  # of a stored curve: more cannot be told apart in a figure, and a file of them stays small
COLUMNS = {"run": str, "tag": str, "step": float, "value": float}


def read_curves(paths: Mapping[str, Path], tags: Collection[str], table: Path) -> pd.DataFrame:
    """The curves `tags` of runs (name -> directory) as COLUMNS; of those without events from the file `table`."""
    stored = _read_table(table) if table.exists() else pd.DataFrame(columns=list(COLUMNS))
    known = [stored[stored["tag"].isin(tags) & stored["run"].isin(paths)]]
    for run, path in paths.items():
        if any(path.glob("events.out.tfevents.*")):
            from simclr.runs.events import read_scalars  # takes a second

            known[0] = known[0][known[0]["run"] != run]
            known += [_thinned(run, tag, curve) for tag, curve in read_scalars(path).items() if tag in tags]
    return pd.concat([part for part in known if len(part)] or [stored[:0]], ignore_index=True).astype(COLUMNS)


def _thinned(run: str, tag: str, curve: Mapping[int, float]) -> pd.DataFrame:
    """At most POINTS points: means of equally many neighbours. A curve that short stays as it is."""
    points = np.array([point for point in curve.items() if np.isfinite(point[1])], float).reshape(-1, 2)
    parts = np.array_split(points, min(POINTS, len(points))) if len(points) else []
    means = [part.mean(axis=0) for part in parts]
    return pd.DataFrame([(run, tag, *mean) for mean in means], columns=list(COLUMNS))


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False)
        if list(table) != list(COLUMNS):
            raise ValueError(f"its first line is not {','.join(COLUMNS)}")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table of curves ({error}); delete it") from error
    return table


def over_seeds(curves: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest and highest value of several runs' curves by step, over the steps that all of them reached."""
    of_runs = [curve for _, curve in curves.groupby("run", sort=False)]
    steps = of_runs[0]["step"]
    steps = steps[steps <= min(curve["step"].iloc[-1] for curve in of_runs)]
    values = pd.DataFrame([np.interp(steps, curve["step"], curve["value"]) for curve in of_runs], columns=steps)
    return values.agg(["mean", "min", "max"]).T
