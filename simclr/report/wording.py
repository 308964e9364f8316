"""Numbers and effects in words that are no stronger than the intervals, and pieces of Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from simclr.report.effects import SIGNIFICANT, Effect, Estimate


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


def p_value(p: float | None) -> str:
    return "–" if p is None or math.isnan(p) else "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(names: Iterable[str]) -> str:
    """ "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


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


def level(estimate: Estimate | None) -> str:
    """A mean ± half its interval."""
    if estimate is None:
        return "–"
    places = min(places_of(estimate), 4)
    mean = plain(estimate.mean, places)
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} ± {plain((estimate.high - estimate.low) / 2, places)}"


def named(effect: Effect) -> str:
    """What is compared: "augmentation: modified against baseline"; "augmentation modified × head slim"."""
    if effect.is_main:
        return f"{effect.factors[0]}: {effect.levels[0]} against {effect.references[0]}"
    return " × ".join(f"{factor} {level}" for factor, level in zip(effect.factors, effect.levels, strict=True))


def effect_sentence(effect: Effect, tested: int) -> str:
    """What the runs say about one effect, of `tested` in its family, and which effects they exclude."""
    outcome, estimate = effect.outcome.label, effect.estimate
    if estimate is None:
        return f"{named(effect)}: its effect on {outcome} cannot be estimated, as no seed has every cell that it needs."

    def amount(value: float) -> str:
        return f"{signed(value, places_of(estimate))} {effect.outcome.unit}".strip()

    sides = zip(effect.factors, effect.levels, effect.references, strict=True)
    if effect.is_main:
        head = "{} {} against {} changes ".format(*next(sides)) + f"{outcome} by {amount(estimate.mean)}"
        words = "a decrease" if estimate.mean < 0 else "an increase"
    else:
        both = listed("{} ({} against {})".format(*side) for side in sides)
        head = f"The interaction of {both} on {outcome} is {amount(estimate.mean)}"
        words = f"together {'less' if estimate.mean < 0 else 'more'} than the sum of the two effects"
    if estimate.n < 2:
        return f"{head} (1 seed: no interval): nothing can be concluded from one seed."
    n = counted(estimate.n, "seed")
    if estimate.low is None or estimate.high is None:
        return f"{head} ({n}, all equal: no spread to take an interval from): nothing can be concluded."
    measured = f"{head} (95 % interval {interval(estimate)}; {n})"
    excluded = f"It excludes values below {amount(estimate.low)} and above {amount(estimate.high)}."
    if estimate.low <= 0 <= estimate.high:
        return f"{measured}: the interval includes 0, so no effect is claimed. {excluded}"
    if not effect.claimed:
        return (
            f"{measured}: this interval on its own excludes 0, but among {tested} effects tested it does not stand out "
            f"({_holm(effect.holm_p)}), so no effect is claimed."
        )
    among = "" if tested == 1 else f", also among {tested} effects tested ({_holm(effect.holm_p)})"
    return f"{measured}: the interval excludes 0{among}: {words}. {excluded}"


def _holm(p: float | None) -> str:
    text = p_value(p)
    return f"Holm-adjusted p {text}" if text.startswith("<") else f"Holm-adjusted p = {text}"


def ranking_sentence(metric: str, rho: float, holm_p: float, n: int, primary: str) -> str:
    """Whether a metric ranks n runs as the primary outcome does: rho is positive where it does, NaN if unknown."""
    if math.isnan(rho):
        return f"{metric}: no ranking: {n} runs, which are too few or all have the same value."
    if math.isnan(holm_p):
        return f"{metric}: rho {signed(rho, 2)} with {n} runs, too few to conclude anything."
    head = f"{metric}: rho {signed(rho, 2)} ({n} runs; {_holm(holm_p)})"
    if holm_p >= SIGNIFICANT:
        return f"{head}: no relation with {primary} is claimed."
    return f"{head}: it ranks the runs {'as' if rho > 0 else 'against'} {primary}, on the whole."


def literal(text: str) -> str:
    """Text from a run as it is, without what Markdown would read into it."""
    return re.sub(r"([\\`*_\[\]<>&#~])", r"\\\1", text)


def literals(texts: Iterable[str]) -> str:
    return listed(map(literal, texts))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table, its first `words` columns to the left and the others, numbers, to the right."""
    ruler = ["---"] * words + ["---:"] * (len(header) - words)
    lines = ([text.replace("|", "\\|").replace("\n", " ") for text in row] for row in [header, ruler, *rows])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
