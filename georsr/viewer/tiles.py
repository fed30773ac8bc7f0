"""Draw tiles of rasters on one pixel grid, that of an output, and read single pixels.

Tiles lie on the grid of the output, whatever its CRS, so nothing is resampled: each pixel of a
tile shows the pixel of a raster under its centre. At zoom 0 a pixel of a tile is a pixel of the
output; at zoom -1 it stands for 2 x 2 of them, of which one is shown.
"""

from __future__ import annotations

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePath
from queue import Empty, LifoQueue
from typing import Any, Self

import numpy as np
from affine import Affine

from georsr.errors import GeorsrError, GeorsrWarning, UsageError
from georsr.evaluation.raster_comparison import open_source_of
from georsr.evaluation.reports.figures import DisplayStretch, display_stretch, displayed_bands
from georsr.evaluation.reports.html import encode_png
from georsr.io.metadata import RasterInfo, crs_name, crs_unit
from georsr.io.reader import RasterReader
from georsr.quality.qgis_style import RAMP, displayed_maximum
from georsr.system import available_cpus
from georsr.window import AnyArray, PixelBlock, Window

TILE = 256
"""Height and width of a tile."""
MAX_DECODED_BYTES = 32 * 2**20
"""Bytes decoded for one tile, at most: that takes about a fifth of a second."""
MAX_READERS = 4
"""Readers of a raster; each is used by one thread at a time."""
GRID_TOLERANCE = 0.1
"""Pixels by which rows that are called parallel may leave each other."""


