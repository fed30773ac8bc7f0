"""Read crops from two rasters of one place by two sensors: the coarse is LR, the fine is HR."""

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
from georsr.geo.registration import phase_shift
from georsr.io.gdal_env import gdal_env
from georsr.io.metadata import RasterInfo, scale_transform
from georsr.io.reader import RasterReader, choose_normalization
from georsr.radiometry.nodata import fill_invalid
from georsr.training.data.crops import Crop
from georsr.training.data.raster_crops import MIN_VALID, ReaderPool, normalize_filled
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window

log = logging.getLogger(__name__)

GRID_TOLERANCE = 0.01
"""Pixels, over the full raster, by which two grids may differ and still count as one."""
POINTS = 21
"""Points along each axis of a window that are transformed to the other raster."""


@dataclass(frozen=True)
class Grid:
    """A pixel grid: its CRS, and the affine map from (column, row) of pixel corners."""

    crs: CRS
    transform: Affine

    @classmethod
    def of(cls, info: RasterInfo) -> Grid:
        """Return the grid of a raster.

        Raises
        ------
        UsageError
            It has no CRS or no geotransform.
        """
        if info.crs is None or info.transform is None:
            missing = "coordinate reference system" if info.crs is None else "geotransform"
            raise UsageError(
                f"{info.path}: has no {missing}, so it cannot be aligned with another raster"
            )
        return cls(info.crs, info.transform)

    def to_grid(self, rows: AnyArray, columns: AnyArray, other: Grid) -> tuple[AnyArray, AnyArray]:
        """Transform points to (rows, columns) of ``other``, in pixels from its corner."""
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
        """Return (top, left, bottom, right) on ``other`` of the box round ``window``."""
        rows = np.linspace(window.top, window.bottom, POINTS)
        columns = np.linspace(window.left, window.right, POINTS)
        y, x = self.to_grid(*np.meshgrid(rows, columns, indexing="ij"), other)
        return float(y.min()), float(x.min()), float(y.max()), float(x.max())

    def pixel_size_on(self, other: Grid, row: float, column: float) -> tuple[float, float]:
        """Return the pixels of ``other`` along the rows and columns of one pixel of this grid."""
        rows, columns = np.array([row, row + 1, row]), np.array([column, column, column + 1])
        ys, xs = self.to_grid(rows, columns, other)
        down = math.hypot(ys[1] - ys[0], xs[1] - xs[0])
        across = math.hypot(ys[2] - ys[0], xs[2] - xs[0])
        return down, across


class AlignedReader:
    """Reads a raster on another grid.

    Where the two grids coincide pixels are copied; elsewhere they are resampled by GDAL's cubic
    convolution, whose support is widened where the raster is finer than the grid. Invalid pixels
    are filled before and masked after, band by band: GDAL's own warping of several bands with
    nodata treats a pixel that is invalid in some of them as valid.

    Parameters
    ----------
    reader
        Georeferenced raster.
    grid
        Grid to read it on.
    pool
        Pool that reads the raster.
    """

    def __init__(self, reader: RasterReader, grid: Grid, pool: ReaderPool) -> None:
        self.reader, self.grid, self.pool = reader, grid, pool
        info = reader.info
        self.source = Grid.of(info)
        self.extent = Window(0, 0, info.height, info.width)
        self._offset = self._whole_pixel_offset()
        # source pixels per pixel of the grid, in the middle of the raster
        size = self.source.pixel_size_on(grid, info.height / 2, info.width / 2)
        self._ratio = 1 / size[0], 1 / size[1]

    def _whole_pixel_offset(self) -> tuple[int, int] | None:
        """Return (rows, columns) from this grid to the raster's; None if they do not coincide."""
        if self.source.crs != self.grid.crs:
            return None
        height, width = self.extent.height, self.extent.width
        rows, columns = np.array([0, 0, height]), np.array([0, width, 0])
        y, x = self.source.to_grid(rows, columns, self.grid)
        shifts = np.stack([rows - y, columns - x])
        offsets = [round(float(shift[0])) for shift in shifts]
        if np.abs(shifts - np.array(offsets)[:, None]).max() >= GRID_TOLERANCE:
            return None
        return offsets[0], offsets[1]

    def read(self, window: Window) -> PixelBlock:
        """Read a window of the grid as float32; pixels beyond the raster are invalid."""
        top, left, bottom, right = self.grid.bounds_on(self.source, window)
        top, left = math.floor(top + 1e-6), math.floor(left + 1e-6)
        bottom, right = math.ceil(bottom - 1e-6), math.ceil(right - 1e-6)
        margin = 0 if self._offset is not None else math.ceil(2 * max(1.0, *self._ratio)) + 2
        needed = Window(top, left, bottom - top, right - left).grow(margin)
        inside = needed.intersection(self.extent)
        if inside is None:
            shape = (self.reader.info.count, window.height, window.width)
            return PixelBlock(np.zeros(shape, np.float32), np.zeros(shape, bool), None)
        block = self.pool.read(self.reader, inside)
        values = block.values.astype(np.float32)
        if self._offset is not None:
            return self._copy(
                values, block.valid, inside.moved(*(-n for n in self._offset)), window
            )
        return self._resample(fill_invalid(values, block.valid), block.valid, inside, window)

    def _copy(
        self, values: FloatArray, valid: BoolArray, inside: Window, window: Window
    ) -> PixelBlock:
        """Copy pixels of the window ``inside``, on this grid, into those of ``window``."""
        out = np.zeros((len(values), window.height, window.width), np.float32)
        known = np.zeros(out.shape, bool)
        common = inside.intersection(window)
        if common is not None:
            source, target = common.relative_to(inside).slices, common.relative_to(window).slices
            out[:, *target] = values[:, *source]
            known[:, *target] = valid[:, *source]
        return PixelBlock(out, known, None)

    def _resample(
        self, filled: FloatArray, valid: BoolArray, inside: Window, window: Window
    ) -> PixelBlock:
        """Resample pixels of the window ``inside``, on the raster's grid, to ``window``."""
        planes = np.concatenate([filled, valid.astype(np.float32)])
        out = np.zeros((len(planes), window.height, window.width), np.float32)
        with gdal_env():
            reproject(
                planes,
                out,
                src_transform=shift_transform(self.source.transform, inside.top, inside.left),
                src_crs=self.source.crs,
                dst_transform=shift_transform(self.grid.transform, window.top, window.left),
                dst_crs=self.grid.crs,
                resampling=Resampling.cubic,
                # the support of the two grids, not of the two arrays, whose margins differ
                XSCALE=str(1 / self._ratio[1]),
                YSCALE=str(1 / self._ratio[0]),
            )
        values, weight = np.split(out, 2)
        # filled pixels have no weight in a valid one
        return PixelBlock(values, np.asarray((weight > 0.999) & (weight < 1.001)), None)


