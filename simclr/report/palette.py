"""What all figures share: colours that the colour-blind tell apart, symbols, letters, and files that appear whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from simclr.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito (2008), "Color Universal Design", without its yellow, which is lost on white paper.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GRAY = "#BBBBBB"
MARKERS = "os^DvPX"
MAX_SYMBOLS = 2 * len(COLOURS)
DPI = 150
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign in a folder's name is a dollar sign
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 9,
    "svg.fonttype": "path",  # the same letters on every machine
    "svg.hashsalt": "report",  # the same file from the same runs
}


def symbol(index: int) -> dict[str, Any]:
    """How the class at place `index` of a legend is drawn: matplotlib's colour, marker, filling.

    The first seven are filled; the next have the colours again, hollow and with the marker of another colour. The
    symbols repeat after MAX_SYMBOLS.
    """
    hollow, place = divmod(index % MAX_SYMBOLS, len(COLOURS))
    return {
        "color": COLOURS[place],
        "marker": MARKERS[(place + 3 * hollow) % len(MARKERS)],
        "fillstyle": "none" if hollow else "full",
    }


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG or SVG, whole or not at all, the same bytes for the same figure."""
    form = path.suffix[1:]
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format=form, dpi=DPI, metadata={"Date": None} if form == "svg" else None)
