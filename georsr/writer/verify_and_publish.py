"""Verify a finished file by reading it back, copy it to a COG, give it its final name.

Most blocks of a sparse mosaic are the same empty block. Decoding does not depend on the position of
a block, so blocks of the same bytes have the same pixels and are decoded only once.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.windows import Window as RasterioWindow

from georsr._files import atomic_write
from georsr.errors import OutputError
from georsr.io.gdal_env import (
    CACHE_BYTES,
    gdal_env,
    root_cause,
    silent_libtiff,
    suppress_rasterio_warnings,
)
from georsr.system import available_cpus
from georsr.window import Window
from georsr.writer.encoder import Numbers, block_checksum, tile_tables
from georsr.writer.layout import OutputLayout, header_differences
from georsr.writer.paths import is_virtual, local_path, replace_sidecars, sync_path

MAX_DUPLICATE_BYTES = 4096
"""Largest encoded size of a cached block: larger blocks hold varying pixels and do not repeat."""
CACHE_SIZE = 256
"""Largest number of cached checksums."""

Key = tuple[bytes, int, int]


class DuplicateBlockCache:
    """Caches the checksums of blocks by their encoded bytes.

    A context manager: the file is open until it exits.

    Parameters
    ----------
    path : Path
        Finished file. Nothing is cached if its blocks are not those of ``layout``.
    layout : OutputLayout
        Layout of the file.
    """

    def __init__(self, path: Path, layout: OutputLayout) -> None:
        self._file = path.open("rb")
        self._checksums: dict[Key, int] = {}
        self._lock = threading.Lock()
        self._columns = layout.blocks_shape[1]
        self._blocks = layout.blocks_count
        self._tables: list[tuple[Numbers, Numbers]] = []
        try:
            tables = tile_tables(self._file)
            # a COG has more images, or another block size
            if [t.offsets.count for t in tables] in _tile_counts(layout):
                self._tables = [
                    (t.offsets.read(self._file), t.sizes.read(self._file)) for t in tables
                ]
        except (ValueError, OSError):
            self._tables = []  # decoding the file raises a more specific error

    def key(self, row: int, column: int, window: Window) -> Key | None:
        """Return a key that identical blocks share; None for a block too large to cache."""
        index = row * self._columns + column
        tiles = [
            (int(offsets[i]), int(sizes[i]))
            for offsets, sizes in self._tables
            for i in range(index, len(offsets), self._blocks)
        ]
        if not tiles or sum(size for _, size in tiles) > MAX_DUPLICATE_BYTES:
            return None
        encoded = []
        with self._lock:
            for offset, size in tiles:
                self._file.seek(offset)
                encoded += [size.to_bytes(8), self._file.read(size)]
        return b"".join(encoded), window.height, window.width

    def get_or_decode(self, key: Key | None, decode: Callable[[], int]) -> int:
        """Return the checksum of an identical block, or call ``decode``.

        Blocks with a key are decoded one at a time, so that identical blocks are decoded once.
        """
        if key is None:
            return decode()
        with self._lock:
            checksum = self._checksums.get(key)
            if checksum is None:
                checksum = decode()
                if len(self._checksums) < CACHE_SIZE:
                    self._checksums[key] = checksum
            return checksum

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _tile_counts(layout: OutputLayout) -> list[list[int]]:
    """Return the possible numbers of tiles in the images of a file: bands interleaved or not."""
    blocks = layout.blocks_count
    mask = [blocks] * layout.mask
    return [[blocks, *mask], [blocks * layout.count, *mask]]


Checksums = npt.NDArray[np.uint32]

MAX_THREADS = 8
"""Largest number of threads that read a file back."""
POLL_SECONDS = 0.1
"""Seconds between two checks for cancellation."""


class VerificationError(OutputError):
    """Raised if a file does not read back as it was written."""


def to_rasterio_window(window: Window) -> RasterioWindow:
    """Convert a window to rasterio's type, which takes columns first."""
    return RasterioWindow(window.left, window.top, window.width, window.height)


