"""Parts of self-contained HTML pages: their style, tables and lists of terms."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; background: #fff;
       max-width: 1540px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d5dae3; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p.note { color: #566; margin: .2rem 0 1rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e6e9ef;
         white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { background: #f3f5f9; font-weight: 600; }
td.good { color: #0a6b36; } td.bad { color: #b01c1c; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
dl.figures { font-size: .9rem; color: #445; }
code { font: .85rem/1.4 ui-monospace, monospace; }
svg { width: 560px; max-width: 100%; }
svg rect { fill: #3f6fb5; } svg path { stroke: #566; fill: none; }
svg path.mark { stroke: #b01c1c; stroke-dasharray: 3 3; }
svg text { font-size: 11px; text-anchor: middle; fill: #445; } svg text.count { text-anchor: end; }
.panels { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; width: 288px; font-size: .85rem; }
figure img { width: 288px; height: auto; display: block; image-rendering: pixelated;
             background: #eee; }
figcaption { padding-top: .2rem; } figcaption b { overflow-wrap: anywhere; }
"""


def row(cells: Sequence[str], tag: str = "td", classes: Sequence[str] = ()) -> str:
    """A row of a table: cells escaped, each with a class or none."""
    marks = [f' class="{c}"' if c else "" for c in classes] or [""] * len(cells)
    inner = "".join(
        f"<{tag}{mark}>{html.escape(cell)}</{tag}>" for cell, mark in zip(cells, marks, strict=True)
    )
    return f"<tr>{inner}</tr>"


def terms(pairs: Iterable[tuple[str, str]]) -> str:
    """Terms and what they mean, for a ``dl``."""
    return "".join(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in pairs)
