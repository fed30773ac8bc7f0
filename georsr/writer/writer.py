"""Write an output so that its final name never holds an unfinished or unverified file.

Block: what a writer takes at a time, checked against the layout of its output.

Turning the file that was written block by block into a cloud-optimised GeoTIFF.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
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
from rasterio.errors import RasterioError, RasterioIOError

from georsr._files import atomic_write
from georsr.errors import OutputError, UsageError
from georsr.io.gdal_env import gdal_env, root_cause, suppress_rasterio_warnings
from georsr.progress import RunContext
from georsr.window import AnyArray, BoolArray, Window
from georsr.writer.encoder import BlockEncoder, EncodedBlock, encoders, to_encodable
from georsr.writer.journal import Journal
from georsr.writer.layout import OutputLayout
from georsr.writer.lock import Lock
from georsr.writer.partial_tiff import BlockRecord, OutputInfo, PartFile
from georsr.writer.paths import (
    check_destination,
    is_disk_full,
    is_enospc,
    is_virtual,
    local_path,
    remove_sidecars,
    sync_path,
    temp_paths,
)
from georsr.writer.verify import Checksums, verify_product


def check_block(
    dst: str,
    layout: OutputLayout,
    window: Window,
    values: AnyArray,
    mask: AnyArray | None,
    alpha: AnyArray | None,
) -> None:
    """Refuse a block that `RasterWriter.write` cannot take."""
    size = layout.blocksize
    aligned = window.top % size == 0 and window.left % size == 0
    ends = (window.bottom, layout.height), (window.right, layout.width)
    aligned &= all(end == edge or (end % size == 0 and end < edge) for end, edge in ends)
    if not aligned or min(window.height, window.width) < 1 or min(window.top, window.left) < 0:
        raise ValueError(
            f"{dst}: {window} does not consist of full blocks of {size} in an output of "
            f"{layout.height} rows and {layout.width} columns"
        )
    shape = (window.height, window.width)
    for name, array, needed, expected in (
        ("values", values, True, (len(layout.bands), *shape)),
        ("mask", mask, layout.mask, shape),
        ("alpha", alpha, layout.alpha, shape),
    ):
        if (array is not None) != needed:
            raise ValueError(f"{dst}: {name} {'is missing' if needed else 'has no place'}")
        if array is not None and array.shape != expected:
            raise ValueError(f"{dst}: {name} of shape {array.shape}, expected {expected}")
        if array is not None and name != "mask" and array.dtype != layout.dtype:
            # casting here would wrap around silently; `quantise` rounds and clips
            raise ValueError(f"{dst}: {name} are {array.dtype}, expected {layout.dtype}")


def write_cog(source: Path, target: Path, layout: OutputLayout) -> None:
    """Copy ``source`` to ``target`` with overviews, by GDAL's COG driver.

    The names of GDAL's own intermediate files begin like that of ``target``; the caller removes
    what a failure leaves of them.
    Errors are those of rasterio.
    """
    assert layout.cog_options is not None
    # GDAL follows links: it gets a name at which nobody has laid one
    with (
        atomic_write(target) as fresh,
        gdal_env(writing=True),
        suppress_rasterio_warnings(),
        _silent_libtiff(),
    ):
        try:
            rasterio.shutil.copy(str(source), str(fresh), driver="COG", **layout.cog_options)
        except Exception as err:
            # rasterio lets some of GDAL's own errors through here, which are none of rasterio's
            if not type(err).__name__.startswith("CPLE_"):
                raise
            raise RasterioIOError(str(err)) from err


@contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Suppress libtiff's own messages on stderr; GDAL raises the errors.

    GDAL listens to the files it opens; what libtiff's functions for writing them say goes to a
    handler of the whole process, which prints. Where libtiff is not a library of its own (it may
    be part of GDAL's) it is left alone.
    """
    handlers = []
    with suppress(OSError):  # it is Linux that lists what is loaded
        loaded = Path("/proc/self/maps").read_text()
        for path in sorted(set(re.findall(r"/.*/libtiff[^/]*\.so[^/]*$", loaded, re.MULTILINE))):
            with suppress(OSError, AttributeError):
                handler = ctypes.CDLL(path).TIFFSetErrorHandler
                handler.restype, handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
                handlers.append((handler, handler(None)))
    try:
        yield
    finally:
        for handler, before in handlers:
            handler(before)


log = logging.getLogger(__name__)

SYNC_SECONDS = 1.0
"""Finished blocks are put on disk, and noted, at least this often. Waiting for the disk costs the
writer's thread some 10 ms, the network's nothing."""
_POLL_SECONDS = 0.1


