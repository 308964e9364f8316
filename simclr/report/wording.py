"""Numbers and effects in words that are no stronger than the intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simclr.report.effects import Effect, Estimate, RankCorrelation

SIGNIFICANT = 0.05


def decimals(scale: float) -> int:
    """Decimal places that show a number of this size to two digits: 2 for a fraction of a point, 0 for 30 and more."""
    return 2 if scale == 0 or not math.isfinite(scale) else min(6, max(0, 1 - math.floor(math.log10(abs(scale)))))


def plain(value: float, places: int) -> str:
    """A number with thousands marked and a true minus sign."""
    text = f"{value:,.{places}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.removeprefix("-")


def signed(value: float, places: int) -> str:
    """A change, with its sign."""
    text = plain(value, places)
    return f"+{text}" if value > 0 and not text.startswith("−") else text


def p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def seeds(n: int) -> str:
    return f"{n} seed" if n == 1 else f"{n} seeds"


def named(effect: Effect) -> str:
    """What is compared: "augmentation: modified against baseline"; "augmentation modified × head slim"."""
    if effect.kind == "main":
        return f"{effect.factors[0]}: {effect.levels[0]} against {effect.references[0]}"
    return " × ".join(f"{factor} {level}" for factor, level in zip(effect.factors, effect.levels, strict=True))


def places_of(estimate: Estimate) -> int:
    """Decimal places that its interval deserves; two at least, which an accuracy in per cent has."""
    half = 0.0 if estimate.low is None or estimate.high is None else (estimate.high - estimate.low) / 2
    return max(2, decimals(half or estimate.mean))


def interval(estimate: Estimate) -> str:
    """The 95 % interval of a change, or a dash where there is none."""
    if estimate.low is None or estimate.high is None:
        return "–"
    places = places_of(estimate)
    return f"{signed(estimate.low, places)} to {signed(estimate.high, places)}"


def is_claimed(effect: Effect, adjusted_p: float | None) -> bool:
    """Whether an effect may be called one: its interval excludes 0, and it survives the number of tests."""
    return effect.p is not None and adjusted_p is not None and max(effect.p, adjusted_p) < SIGNIFICANT


def effect_sentence(effect: Effect, outcome: str, unit: str, adjusted_p: float | None, tested: int) -> str:
    """What the runs say about one effect on one outcome, and which effects they exclude.

    adjusted_p: Holm's, among the `tested` effects.
    """
    sides = list(zip(effect.factors, effect.levels, effect.references, strict=True))
    estimate = effect.estimate
    if estimate is None:
        return f"{named(effect)}: its effect on {outcome} cannot be estimated, as no seed has every cell that it needs."
    places = places_of(estimate)
    amount = " ".join(filter(None, [signed(estimate.mean, places), unit]))
    if effect.kind == "main":
        factor, level, reference = sides[0]
        head = f"{factor} {level} against {reference} changes {outcome} by {amount}"
    else:
        both = listed([f"{factor} ({level} against {reference})" for factor, level, reference in sides])
        head = f"The interaction of {both} on {outcome} is {amount}"
    if estimate.n < 2:
        return f"{head} (1 seed: no interval): nothing can be concluded from one seed."
    if estimate.low is None or estimate.high is None:
        return f"{head} ({seeds(estimate.n)}, all equal: no spread to take an interval from): nothing can be concluded."
    measured = f"{head} (95 % interval {interval(estimate)}; {seeds(estimate.n)})"
    excluded = _excluded(estimate, places, unit)
    if estimate.low <= 0 <= estimate.high:
        return f"{measured}: the interval includes 0, so no effect is claimed. {excluded}"
    if not is_claimed(effect, adjusted_p):
        adjusted = "–" if adjusted_p is None else p_value(adjusted_p)
        return (
            f"{measured}: this interval on its own excludes 0, but among {tested} effects tested it does not stand out "
            f"(Holm-adjusted p = {adjusted}), so no effect is claimed."
        )
    words = ("an increase", "a decrease") if effect.kind == "main" else ("together more", "together less")
    direction = words[estimate.mean < 0] + ("" if effect.kind == "main" else " than the sum of the two effects")
    among = "" if tested == 1 or adjusted_p is None else f", also among {tested} effects tested ({_holm(adjusted_p)})"
    return f"{measured}: the interval excludes 0{among}: {direction}. {excluded}"


def _holm(p: float) -> str:
    text = p_value(p)
    return f"Holm-adjusted p {text}" if text.startswith("<") else f"Holm-adjusted p = {text}"


def _excluded(estimate: Estimate, places: int, unit: str) -> str:
    assert estimate.low is not None
    assert estimate.high is not None
    low, high = (" ".join(filter(None, [signed(bound, places), unit])) for bound in (estimate.low, estimate.high))
    return f"It excludes values below {low} and above {high}."


def ranking_sentence(metric: str, correlation: RankCorrelation, adjusted_p: float | None, primary: str) -> str:
    """Whether a metric ranks the runs as the primary outcome does; rho is positive where it does."""
    if correlation.rho is None:
        return f"{metric}: no ranking: {correlation.n} runs, which are too few or all have the same value."
    if adjusted_p is None:
        return f"{metric}: rho {signed(correlation.rho, 2)} with {correlation.n} runs, too few to conclude anything."
    head = f"{metric}: rho {signed(correlation.rho, 2)} ({correlation.n} runs; {_holm(adjusted_p)})"
    if adjusted_p >= SIGNIFICANT:
        return f"{head}: no relation with {primary} is claimed."
    return f"{head}: it ranks the runs {'as' if correlation.rho > 0 else 'against'} {primary}, on the whole."


def listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
