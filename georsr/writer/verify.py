"""Verify a finished file by reading it back.

Twins: blocks of a finished file that are, byte for byte, one that was decoded before.

Most of a sparse mosaic is one empty block again and again. What decodes a block knows nothing of
where it lies, so that the same bytes are the same pixels.
"""

from __future__ import annotations

import itertools
import math
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from georsr.errors import GeoreferenceWarning, OutputError
from georsr.io.gdal_env import CACHE_BYTES, gdal_env, root_cause, suppress_rasterio_warnings
from georsr.system import available_cpus
from georsr.window import AnyArray, Window
from georsr.writer.deflate import crc32
from georsr.writer.layout import OutputLayout
from georsr.writer.tiff import Numbers, tile_tables

MAX_DUPLICATE_BYTES = 4096
"""Bytes of an encoded block that is worth remembering: others have pixels in them, and no twin."""
CACHE_SIZE = 256

Key = tuple[bytes, int, int]


class DuplicateBlockCache:
    """Remembers checksums by encoded bytes; a context manager that holds the file open.

    Parameters
    ----------
    path : Path
        A file that georsr laid out in blocks; another one has no twins.
    layout : ProductLayout
    """

    def __init__(self, path: Path, layout: OutputLayout) -> None:
        self._file = path.open("rb")
        self._known: dict[Key, int] = {}
        self._lock = threading.Lock()
        self._columns = layout.blocks_shape[1]
        self._blocks = layout.blocks_count
        self._tables: list[tuple[Numbers, Numbers]] = []
        try:
            tables = tile_tables(self._file)
            # a COG has more of them, or of another size of blocks
            if [t.offsets.count for t in tables] in _expected(layout):
                self._tables = [
                    (t.offsets.read(self._file), t.sizes.read(self._file)) for t in tables
                ]
        except (ValueError, OSError):
            self._tables = []  # whoever decodes it will say what is wrong

    def key(self, row: int, column: int, window: Window) -> Key | None:
        """Return what identifies identical blocks; None for a block that is too long."""
        index = row * self._columns + column
        pieces = [
            (int(offsets[i]), int(sizes[i]))
            for offsets, sizes in self._tables
            for i in range(index, len(offsets), self._blocks)
        ]
        if not pieces or sum(size for _, size in pieces) > MAX_DUPLICATE_BYTES:
            return None
        encoded = []
        with self._lock:
            for offset, size in pieces:
                self._file.seek(offset)
                encoded += [size.to_bytes(8), self._file.read(size)]
        return b"".join(encoded), window.height, window.width

    def get_or_decode(self, key: Key | None, decode: Callable[[], int]) -> int:
        """Return the checksum of an identical block, or call ``decode``.

        Blocks that may have twins are decoded one at a time, so that none is decoded twice.
        """
        if key is None:
            return decode()
        with self._lock:
            found = self._known.get(key)
            if found is None:
                found = decode()
                if len(self._known) < CACHE_SIZE:
                    self._known[key] = found
            return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _expected(layout: OutputLayout) -> list[list[int]]:
    """Return the number of tiles in each image of the file."""
    blocks = layout.blocks_count
    mask = [blocks] * layout.mask
    return [[blocks, *mask], [blocks * layout.count, *mask]]


Checksums = npt.NDArray[np.uint32]

MAX_THREADS = 8
"""That read a file back."""
POLL_SECONDS = 0.1


class VerificationError(OutputError):
    """The file does not read back as it was written."""


def block_checksum(values: AnyArray, mask: AnyArray | None) -> int:
    """Return the crc32 of one block: all bands (count, h, w), then the mask (h, w)."""
    checksum = crc32(np.ascontiguousarray(values).data)
    return checksum if mask is None else crc32(np.ascontiguousarray(mask).data, checksum)


def to_rasterio_window(window: Window) -> RasterioWindow:
    """Return the window as rasterio has it, columns first."""
    return RasterioWindow(window.left, window.top, window.width, window.height)


