"""Two rasters of one place by two sensors: the coarse one is LR, the fine one HR.

A raster read on the pixel grid of another one.

How well two images of one place fit: shift, and radiometry; pure functions on arrays.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform

from georsr.errors import InputError, UsageError
from georsr.geo.georeference import scale_transform
from georsr.geo.registration import phase_shift
from georsr.io.gdal_env import gdal_env
from georsr.io.metadata import RasterInfo
from georsr.io.normalization import choose_normalization
from georsr.io.reader import RasterReader
from georsr.radiometry.nodata import fill_invalid
from georsr.training.data.raster_crops import MIN_VALID, RasterCrop, ReaderPool, on_unit_scale
from georsr.window import AnyArray, BoolArray, FloatArray, Window

SAME_GRID = 0.01
"""Pixels, over the whole raster, by which two grids may differ and still be one."""
POINTS = 21
"""Points per side of a window that are located in the other raster."""


@dataclass(frozen=True)
class Grid:
    """Where pixels lie: CRS, and affine map from (column, row) of pixel corners."""

    crs: CRS
    transform: Affine

    @classmethod
    def of(cls, info: RasterInfo) -> Grid:
        """The grid of a raster.

        Raises
        ------
        UsageError
            It has no CRS or no geotransform.
        """
        if info.crs is None or info.transform is None:
            lacking = "coordinate reference system" if info.crs is None else "geotransform"
            raise UsageError(
                f"{info.path}: has no {lacking}, so it cannot be laid over another raster"
            )
        return cls(info.crs, info.transform)

    def locate(self, rows: AnyArray, columns: AnyArray, other: Grid) -> tuple[AnyArray, AnyArray]:
        """(rows, columns) on ``other`` of points of this grid, in pixels from the corner."""
        a, b, c, d, e, f = tuple(self.transform)[:6]
        x, y = a * columns + b * rows + c, d * columns + e * rows + f
        if self.crs != other.crs:
            shape = x.shape
            with gdal_env():
                xs, ys = transform(self.crs, other.crs, x.ravel(), y.ravel())
            x, y = np.reshape(xs, shape), np.reshape(ys, shape)
        a, b, c, d, e, f = tuple(~other.transform)[:6]
        return d * x + e * y + f, a * x + b * y + c

    def bounds_on(self, other: Grid, window: Window) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) on ``other`` of the box round ``window`` of this grid."""
        rows = np.linspace(window.top, window.bottom, POINTS)
        columns = np.linspace(window.left, window.right, POINTS)
        y, x = self.locate(*np.meshgrid(rows, columns, indexing="ij"), other)
        return float(y.min()), float(x.min()), float(y.max()), float(x.max())

    def pixels_of(self, other: Grid, row: float, column: float) -> tuple[float, float]:
        """(rows, columns) of ``other`` that one pixel of this grid spans at a place."""
        ys, xs = self.locate(
            np.array([row, row + 1, row]), np.array([column, column, column + 1]), other
        )
        down = math.hypot(ys[1] - ys[0], xs[1] - xs[0])
        across = math.hypot(ys[2] - ys[0], xs[2] - xs[0])
        return down, across


@dataclass(frozen=True)
class Aligned:
    """Pixels on the other grid: ``values`` float32 (C, h, w), ``valid`` bool (C, h, w)."""

    values: FloatArray
    valid: BoolArray


