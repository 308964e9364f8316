"""A Markdown report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #d8d8d8; --shade: #f5f5f5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181a; --line: #3a3d40; --shade: #202326; } }
body { margin: 0 auto; max-width: 52rem; padding: 1rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
h1, h2, li, p { overflow-wrap: anywhere; }
li { margin-bottom: .35rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
th { background: var(--shade); text-align: left; white-space: normal; vertical-align: bottom; }
td:not([style]) { white-space: normal; min-width: 7rem; }
.table.prose td { min-width: 0; overflow-wrap: anywhere; }
img { display: block; width: 100%; max-width: 36rem; height: auto; background: #fff; border-radius: 4px; }
p > em:only-child { font-size: .86rem; }
pre { overflow-x: auto; padding: .7rem; background: var(--shade); } code { font-size: .9em; }
@media print { :root { --ink: #000; --paper: #fff; --line: #bbb; --shade: #f0f0f0; }
  body { max-width: none; padding: 0; font-size: 9.5pt; } table { font-size: 7pt; } th, td { padding: .15rem .3rem; }
  td { white-space: normal; } .table { overflow: visible; } tr, img { break-inside: avoid; }
  h1, h2 { break-after: avoid; } }
"""


def render_page(markdown: str, folder: Path) -> str:
    """HTML of a report. Images are looked up in `folder` and embedded; HTML within the Markdown is shown as text."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    title = next((tokens[i + 1].content for i, token in enumerate(tokens) if token.tag == "h1"), "Report")

    def embedded(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Mapping[str, Any]) -> str:
        token = tokens[index]
        image = base64.b64encode((folder / str(token.attrs["src"])).read_bytes()).decode()
        return f'<img alt="{html.escape(token.content)}" src="data:image/svg+xml;base64,{image}">'

    def scrolled(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Mapping[str, Any]) -> str:
        # A table without numbers has an empty first head; its texts may break into lines.
        head = next(token for token in tokens[index:] if token.type == "inline")
        return f'<div class="table{"" if head.content else " prose"}"><table>\n'

    def closed(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Mapping[str, Any]) -> str:
        return "</table></div>\n"

    parser.add_render_rule("image", embedded)
    parser.add_render_rule("table_open", scrolled)
    parser.add_render_rule("table_close", closed)
    body = parser.render(markdown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
