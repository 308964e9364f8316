"""Pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from simclr.report.effects import Estimate
from simclr.report.wording import places_of, plain


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table, its first `words` columns to the left and the others, numbers, to the right."""
    ruler = ["---"] * words + ["---:"] * (len(header) - words)
    return "\n".join("| " + " | ".join(map(_cell_text, row)) + " |" for row in [header, ruler, *rows])


def _cell_text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def literal(text: str) -> str:
    """Text from a run as it is, without what Markdown would read into it."""
    return re.sub(r"([\\`*_\[\]<>&#~])", r"\\\1", text)


def figure_block(figures: Mapping[str, Path], name: str, caption: str) -> list[str]:
    return [f"![{caption}]({figures[name].name})", f"*{caption}*"] if name in figures else []


def bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def level(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    places = min(places_of(estimate), 4)
    if estimate.low is None or estimate.high is None:
        return plain(estimate.mean, places)
    return f"{plain(estimate.mean, places)} ± {plain((estimate.high - estimate.low) / 2, places)}"