class AlignedReader:
    """Reads a raster on another grid.

    Where the two grids coincide pixels are copied; elsewhere they are resampled by GDAL's cubic
    convolution, with its support widened where the raster is finer than the grid. Invalid pixels
    are filled before and masked after, band by band, by the rules of the package: GDAL's own
    warping of several bands with nodata takes a pixel that is invalid in some of them for valid.

    Parameters
    ----------
    reader
        The raster, georeferenced.
    grid
        The grid to read it on.
    pool
        Keeps rasters open.
    """

    def __init__(self, reader: RasterReader, grid: Grid, pool: ReaderPool) -> None:
        self.reader, self.grid, self.pool = reader, grid, pool
        info = reader.info
        self.source = Grid.of(info)
        self.extent = Window(0, 0, info.height, info.width)
        self.offset = self._offset()

    def _offset(self) -> tuple[int, int] | None:
        """(rows, columns) from this grid to the raster's, where only whole pixels differ."""
        if self.source.crs != self.grid.crs:
            return None
        height, width = self.extent.height, self.extent.width
        rows, columns = np.array([0, 0, height]), np.array([0, width, 0])
        there = self.source.locate(rows, columns, self.grid)
        shifts = rows - there[0], columns - there[1]
        whole = tuple(round(float(shift[0])) for shift in shifts)
        gaps = [np.abs(shift - near).max() for shift, near in zip(shifts, whole, strict=True)]
        return (whole[0], whole[1]) if max(gaps) < SAME_GRID else None

    def read(self, window: Window) -> Aligned:
        """Read a window of the other grid; pixels beyond the raster are invalid."""
        top, left, bottom, right = self.grid.bounds_on(self.source, window)
        margin = self._support()
        needed = Window(
            math.floor(top + 1e-6) - margin,
            math.floor(left + 1e-6) - margin,
            math.ceil(bottom - 1e-6) - math.floor(top + 1e-6) + 2 * margin,
            math.ceil(right - 1e-6) - math.floor(left + 1e-6) + 2 * margin,
        ).intersection(self.extent)
        shape = (self.reader.info.count, window.height, window.width)
        if needed is None:
            return Aligned(np.zeros(shape, np.float32), np.zeros(shape, bool))
        patch = self.pool.read(self.reader, needed)
        values = patch.values.astype(np.float32)
        if self.offset is not None:
            return self._copied(values, patch.valid, needed, window)
        return self._resampled(fill_invalid(values, patch.valid), patch.valid, needed, window)

    def _support(self) -> int:
        """Pixels of the raster beyond a window that resampling needs."""
        if self.offset is not None:
            return 0
        return math.ceil(2 * max(1.0, *self._ratio())) + 2

    def _ratio(self) -> tuple[float, float]:
        middle = self.extent.height / 2, self.extent.width / 2
        down, across = self.source.pixels_of(self.grid, *middle)
        return 1 / down, 1 / across

    def _copied(
        self, values: FloatArray, valid: BoolArray, needed: Window, window: Window
    ) -> Aligned:
        assert self.offset is not None
        rows, columns = self.offset
        inside = Window(
            needed.top - rows - window.top,
            needed.left - columns - window.left,
            needed.height,
            needed.width,
        )
        frame = Window(0, 0, window.height, window.width)
        kept = inside.intersection(frame)
        out = np.zeros((len(values), window.height, window.width), np.float32)
        known = np.zeros(out.shape, bool)
        if kept is not None:
            source = (slice(None), *kept.relative_to(inside).slices)
            out[(slice(None), *kept.slices)] = values[source]
            known[(slice(None), *kept.slices)] = valid[source]
        return Aligned(out, known)

    def _resampled(
        self, filled: FloatArray, valid: BoolArray, needed: Window, window: Window
    ) -> Aligned:
        ratio = self._ratio()
        planes = np.concatenate([filled, valid.astype(np.float32)])
        out = np.zeros((len(planes), window.height, window.width), np.float32)
        with gdal_env():
            reproject(
                planes,
                out,
                src_transform=moved_transform(self.source.transform, needed.top, needed.left),
                src_crs=self.source.crs,
                dst_transform=moved_transform(self.grid.transform, window.top, window.left),
                dst_crs=self.grid.crs,
                resampling=Resampling.cubic,
                # the support is that of the two grids, not of the two arrays, whose margins differ
                XSCALE=str(1 / ratio[1]),
                YSCALE=str(1 / ratio[0]),
            )
        known = out[len(filled) :] > 0.999  # no weight on a filled pixel
        return Aligned(out[: len(filled)], np.asarray(known & (out[len(filled) :] < 1.001)))


