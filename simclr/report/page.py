"""A Markdown report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #d8d8d8; --shade: #f5f5f5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181a; --line: #3a3d40; --shade: #202326; } }
body { margin: 0 auto; max-width: 52rem; padding: 1rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
h1, h2, li, p { overflow-wrap: anywhere; }
li { margin-bottom: .35rem; }
table { display: block; overflow-x: auto; margin: 1rem 0;
  border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
th { background: var(--shade); text-align: left; white-space: normal; vertical-align: bottom; }
td:not([style]) { white-space: normal; min-width: 7rem; }
/* a table without numbers has an empty first head; its texts may break into lines */
table:has(th:first-child:empty) td { min-width: 0; overflow-wrap: anywhere; }
img { display: block; width: 100%; max-width: 36rem; height: auto; background: #fff; border-radius: 4px; }
p > em:only-child { font-size: .86rem; }
pre { overflow-x: auto; padding: .7rem; background: var(--shade); } code { font-size: .9em; }
@media print { :root { --ink: #000; --paper: #fff; --line: #bbb; --shade: #f0f0f0; }
  body { max-width: none; padding: 0; font-size: 9.5pt; } table { font-size: 7pt; } th, td { padding: .15rem .3rem; }
  td { white-space: normal; } table { display: table; } tr, img { break-inside: avoid; }
  h1, h2 { break-after: avoid; } }
"""


def render_page(markdown: str, folder: Path) -> str:
    """HTML of a report. Images are looked up in `folder` and embedded; HTML within the Markdown is shown as text."""

    def embedded(source: re.Match[str]) -> str:
        image = base64.b64encode((folder / html.unescape(source[0])).read_bytes()).decode()
        return f"data:image/svg+xml;base64,{image}"

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = re.sub(r'(?<=<img src=")[^"]*', embedded, body)  # quotes of a text are &quot; here
    title = re.search("<h1>(.*?)</h1>", body)
    head = f"<title>{title[1] if title else 'Report'}</title>\n<style>{STYLE}</style>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{head}</head>\n'
        f"<body>\n{body}</body>\n</html>\n"
    )
