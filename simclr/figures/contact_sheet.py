"""What a search has found, as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

MADE_BY = '<meta name="generator" content="simclr.search">'  # tells its own pages from those of others
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --quiet: #666; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181a; --quiet: #9aa0a6; } }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 3rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .4rem; overflow-wrap: anywhere; } p { margin: 0 0 1.5rem; color: var(--quiet); }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
img { width: 100%; aspect-ratio: 1; border-radius: 6px; display: block; } h1 img { width: 12rem; }
small { display: block; margin-top: .3rem; color: var(--quiet); overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
a { color: inherit; }
"""


class Hit(NamedTuple):
    """An image that was found: its pixels, uint8 [H, W, 3], its name, the cosine, and where it lies, if in a file."""

    pixels: np.ndarray
    name: str
    similarity: float
    link: str | None


def contact_sheet(query: str | np.ndarray, title: str, note: str, hits: Sequence[Hit]) -> str:
    """HTML of the hits, the nearest first. query: a sentence, or an image uint8 [H, W, 3] called `title`."""
    asked = html.escape(query) if isinstance(query, str) else f"{_img(query, title)}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MADE_BY}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{asked}</h1>\n<p>{html.escape(note)}</p>\n<ol>\n{''.join(map(_card, hits))}</ol>\n</body>\n</html>\n"
    )


def _card(hit: Hit) -> str:
    image, name = _img(hit.pixels, hit.name), html.escape(hit.name)
    if hit.link is not None:
        image = f'<a href="{html.escape(hit.link)}">{image}</a>'
    return f"<li>{image}<small>{hit.similarity:.3f} · {name}</small></li>\n"


def _img(pixels: np.ndarray, name: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}" alt="{html.escape(name)}">'