def verify_output(
    path: Path,
    dst: str,
    layout: OutputLayout,
    checksums: Checksums | None,
    check_cancelled: Callable[[], None] = lambda: None,
    driver: str = "GTiff",
) -> None:
    """Reopen an output and compare it with what was written.

    Parameters
    ----------
    path : Path
        Path of the file, which is not published yet.
    dst : str
        Path of the output, for messages.
    layout : OutputLayout
        Expected size, data type, nodata, georeferencing and mask.
    checksums : uint32 (block rows, block columns), or None
        Checksums of the blocks. Every block is read and, unless the encoding is lossy, compared.
        None verifies only the header.
    check_cancelled : callable
        Called several times a second while blocks are read; an exception it raises ends the
        reading.
    driver : str
        GDAL driver of the file.

    Raises
    ------
    VerificationError
        The file differs from what was written.
    """
    try:
        with suppress_rasterio_warnings():
            with gdal_env(writing=True), rasterio.open(path, driver=driver) as dataset:
                for difference in header_differences(dataset, layout):
                    raise VerificationError(f"{dst}: {difference}")
            if checksums is not None:
                _compare_blocks(path, dst, layout, checksums, check_cancelled, driver)
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
    check_cancelled: Callable[[], None],
    driver: str,
) -> None:
    """Compare rows of blocks in threads, each with its own handle of the file."""
    rows, stop = itertools.count(), threading.Event()

    def compare() -> None:
        env = gdal_env(writing=True, cache=CACHE_BYTES // 8)  # no block is read twice
        try:
            with env, rasterio.open(path, driver=driver) as dataset:
                while (row := next(rows)) < layout.blocks_shape[0]:
                    for block in layout.blocks(_block_row(layout, row)):
                        if stop.is_set():
                            return
                        _compare_block(dataset, dst, layout, checksums, cache, block)
        except BaseException:
            stop.set()
            raise

    threads = min(MAX_THREADS, available_cpus(), layout.blocks_shape[0])
    with (
        DuplicateBlockCache(path, layout) as cache,
        ThreadPoolExecutor(threads, thread_name_prefix="georsr-verify") as pool,
    ):
        try:
            for result in [pool.submit(compare) for _ in range(threads)]:
                while not result.done():
                    check_cancelled()
                    with suppress(TimeoutError):
                        result.exception(POLL_SECONDS)
                result.result()
        finally:
            stop.set()


def _block_row(layout: OutputLayout, row: int) -> Window:
    """Return the window of a row of blocks."""
    top = row * layout.blocksize
    return Window(top, 0, min(layout.blocksize, layout.height - top), layout.width)


def _compare_block(
    dataset: Any,
    dst: str,
    layout: OutputLayout,
    checksums: Checksums,
    cache: DuplicateBlockCache,
    block: tuple[int, int, Window],
) -> None:
    """Compare the checksum of a block (block row, block column, window) with the expected one."""
    row, column, window = block
    rasterio_window = to_rasterio_window(window)

    def decode() -> int:
        values = dataset.read(window=rasterio_window)
        mask = dataset.read_masks(1, window=rasterio_window) if layout.mask else None
        return block_checksum(values, mask)

    checksum = cache.get_or_decode(cache.key(row, column, window), decode)
    if layout.lossless and checksum != checksums[row, column]:
        raise VerificationError(f"{dst}: {window} reads back differently from what was written")


def write_cog(source: Path, target: Path, layout: OutputLayout) -> None:
    """Copy ``source`` to ``target`` with overviews, by GDAL's COG driver.

    The names of GDAL's intermediate files begin with that of ``target``; the caller removes those
    that remain after a failure. Errors are those of rasterio.
    """
    assert layout.cog_options is not None
    # GDAL follows symbolic links: it writes to a new name, at which none can exist
    with (
        atomic_write(target) as fresh,
        gdal_env(writing=True),
        suppress_rasterio_warnings(),
        silent_libtiff(),
    ):
        try:
            rasterio.shutil.copy(str(source), str(fresh), driver="COG", **layout.cog_options)
        except Exception as err:
            # some GDAL errors are not converted to rasterio's exceptions
            if not type(err).__name__.startswith("CPLE_"):
                raise
            raise RasterioIOError(str(err)) from err


def publish(verified: Path, dst: str, layout: OutputLayout) -> None:
    """Rename a verified file to its final name, and replace the sidecars of an earlier output.

    ``verified`` lies in the folder of the output; it is copied to a virtual ``dst``.
    """
    if is_virtual(dst):
        with gdal_env(remote=True, writing=True):
            rasterio.shutil.copyfiles(str(verified), dst)
        return
    path = local_path(dst)
    verified.replace(path)
    replace_sidecars(path, layout.world_file_text)
    with suppress(OSError):  # not every file system can synchronise a folder
        sync_path(path.parent)
