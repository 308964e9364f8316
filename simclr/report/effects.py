"""Effects from paired differences, and rank correlations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from simclr.report.factors import Cell, Factor
from simclr.report.outcomes import Outcome

SIGNIFICANT = 0.05


class Estimate(NamedTuple):
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
    """One contrast between cells in one outcome, taken within each seed.

    factors, levels, references: what is compared, one entry for a main effect, two for an interaction. differences:
    seed -> contrast. left_out: seed -> the cells it lacks. estimate: None where no seed has every cell needed.
    holm_p: its p-value adjusted for the number of effects of its family, None where it has none.
    """

    outcome: Outcome
    factors: tuple[str, ...]
    levels: tuple[str, ...]
    references: tuple[str, ...]
    differences: Mapping[int, float]
    left_out: Mapping[int, tuple[Cell, ...]]
    estimate: Estimate | None
    holm_p: float | None = None

    @property
    def is_main(self) -> bool:
        return len(self.factors) == 1

    @property
    def p(self) -> float | None:
        return None if self.estimate is None else self.estimate.p

    @property
    def claimed(self) -> bool:
        """Whether it may be called an effect: its interval excludes 0, and it survives the number of tests."""
        return self.p is not None and self.holm_p is not None and max(self.p, self.holm_p) < SIGNIFICANT


def t_interval(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean of `values` with its two-sided 95 % Student t interval, n-1 degrees of freedom.

    Equal values give no interval: their spread is below the outcome's resolution, not 0.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2 or np.ptp(values) <= 1e-9 * np.abs(values).max():  # equal but for rounding
        return Estimate(mean, n)
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(0.95)
    return Estimate(mean, n, float(low), float(high), float(test.pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for the number of those that are not None (Holm 1979): bounds the chance of any false one."""
    known = np.array([p for p in p_values if p is not None])
    order = np.argsort(known)
    steps = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)).clip(max=1)
    adjusted = iter(steps[np.argsort(order)].tolist())
    return [None if p is None else next(adjusted) for p in p_values]


def all_effects(outcome: Outcome, values: pd.Series, factors: Sequence[Factor]) -> list[Effect]:
    """Every level against its factor's reference, and every two-way interaction of such pairs.

    values: the outcome, indexed by the level of each factor, then by seed. A main effect is the mean over the levels of
    the other factors; an interaction is a difference of differences. An effect uses the settings of the other factors
    under which any seed has all of its cells, and the seeds that have them under all of these settings.
    """
    pairs = [[(factor, level) for level in factor.levels[1:]] for factor in factors]
    single = [(pair,) for of_factor in pairs for pair in of_factor]
    crossed = [both for a, b in itertools.combinations(pairs, 2) for both in itertools.product(a, b)]
    return [_effect(outcome, values, contrast) for contrast in [*single, *crossed]]


def _effect(outcome: Outcome, values: pd.Series, contrast: tuple[tuple[Factor, str], ...]) -> Effect:
    contrasted = values
    for factor, level in contrast:
        sides = contrasted.unstack(factor.name).reindex(columns=[level, factor.reference])
        contrasted = sides[level] - sides[factor.reference]
    contrasted = contrasted.dropna()  # its index: the settings of the other factors, then the seed
    settings = {index[:-1] if isinstance(index, tuple) else () for index in contrasted.index}
    by_seed = contrasted.groupby(level="seed")
    differences = by_seed.mean()[by_seed.size() == len(settings)]

    compared = {factor.name: (level, factor.reference) for factor, level in contrast}
    needed = []
    for cell in dict.fromkeys(index[:-1] for index in values.index):
        levels = dict(zip(values.index.names[:-1], cell, strict=True))
        others = tuple(level for name, level in levels.items() if name not in compared)
        if others in settings and all(levels[name] in sides for name, sides in compared.items()):
            needed.append(cell)
    missing = {
        int(seed): tuple(cell for cell in needed if (*cell, seed) not in values.index)
        for seed in sorted(values.index.unique("seed"))
    }
    return Effect(
        outcome=outcome,
        factors=tuple(factor.name for factor, _ in contrast),
        levels=tuple(level for _, level in contrast),
        references=tuple(factor.reference for factor, _ in contrast),
        differences=differences.to_dict(),
        left_out={seed: cells for seed, cells in missing.items() if cells},
        estimate=t_interval(differences.to_numpy()) if len(differences) else None,
    )