class RasterWriter:
    """Writes one output; a context manager that holds the lock of the output.

    Encoded blocks go to a file beside ``dst``. `commit` verifies and publishes it; leaving the
    context without removes it, unless ``journal`` keeps it for a later run, and leaves ``dst`` as
    it was. Use from one thread at a time.

    Parameters
    ----------
    dst : str or path
    layout : ProductLayout
    overwrite : bool
        An existing ``dst`` may be replaced.
    verify : bool
        Read every block back before publishing. A COG is always verified.
    journal : Journal, optional
        Lists the finished blocks, so that a later writer can resume.
    context : RunContext, optional
        The run that the writing belongs to: it may be cancelled while the file is verified.
    """

    def __init__(
        self,
        dst: str | os.PathLike[str],
        layout: OutputLayout,
        *,
        overwrite: bool = False,
        verify: bool = True,
        journal: Journal | None = None,
        context: RunContext | None = None,
    ) -> None:
        self.dst = os.fspath(dst)
        self.layout = layout
        self.n_resumed_blocks = 0
        """Blocks that an earlier writer had finished."""
        self._overwrite, self._verify = overwrite, verify
        self.journal, self._context = journal, context or RunContext()
        self._place = temp_paths(self.dst)
        self._lock = Lock(self._place.lock, self.dst)
        self._part: PartFile | None = None
        self.ready: Path | None = None
        """Where a sealed output lies until it is published."""
        self.published = False
        self._written: OutputInfo | None = None
        self._encode = BlockEncoder(layout)
        self._threads = ThreadPoolExecutor(encoders(), "georsr-encoder")
        self._encoding: deque[tuple[int, int, Future[EncodedBlock]]] = deque()
        self._unsynced: list[BlockRecord] = []
        self._synced_at = time.monotonic()

    def __enter__(self) -> Self:
        self._lock.acquire()
        try:
            check_destination(self.dst, [], self._overwrite)
            with self._failures("cannot be created"):
                self._part = self._resume()
        except BaseException:
            self._lock.release()  # what was left is left
            raise
        try:
            if self._part is None:
                with self._failures("cannot be created"):
                    self._part = self._create()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def _resume(self) -> PartFile | None:
        """Reopen the partial file of an earlier run, if it can be resumed."""
        if self.journal is None or (recalled := self.journal.load()) is None:
            return None
        header, blocks = recalled
        try:
            part = PartFile.reopen(self._place.part, self.layout, header, blocks)
        except (ValueError, OSError) as error:
            self.journal.reject(f"its partial file is damaged ({error})")
            return None
        self.n_resumed_blocks = int(part.done.sum())
        damaged = len({(block.row, block.column) for block in blocks}) - self.n_resumed_blocks
        if damaged:
            log.warning(
                "%s: %d finished blocks were damaged and are computed again", self.dst, damaged
            )
        return part

    def _create(self) -> PartFile:
        if self.journal is not None:
            self.journal.remove()
        self._remove_temp_files()
        part = PartFile.create(self._place.part, self.layout)
        part.sync()
        if self.journal is not None:
            self.journal.begin(part.header)
        return part

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        """Close, and remove what no later run can resume."""
        keep = self._worth_keeping(error)
        if keep and not self.published and not isinstance(error, OutputError):
            with suppress(OutputError):
                self.flush()
        self._threads.shutdown(cancel_futures=True)
        self._encoding.clear()
        if self._part is not None:
            self._part.close()
        self._remove_temp_files(but=self._place.part if keep else None)
        if self.journal is not None:
            (self.journal.close if keep else self.journal.remove)()
        self._lock.release()

    def _worth_keeping(self, error: BaseException | None) -> bool:
        if error is None or self.journal is None or self._part is None:
            return False
        begun = bool(self._part.done.any()) or bool(self._encoding)
        return begun and self.journal.should_keep(error)

    @property
    def done(self) -> BoolArray:
        """Blocks that need not be written, as bool (block rows, block columns)."""
        return self._opened().done

    @property
    def checksums(self) -> Checksums:
        """Checksums of the finished blocks, (block rows, block columns)."""
        return self._opened().checksums

    @property
    def finished(self) -> OutputInfo:
        """Size and checksum of the sealed output."""
        if self._written is None:
            raise ValueError(f"{self.dst}: not sealed yet")
        return self._written

    def write(
        self,
        window: Window,
        values: AnyArray,
        mask: AnyArray | None = None,
        alpha: AnyArray | None = None,
    ) -> None:
        """Write full blocks, in any order; those that are `done` are skipped.

        Threads encode them: the arrays must not be changed afterwards, and an error may come from
        a later call.

        Parameters
        ----------
        window : Window
            Starts on a block border; ends on one, or at the edge of the output.
        values : (C, h, w), exactly of the output's data type
        mask : uint8 (h, w), 0 for invalid
            If and only if ``layout.mask``.
        alpha : (h, w), of the output's data type
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
            pixels, shade = to_encodable(
                values[:, rows, columns],
                None if mask is None else mask[rows, columns],
                None if alpha is None else alpha[rows, columns],
            )
            job = self._threads.submit(self._encode, pixels, shade)
            self._encoding.append((row, column, job))
            # as many wait as keep the threads busy; the order in the file is that of the calls
            while len(self._encoding) > 2 * encoders():
                self._append()

    def write_planes(self, window: Window, planes: AnyArray) -> None:
        """Write full blocks as `write` does, from all planes of the output.

        Parameters
        ----------
        window : Window
            As of `write`.
        planes : (P, h, w), of the output's data type
            Bands, alpha and mask, as far as the layout has them.
        """
        self.write(window, *self.layout.split(planes))

    def write_encoded(self, row: int, column: int, block: EncodedBlock) -> None:
        """Write one block that a `BlockEncoder` of this layout has encoded.

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
        """Append the first block that is being encoded to the file."""
        row, column, job = self._encoding.popleft()
        with self._failures(f"block {row}, {column} cannot be written"):
            finished = self._opened().append(row, column, job.result())
        if finished is not None:
            self._unsynced.append(finished)
        if self.journal is not None and time.monotonic() - self._synced_at > SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        with self._failures("cannot be written"):
            self._opened().sync()
            if self.journal is not None and self._unsynced:
                self.journal.add(self._unsynced)
        self._unsynced = []
        self._synced_at = time.monotonic()

    def flush(self) -> None:
        """Put every block written so far on disk, and list it in the journal."""
        while self._encoding:
            self._append()
        self._sync()

    def commit(self) -> OutputInfo:
        """Close, verify and publish the output: `seal`, then `publish`."""
        self.seal()
        return self.publish()

    def seal(self) -> OutputInfo:
        """Close and verify the output; until it is published it is at ``ready``.

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
                "the output is incomplete and is not published"
            )
        with self._failures("cannot be finished"):
            part.finalize()
            ready = self._finished(part)
            checksum = zlib.crc32(part.checksums.astype("<u4").tobytes())
            written = OutputInfo(
                self.dst,
                ready.stat().st_size,
                time.perf_counter() - started,
                f"{checksum:08x}",
            )
        self.ready, self._written = ready, written
        return written

    def publish(self) -> OutputInfo:
        """Rename a sealed output to its name.

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
        """Verify the sealed file, and convert it to a COG if the layout says so."""
        checksums = part.checksums if self._verify else None
        check_cancelled = self._context.check_cancelled
        verify_product(part.path, self.dst, self.layout, checksums, check_cancelled)
        if self.layout.cog_options is None:
            return part.path
        cog = self._place.cog
        self._run_cancellable(lambda: write_cog(part.path, cog, self.layout))
        verify_product(cog, self.dst, self.layout, part.checksums, check_cancelled)
        return cog

    def _run_cancellable(self, work: Callable[[], None]) -> None:
        """Run in a thread what cannot be interrupted, and check for cancellation."""
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
            self._context.check_cancelled()
            with suppress(TimeoutError):
                done.exception(_POLL_SECONDS)
        done.result()

    def _publish(self, ready: Path, written: OutputInfo) -> None:
        sync_path(ready)
        if is_virtual(self.dst):
            with gdal_env(remote=True, writing=True):
                rasterio.shutil.copyfiles(str(ready), self.dst)
            return
        path = local_path(self.dst)
        if not self._overwrite:
            check_destination(path, [], overwrite=False)  # it may have appeared meanwhile
        if self.journal is not None:
            self.journal.publishing(ready, path, written)
        ready.replace(path)
        remove_sidecars(path)
        with suppress(OSError):  # not every file system lets a folder be synchronised
            sync_path(path.parent)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Raise errors of GDAL and the system as OutputError; say if the disk is full."""
        try:
            yield
        except UsageError:
            raise
        except (RasterioError, OSError, ValueError) as err:
            reached = max((path.stat().st_size for path in self._place.leftovers()), default=0)
            if self.layout.cog_options is not None:  # GDAL removes a COG it cannot finish
                reached = max(reached, self.layout.raw_bytes)
            said = (
                str(err)
                if isinstance(err, OutputError)
                else f"{self.dst}: {what}: {root_cause(err)}"
            )
            if is_enospc(err) or is_disk_full(self._place.part, reached):
                folder = self._place.part.parent
                said = f"{self.dst}: no space left in {folder} for the output ({said})"
            elif isinstance(err, OutputError):
                raise
            raise OutputError(said) from err

    def _opened(self) -> PartFile:
        if self._part is None:
            raise ValueError(f"{self.dst}: not open; use the writer in a `with` statement")
        return self._part

    def _remove_temp_files(self, but: Path | None = None) -> None:
        for path in self._place.leftovers():
            if path != but:
                with suppress(OSError):
                    path.unlink()
