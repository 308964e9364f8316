"""The CSV files of a report: its numbers, unrounded, for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simclr.report.curves import HEADER, table_rows
from simclr.report.study import Study
from simclr.system.files import replacing


def write_tables(study: Study, folder: Path) -> None:
    """`runs.csv`, `settings.csv`, `effects.csv`, `ranking.csv`, and `curves.csv` where there are curves."""
    _write(folder / "runs.csv", *_runs(study))
    _write(folder / "settings.csv", ["setting", "value"], _settings(study))
    _write(folder / "effects.csv", *_effects(study))
    _write(folder / "ranking.csv", *_ranking(study))
    if study.curves:
        _write(folder / "curves.csv", HEADER, table_rows(study.curves))


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _runs(study: Study) -> tuple[list[str], list[list[Any]]]:
    """One row a run: its levels, its seed, and every number of its JSON files."""
    numbers = []
    for run in study.runs:
        files = {"metrics": run.metrics, **run.evaluations}
        numbers.append(
            {
                key if file == "metrics" else f"{file}/{key}": value
                for file, content in files.items()
                for key in content
                if (value := run.number(file, key)) is not None
            }
        )
    columns = list(dict.fromkeys(key for of_run in numbers for key in of_run))
    rows = [
        [run.name, *study.design.cells[run.name], run.seed, *(of_run.get(key, "") for key in columns)]
        for run, of_run in zip(study.runs, numbers, strict=True)
    ]
    return ["run", *(factor.name for factor in study.design.factors), "seed", *columns], rows


def _settings(study: Study) -> list[list[str]]:
    """What all runs have in common."""
    first, *others = [run.settings for run in study.runs]
    return [
        [key, json.dumps(value)]
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    ]


def _effects(study: Study) -> tuple[list[str], list[list[Any]]]:
    header = ["outcome", "family", "kind", "factors", "levels", "references", "change", "low", "high", "seeds"]
    header += ["p", "holm_p", "seeds_used", "seeds_left_out"]
    rows = []
    families = [("primary", t) for t in study.primary_effects] + [("secondary", t) for t in study.secondary_effects]
    for family, t in families:
        effect, estimate = t.effect, t.effect.estimate
        sides = [" × ".join(names) for names in (effect.factors, effect.levels, effect.references)]
        numbers = (
            [None, None, None, 0] if estimate is None else [estimate.mean, estimate.low, estimate.high, estimate.n]
        )
        used, left_out = (" ".join(map(str, seeds)) for seeds in (effect.differences, effect.left_out))
        rows.append([t.outcome.column, family, effect.kind, *sides, *numbers, effect.p, t.adjusted_p, used, left_out])
    return header, rows


def _ranking(study: Study) -> tuple[list[str], list[list[Any]]]:
    header = ["metric", "smaller_is_better", "rho", "runs", "p", "holm_p", "rho_of_cell_means", "cells"]
    return header, [
        [
            *(r.metric.column, r.metric.smaller_is_better, r.correlation.rho, r.correlation.n, r.correlation.p),
            *(r.adjusted_p, r.of_cells.rho, r.of_cells.n),
        ]
        for r in study.rankings
    ]
