"""Histograms as inline SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

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
