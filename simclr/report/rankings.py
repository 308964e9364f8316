"""How well loss and label-free metrics rank runs as their accuracy does: in all, within a method, among cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from simclr.report.effects import holm
from simclr.report.factors import Design
from simclr.report.outcomes import Outcome, label_free_metrics
from simclr.report.runs import Sweep

COLUMNS = [
    "metric", "smaller_is_better", "rho", "rho_low", "rho_high", "runs", "p", "rho_within", "within_low", "within_high",
    "methods", "rho_of_cell_means", "cells",
]  # fmt: skip


def rank_metrics(sweep: Sweep, design: Design, primary: Outcome) -> pd.DataFrame:
    """A row a metric: Spearman's rho with the primary outcome, turned round for a metric of which less is better.

    rho, rho_low, rho_high, p, holm_p: among all runs. rho_within, within_low, within_high: within a method, pooled over
    `methods` of them; NaN where the runs have one method. rho_of_cell_means: among the means of cells.
    """
    rows = []
    metrics = [metric for metric in label_free_metrics(sweep) if metric != primary]
    cells = pd.Series(design.cells)
    place = next((i for i, factor in enumerate(design.factors) if factor.name == "method"), None)
    methods = None if place is None else cells.map(lambda cell: str(cell[place]))
    for metric in metrics:
        pairs = pd.DataFrame({"metric": sweep.number(metric.column), "primary": sweep.number(primary.column)}).dropna()
        pairs["metric"] *= -1 if metric.smaller_is_better else 1
        rho, p = rank_correlation(pairs["metric"], pairs["primary"])
        within = [] if methods is None else [
            (spearman(of["metric"], of["primary"]), len(of)) for _, of in pairs.groupby(methods)
        ]  # fmt: skip
        pooled = pool(within)
        means = pairs.groupby(cells.map(str)).mean()
        of_cells = spearman(means["metric"], means["primary"])
        rows.append((
            metric.column, metric.smaller_is_better, rho, *rank_interval(rho, len(pairs)), len(pairs), p, *pooled,
            of_cells, len(means),
        ))  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.insert(7, "holm_p", holm([row[6] for row in rows]))
    table["label"] = [metric.label for metric in metrics]
    return table.astype({name: float for name in table if name.startswith(("rho", "within", "p", "holm"))})


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float | None, float | None]:
    """Whether `x` ranks runs as `y` does: Spearman's rho and its two-sided p, by permutation.

    p is exact for up to 7 runs, else from 9,999 seeded permutations; None for fewer than four. Both are None where one
    of the measures is the same in all runs.
    """
    rho = spearman(x, y)
    if rho is None or len(x) < 4:
        return rho, None  # three runs have six orders: no rho is rare among them
    first, second = _standard_ranks(x, y)
    test = stats.permutation_test(
        (first,),
        lambda permuted, axis: (permuted * second).mean(axis=axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=9_999,
        rng=np.random.default_rng(0),
    )
    return rho, float(test.pvalue)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rho; None for fewer than three runs, and where one of the measures is the same in all of them."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    first, second = _standard_ranks(x, y)
    return float((first * second).mean())


def _standard_ranks(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    return stats.zscore(stats.rankdata([x, y], axis=1), axis=1)


def rank_interval(rho: float | None, n: int) -> tuple[float, float]:
    """95 % interval of Spearman's rho over n runs, tanh(atanh ρ ± 1.96·√((1 + ρ²/2)/(n - 3))) (Bonett & Wright 2000).

    Around a rho of 1, where it would have no width, it is that of the next smaller one, up to 1; so for -1. NaN where
    rho is unknown and for fewer than four runs.
    """
    if rho is None or n < 4:
        return math.nan, math.nan
    centre, width = math.atanh(_inside(rho, n)), 1.96 * math.sqrt(_variance(rho, n))
    low, high = math.tanh(centre - width), math.tanh(centre + width)
    return (-1.0 if rho == -1 else low), (1.0 if rho == 1 else high)


def pool(groups: Sequence[tuple[float | None, int]]) -> tuple[float, float, float, int]:
    """One rho of several groups of runs, its 95 % interval, and how many groups it is of.

    groups: rho and number of runs of each; those without a rho, or with fewer than four runs, are left out. Fisher's z
    values are weighted by the inverse of their variances. NaN where no group is left.
    """
    known = [(rho, n) for rho, n in groups if rho is not None and n >= 4]
    if not known:
        return math.nan, math.nan, math.nan, 0
    weights = np.array([1 / _variance(rho, n) for rho, n in known])
    z = np.average([math.atanh(_inside(rho, n)) for rho, n in known], weights=weights)
    width = 1.96 / math.sqrt(weights.sum())
    return math.tanh(z), math.tanh(z - width), math.tanh(z + width), len(known)


def _variance(rho: float, n: int) -> float:
    """Of Fisher's z of Spearman's rho (Bonett & Wright 2000)."""
    return (1 + rho**2 / 2) / (n - 3)


def _inside(rho: float, n: int) -> float:
    """rho, at most as large as where two neighbours have changed places: of 1 Fisher's z is infinite."""
    most = 1 - 12 / (n * (n**2 - 1))
    return min(max(rho, -most), most)