class PlacedRaster(ABC):
    """Some bands of a raster, placed on the pixel grid of an output.

    The reader of the bands is closed with this object.

    Raises
    ------
    UsageError
        It has another CRS than the output, or its rows are not parallel to the output's.
    """

    def __init__(self, reader: RasterReader, output: RasterInfo) -> None:
        self.info = reader.info
        self.placement = placement(reader.info, output)
        """From output pixels (column, row) to pixels of this raster."""
        self.min_zoom = self._min_zoom()
        scale = max(abs(self.placement.a), abs(self.placement.e))
        self.max_zoom = max(0, math.ceil(math.log2(scale)))
        """Zoom at which a pixel of a tile is no larger than a pixel of the raster."""
        self._count = min(MAX_READERS, available_cpus())
        self._readers: LifoQueue[RasterReader] = LifoQueue()
        for _ in range(self._count - 1):
            self._readers.put(copy.copy(reader))  # opens the file when it is first used
        self._readers.put(reader)

    @abstractmethod
    def draw(self, block: PixelBlock) -> AnyArray:
        """Return pixels as (3, h, w) uint8."""

    @contextmanager
    def reader(self) -> Iterator[RasterReader]:
        """Lend a reader to this thread."""
        reader = self._readers.get()
        try:
            yield reader
        finally:
            self._readers.put(reader)

    def close(self) -> None:
        """Close the raster; a read that is under way ends first."""
        with suppress(Empty):
            for _ in range(self._count):
                self._readers.get(timeout=5).close()

    def bounds(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom in output pixels."""
        left, top = ~self.placement @ (0, 0)
        right, bottom = ~self.placement @ (self.info.width, self.info.height)
        return min(left, right), min(top, bottom), max(left, right), max(top, bottom)

    def read(self, columns: AnyArray, rows: AnyArray) -> PixelBlock | None:
        """Read the pixels under the points of a grid.

        ``columns`` (w,) and ``rows`` (h,) are places in output pixels; 0 is the outer edge of the
        first one. Returns (bands, h, w), invalid outside of the raster; None if no point lies
        inside.
        """
        x = self.placement.a * columns + self.placement.c
        y = self.placement.e * rows + self.placement.f
        inside_x, inside_y = (x >= 0) & (x < self.info.width), (y >= 0) & (y < self.info.height)
        if not (inside_x.any() and inside_y.any()):
            return None
        left, width, n_columns = _footprint(x[inside_x], self.info.width)
        top, height, n_rows = _footprint(y[inside_y], self.info.height)
        with self.reader() as reader:
            block = reader.read_decimated(n_rows, n_columns, Window(top, left, height, width))
        i = ((np.floor(y[inside_y]) - top + 0.5) * n_rows / height).astype(int)
        j = ((np.floor(x[inside_x]) - left + 0.5) * n_columns / width).astype(int)
        values = np.zeros((self.info.count, rows.size, columns.size), block.values.dtype)
        valid = np.zeros(values.shape, bool)
        inside = inside_y[:, None] & inside_x
        values[:, inside] = block.values[:, i][:, :, j].reshape(self.info.count, -1)
        valid[:, inside] = block.valid[:, i][:, :, j].reshape(self.info.count, -1)
        return PixelBlock(values, valid, None)

    def tile(self, zoom: int, x: int, y: int) -> bytes:
        """Return a tile as a PNG file, transparent where a band has no valid pixel."""
        step = 2.0**-zoom
        centers = (np.arange(TILE) + 0.5) * step
        block = self.read(x * TILE * step + centers, y * TILE * step + centers)
        image = np.zeros((4, TILE, TILE), np.uint8)
        if block is not None:
            image[:3] = self.draw(block)
            image[3] = block.valid.all(0) * 255
        return encode_png(image, level=1)

    def values(self, column: int, row: int) -> list[float | None]:
        """Return the values of the bands at an output pixel; None where invalid."""
        block = self.read(np.array([column + 0.5]), np.array([row + 0.5]))
        if block is None:
            return [None] * self.info.count
        pairs = zip(block.values.ravel(), block.valid.ravel(), strict=True)
        return [float(str(value)) if valid else None for value, valid in pairs]

    def _min_zoom(self) -> int:
        """Return the smallest zoom at which little is decoded for a tile.

        With overviews that is the zoom at which the raster fits on one tile.
        """
        smallest, zoom = whole_zoom(self.bounds()), 0
        while zoom > smallest and self._decoded_bytes(zoom - 1) <= MAX_DECODED_BYTES:
            zoom -= 1
        return zoom

    def _decoded_bytes(self, zoom: int) -> float:
        info, step = self.info, min(abs(self.placement.a), abs(self.placement.e)) * 2.0**-zoom
        overview = max((factor for factor in info.overviews if factor <= step), default=1)
        pixels = 1.0
        for size, block in zip((info.height, info.width), info.block_shape, strict=True):
            blocks = TILE * step / overview / block + 1  # those at the edges are decoded whole
            pixels *= min(blocks * block, math.ceil(size / overview / block) * block)
        return pixels * len(info.selectable_bands) * np.dtype(info.dtype).itemsize


class Picture(PlacedRaster):
    """A raster in colours, or in grey."""

    def __init__(self, reader: RasterReader, output: RasterInfo, stretch: DisplayStretch) -> None:
        super().__init__(reader, output)
        self.stretch = stretch

    def draw(self, block: PixelBlock) -> AnyArray:
        """Return pixels as (3, h, w) uint8."""
        return self.stretch.to_rgb(block)


class QualityLayer(PlacedRaster):
    """A band of quality layers, in the colours in which QGIS shows them."""

    @cached_property
    def maximum(self) -> float:
        """Value of the last colour; the first one is 0."""
        with self.reader() as reader:
            return displayed_maximum(reader)

    def draw(self, block: PixelBlock) -> AnyArray:
        """Return pixels as (3, h, w) uint8."""
        limits = np.linspace(0, self.maximum, len(RAMP))
        colours = np.array([tuple(bytes.fromhex(colour[1:])) for colour in RAMP])
        values = np.where(block.valid[0], block.values[0], 0)
        return np.stack([np.interp(values, limits, c) for c in colours.T]).astype(np.uint8)


def _footprint(positions: AnyArray, size: int) -> tuple[int, int, int]:
    """Return the first pixel that places stand for, their number, and how many of them to read.

    Places are evenly spaced centres along an axis of ``size`` pixels, in pixels.
    """
    half = abs(positions[-1] - positions[0]) / max(1, positions.size - 1) / 2
    first = max(0, math.floor(positions.min() - half + 1e-6))
    last = min(size, max(math.ceil(positions.max() + half - 1e-6), first + 1))
    return first, last - first, min(last - first, positions.size)


def whole_zoom(bounds: tuple[float, float, float, float]) -> int:
    """Return the zoom at which a box in output pixels fits on a tile; at most 0."""
    left, top, right, bottom = bounds
    return min(0, math.floor(math.log2(TILE / max(right - left, bottom - top))))


def placement(info: RasterInfo, output: RasterInfo) -> Affine:
    """Return the transform from pixels of an output to pixels of another raster.

    If one of them has no geotransform, both are taken to show the same ground.

    Raises
    ------
    UsageError
        They have no common grid.
    """
    if info.transform is None or output.transform is None:
        scale = info.width / output.width
        if abs(scale * output.height - info.height) > 1:
            raise UsageError(
                f"{info.path} ({info.width} x {info.height}) and {output.path} ({output.width} x "
                f"{output.height}) differ in shape, and one of them has no geotransform; expected "
                "an output and its source"
            )
        return Affine.scale(scale, info.height / output.height)
    if info.crs and output.crs and info.crs != output.crs:
        raise UsageError(
            f"{info.path}: its CRS is {crs_name(info.crs)}, that of {output.path} is "
            f"{crs_name(output.crs)}; warp it first, for example with `rio warp --like`"
        )
    relative: Affine = ~info.transform @ output.transform
    if max(abs(relative.b) * output.height, abs(relative.d) * output.width) > GRID_TOLERANCE:
        raise UsageError(
            f"{info.path}: its rows are not parallel to those of {output.path}; warp it first, "
            "for example with `rio warp --like`"
        )
    return relative


class View:
    """An output, its source and its quality layers on one pixel grid.

    Parameters
    ----------
    output
        Path of the output, or of any raster.
    source
        Path of the source; None takes the file beside the output that its tags name, if it exists.
    layers
        Path of the quality layers.
    bidx
        Numbers of the output's bands that are shown: red, green and blue, or one. None finds them.

    Raises
    ------
    UsageError, InputError
        A file cannot be read, or has no common grid with the output.
    """

    def __init__(
        self,
        output: str,
        source: str | None = None,
        layers: str | None = None,
        bidx: Sequence[int] | None = None,
    ) -> None:
        self.rasters: dict[str, PlacedRaster] = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GeorsrWarning)  # they speak of outputs of runs
                self._open(output, source, layers, bidx)
        except BaseException:
            self.close()
            raise

    def _open(
        self, path: str, source: str | None, layers: str | None, bidx: Sequence[int] | None
    ) -> None:
        with RasterReader(path, force=True) as output:
            self.info = output.info
            numbers = _shown_bands(output.info, bidx)
            reader = output.with_bands(tuple(dict.fromkeys(numbers)))
            picture = self._add_picture("output", reader, display_stretch(reader, numbers))
            if source is not None:
                self._add_source(output, source, picture)
            elif neighbour := _source_beside(output.info):
                with suppress(GeorsrError):  # another file of that name
                    self._add_source(output, neighbour, picture)
        if layers is not None:
            with RasterReader(layers, force=True) as quality:
                for number in quality.info.indexes:
                    layer = QualityLayer(quality.with_bands((number,)), self.info)
                    self.rasters[f"layer{number}"] = layer

    def _add_source(self, output: RasterReader, path: str, picture: Picture) -> None:
        """Add the source, with the stretch of the output if the data type is the same."""
        with open_source_of(output, path, force=True) as part:
            bands = part.info.indexes
        with RasterReader(path, force=True) as whole:
            if len(bands) == output.info.count:
                made_of = dict(zip(output.info.indexes, bands, strict=True))
                numbers = tuple(made_of[number] for number in picture.info.indexes)
                reader = whole.with_bands(numbers)
                shown = [numbers[position] for position in picture.stretch.bands]
                same = reader.info.dtype == picture.info.dtype
                stretch = picture.stretch if same else display_stretch(reader, shown)
            else:
                shown = list(displayed_bands(whole.info))
                reader = whole.with_bands(tuple(dict.fromkeys(shown)))
                stretch = display_stretch(reader, shown)
        self._add_picture("source", reader, stretch)

    def _add_picture(self, name: str, reader: RasterReader, stretch: DisplayStretch) -> Picture:
        self.rasters[name] = picture = Picture(reader, self.info, stretch)
        return picture

    @property
    def layers(self) -> dict[str, QualityLayer]:
        """Quality layers by their names in addresses."""
        return {n: raster for n, raster in self.rasters.items() if isinstance(raster, QualityLayer)}

    def remarks(self) -> Iterator[str]:
        """Yield what the user should know of the files, one line each."""
        if "source" not in self.rasters and "GEORSR_SOURCE" in self.info.tags.get("", {}):
            yield f"{self.info.path}: its source is not beside it; name it to compare both"
        for path in dict.fromkeys(
            raster.info.path
            for raster in self.rasters.values()
            if raster.min_zoom > whole_zoom(raster.bounds())
        ):
            yield f"{path}: has no overviews, so it shows from nearby only; gdaladdo -ro adds them"

    def describe(self) -> dict[str, Any]:
        """Return what the page needs to know of the rasters, for JSON."""
        info, tags = self.info, self.info.tags.get("", {})
        rasters = {}
        for name, raster in self.rasters.items():
            own = raster.info
            rasters[name] = {
                "file": PurePath(own.path).name,
                "size": f"{own.width} x {own.height} pixels, {own.dtype}",
                "bands": [band.description or f"band {band.number}" for band in own.bands],
                "unit": own.bands[0].unit or "",
                "meaning": own.bands[0].tags.get("", {}).get("LAYER", ""),
                "bounds": raster.bounds(),
                "minZoom": raster.min_zoom,
                "maxNativeZoom": raster.max_zoom,
            }
        return {
            "width": info.width,
            "height": info.height,
            "crs": crs_name(info.crs),
            "unit": crs_unit(info) or "pixel",
            "transform": list(info.transform or Affine.identity())[:6],
            "georeferenced": info.transform is not None,
            "note": tags.get("GEORSR_NOTE", ""),
            "copyright": tags.get("TIFFTAG_COPYRIGHT", ""),
            "tile": TILE,
            "minZoom": min(raster.min_zoom for raster in self.rasters.values()),
            "ramp": RAMP,
            "rasters": rasters,
        }

    def close(self) -> None:
        """Close all files."""
        for raster in self.rasters.values():
            raster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _shown_bands(info: RasterInfo, bidx: Sequence[int] | None) -> tuple[int, ...]:
    if bidx is None:
        return displayed_bands(info)
    if len(bidx) not in (1, 3) or not set(bidx) <= set(info.indexes):
        raise UsageError(
            f"{info.path}: --bidx {','.join(map(str, bidx))}: expected one band or three (red, "
            f"green, blue) of: {', '.join(info.selectable_bands)}"
        )
    return tuple(bidx) * (3 // len(bidx))


def _source_beside(info: RasterInfo) -> str | None:
    """Return the source beside an output that its tags name; they may be forged."""
    name = info.tags.get("", {}).get("GEORSR_SOURCE", "")
    if not name or PurePath(name).name != name:
        return None
    path = Path(info.address).parent / name
    return str(path) if path.exists() else None
