"""The CSV files of a report: its numbers, unrounded, for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from simclr.report.study import Study
from simclr.system.files import replacing


def write_tables(study: Study, folder: Path) -> None:
    """`runs.csv`, `settings.csv`, `effects.csv`, `ranking.csv`, and `curves.csv` where there are curves."""
    _write(folder / "runs.csv", _runs(study))
    _write(folder / "settings.csv", _settings(study))
    _write(folder / "effects.csv", _effects(study))
    _write(folder / "ranking.csv", study.rankings.drop(columns="label"))
    if len(study.curves):
        _write(folder / "curves.csv", study.curves.sort_values(["run", "tag"], kind="stable"), "%.6g")


def _write(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    with replacing(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format=float_format, lineterminator="\n", encoding="utf-8")


def _runs(study: Study) -> pd.DataFrame:
    """One row a run: its levels, its seed, and every number of its JSON files."""
    runs = list(study.sweep.files)
    factors = [factor.name for factor in study.design.factors]
    cells = pd.DataFrame([study.design.cells[run] for run in runs], runs, factors, dtype=object)
    return pd.concat([cells, study.sweep.seeds, study.sweep.numbers], axis=1).reset_index(names="run")


def _settings(study: Study) -> pd.DataFrame:
    """What all runs have in common."""
    texts = study.sweep.settings.map(json.dumps)
    common = texts.loc[:, texts.nunique() == 1]
    return common.iloc[0].rename_axis("setting").reset_index(name="value")


def _effects(study: Study) -> pd.DataFrame:
    rows = []
    families = [("primary", e) for e in study.primary_effects] + [("secondary", e) for e in study.secondary_effects]
    for family, effect in families:
        mean, n, low, high, p = effect.estimate or (None, 0, None, None, None)
        sides = [" × ".join(names) for names in (effect.factors, effect.levels, effect.references)]
        used, left_out = (" ".join(map(str, seeds)) for seeds in (effect.differences, effect.left_out))
        kind = "main" if effect.is_main else "interaction"
        rows.append([effect.outcome.column, family, kind, *sides, mean, low, high, n, p, effect.holm_p, used, left_out])
    header = ["outcome", "family", "kind", "factors", "levels", "references", "change", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=[*header, "p", "holm_p", "seeds_used", "seeds_left_out"])
