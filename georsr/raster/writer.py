"""Writing a product so that its final name never holds an unfinished or unverified file."""

from __future__ import annotations

import glob
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError

from georsr.errors import OutputError, UsageError
from georsr.raster.cog import write_cog
from georsr.raster.destination import (
    check_destination,
    is_virtual,
    local_path,
    no_space,
    sidecars,
    temporary_path,
)
from georsr.raster.env import gdal_env, own_warnings
from georsr.raster.layout import ProductLayout
from georsr.raster.source import cause
from georsr.raster.verify import block_checksum, region, verify_product
from georsr.types import AnyArray, Window


@dataclass(frozen=True)
class Written:
    """A published file.

    Attributes
    ----------
    path : str
    bytes : int
        Size of the file.
    seconds : float
        Spent in `RasterWriter.commit`: closing, verifying, COG, publishing.
    checksum : str
        crc32 over the crc32 of every block in row-major order, eight hexadecimal digits: the
        same pixels in the same block size give the same checksum in any encoding.
    """

    path: str
    bytes: int
    seconds: float
    checksum: str


class RasterWriter:
    """One product being written; a context manager.

    The pixels go to a temporary file beside ``dst``. `commit` verifies and publishes it; leaving
    the context without, for whatever reason, removes it and leaves ``dst`` as it was. Use from
    one thread at a time.

    Parameters
    ----------
    dst : str or path
    layout : ProductLayout
    overwrite : bool
        An existing ``dst`` may be replaced.
    verify : bool
        Read every block back before publishing. A COG is always verified.
    """

    def __init__(
        self,
        dst: str | os.PathLike[str],
        layout: ProductLayout,
        *,
        overwrite: bool = False,
        verify: bool = True,
    ) -> None:
        self.dst = os.fspath(dst)
        self.layout = layout
        self._overwrite = overwrite
        self._verify = verify
        self._temp = temporary_path(self.dst)
        self._dataset: Any = None
        self._checksums: dict[tuple[int, int], int] = {}

    def __enter__(self) -> Self:
        check_destination(self.dst, [], self._overwrite)
        try:
            with self._failures("cannot be created"), gdal_env(writing=True), own_warnings():
                self._dataset = rasterio.open(self._temp, "w", **self.layout.profile())
                self.layout.describe(self._dataset)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._discard()

    def write(
        self,
        window: Window,
        values: AnyArray,
        mask: AnyArray | None = None,
        alpha: AnyArray | None = None,
    ) -> None:
        """Write whole blocks; a full disk is noticed here or in `commit`.

        Parameters
        ----------
        window : Window
            Starts on a block border; ends on one, or at the edge of the product.
        values : (C, h, w), exactly of the product's data type
        mask : uint8 (h, w), 0 for invalid
            If and only if ``layout.mask``.
        alpha : (h, w), of the product's data type
            If and only if ``layout.alpha``.

        Raises
        ------
        OutputError
            The file cannot take it; there is then no point in going on.
        ValueError
            The call does not fit the layout.
        """
        self._check(window, values, mask, alpha)
        for row, column, block in self.layout.blocks(window):
            rows, columns = block.relative_to(window).slices
            part = values[:, rows, columns]
            if alpha is not None:
                part = np.concatenate([part, alpha[None, rows, columns]])
            part = np.ascontiguousarray(part)
            shade = None
            if mask is not None:
                shade = np.where(mask[rows, columns] != 0, np.uint8(255), np.uint8(0))
            with self._failures(f"{block} cannot be written"), gdal_env(writing=True):
                # One block at a time with all its bands: GDAL's cache then never has to push out
                # a block of which some bands are missing, to read and write it again later
                self._dataset.write(part, window=region(block))
                if shade is not None:
                    self._dataset.write_mask(shade, window=region(block))
            self._checksums[row, column] = block_checksum(part, shade)

    def commit(self) -> Written:
        """Close, verify and publish the product under its name.

        Raises
        ------
        OutputError
            Blocks are missing, the file does not verify, or there is no space. ``dst`` is then
            what it was before.
        """
        started = time.perf_counter()
        rows, columns = self.layout.blocks_shape
        missing = rows * columns - len(self._checksums)
        if self._dataset is None:
            raise ValueError(f"{self.dst}: not open, or committed before")
        if missing:
            raise OutputError(
                f"{self.dst}: {missing} of {rows * columns} blocks were never written; "
                "the product is incomplete and is not published"
            )
        ready = self._temp
        with self._failures("cannot be finished"):
            self._close()
            if self._verify:
                verify_product(ready, self.dst, self.layout, self._checksums)
            if self.layout.cog_options is not None:
                ready = self._temp.with_suffix(".cog.tif")
                write_cog(self._temp, ready, self.layout)
                verify_product(ready, self.dst, self.layout, self._checksums)
            elif not self._verify:
                verify_product(ready, self.dst, self.layout, None)
            size = ready.stat().st_size
            self._publish(ready)
        crcs = [self._checksums[row, column] for row, column, _ in self.layout.blocks()]
        checksum = zlib.crc32(np.asarray(crcs, dtype="<u4").tobytes())
        return Written(self.dst, size, time.perf_counter() - started, f"{checksum:08x}")

    def _publish(self, ready: Path) -> None:
        _sync(ready)
        if is_virtual(self.dst):
            with gdal_env(remote=True, writing=True):
                rasterio.shutil.copyfiles(str(ready), self.dst)
            return
        path = local_path(self.dst)
        if not self._overwrite:
            check_destination(path, [], overwrite=False)  # it may have appeared meanwhile
        ready.replace(path)
        for sidecar in sidecars(path):
            sidecar.unlink(missing_ok=True)
        with suppress(OSError):  # not every file system lets a folder be synchronised
            _sync(path.parent)

    def _check(
        self, window: Window, values: AnyArray, mask: AnyArray | None, alpha: AnyArray | None
    ) -> None:
        layout, size = self.layout, self.layout.blocksize
        if self._dataset is None:
            raise ValueError(f"{self.dst}: not open; use the writer in a `with` statement")
        aligned = window.top % size == 0 and window.left % size == 0
        ends = (window.bottom, layout.height), (window.right, layout.width)
        aligned &= all(end == edge or (end % size == 0 and end < edge) for end, edge in ends)
        if not aligned or min(window.height, window.width) < 1 or min(window.top, window.left) < 0:
            raise ValueError(
                f"{self.dst}: {window} is not made of whole blocks of {size} in a product of "
                f"{layout.height} rows and {layout.width} columns"
            )
        shape = (window.height, window.width)
        for name, array, needed, expected in (
            ("values", values, True, (len(layout.bands), *shape)),
            ("mask", mask, layout.mask, shape),
            ("alpha", alpha, layout.alpha, shape),
        ):
            if (array is not None) != needed:
                raise ValueError(f"{self.dst}: {name} {'is missing' if needed else 'has no place'}")
            if array is not None and array.shape != expected:
                raise ValueError(f"{self.dst}: {name} of shape {array.shape}, expected {expected}")
            if array is not None and name != "mask" and array.dtype != layout.dtype:
                # casting here would wrap around silently; `quantise` rounds and clips
                raise ValueError(f"{self.dst}: {name} are {array.dtype}, expected {layout.dtype}")

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Turn what GDAL and the system raise into an OutputError that says when space ran out."""
        try:
            yield
        except UsageError:
            raise
        except (RasterioError, OSError, ValueError) as err:
            reached = max((path.stat().st_size for path in self._leftovers()), default=0)
            said = str(err) if isinstance(err, OutputError) else f"{self.dst}: {what}: {cause(err)}"
            if no_space(self._temp, reached):
                said = f"{self.dst}: no space left in {self._temp.parent} for the product ({said})"
            elif isinstance(err, OutputError):
                raise
            raise OutputError(said) from err

    def _close(self) -> None:
        dataset, self._dataset = self._dataset, None
        if dataset is not None:
            with gdal_env(writing=True):
                dataset.close()

    def _leftovers(self) -> list[Path]:
        """The temporary file, and GDAL's own beside it."""
        stem = glob.escape(self._temp.name.removesuffix(".tif"))
        return list(self._temp.parent.glob(stem + "*"))

    def _discard(self) -> None:
        # closing flushes, which fails on a full disk; the file is about to go anyway
        with suppress(RasterioError, OSError, ValueError):
            self._close()
        for path in self._leftovers():
            with suppress(OSError):
                path.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
