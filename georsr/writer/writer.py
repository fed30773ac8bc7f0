"""Write an output so that an unfinished or unverified file never has its final name.

Blocks are written to a temporary file, which is verified, converted to a cloud-optimised GeoTIFF if
requested, and renamed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from rasterio.errors import RasterioError

from georsr.errors import OutputError, UsageError
from georsr.io.gdal_env import root_cause
from georsr.progress import RunContext
from georsr.window import AnyArray, BoolArray, Window
from georsr.writer.encoder import BlockEncoder, EncodedBlock, encoders, to_encodable
from georsr.writer.layout import OutputLayout
from georsr.writer.paths import (
    Lock,
    check_destination,
    is_disk_full,
    is_enospc,
    is_virtual,
    local_path,
    sync_path,
    temp_paths,
)
from georsr.writer.resumable_tiff import BlockRecord, Journal, OutputInfo, PartialTiff
from georsr.writer.verify_and_publish import Checksums, publish, verify_output, write_cog


def check_block(
    dst: str,
    layout: OutputLayout,
    window: Window,
    values: AnyArray,
    mask: AnyArray | None,
    alpha: AnyArray | None,
) -> None:
    """Refuse blocks that do not fit the layout of the output."""
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
            raise ValueError(f"{dst}: {name} {'is missing' if needed else 'is not in the layout'}")
        if array is not None and array.shape != expected:
            raise ValueError(f"{dst}: {name} of shape {array.shape}, expected {expected}")
        if array is not None and name != "mask" and array.dtype != layout.dtype:
            # casting here would wrap around silently; `quantise` rounds and clips
            raise ValueError(f"{dst}: {name} are {array.dtype}, expected {layout.dtype}")


log = logging.getLogger(__name__)

SYNC_SECONDS = 1.0
"""Seconds after which finished blocks are synchronised to disk and listed in the journal. This
takes the writer's thread about 10 ms and does not delay the network."""
_POLL_SECONDS = 0.1
"""Seconds between two checks for cancellation."""


