"""Reading a finished file back before anyone else can see it."""

from __future__ import annotations

import itertools
import math
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from georsr.errors import GeoreferenceWarning, OutputError
from georsr.machine import processors
from georsr.raster.deflate import crc32
from georsr.raster.env import CACHE_BYTES, cause, gdal_env, own_warnings
from georsr.raster.layout import ProductLayout
from georsr.raster.twins import Twins
from georsr.types import AnyArray, Window

Checksums = npt.NDArray[np.uint32]

MOST_THREADS = 8
"""That read a file back."""
LOOK_SECONDS = 0.1


class DifferenceError(OutputError):
    """What was written does not read back as what was meant: the file is of no use."""


def block_checksum(values: AnyArray, mask: AnyArray | None) -> int:
    """crc32 of the bytes of one block: all bands (count, h, w), then the mask (h, w)."""
    checksum = crc32(np.ascontiguousarray(values).data)
    return checksum if mask is None else crc32(np.ascontiguousarray(mask).data, checksum)


def region(window: Window) -> RasterioWindow:
    """The same window for rasterio, which wants columns first."""
    return RasterioWindow(window.left, window.top, window.width, window.height)


def verify_product(
    path: Path,
    dst: str,
    layout: ProductLayout,
    checksums: Checksums | None,
    look: Callable[[], None] = lambda: None,
    driver: str = "GTiff",
) -> None:
    """Reopen a product and compare it with what was meant.

    Parameters
    ----------
    path : Path
        The unfinished file.
    dst : str
        The name to blame in messages.
    layout : ProductLayout
        Size, type, nodata, georeferencing and mask are compared with it.
    checksums : uint32 (block rows, block columns), or None
        Every block is read and compared; in a lossy encoding only read. None: header only.
    look : callable
        Called several times a second while blocks are read; what it raises ends the reading.
    driver : str
        GDAL's, for this kind of file.

    Raises
    ------
    DifferenceError
        Naming a difference.
    """
    try:
        with own_warnings():
            with gdal_env(writing=True), rasterio.open(path, driver=driver) as dataset:
                _compare_header(dataset, dst, layout)
            if checksums is not None:
                _compare_blocks(path, dst, layout, checksums, look, driver)
    except (RasterioError, OSError) as err:
        if isinstance(err, OutputError):
            raise
        raise DifferenceError(f"{dst}: could not be read back after writing: {cause(err)}") from err


def _compare_blocks(
    path: Path,
    dst: str,
    layout: ProductLayout,
    checksums: Checksums,
    look: Callable[[], None],
    driver: str,
) -> None:
    """Rows of blocks are shared out to threads, each with a handle of its own on the file."""
    rows, stop = itertools.count(), threading.Event()

    def compare() -> None:
        env = gdal_env(writing=True, cache=CACHE_BYTES // 8)  # no block is read twice
        try:
            with env, rasterio.open(path, driver=driver) as dataset:
                while (row := next(rows)) < layout.blocks_shape[0]:
                    for place in layout.blocks(_line(layout, row)):
                        if stop.is_set():
                            return
                        _compare_block(dataset, dst, layout, checksums, twins, place)
        except BaseException:
            stop.set()
            raise

    threads = min(MOST_THREADS, processors(), layout.blocks_shape[0])
    with (
        Twins(path, layout) as twins,
        ThreadPoolExecutor(threads, thread_name_prefix="georsr-verify") as pool,
    ):
        try:
            for result in [pool.submit(compare) for _ in range(threads)]:
                while not result.done():
                    look()
                    with suppress(TimeoutError):
                        result.exception(LOOK_SECONDS)
                result.result()
        finally:
            stop.set()


def _line(layout: ProductLayout, row: int) -> Window:
    """A row of blocks."""
    top = row * layout.blocksize
    return Window(top, 0, min(layout.blocksize, layout.height - top), layout.width)


def _compare_block(
    dataset: Any,
    dst: str,
    layout: ProductLayout,
    checksums: Checksums,
    twins: Twins,
    place: tuple[int, int, Window],
) -> None:
    row, column, window = place
    where = region(window)

    def decode() -> int:
        values = dataset.read(window=where)
        mask = dataset.read_masks(1, window=where) if layout.mask else None
        return block_checksum(values, mask)

    checksum = twins.checksum(twins.key(row, column, window), decode)
    if layout.lossless and checksum != checksums[row, column]:
        raise DifferenceError(f"{dst}: {window} reads back differently from what was written")


def _compare_header(dataset: Any, dst: str, layout: ProductLayout) -> None:
    transform = layout.transform or Affine.identity()
    found = {
        "width": (dataset.width, layout.width),
        "height": (dataset.height, layout.height),
        "number of bands": (dataset.count, layout.count),
        "data types": (set(dataset.dtypes), {layout.dtype}),
        "GCPs": (_places(dataset.gcps[0]), () if layout.transform else _places(layout.gcps)),
        "RPCs": (dataset.rpcs is not None, layout.rpcs is not None),
        "AREA_OR_POINT": (dataset.tags().get("AREA_OR_POINT", "Area"), layout.area_or_point),
        "colours": (tuple(item.name for item in dataset.colorinterp)[-1:], layout.colorinterp[-1:])
        if layout.alpha
        else ((), ()),
    }
    for what, (got, expected) in found.items():
        if got != expected:
            raise DifferenceError(f"{dst}: {what} read back as {got}, expected {expected}")
    if not same_nodata(dataset.nodata, layout.nodata):
        raise DifferenceError(
            f"{dst}: nodata read back as {dataset.nodata}, expected {layout.nodata}"
        )
    if not same_corners(dataset.transform, transform, layout.width, layout.height):
        raise DifferenceError(
            f"{dst}: transform read back as {tuple(dataset.transform)[:6]}, "
            f"expected {tuple(transform)[:6]}"
        )
    _compare_crs(dataset, dst, layout)


def _places(gcps: Iterable[GroundControlPoint]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(v), 6) for v in (g.row, g.col, g.x, g.y)) for g in gcps)


def same_nodata(a: float | None, b: float | None) -> bool:
    """Equal, where NaN equals NaN and float32's rounding of a number equals that number."""
    if a is None or b is None:
        return a is b
    return a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-6)


def same_corners(a: Affine, b: Affine, width: int, height: int) -> bool:
    """Whether two transforms put the outer corners at the same place, to 1e-9 of the extent."""
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    points = [
        [(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f) for x, y in corners] for t in (a, b)
    ]
    size = max(abs(value) for point in points[1] for value in point) or 1.0
    differences = (
        abs(p - q) for pa, pb in zip(*points, strict=True) for p, q in zip(pa, pb, strict=True)
    )
    return all(difference <= 1e-9 * size for difference in differences)


def _compare_crs(dataset: Any, dst: str, layout: ProductLayout) -> None:
    got = dataset.gcps[1] if layout.gcps and layout.transform is None else dataset.crs
    expected = layout.gcps_crs if layout.gcps and layout.transform is None else layout.crs
    if (not got) != (not expected):
        raise DifferenceError(f"{dst}: CRS read back as {got}, expected {expected}")
    if got and expected and got != expected and got.to_dict() != expected.to_dict():
        # GeoTIFF keys cannot hold every CRS; no pixel is wrong, so the product is kept
        warnings.warn(
            f"{dst}: GeoTIFF changes the CRS slightly: wrote {expected.to_string()}, "
            f"reads back as {got.to_string()}",
            GeoreferenceWarning,
            stacklevel=2,
        )