def shift_transform(grid: Affine, rows: float, columns: float) -> Affine:
    """Return the transform of the grid that begins ``rows`` below and ``columns`` right."""
    return grid @ Affine.translation(columns, rows)


MIN_SIZE = 16
"""Smallest height and width, in pixels, of images whose shift can be measured."""


@dataclass(frozen=True)
class Overlap:
    """Two images of one place on the LR grid."""

    lr: FloatArray
    """(C, h, w)"""
    hr: FloatArray
    """(C, h, w): Means over LR pixels of the HR raster, in its own units."""
    valid: BoolArray
    """(h, w): True where both are valid."""

    @property
    def measurable(self) -> bool:
        """Whether a shift can be measured: large enough, and at least 95 % valid."""
        return min(self.valid.shape) >= MIN_SIZE and bool(self.valid.mean() >= 0.95)


def block_mean(image: AnyArray, scale: int) -> FloatArray:
    """Average the s x s pixels of each LR pixel: (C, s * h, s * w) -> (C, h, w)."""
    bands, height, width = image.shape
    blocks = image.reshape(bands, height // scale, scale, width // scale, scale)
    return np.asarray(blocks.mean((2, 4)), np.float32)


@dataclass(frozen=True)
class Shift:
    """Shift of the LR raster against the HR raster.

    Attributes
    ----------
    dy, dx : float
        LR pixels down and right.
    spread : float
        Largest distance of one part of the overlap from the median, in LR pixels.
    parts : int
        Number of parts of the overlap that were measured.
    """

    dy: float
    dx: float
    spread: float
    parts: int

    @property
    def size(self) -> float:
        """Length of the shift in LR pixels."""
        return math.hypot(self.dy, self.dx)

    def describe(self) -> str:
        """Return the shift for messages about "the first" (HR) and "the second" (LR) raster."""
        return (
            f"the second is shifted by {self.dy:+.2f} rows and {self.dx:+.2f} columns of its own "
            f"pixels against the first ({self.parts} parts, within {self.spread:.2f})"
        )


def measure_shift(overlaps: Sequence[Overlap]) -> Shift | None:
    """Measure the median shift of several overlaps, by phase correlation of the band means.

    Returns
    -------
    Shift or None
        None if no overlap is large, valid and textured enough.
    """
    measured = [
        phase_shift(_mean_band(part.lr, part.valid), _mean_band(part.hr, part.valid))
        for part in overlaps
        if part.measurable
    ]
    shifts = np.array([shift for shift in measured if math.isfinite(shift[0])])
    if not len(shifts):
        return None
    dy, dx = np.median(shifts, axis=0)
    spread = np.hypot(*(shifts - (dy, dx)).T).max()
    return Shift(float(dy), float(dx), float(spread), len(shifts))


def _mean_band(image: FloatArray, valid: BoolArray) -> AnyArray:
    """Average the bands, each standardized over its valid pixels; 0 where invalid."""
    values = image[:, valid].astype(np.float64)
    deviation = np.maximum(values.std(1), 1e-12)[:, None]
    mean = np.zeros(valid.shape)
    mean[valid] = ((values - values.mean(1, keepdims=True)) / deviation).mean(0)
    return mean


@dataclass(frozen=True)
class Radiometry:
    """Affine map of each band from the HR raster's values to the LR raster's: gain * x + offset.

    Attributes
    ----------
    gain, offset : tuple of float
    correlation : tuple of float
        Correlation of the two rasters over their overlap.
    """

    gain: tuple[float, ...]
    offset: tuple[float, ...]
    correlation: tuple[float, ...]

    def apply(self, values: FloatArray) -> FloatArray:
        """Convert (C, H, W) from the HR raster's units to the LR raster's."""
        gain, offset = (np.array(v, np.float32)[:, None, None] for v in (self.gain, self.offset))
        return np.asarray(values * gain + offset, np.float32)


def fit_radiometry(overlaps: Sequence[Overlap]) -> Radiometry:
    """Match mean and standard deviation, band by band.

    This is the reduced major axis. Unlike least squares, whose gain shrinks with the noise of the
    HR raster and with every difference of the two, it preserves the contrast.
    """
    lr = np.concatenate([part.lr[:, part.valid] for part in overlaps], 1).astype(np.float64)
    hr = np.concatenate([part.hr[:, part.valid] for part in overlaps], 1).astype(np.float64)
    lr_std, hr_std = lr.std(1), hr.std(1)
    gain = np.where(hr_std > 0, lr_std / np.where(hr_std > 0, hr_std, 1), 1.0)
    offset = lr.mean(1) - gain * hr.mean(1)
    covariance = ((lr - lr.mean(1, keepdims=True)) * (hr - hr.mean(1, keepdims=True))).mean(1)
    correlation = covariance / np.maximum(lr_std * hr_std, 1e-30)
    return Radiometry(tuple(gain.tolist()), tuple(offset.tolist()), tuple(correlation.tolist()))


MAX_FINER, MAX_COARSER = 2.0, 1.1
"""Factors by which the HR raster may be finer or coarser than LR / scale."""
PART_SIZES = (256, 128, 64, 32)
"""Heights and widths of the parts of the overlap that are registered, in LR pixels: the largest
one at which a part is measurable is used."""
MIN_CORRELATION = 0.3
"""Correlation of a band in HR and LR below which they do not show the same ground."""


class SensorPair:
    """A coarse and a fine raster of one place; a `CropRegion`.

    HR is read on the ``scale`` times finer grid of the LR raster, and resampled if it has another
    grid. The normalization is that of the LR raster for both, because super-resolution preserves
    its units.

    Parameters
    ----------
    hr, lr
        Rasters with the same number of selected bands.
    scale
        Super-resolution factor.
    normalization
        Normalization to 0..1, chosen from the LR raster.
    match_radiometry
        Convert HR to the radiometry of LR by an affine map per band, fitted to their overlap.
    max_shift
        Largest accepted shift in LR pixels.
    correct_shift
        Move HR by the measured shift; the rest must be within ``max_shift``.
    pool
        Pool that reads the rasters.

    Attributes
    ----------
    area : Window
        Area that both cover, in LR pixels.
    moved : (float, float)
        (rows, columns) in LR pixels by which HR was moved.
    shift, radiometry
        Results of the measurements; None if nothing was measured or matched.

    Raises
    ------
    UsageError
        They differ in bands, have no georeference, or their resolutions do not fit the scale.
    InputError
        They do not overlap, are shifted, or do not show the same ground.
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
        parts = self._align(hr)
        self.shift = measure_shift(parts)
        if correct_shift and self.shift is not None:
            log.info("%s: %s; the first is moved by it", self._title, self.shift.describe())
            self.moved = self.shift.dy, self.shift.dx
            parts = self._align(hr)
            self.shift = measure_shift(parts)
        self._check_shift(max_shift)
        self.normalization = choose_normalization(lr, stretch)
        self.radiometry = self._match(parts) if match_radiometry else None
        hr.close()
        lr.close()

    def _align(self, hr: RasterReader) -> list[Overlap]:
        """Open HR on the grid of LR, moved by `moved`; returns parts of their overlap."""
        coarse = Grid.of(self.lr.info)
        # content moves down where the grid that it is read on moves up
        coarse = Grid(coarse.crs, shift_transform(coarse.transform, *(-n for n in self.moved)))
        fine = Grid(coarse.crs, scale_transform(coarse.transform, self.scale))
        self.hr = AlignedReader(hr, fine, self.pool)
        self._check_resolution(coarse)
        self.area = self._overlap(coarse)
        return self._parts()

    def _check_resolution(self, coarse: Grid) -> None:
        info = self.lr.info
        ratio = coarse.pixel_size_on(self.hr.source, info.height / 2, info.width / 2)
        lowest, highest = self.scale / MAX_COARSER, self.scale * MAX_FINER
        if not lowest <= min(ratio) <= max(ratio) <= highest:
            raise UsageError(
                f"{self._title}: one pixel of the second is {ratio[0]:.3g} x {ratio[1]:.3g} of "
                f"the first, for scale {self.scale} it must be {lowest:.3g} to {highest:.3g}; "
                "choose another scale, or resample the first"
            )

    def _overlap(self, coarse: Grid) -> Window:
        """Return the LR pixels that the HR raster covers."""
        top, left, bottom, right = self.hr.source.bounds_on(coarse, self.hr.extent)
        # pixels of which a hundredth is missing count as covered
        top, left = math.ceil(top - 0.01), math.ceil(left - 0.01)
        height, width = math.floor(bottom + 0.01) - top, math.floor(right + 0.01) - left
        full = Window(0, 0, self.lr.info.height, self.lr.info.width)
        common = Window(top, left, height, width).intersection(full)
        if min(height, width) <= 0 or common is None:
            raise InputError(f"{self._title} do not overlap")
        return common

    def _parts(self) -> list[Overlap]:
        """Read up to nine parts of the overlap, spread evenly."""
        parts: list[Overlap] = []
        for size in PART_SIZES:
            parts = [part for part in self._read_parts(size) if part.valid.any()] or parts
            if any(part.measurable for part in parts):
                break
        if not parts:
            raise InputError(f"{self._title} have no valid pixels in common")
        return parts

    def _read_parts(self, size: int) -> Iterator[Overlap]:
        height, width = (min(size, n) for n in (self.area.height, self.area.width))
        spare = self.area.height - height, self.area.width - width
        starts = {(spare[0] * i // 2, spare[1] * j // 2) for i in range(3) for j in range(3)}
        for top, left in sorted(starts):
            window = Window(self.area.top + top, self.area.left + left, height, width)
            lr = self.pool.read(self.lr, window)
            hr = self.hr.read(window.scaled(self.scale))
            covered = hr.valid.all(0).reshape(height, self.scale, width, self.scale).all((1, 3))
            valid = np.asarray(lr.valid.all(0) & covered)
            yield Overlap(lr.values.astype(np.float32), block_mean(hr.values, self.scale), valid)

    def _check_shift(self, max_shift: float) -> None:
        if self.shift is None:
            log.warning("%s: too small, empty or flat to check for a shift", self._title)
            return
        log.debug("%s: %s", self._title, self.shift.describe())
        if self.shift.size > max_shift:
            raise InputError(
                f"{self._title}: {self.shift.describe()}, expected at most {max_shift:g} pixels; "
                "co-register them, set correct_shift, or raise max_shift"
            )
        if self.shift.spread > max(1.0, max_shift):
            log.warning("%s: some parts are %.2f pixels off", self._title, self.shift.spread)

    def _match(self, parts: list[Overlap]) -> Radiometry:
        radiometry = fit_radiometry(parts)
        bands = zip(radiometry.gain, radiometry.offset, radiometry.correlation, strict=True)
        for number, (gain, offset, correlation) in enumerate(bands, 1):
            log.debug(
                "%s: selected band %d: gain %.4g, offset %.4g, correlation %.2f",
                *(self._title, number, gain, offset, correlation),
            )
            if correlation < MIN_CORRELATION:
                raise InputError(
                    f"{self._title}: selected band {number} correlates by {correlation:.2f} only: "
                    "they do not show the same ground; check bands and dates, "
                    "or set match_radiometry to false"
                )
        return radiometry

    def read(self, window: Window, rng: np.random.Generator) -> Crop | None:
        """Read a window (LR pixels) of both; ``rng`` is not used."""
        hr = self.hr.read(window.scaled(self.scale))
        lr = self.pool.read(self.lr, window)
        valid = np.asarray(lr.valid.all(0)).repeat(self.scale, 0).repeat(self.scale, 1)
        valid &= hr.valid.all(0)
        if valid.mean() < MIN_VALID:
            return None
        values = hr.values if self.radiometry is None else self.radiometry.apply(hr.values)
        return Crop(
            normalize_filled(lr.values, lr.valid, self.normalization),
            normalize_filled(values, hr.valid, self.normalization),
            None if valid.all() else valid,
        )
