"""Draw the pictures and charts of report pages: rasters as 8-bit RGB, histograms as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from georsr.errors import UsageError
from georsr.io.metadata import RasterInfo
from georsr.io.reader import RasterReader
from georsr.io.rgb_bands import detect_rgb_bands
from georsr.models.arrays import enlarge_bicubic
from georsr.radiometry.nodata import fill_invalid
from georsr.window import AnyArray, FloatArray, PixelBlock, Window

QUICKLOOK_SIZE = 480
"""Largest height and width of a quick-look, in pixels."""
DISPLAY_PERCENTILES = (1.0, 99.0)
"""Percentiles of a raster that are shown as black and white."""
INVALID_GREY = 255
CROP_SIZE = 96
"""Height and width of the part of an image that an example shows, in HR pixels."""
BOX_COLOUR = (255, 40, 40)
CANDIDATES = 8
"""Places along each axis where a window with detail is looked for."""
MIN_VALID = 0.9
"""Smallest valid fraction of a window that is shown."""


@dataclass(frozen=True)
class DisplayStretch:
    """Bands of a raster that are shown, and the values that become black and white."""

    bands: tuple[int, ...]
    """Indexes of red, green and blue from 0, or of one band three times."""
    low: tuple[float, ...]
    """Value of each of them that is shown as black."""
    high: tuple[float, ...]
    """Value of each of them that is shown as white."""

    def to_rgb(self, block: PixelBlock) -> AnyArray:
        """Convert pixels to (3, h, w) uint8."""
        rgb = np.empty((3, *block.values.shape[1:]), np.uint8)
        for out, band, low, high in zip(rgb, self.bands, self.low, self.high, strict=True):
            values = np.where(block.valid[band], block.values[band], low).astype(np.float64)
            out[:] = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)
        rgb[:, ~block.valid[list(self.bands)].all(0)] = INVALID_GREY
        return rgb


def displayed_bands(info: RasterInfo) -> tuple[int, ...]:
    """Return the numbers of red, green and blue, or of the first three bands, or one three times.

    Red, green and blue are found as for a run.
    """
    with suppress(UsageError):
        if info.count >= 3:
            return detect_rgb_bands(info).numbers
    return info.indexes[:3] if info.count >= 3 else info.indexes[:1] * 3


def display_stretch(reader: RasterReader, numbers: Sequence[int] | None = None) -> DisplayStretch:
    """Choose the values of red, green and blue that become black and white, from a sample.

    ``numbers`` are those of red, green and blue; None takes those of `displayed_bands`.
    """
    numbers = numbers or displayed_bands(reader.info)
    bands = tuple(reader.info.indexes.index(number) for number in numbers)
    sample = reader.sample()
    limits = []
    for band in bands:
        valid = sample.values[band][sample.valid[band]]
        low, high = np.percentile(valid, DISPLAY_PERCENTILES) if valid.size else (0.0, 1.0)
        limits.append((float(low), float(high) if high > low else float(low) + 1.0))
    return DisplayStretch(bands, tuple(low for low, _ in limits), tuple(high for _, high in limits))


def quicklook(reader: RasterReader, stretch: DisplayStretch) -> AnyArray:
    """Read a full raster as (3, h, w) uint8, at most `QUICKLOOK_SIZE` pixels along each axis."""
    height, width = reader.info.height, reader.info.width
    step = max(1.0, max(height, width) / QUICKLOOK_SIZE)
    return stretch.to_rgb(
        reader.read_decimated(max(1, round(height / step)), max(1, round(width / step)))
    )


def bicubic_block(block: PixelBlock, scale: int) -> PixelBlock:
    """Enlarge pixels by bicubic interpolation; invalid where the source is."""
    filled: FloatArray = fill_invalid(block.values.astype(np.float32), block.valid)
    values = enlarge_bicubic(filled[None], scale)[0]
    return PixelBlock(values, block.valid.repeat(scale, 1).repeat(scale, 2), None)


def detailed_windows(reader: RasterReader, size: int, count: int) -> list[Window]:
    """Find the windows with the most detail that do not overlap, at most ``count`` of them.

    Detail is the sum of the differences of neighbouring pixels, in windows of which at least
    `MIN_VALID` is valid.
    """
    height, width = reader.info.height, reader.info.width
    h, w = min(size, height), min(size, width)
    steps = np.linspace(0, 1, CANDIDATES)
    tops, lefts = ({round(length * step) for step in steps} for length in (height - h, width - w))
    ranked = []
    for window in (Window(top, left, h, w) for top in sorted(tops) for left in sorted(lefts)):
        block = reader.read(window)
        if block.valid.mean() >= MIN_VALID:
            values = np.where(block.valid, block.values, np.nan)
            detail = sum(np.nansum(np.abs(np.diff(values, axis=axis))) for axis in (1, 2))
            ranked.append((float(detail), window))
    chosen: list[Window] = []
    for _, window in sorted(ranked, key=lambda entry: (-entry[0], entry[1])):
        if len(chosen) < count and all(window.intersection(other) is None for other in chosen):
            chosen.append(window)
    return chosen


@dataclass(frozen=True)
class Panel:
    """One version of the part of an image that an example shows."""

    name: str
    pixels: AnyArray
    """(3, n, n) uint8; LR pixels are repeated to the size of the others."""
    image_psnr: float = math.nan
    """PSNR of the full image in dB; NaN for LR and truth."""
    crop_psnr: float = math.nan
    """PSNR of the part in dB; NaN for LR and truth."""

    @property
    def has_psnr(self) -> bool:
        """Whether the panel was compared with the truth."""
        return not math.isnan(self.image_psnr)


@dataclass(frozen=True)
class Example:
    """One image of a report in all its versions."""

    reasons: tuple[str, ...]
    """Why it is shown: ``best gain``, ``median PSNR``..."""
    image: str
    label: str
    """Scene class; empty without."""
    overview: AnyArray
    """(3, H, W) uint8, the truth with a box around the part that is shown."""
    panels: tuple[Panel, ...]


def max_error_crop(image: AnyArray, truth: AnyArray, step: int) -> Window:
    """Find the window of `CROP_SIZE` pixels in which an image differs most from the truth.

    Both are (3, H, W); where they are smaller than a crop, so is the window. Its corner lies on a
    grid of ``step`` pixels.
    """
    error = np.square(image.astype(np.float64) - truth).sum(0)
    height, width = (min(CROP_SIZE, n) // step * step for n in error.shape)
    total = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = (
        total[height:, width:] - total[:-height, width:]
        - total[height:, :-width] + total[:-height, :-width]
    )[::step, ::step]  # fmt: skip
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    return Window(int(row) * step, int(column) * step, height, width)


def draw_box(image: AnyArray, window: Window) -> AnyArray:
    """Copy (3, H, W) uint8 and draw a box of two pixels' width along the inside of a window."""
    boxed = image.copy()
    boxed[:, *window.slices] = np.array(BOX_COLOUR, np.uint8)[:, None, None]
    inside = Window(window.top + 2, window.left + 2, window.height - 4, window.width - 4).slices
    boxed[:, *inside] = image[:, *inside]
    return boxed