def verify_product(
    path: Path,
    dst: str,
    layout: OutputLayout,
    checksums: Checksums | None,
    look: Callable[[], None] = lambda: None,
    driver: str = "GTiff",
) -> None:
    """Reopen an output and compare it with what was written.

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
        with suppress_rasterio_warnings():
            with gdal_env(writing=True), rasterio.open(path, driver=driver) as dataset:
                _compare_header(dataset, dst, layout)
            if checksums is not None:
                _compare_blocks(path, dst, layout, checksums, look, driver)
    except (RasterioError, OSError) as err:
        if isinstance(err, OutputError):
            raise
        raise VerificationError(
            f"{dst}: could not be read back after writing: {root_cause(err)}"
        ) from err


def _compare_blocks(
    path: Path,
    dst: str,
    layout: OutputLayout,
    checksums: Checksums,
    look: Callable[[], None],
    driver: str,
) -> None:
    """Compare rows of blocks in threads, each with its own handle of the file."""
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

    threads = min(MAX_THREADS, available_cpus(), layout.blocks_shape[0])
    with (
        DuplicateBlockCache(path, layout) as twins,
        ThreadPoolExecutor(threads, thread_name_prefix="georsr-verify") as pool,
    ):
        try:
            for result in [pool.submit(compare) for _ in range(threads)]:
                while not result.done():
                    look()
                    with suppress(TimeoutError):
                        result.exception(POLL_SECONDS)
                result.result()
        finally:
            stop.set()


def _line(layout: OutputLayout, row: int) -> Window:
    """A row of blocks."""
    top = row * layout.blocksize
    return Window(top, 0, min(layout.blocksize, layout.height - top), layout.width)


def _compare_block(
    dataset: Any,
    dst: str,
    layout: OutputLayout,
    checksums: Checksums,
    twins: DuplicateBlockCache,
    place: tuple[int, int, Window],
) -> None:
    row, column, window = place
    where = to_rasterio_window(window)

    def decode() -> int:
        values = dataset.read(window=where)
        mask = dataset.read_masks(1, window=where) if layout.mask else None
        return block_checksum(values, mask)

    checksum = twins.get_or_decode(twins.key(row, column, window), decode)
    if layout.lossless and checksum != checksums[row, column]:
        raise VerificationError(f"{dst}: {window} reads back differently from what was written")


def _compare_header(dataset: Any, dst: str, layout: OutputLayout) -> None:
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
            raise VerificationError(f"{dst}: {what} read back as {got}, expected {expected}")
    if not same_nodata(dataset.nodata, layout.nodata):
        raise VerificationError(
            f"{dst}: nodata read back as {dataset.nodata}, expected {layout.nodata}"
        )
    if not same_corners(dataset.transform, transform, layout.width, layout.height):
        raise VerificationError(
            f"{dst}: transform read back as {tuple(dataset.transform)[:6]}, "
            f"expected {tuple(transform)[:6]}"
        )
    _compare_crs(dataset, dst, layout)


def _places(gcps: Iterable[GroundControlPoint]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(v), 6) for v in (g.row, g.col, g.x, g.y)) for g in gcps)


def same_nodata(a: float | None, b: float | None) -> bool:
    """Return whether two nodata values are equal, as NaN or after rounding to float32."""
    if a is None or b is None:
        return a is b
    return a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-6)


def same_corners(a: Affine, b: Affine, width: int, height: int) -> bool:
    """Return whether two transforms have the same outer corners, to 1e-9 of the extent."""
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    points = [
        [(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f) for x, y in corners] for t in (a, b)
    ]
    size = max(abs(value) for point in points[1] for value in point) or 1.0
    differences = (
        abs(p - q) for pa, pb in zip(*points, strict=True) for p, q in zip(pa, pb, strict=True)
    )
    return all(difference <= 1e-9 * size for difference in differences)


def _compare_crs(dataset: Any, dst: str, layout: OutputLayout) -> None:
    got = dataset.gcps[1] if layout.gcps and layout.transform is None else dataset.crs
    expected = layout.gcps_crs if layout.gcps and layout.transform is None else layout.crs
    if (not got) != (not expected):
        raise VerificationError(f"{dst}: CRS read back as {got}, expected {expected}")
    if got and expected and got != expected and got.to_dict() != expected.to_dict():
        # GeoTIFF keys cannot hold every CRS; no pixel is wrong, so the output is kept
        warnings.warn(
            f"{dst}: GeoTIFF changes the CRS slightly: wrote {expected.to_string()}, "
            f"reads back as {got.to_string()}",
            GeoreferenceWarning,
            stacklevel=2,
        )