def moved_transform(transform: Affine, rows: float, columns: float) -> Affine:
    """Transform of the grid that begins ``rows`` below and ``columns`` right of another one."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return Affine(a, b, a * columns + b * rows + c, d, e, d * columns + e * rows + f)


SMALLEST = 16
"""Pixels per side of an image whose shift can be measured."""


@dataclass(frozen=True)
class Overlap:
    """Two images of one place on one grid, float32 (C, h, w), and where both are valid."""

    lr: FloatArray
    hr: FloatArray
    """Averaged over LR pixels; bands as in ``lr``, in its own units."""
    valid: BoolArray
    """(h, w)."""

    @property
    def measurable(self) -> bool:
        """Whether a shift can be measured: large enough, and valid but for a few pixels."""
        return min(self.valid.shape) >= SMALLEST and bool(self.valid.mean() >= 0.95)


def block_mean(image: AnyArray, scale: int) -> FloatArray:
    """(C, s * h, s * w) to (C, h, w): the mean over the s x s pixels of each LR pixel."""
    bands, height, width = image.shape
    blocks = image.reshape(bands, height // scale, scale, width // scale, scale)
    return np.asarray(blocks.mean((2, 4)), np.float32)


@dataclass(frozen=True)
class Shift:
    """How far the LR raster's content lies below and to the right of the HR raster's."""

    dy: float
    dx: float
    """LR pixels."""
    spread: float
    """Largest distance of one part of the overlap from the median, in LR pixels."""
    parts: int
    """Parts of the overlap that were measured."""

    @property
    def size(self) -> float:
        """Length of the shift, LR pixels."""
        return math.hypot(self.dy, self.dx)

    def describe(self) -> str:
        """Rows and columns, for messages about "the first" (HR) and "the second" (LR)."""
        return (
            f"the second lies {self.dy:+.2f} rows and {self.dx:+.2f} columns of its own pixels "
            f"from the first ({self.parts} parts, within {self.spread:.2f})"
        )


def measure_shift(overlaps: Sequence[Overlap]) -> Shift | None:
    """Median shift over several parts of an overlap, by phase correlation of the band means.

    Returns
    -------
    Shift or None
        None where no part is large, valid and textured enough.
    """
    found = []
    for overlap in overlaps:
        if not overlap.measurable:
            continue
        valid = overlap.valid
        dy, dx = phase_shift(_one_band(overlap.lr, valid), _one_band(overlap.hr, valid))
        if math.isfinite(dy):
            found.append((dy, dx))
    if not found:
        return None
    shifts = np.array(found)
    dy, dx = np.median(shifts, axis=0)
    spread = np.hypot(*(shifts - (dy, dx)).T).max()
    return Shift(float(dy), float(dx), float(spread), len(found))


def _one_band(image: FloatArray, valid: BoolArray) -> AnyArray:
    """Mean of the bands, each centred and scaled by its own spread; 0 where invalid."""
    values = image[:, valid].astype(np.float64)
    spread = np.maximum(values.std(1), 1e-12)[:, None]
    grey = np.zeros(valid.shape)
    grey[valid] = ((values - values.mean(1, keepdims=True)) / spread).mean(0)
    return grey


@dataclass(frozen=True)
class Radiometry:
    """Affine map per band from the HR raster's values to the LR raster's: gain * x + offset."""

    gain: tuple[float, ...]
    offset: tuple[float, ...]
    correlation: tuple[float, ...]
    """Of the two, band by band, over the overlap."""

    def apply(self, values: FloatArray) -> FloatArray:
        """(C, H, W) in the HR raster's units to the LR raster's."""
        gain, offset = (np.array(v, np.float32)[:, None, None] for v in (self.gain, self.offset))
        return np.asarray(values * gain + offset, np.float32)


def fit_radiometry(overlaps: Sequence[Overlap]) -> Radiometry:
    """Match mean and standard deviation, band by band.

    This is the reduced major axis: unlike least squares, whose gain shrinks with the noise of
    the HR raster and with everything that differs between the two, it keeps the contrast.
    """
    lr = np.concatenate([each.lr[:, each.valid] for each in overlaps], 1).astype(np.float64)
    hr = np.concatenate([each.hr[:, each.valid] for each in overlaps], 1).astype(np.float64)
    spread = lr.std(1), hr.std(1)
    gain = np.where(spread[1] > 0, spread[0] / np.where(spread[1] > 0, spread[1], 1), 1.0)
    offset = lr.mean(1) - gain * hr.mean(1)
    both = ((lr - lr.mean(1, keepdims=True)) * (hr - hr.mean(1, keepdims=True))).mean(1)
    correlation = both / np.maximum(spread[0] * spread[1], 1e-30)
    return Radiometry(tuple(gain.tolist()), tuple(offset.tolist()), tuple(correlation.tolist()))


log = logging.getLogger(__name__)

FINER, COARSER = 2.0, 1.1
"""How many times finer or coarser than LR / scale the HR raster may be."""
PARTS = (256, 128, 64, 32)
"""LR pixels per side of the parts of the overlap that registration looks at: the largest size
of which one is all but valid."""
MIN_CORRELATION = 0.3
"""Of a band, between HR and LR, below which they do not show the same thing."""


class SensorPair:
    """A coarse and a fine raster of one place; a `Site`.

    HR is read on the ``scale`` times finer grid of the LR raster, resampled where it has another
    one. The stretch is that of the LR raster for both, since super-resolution keeps its units.

    Parameters
    ----------
    hr, lr
        The rasters, with as many bands selected.
    scale
        Factor.
    stretch
        What maps to 0..1, decided on the LR raster.
    match_radiometry
        Bring HR to the radiometry of LR by an affine map per band, fitted to their overlap.
    max_shift
        LR pixels by which they may lie apart.
    correct_shift
        Move HR by the shift that is measured; what then remains must be within ``max_shift``.
    pool
        Keeps rasters open.

    Attributes
    ----------
    area
        What both cover, LR pixels.
    moved
        (rows, columns) in LR pixels by which HR was moved.
    shift, radiometry
        What was measured, None where nothing could be measured or nothing is matched.

    Raises
    ------
    UsageError
        They differ in bands, have no georeferencing, or their resolutions do not fit the scale.
    InputError
        They do not overlap, are shifted, or do not show the same thing.
    """

    margin = 0

    def __init__(
        self,
        hr: RasterReader,
        lr: RasterReader,
        scale: int,
        *,
        stretch: str = "auto",
        match_radiometry: bool = True,
        max_shift: float = 0.5,
        correct_shift: bool = False,
        pool: ReaderPool,
    ) -> None:
        self.lr, self.scale, self.pool = lr, scale, pool
        self.name, self.bands = hr.info.path, lr.info.count
        self._title = f"{hr.info.path} and {lr.info.path}"
        if hr.info.count != lr.info.count:
            raise UsageError(
                f"{self._title} have {hr.info.count} and {lr.info.count} bands; "
                "choose as many of each (bands, lr_bands)"
            )
        self.moved = 0.0, 0.0
        parts = self._lay(hr)
        self.shift = measure_shift(parts)
        if correct_shift and self.shift is not None:
            log.info("%s: %s; the first is moved there", self._title, self.shift.describe())
            self.moved = self.shift.dy, self.shift.dx
            parts = self._lay(hr)
            self.shift = measure_shift(parts)
        self._check_shift(max_shift)
        self.stretch = choose_normalization(lr, stretch)
        self.radiometry = self._match(parts) if match_radiometry else None
        hr.close()
        lr.close()

    def _lay(self, hr: RasterReader) -> list[Overlap]:
        """Lay HR over LR, moved by `moved`; returns parts of what they have in common."""
        coarse = Grid.of(self.lr.info)
        # content moves down where the grid that it is read on moves up
        coarse = Grid(coarse.crs, moved_transform(coarse.transform, *(-n for n in self.moved)))
        fine = Grid(coarse.crs, scale_transform(coarse.transform, self.scale))
        self.hr = AlignedReader(hr, fine, self.pool)
        self._check_resolution(coarse)
        self.area = self._overlap(coarse)
        return self._parts()

    def _check_resolution(self, coarse: Grid) -> None:
        info = self.lr.info
        ratio = coarse.pixels_of(self.hr.source, info.height / 2, info.width / 2)
        least, most = self.scale / COARSER, self.scale * FINER
        if not least <= min(ratio) <= max(ratio) <= most:
            raise UsageError(
                f"{self._title}: one pixel of the second is {ratio[0]:.3g} x {ratio[1]:.3g} of "
                f"the first, for scale {self.scale} it must be {least:.3g} to {most:.3g}; "
                "choose another scale, or resample the first"
            )

    def _overlap(self, coarse: Grid) -> Window:
        """Rows and columns of the LR raster that the HR raster can cover."""
        top, left, bottom, right = self.hr.source.bounds_on(coarse, self.hr.extent)
        # within a hundredth of a pixel the edge is the edge
        first = math.ceil(top - 0.01), math.ceil(left - 0.01)
        last = math.floor(bottom + 0.01), math.floor(right + 0.01)
        whole = Window(0, 0, self.lr.info.height, self.lr.info.width)
        covered = Window(*first, last[0] - first[0], last[1] - first[1])
        common = None
        if min(covered.height, covered.width) > 0:
            common = covered.intersection(whole)
        if common is None:
            raise InputError(f"{self._title} do not overlap")
        return common

    def _parts(self) -> list[Overlap]:
        """Up to nine parts of the overlap, spread evenly."""
        parts: list[Overlap] = []
        for side in PARTS:
            parts = [each for each in self._spread(side) if each.valid.any()] or parts
            if any(each.measurable for each in parts):
                break
        if not parts:
            raise InputError(f"{self._title} have no valid pixels in common")
        return parts

    def _spread(self, side: int) -> Iterator[Overlap]:
        height, width = (min(side, n) for n in (self.area.height, self.area.width))
        spare = self.area.height - height, self.area.width - width
        starts = {(spare[0] * i // 2, spare[1] * j // 2) for i in range(3) for j in range(3)}
        for top, left in sorted(starts):
            window = Window(self.area.top + top, self.area.left + left, height, width)
            lr = self.pool.read(self.lr, window)
            hr = self.hr.read(window.scaled(self.scale))
            whole = hr.valid.all(0).reshape(height, self.scale, width, self.scale).all((1, 3))
            valid = np.asarray(lr.valid.all(0) & whole)
            yield Overlap(lr.values.astype(np.float32), block_mean(hr.values, self.scale), valid)

    def _check_shift(self, most: float) -> None:
        if self.shift is None:
            log.warning("%s: too small, empty or flat to check for a shift", self._title)
            return
        log.info("%s: %s", self._title, self.shift.describe())
        if self.shift.size > most:
            raise InputError(
                f"{self._title}: {self.shift.describe()}, allowed are {most:g} pixels; "
                "co-register them, set correct_shift, or raise max_shift"
            )
        if self.shift.spread > max(1.0, most):
            log.warning("%s: some parts lie %.2f pixels off", self._title, self.shift.spread)

    def _match(self, parts: list[Overlap]) -> Radiometry:
        found = fit_radiometry(parts)
        for number, (gain, offset, correlation) in enumerate(
            zip(found.gain, found.offset, found.correlation, strict=True), 1
        ):
            log.info(
                "%s: selected band %d: gain %.4g, offset %.4g, correlation %.2f",
                *(self._title, number, gain, offset, correlation),
            )
            if correlation < MIN_CORRELATION:
                raise InputError(
                    f"{self._title}: selected band {number} correlates by {correlation:.2f} only: "
                    "they do not show the same thing; check bands and dates, "
                    "or set match_radiometry to false"
                )
        return found

    def cut(self, window: Window, rng: np.random.Generator) -> RasterCrop | None:
        """Read a window (LR pixels) of both; nothing is drawn from ``rng``."""
        hr = self.hr.read(window.scaled(self.scale))
        lr = self.pool.read(self.lr, window)
        known = np.asarray(lr.valid.all(0)).repeat(self.scale, 0).repeat(self.scale, 1)
        known &= hr.valid.all(0)
        if known.mean() < MIN_VALID:
            return None
        values = hr.values if self.radiometry is None else self.radiometry.apply(hr.values)
        return RasterCrop(
            on_unit_scale(lr.values, lr.valid, self.stretch),
            on_unit_scale(values, hr.valid, self.stretch),
            None if known.all() else known,
        )
