"""What a design can see: the chance that a paired t test finds an effect of some size, with so many seeds."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from simclr.report.effects import SIGNIFICANT, Estimate

CHANCE = 0.8  # with which an effect is to be found; the custom since Cohen (1988)
MOST_SEEDS = 10_000
QUANTILES = 4096


def power(effect: float, spread: float, n: int) -> float:
    """The chance that n seeds find a true `effect`: that a two-sided t test over their differences is significant.

    spread: the standard deviation of the differences over seeds, > 0. n: two or more.
    """
    bound, shift = stats.t.ppf(1 - SIGNIFICANT / 2, n - 1), abs(effect) * math.sqrt(n) / spread
    # Over the quantiles of the spread that n seeds may show; scipy's non-central t is not a number in its far tails.
    shown = np.sqrt(stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, n - 1) / (n - 1))
    return float((stats.norm.sf(bound * shown - shift) + stats.norm.cdf(-bound * shown - shift)).mean())


def smallest_effect(spread: float, n: int) -> float:
    """The effect that n seeds find with CHANCE."""
    most = 40 * spread * stats.t.ppf(1 - SIGNIFICANT / 2, n - 1) / math.sqrt(n)
    return float(optimize.brentq(lambda effect: power(effect, spread, n) - CHANCE, 0, most))


def seeds_for(effect: float, spread: float) -> int | None:
    """How many seeds find an effect of that size with CHANCE; None where MOST_SEEDS do not."""
    few, many = 2, MOST_SEEDS
    if power(effect, spread, many) < CHANCE:
        return None
    while few < many:
        middle = (few + many) // 2
        few, many = (few, middle) if power(effect, spread, middle) >= CHANCE else (middle + 1, many)
    return few


def spread_of(estimate: Estimate) -> float | None:
    """The standard deviation over seeds behind an estimate's interval; None where it has none."""
    if estimate.low is None or estimate.high is None:
        return None
    half = (estimate.high - estimate.low) / 2
    return float(half * math.sqrt(estimate.n) / stats.t.ppf(0.975, estimate.n - 1))
