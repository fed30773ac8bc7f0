"""Histograms as inline SVG.

Parts of self-contained HTML pages: their style, tables and lists of terms.

Quick-looks: rasters of any type as small pictures for people, all in the same tones.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from georsr.io.reader import RasterReader
from georsr.models.interpolation import Bicubic
from georsr.radiometry.nodata import fill_invalid
from georsr.window import AnyArray, FloatArray, PixelBlock, Window

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


SIDE = 480
"""Longest side of a quick-look in pixels."""
TONES = (1.0, 99.0)
"""Percentiles of a raster that become black and white."""
EMPTY = 255
"""Grey of pixels that are not valid."""


@dataclass(frozen=True)
class DisplayStretch:
    """What becomes black and white, per band shown."""

    bands: tuple[int, ...]
    """Positions, three of them: red, green and blue, or one band thrice."""
    low: tuple[float, ...]
    high: tuple[float, ...]

    def picture(self, patch: PixelBlock) -> AnyArray:
        """(3, h, w) uint8."""
        shown = np.empty((3, *patch.values.shape[1:]), np.uint8)
        for out, band, low, high in zip(shown, self.bands, self.low, self.high, strict=True):
            values = np.where(patch.valid[band], patch.values[band], low).astype(np.float64)
            out[:] = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)
        shown[:, ~patch.valid[list(self.bands)].all(0)] = EMPTY
        return shown


def display_stretch(reader: RasterReader) -> DisplayStretch:
    """Red, green and blue of a raster, by its colour interpretation or its first three bands."""
    colours = [band.colorinterp for band in reader.info.bands]
    bands = tuple(colours.index(c) for c in ("red", "green", "blue") if c in colours)
    if len(bands) < 3:
        bands = (0, 1, 2) if reader.info.count >= 3 else (0, 0, 0)
    sample = reader.sample()
    limits = []
    for band in bands:
        good = sample.values[band][sample.valid[band]]
        low, high = np.percentile(good, TONES) if good.size else (0.0, 1.0)
        limits.append((float(low), float(high) if high > low else float(low) + 1.0))
    return DisplayStretch(bands, tuple(low for low, _ in limits), tuple(high for _, high in limits))


def quicklook(reader: RasterReader, tones: DisplayStretch) -> AnyArray:
    """A whole raster as a picture, (3, h, w) uint8 of at most `SIDE` pixels along each axis."""
    height, width = reader.info.height, reader.info.width
    step = max(1.0, max(height, width) / SIDE)
    return tones.picture(
        reader.read_decimated(max(1, round(height / step)), max(1, round(width / step)))
    )


def bicubic_patch(patch: PixelBlock, scale: int) -> PixelBlock:
    """The bicubic enlargement of a window; invalid where the source is."""
    filled: FloatArray = fill_invalid(patch.values.astype(np.float32), patch.valid)
    with torch.inference_mode():
        values = Bicubic(scale)(torch.from_numpy(filled)[None])[0].numpy()
    return PixelBlock(values, patch.valid.repeat(scale, 1).repeat(scale, 2), None)


def high_contrast_windows(reader: RasterReader, side: int, count: int) -> list[Window]:
    """Up to ``count`` windows of a raster that hold most contrast, apart from each other."""
    height, width = reader.info.height, reader.info.width
    h, w = min(side, height), min(side, width)
    tops = sorted({round((height - h) * k / 4) for k in range(5)})
    lefts = sorted({round((width - w) * k / 4) for k in range(5)})
    ranked = []
    for top in tops:
        for left in lefts:
            window = Window(top, left, h, w)
            patch = reader.read(window)
            if patch.valid.all():
                ranked.append((float(patch.values.astype(np.float64).std((1, 2)).sum()), window))
    ranked.sort(key=lambda each: (-each[0], each[1]))
    chosen: list[Window] = []
    for _, window in ranked:
        if len(chosen) < count and all(window.intersection(other) is None for other in chosen):
            chosen.append(window)
    return chosen


BARS = 24
WIDTH, HEIGHT = 560, 170
LEFT, BOTTOM, TOP = 40, 34, 12


def histogram(values: Sequence[float], label: str, mark: float | None = None) -> str:
    """Bars of equal width over the range of the finite values.

    Parameters
    ----------
    values
        What to count; what is not finite is left out.
    label
        Of the horizontal axis.
    mark
        A value to draw a line at, if it lies inside.
    """
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return "<p>no finite value</p>"
    counts, edges = np.histogram(finite, bins=_edges(finite))
    low, high, most = float(edges[0]), float(edges[-1]), int(counts.max())

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - 10)

    def y(count: float) -> float:
        return HEIGHT - BOTTOM - count / most * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">',
        *(
            f'<rect x="{x(a) + 0.5:.1f}" y="{y(n):.1f}" width="{max(x(b) - x(a) - 1, 0.5):.1f}" '
            f'height="{y(0) - y(n):.1f}"><title>{a:.2f} to {b:.2f}: {n} images</title></rect>'
            for n, a, b in zip(counts, edges, edges[1:], strict=False)
        ),
        f'<path d="M{LEFT} {y(0):.1f}H{WIDTH - 10}"/>',
    ]
    if mark is not None and low <= mark <= high:
        parts.append(f'<path class="mark" d="M{x(mark):.1f} {TOP}V{y(0):.1f}"/>')
    parts += [
        f'<text x="{x(tick):.1f}" y="{y(0) + 14:.1f}">{tick:g}</text>' for tick in _ticks(low, high)
    ]
    middle = (LEFT + WIDTH - 10) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 5}">{html.escape(label)}</text>')
    parts.append(f'<text class="count" x="{LEFT - 6}" y="{y(most) + 4:.1f}">{most}</text>')
    return "".join([*parts, "</svg>"])


def overlaid(
    edges: Sequence[float], before: Sequence[float], after: Sequence[float], label: str
) -> str:
    """Two histograms of the same bins as outlines of the classes ``before`` and ``after``.

    Parameters
    ----------
    edges
        n + 1 ends of bins.
    before, after
        n shares.
    label
        Of the horizontal axis.
    """
    low, high, most = edges[0], edges[-1], max(*before, *after) or 1.0

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - 10)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share / most * (HEIGHT - BOTTOM - TOP)

    def outline(shares: Sequence[float]) -> str:
        steps = "".join(
            f"V{y(share):.1f}H{x(end):.1f}" for share, end in zip(shares, edges[1:], strict=True)
        )
        return f"M{x(low):.1f} {y(0):.1f}{steps}V{y(0):.1f}"

    ticks = "".join(
        f'<text x="{x(tick):.1f}" y="{y(0) + 14:.1f}">{tick:g}</text>' for tick in _ticks(low, high)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
        f'<path d="M{LEFT} {y(0):.1f}H{WIDTH - 10}"/>'
        f'<path class="before" d="{outline(before)}"/><path class="after" d="{outline(after)}"/>'
        f"{ticks}</svg>"
    )


def _step(span: float, pieces: int) -> float:
    """A round number of which at most ``pieces`` cover ``span``."""
    rough = max(span, 1e-6) / pieces
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _edges(values: Sequence[float]) -> list[float]:
    step = _step(max(values) - min(values), BARS)
    first, last = math.floor(min(values) / step), math.floor(max(values) / step) + 1
    return [i * step for i in range(first, last + 1)]


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low, 8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 9) for i in range(first, last + 1)]
