"""Writing a product so that its final name never holds an unfinished or unverified file."""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import rasterio.shutil
from rasterio.errors import RasterioError

from georsr.errors import OutputError, UsageError
from georsr.raster.block import check_block
from georsr.raster.cog import write_cog
from georsr.raster.destination import (
    check_destination,
    is_full,
    is_virtual,
    local_path,
    no_space,
    remove_sidecars,
    sync_path,
    workplace,
)
from georsr.raster.encoder import BlockEncoder, EncodedBlock, encoders, stored
from georsr.raster.env import cause, gdal_env
from georsr.raster.layout import ProductLayout
from georsr.raster.lock import Lock
from georsr.raster.partfile import PartFile
from georsr.raster.records import Finished, Records, Written
from georsr.raster.verify import Checksums, verify_product
from georsr.types import AnyArray, BoolArray, Window

log = logging.getLogger(__name__)

SYNC_SECONDS = 1.0
"""Finished blocks are put on disk, and noted, at least this often. Waiting for the disk costs the
writer's thread some 10 ms, the network's nothing."""
_LOOK_SECONDS = 0.1


class RasterWriter:
    """One product being written; a context manager that holds the product's lock.

    Encoded blocks go to a file beside ``dst``. `commit` verifies and publishes it; leaving the
    context without removes it, unless ``records`` keep it for a later run, and leaves ``dst`` as
    it was. Use from one thread at a time.

    Parameters
    ----------
    dst : str or path
    layout : ProductLayout
    overwrite : bool
        An existing ``dst`` may be replaced.
    verify : bool
        Read every block back before publishing. A COG is always verified.
    records : Records, optional
        Makes the writing resumable.
    look : callable
        Called again and again during `commit`; what it raises ends it.
    """

    def __init__(
        self,
        dst: str | os.PathLike[str],
        layout: ProductLayout,
        *,
        overwrite: bool = False,
        verify: bool = True,
        records: Records | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.dst = os.fspath(dst)
        self.layout = layout
        self.found = 0
        """Blocks that an earlier writer had finished."""
        self._overwrite, self._verify = overwrite, verify
        self._records, self._look = records, look
        self._place = workplace(self.dst)
        self._lock = Lock(self._place.lock, self.dst)
        self._part: PartFile | None = None
        self.ready: Path | None = None
        """Where a sealed product lies until it is published."""
        self.published = False
        self._written: Written | None = None
        self._encode = BlockEncoder(layout)
        self._threads = ThreadPoolExecutor(encoders(), "georsr-encoder")
        self._encoding: deque[tuple[int, int, Future[EncodedBlock]]] = deque()
        self._unsynced: list[Finished] = []
        self._synced_at = time.monotonic()

    def __enter__(self) -> Self:
        check_destination(self.dst, [], self._overwrite)
        self._lock.acquire()
        try:
            with self._failures("cannot be created"):
                self._part = self._again()
        except BaseException:
            self._lock.release()  # what was left is left
            raise
        try:
            if self._part is None:
                with self._failures("cannot be created"):
                    self._part = self._anew()
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def _again(self) -> PartFile | None:
        """What an earlier writer left, if it is of use."""
        if self._records is None or (recalled := self._records.recall()) is None:
            return None
        header, blocks = recalled
        try:
            part = PartFile.reopen(self._place.part, self.layout, header, blocks)
        except (ValueError, OSError) as error:
            self._records.unusable(f"its unfinished product is damaged ({error})")
            return None
        self.found = int(part.done.sum())
        damaged = len({(block.row, block.column) for block in blocks}) - self.found
        if damaged:
            log.warning(
                "%s: %d finished blocks were damaged, and are made again", self.dst, damaged
            )
        return part

    def _anew(self) -> PartFile:
        if self._records is not None:
            self._records.remove()
        self._clear()
        part = PartFile.create(self._place.part, self.layout)
        part.sync()
        if self._records is not None:
            self._records.begin(part.header)
        return part

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        """Close, and remove what nobody will go on with."""
        keep = self._worth_keeping(error)
        if keep and not self.published and not isinstance(error, OutputError):
            with suppress(OutputError):
                self.flush()
        self._threads.shutdown(cancel_futures=True)
        self._encoding.clear()
        if self._part is not None:
            self._part.close()
        self._clear(but=self._place.part if keep else None)
        if self._records is not None:
            (self._records.close if keep else self._records.remove)()
        self._lock.release()

    def _worth_keeping(self, error: BaseException | None) -> bool:
        if error is None or self._records is None or self._part is None:
            return False
        begun = bool(self._part.done.any()) or bool(self._encoding)
        return begun and self._records.keeps(error)

    @property
    def done(self) -> BoolArray:
        """(block rows, block columns): which blocks need not be written."""
        return self._opened().done

    @property
    def checksums(self) -> Checksums:
        """(block rows, block columns): of the pixels of every block that is done."""
        return self._opened().checksums

    def write(
        self,
        window: Window,
        values: AnyArray,
        mask: AnyArray | None = None,
        alpha: AnyArray | None = None,
    ) -> None:
        """Write whole blocks, in any order; those that are `done` are passed over.

        Threads encode them: the arrays must not be changed afterwards, and an error may come from
        a later call.

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
        part = self._opened()
        check_block(self.dst, self.layout, window, values, mask, alpha)
        for row, column, block in self.layout.blocks(window):
            if part.done[row, column]:
                continue
            rows, columns = block.relative_to(window).slices
            pixels, shade = stored(
                values[:, rows, columns],
                None if mask is None else mask[rows, columns],
                None if alpha is None else alpha[rows, columns],
            )
            job = self._threads.submit(self._encode, pixels, shade)
            self._encoding.append((row, column, job))
            # as many wait as keep the threads busy; the order in the file is that of the calls
            while len(self._encoding) > 2 * encoders():
                self._append()

    def write_encoded(self, row: int, column: int, block: EncodedBlock) -> None:
        """Write one block that a `BlockEncoder` of this layout has encoded, elsewhere.

        Parameters
        ----------
        row, column : int
            Of the block; one that is `done` is passed over.
        block : EncodedBlock

        Raises
        ------
        OutputError
            The file cannot take it.
        """
        if not self._opened().done[row, column]:
            encoded = Future[EncodedBlock]()
            encoded.set_result(block)
            self._encoding.append((row, column, encoded))
            self._append()

    def _append(self) -> None:
        """Take the first block being encoded to the file."""
        row, column, job = self._encoding.popleft()
        with self._failures(f"block {row}, {column} cannot be written"):
            finished = self._opened().append(row, column, job.result())
        if finished is not None:
            self._unsynced.append(finished)
        if self._records is not None and time.monotonic() - self._synced_at > SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        with self._failures("cannot be written"):
            self._opened().sync()
            if self._records is not None and self._unsynced:
                self._records.add(self._unsynced)
        self._unsynced = []
        self._synced_at = time.monotonic()

    def flush(self) -> None:
        """Put every block written so far on disk, and note it."""
        while self._encoding:
            self._append()
        self._sync()

    def commit(self) -> Written:
        """Close, verify and publish the product under its name: `seal`, then `publish`."""
        self.seal()
        return self.publish()

    def seal(self) -> Written:
        """Close and verify the product; until it is published it lies at ``ready``.

        Raises
        ------
        OutputError
            Blocks are missing, the file does not verify, or there is no space.
        """
        started = time.perf_counter()
        part = self._opened()
        self.flush()
        missing = int((~part.done).sum())
        if missing:
            raise OutputError(
                f"{self.dst}: {missing} of {part.done.size} blocks were never written; "
                "the product is incomplete and is not published"
            )
        with self._failures("cannot be finished"):
            part.seal()
            ready = self._finished(part)
            checksum = zlib.crc32(part.checksums.astype("<u4").tobytes())
            written = Written(
                self.dst,
                ready.stat().st_size,
                time.perf_counter() - started,
                f"{checksum:08x}",
            )
        self.ready, self._written = ready, written
        return written

    def publish(self) -> Written:
        """Give a sealed product its name.

        Raises
        ------
        OutputError
            It cannot have it. ``dst`` is then what it was before.
        """
        if self.ready is None or self._written is None:
            raise ValueError(f"{self.dst}: not sealed yet")
        with self._failures("cannot be published"):
            self._publish(self.ready, self._written)
        self.published = True
        return self._written

    def _finished(self, part: PartFile) -> Path:
        """Verify the sealed file, and make the COG of it if one is wanted."""
        checksums = part.checksums if self._verify else None
        verify_product(part.path, self.dst, self.layout, checksums, self._look)
        if self.layout.cog_options is None:
            return part.path
        self._watched(lambda: write_cog(part.path, self._place.cog, self.layout))
        verify_product(self._place.cog, self.dst, self.layout, part.checksums, self._look)
        return self._place.cog

    def _watched(self, work: Callable[[], None]) -> None:
        """Run in a thread what cannot be interrupted, and look up meanwhile."""
        done: Future[None] = Future()

        def target() -> None:
            try:
                work()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        threading.Thread(target=target, name="georsr-cog", daemon=True).start()
        while not done.done():
            self._look()
            with suppress(TimeoutError):
                done.exception(_LOOK_SECONDS)
        done.result()

    def _publish(self, ready: Path, written: Written) -> None:
        sync_path(ready)
        if is_virtual(self.dst):
            with gdal_env(remote=True, writing=True):
                rasterio.shutil.copyfiles(str(ready), self.dst)
            return
        path = local_path(self.dst)
        if not self._overwrite:
            check_destination(path, [], overwrite=False)  # it may have appeared meanwhile
        if self._records is not None:
            self._records.publishing(ready, path, written)
        ready.replace(path)
        remove_sidecars(path)
        with suppress(OSError):  # not every file system lets a folder be synchronised
            sync_path(path.parent)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Turn what GDAL and the system raise into an OutputError that says when space ran out."""
        try:
            yield
        except UsageError:
            raise
        except (RasterioError, OSError, ValueError) as err:
            reached = max((path.stat().st_size for path in self._place.leftovers()), default=0)
            if self.layout.cog_options is not None:  # GDAL removes a COG it cannot finish
                reached = max(reached, self.layout.raw_bytes)
            said = str(err) if isinstance(err, OutputError) else f"{self.dst}: {what}: {cause(err)}"
            if is_full(err) or no_space(self._place.part, reached):
                folder = self._place.part.parent
                said = f"{self.dst}: no space left in {folder} for the product ({said})"
            elif isinstance(err, OutputError):
                raise
            raise OutputError(said) from err

    def _opened(self) -> PartFile:
        if self._part is None:
            raise ValueError(f"{self.dst}: not open; use the writer in a `with` statement")
        return self._part

    def _clear(self, but: Path | None = None) -> None:
        for path in self._place.leftovers():
            if path != but:
                with suppress(OSError):
                    path.unlink()
