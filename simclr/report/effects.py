"""Effects from paired differences: plain numbers in, numbers out."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from simclr.report.factors import Cell, Factor

CONFIDENCE = 0.95

Values = Mapping[Cell, Mapping[int, float]]  # cell -> seed -> outcome


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with its 95 % Student t interval and the p-value of "the mean is 0".

    low, high and p are None where the seeds give no interval: fewer than two, or all of them equal.
    """

    mean: float
    n: int
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Effect:
    """One contrast between cells, taken within each seed.

    kind: "main" or "interaction". factors, levels, references: what is compared, one entry for a main effect, two for
    an interaction. differences: seed -> contrast. left_out: seed -> the cells it lacks. cells: those needed.
    """

    kind: str
    factors: tuple[str, ...]
    levels: tuple[str, ...]
    references: tuple[str, ...]
    cells: tuple[Cell, ...]
    differences: Mapping[int, float]
    left_out: Mapping[int, tuple[Cell, ...]]
    estimate: Estimate | None = field(default=None)

    @property
    def p(self) -> float | None:
        return None if self.estimate is None else self.estimate.p


def t_interval(values: Sequence[float]) -> Estimate:
    """Mean of `values` with its two-sided 95 % Student t interval, n-1 degrees of freedom.

    Equal values give no interval: their spread is below the outcome's resolution, not 0.
    """
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Estimate(mean, n)
    error = statistics.stdev(values) / n**0.5
    if error <= 1e-9 * max(abs(value) for value in values):  # equal but for rounding
        return Estimate(mean, n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Estimate(mean, n, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, n - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): the chance of any false finding among all of them is bounded."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def all_effects(values: Values, factors: Sequence[Factor]) -> list[Effect]:
    """Every level against its factor's reference, and every two-way interaction of such pairs.

    A main effect is the mean over the levels of the other factors; an interaction is a difference of differences. An
    effect uses the settings of the other factors under which any seed has all of its cells, and the seeds that have
    them under all of these settings.
    """
    pairs = [[(i, level) for level in factor.levels[1:]] for i, factor in enumerate(factors)]
    chosen = [(pair,) for of_factor in pairs for pair in of_factor]
    crossed = [both for a, b in itertools.combinations(pairs, 2) for both in itertools.product(a, b)]
    return [_effect(values, factors, contrast) for contrast in [*chosen, *crossed]]


def _effect(values: Values, factors: Sequence[Factor], contrast: tuple[tuple[int, str], ...]) -> Effect:
    seeds = sorted({seed for of_cell in values.values() for seed in of_cell})
    compared = [i for i, _ in contrast]
    others = dict.fromkeys(tuple("" if i in compared else level for i, level in enumerate(cell)) for cell in values)
    weights: dict[Cell, float] = {}
    for other in others:
        corner: dict[Cell, float] = {}
        # The sign of each corner: +1 for as many levels as there are, -1 for each reference in a level's place.
        for use_level in itertools.product((True, False), repeat=len(contrast)):
            cell = list(other)
            for (i, level), use in zip(contrast, use_level, strict=True):
                cell[i] = level if use else factors[i].reference
            corner[tuple(cell)] = (-1.0) ** use_level.count(False)
        if any(all(seed in values.get(cell, {}) for cell in corner) for seed in seeds):
            weights |= corner
    settings = len(weights) / 2 ** len(contrast)
    missing = {seed: tuple(cell for cell in weights if seed not in values[cell]) for seed in seeds}
    differences = {
        seed: sum(weight * values[cell][seed] for cell, weight in weights.items()) / settings
        for seed in seeds
        if weights and not missing[seed]
    }
    return Effect(
        kind="main" if len(contrast) == 1 else "interaction",
        factors=tuple(factors[i].name for i in compared),
        levels=tuple(level for _, level in contrast),
        references=tuple(factors[i].reference for i in compared),
        cells=tuple(weights),
        differences=differences,
        left_out={seed: cells for seed, cells in missing.items() if cells},
        estimate=t_interval(list(differences.values())) if differences else None,
    )


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho between two measures of n runs, with a two-sided permutation p-value.

    rho and p are None where one of the measures is the same in all runs, p also for fewer than four runs.
    """

    rho: float | None
    p: float | None
    n: int


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> RankCorrelation:
    """Whether `x` ranks runs as `y` does. p: exact for up to 7 runs, else from 9,999 seeded permutations."""
    n = len(x)
    if n < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return RankCorrelation(None, None, n)
    ranks = [stats.rankdata(values) for values in (x, y)]
    centred = [rank - rank.mean() for rank in ranks]
    scale = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    rho = float(centred[0] @ centred[1]) / scale
    if n < 4:
        return RankCorrelation(rho, None, n)  # six orders: no rho is rare among them
    test = stats.permutation_test(
        (centred[0],),
        lambda permuted, axis: (permuted * centred[1]).sum(axis=axis) / scale,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=9_999,
        rng=np.random.default_rng(0),
    )
    return RankCorrelation(rho, float(test.pvalue), n)
