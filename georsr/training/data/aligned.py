"""A raster read on the pixel grid of another one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform

from georsr.errors import UsageError
from georsr.raster.env import gdal_env
from georsr.raster.fill import fill_invalid
from georsr.raster.info import RasterInfo
from georsr.raster.reader import RasterReader
from georsr.training.data.reader_pool import ReaderPool
from georsr.types import AnyArray, BoolArray, FloatArray, Window

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