MAX_BINS = 24
WIDTH, HEIGHT = 560, 170
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 12, 34
"""Margins of a chart in pixels."""


class _Chart:
    """An SVG chart of values from 0 to ``top`` over a range, titled ``label``."""

    def __init__(self, low: float, high: float, top: float, label: str) -> None:
        self.low, self.high, self.top, self.label = low, high, top, label

    def x(self, value: float) -> float:
        """Return the pixel of a value on the horizontal axis."""
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the pixel of a value on the vertical axis."""
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - BOTTOM - TOP)

    def svg(self, parts: Iterable[str]) -> Markup:
        """Return the chart: its parts, then the horizontal axis with its ticks."""
        base = self.y(0)
        ticks = (
            f'<text x="{self.x(tick):.1f}" y="{base + 14:.1f}">{tick:g}</text>'
            for tick in _ticks(self.low, self.high)
        )
        return Markup(
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.label)}">'
            f'<path d="M{LEFT} {base:.1f}H{WIDTH - RIGHT}"/>{"".join(parts)}{"".join(ticks)}</svg>'
        )


def histogram(values: Sequence[float], label: str, mark: float | None = None) -> Markup:
    """Draw bars of equal width over the range of the finite values.

    ``label`` is the title of the horizontal axis. A line is drawn at ``mark``, if that is in the
    range.
    """
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return Markup("<p>no finite value</p>")
    counts, edges = np.histogram(finite, bins=_bin_edges(finite))
    low, high, top = float(edges[0]), float(edges[-1]), int(counts.max())
    chart = _Chart(low, high, top, label)
    x, y = chart.x, chart.y
    parts = [
        f'<rect x="{x(a) + 0.5:.1f}" y="{y(n):.1f}" width="{max(x(b) - x(a) - 1, 0.5):.1f}" '
        f'height="{y(0) - y(n):.1f}"><title>{a:.2f} to {b:.2f}: {n} images</title></rect>'
        for n, a, b in zip(counts, edges, edges[1:], strict=False)
    ]
    if mark is not None and low <= mark <= high:
        parts.append(f'<path class="mark" d="M{x(mark):.1f} {TOP}V{y(0):.1f}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 5}">{escape(label)}</text>')
    parts.append(f'<text class="count" x="{LEFT - 6}" y="{y(top) + 4:.1f}">{top}</text>')
    return chart.svg(parts)


def overlaid_histograms(
    edges: Sequence[float], before: Sequence[float], after: Sequence[float], label: str
) -> Markup:
    """Draw two histograms of the same bins as outlines of the classes ``before`` and ``after``.

    n fractions each lie between n + 1 ``edges``; ``label`` is for screen readers.
    """
    chart = _Chart(edges[0], edges[-1], max(*before, *after) or 1.0, label)
    x, y = chart.x, chart.y

    def outline(name: str, fractions: Sequence[float]) -> str:
        steps = "".join(
            f"V{y(fraction):.1f}H{x(end):.1f}"
            for fraction, end in zip(fractions, edges[1:], strict=True)
        )
        return f'<path class="{name}" d="M{x(edges[0]):.1f} {y(0):.1f}{steps}V{y(0):.1f}"/>'

    return chart.svg([outline("before", before), outline("after", after)])


def _round_step(span: float, count: int) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten of which ``count`` cover ``span``."""
    rough = max(span, 1e-6) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _bin_edges(values: Sequence[float]) -> list[float]:
    step = _round_step(max(values) - min(values), MAX_BINS)
    first, last = math.floor(min(values) / step), math.floor(max(values) / step) + 1
    return [i * step for i in range(first, last + 1)]


def _ticks(low: float, high: float) -> list[float]:
    step = _round_step(high - low, 8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 9) for i in range(first, last + 1)]