@contextmanager
def _delayed_interrupt() -> Iterator[None]:
    """Let Ctrl-C wait until the block is left: half of a change would put the journal out of step.

    Python raises KeyboardInterrupt in the main thread only.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    if handler is None:
        yield
        return
    received = []
    signal.signal(signal.SIGINT, lambda *_: received.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)


class RasterWriter:
    """Writes one output; a context manager that holds the lock of the output.

    Encoded blocks are written to a temporary file in the folder of ``dst``. `commit` verifies and
    publishes it. If the context exits before, ``dst`` is unchanged and the temporary file is
    removed, unless ``journal`` keeps it for a later run. Not thread-safe.

    Parameters
    ----------
    dst : str or path
        Path of the output.
    layout : OutputLayout
        Layout of the output.
    overwrite : bool
        Whether an existing ``dst`` may be replaced.
    verify : bool
        Whether every block is read back before publishing. A COG is always verified.
    journal : Journal, optional
        Lists the finished blocks, so that a later writer can resume.
    context : RunContext, optional
        Context of the run, which may be cancelled while the file is verified.
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
        """Number of blocks that an earlier writer had finished."""
        self._overwrite, self._verify = overwrite, verify
        self.journal, self._context = journal, context or RunContext()
        self._temp = temp_paths(self.dst)
        self._lock = Lock(self._temp.lock, self.dst)
        self._part: PartialTiff | None = None
        self.ready: Path | None = None
        """Path of the sealed output until it is published."""
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
            self._lock.release()  # the files of the earlier run remain
            raise
        try:
            if self._part is None:
                with self._failures("cannot be created"):
                    self._part = self._create()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def _resume(self) -> PartialTiff | None:
        """Reopen the partial file of an earlier run, if it can be resumed."""
        if self.journal is None or (previous := self.journal.load()) is None:
            return None
        header, blocks = previous
        try:
            part = PartialTiff.reopen(self._temp.part, self.layout, header, blocks)
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

    def _create(self) -> PartialTiff:
        """Create a new partial file and its journal."""
        if self.journal is not None:
            self.journal.remove()
        self._remove_temp_files()
        part = PartialTiff.create(self._temp.part, self.layout)
        part.sync()
        if self.journal is not None:
            self.journal.begin(part.header)
        return part

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        """Close the files, and remove them unless a later run can resume."""
        keep = self._should_keep(error)
        if keep and not self.published and not isinstance(error, OutputError):
            with suppress(OutputError):
                self.flush()
        self._threads.shutdown(cancel_futures=True)
        self._encoding.clear()
        if self._part is not None:
            self._part.close()
        self._remove_temp_files(keep=self._temp.part if keep else None)
        if self.journal is not None:
            (self.journal.close if keep else self.journal.remove)()
        self._lock.release()

    def _should_keep(self, error: BaseException | None) -> bool:
        """Return whether to keep the partial file for a later run."""
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
            Window in output pixels, from block border to block border or edge of the output.
        values : (C, h, w)
            Pixels of the bands, in the output's data type.
        mask : uint8 (h, w)
            0 for invalid pixels; required if ``layout.mask``, else None.
        alpha : (h, w)
            Alpha band, in the output's data type; required if ``layout.alpha``, else None.

        Raises
        ------
        OutputError
            The file cannot be written; later calls would fail too.
        ValueError
            The arguments do not fit the layout.
        """
        part = self._opened()
        check_block(self.dst, self.layout, window, values, mask, alpha)
        for row, column, block in self.layout.blocks(window):
            if part.done[row, column]:
                continue
            rows, columns = block.relative_to(window).slices
            pixels, mask_bytes = to_encodable(
                values[:, rows, columns],
                None if mask is None else mask[rows, columns],
                None if alpha is None else alpha[rows, columns],
            )
            job = self._threads.submit(self._encode, pixels, mask_bytes)
            self._encoding.append((row, column, job))
            # enough blocks wait to keep the threads busy; they are appended in order of the calls
            while len(self._encoding) > 2 * encoders():
                self._append()

    def write_planes(self, window: Window, planes: AnyArray) -> None:
        """Write full blocks as `write` does, from all planes of the output.

        ``planes`` (P, h, w) are bands, then alpha and mask if the layout has them, in the output's
        data type.
        """
        self.write(window, *self.layout.split(planes))

    def write_encoded(self, row: int, column: int, block: EncodedBlock) -> None:
        """Write one block that a `BlockEncoder` of this layout has encoded.

        ``row`` and ``column`` are those of the grid of blocks; a block that is `done` is skipped.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        if not self._opened().done[row, column]:
            encoded = Future[EncodedBlock]()
            encoded.set_result(block)
            self._encoding.append((row, column, encoded))
            self._append()

    def _append(self) -> None:
        """Append the block that was submitted first to the file, once it is encoded."""
        row, column, job = self._encoding[0]
        part = self._opened()
        with self._failures(f"block {row}, {column} cannot be written"):
            block = job.result()
            with _delayed_interrupt():
                record = None if part.done[row, column] else part.append(row, column, block)
                if record is not None:
                    self._unsynced.append(record)
                self._encoding.popleft()
        if self.journal is not None and time.monotonic() - self._synced_at > SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        """Synchronise appended blocks to disk, and list them in the journal."""
        with self._failures("cannot be written"), _delayed_interrupt():
            self._opened().sync()
            if self.journal is not None and self._unsynced:
                self.journal.add(self._unsynced)
            self._unsynced = []
        self._synced_at = time.monotonic()

    def flush(self) -> None:
        """Write all blocks so far to disk, and list them in the journal."""
        while self._encoding:
            self._append()
        self._sync()

    def commit(self) -> OutputInfo:
        """Close, verify and publish the output: `seal`, then `publish`."""
        self.seal()
        return self.publish()

    def seal(self) -> OutputInfo:
        """Close and verify the output; ``ready`` is its path until it is published.

        Raises
        ------
        OutputError
            Blocks are missing, verification fails, or the disk is full.
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
            finished = self._finished(part)
            checksum = zlib.crc32(part.checksums.astype("<u4").tobytes())
            written = OutputInfo(
                self.dst,
                finished.stat().st_size,
                time.perf_counter() - started,
                f"{checksum:08x}",
            )
        self.ready, self._written = finished, written
        return written

    def publish(self) -> OutputInfo:
        """Rename a sealed output to its final name.

        Raises
        ------
        OutputError
            Renaming fails; ``dst`` is unchanged.
        """
        if self.ready is None or self._written is None:
            raise ValueError(f"{self.dst}: not sealed yet")
        with self._failures("cannot be published"):
            self._publish(self.ready, self._written)
        self.published = True
        return self._written

    def _finished(self, part: PartialTiff) -> Path:
        """Verify the sealed file, and convert it to a COG if the layout says so."""
        checksums = part.checksums if self._verify else None
        check_cancelled = self._context.check_cancelled
        verify_output(part.path, self.dst, self.layout, checksums, check_cancelled)
        if self.layout.cog_options is None:
            return part.path
        cog = self._temp.cog
        self._run_cancellable(lambda: write_cog(part.path, cog, self.layout))
        verify_output(cog, self.dst, self.layout, part.checksums, check_cancelled)
        return cog

    def _run_cancellable(self, work: Callable[[], None]) -> None:
        """Run a function in a thread while checking for cancellation."""
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

    def _publish(self, verified: Path, written: OutputInfo) -> None:
        """Note in the journal what is published, then publish it."""
        sync_path(verified)
        if not is_virtual(self.dst):
            path = local_path(self.dst)
            if not self._overwrite:
                check_destination(path, [], overwrite=False)  # it may have been created meanwhile
            if self.journal is not None:
                self.journal.publishing(verified, path, written)
        publish(verified, self.dst, self.layout)

    @contextmanager
    def _failures(self, problem: str) -> Iterator[None]:
        """Convert errors of GDAL and the system to OutputError, and detect a full disk."""
        try:
            yield
        except UsageError:
            raise
        except (RasterioError, OSError, ValueError) as err:
            size = max((path.stat().st_size for path in self._temp.leftovers()), default=0)
            if self.layout.cog_options is not None:  # GDAL removes a COG it cannot finish
                size = max(size, self.layout.raw_bytes)
            message = (
                str(err)
                if isinstance(err, OutputError)
                else f"{self.dst}: {problem}: {root_cause(err)}"
            )
            if is_enospc(err) or is_disk_full(self._temp.part, size):
                folder = self._temp.part.parent
                message = f"{self.dst}: no space left in {folder} for the output ({message})"
            elif isinstance(err, OutputError):
                raise
            raise OutputError(message) from err

    def _opened(self) -> PartialTiff:
        """Return the partial file; raise ValueError outside of the context."""
        if self._part is None:
            raise ValueError(f"{self.dst}: not open; use the writer in a `with` statement")
        return self._part

    def _remove_temp_files(self, keep: Path | None = None) -> None:
        """Remove all temporary files except journal, lock and ``keep``."""
        for path in self._temp.leftovers():
            if path != keep:
                with suppress(OSError):
                    path.unlink()
