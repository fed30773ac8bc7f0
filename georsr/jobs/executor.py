"""Maker: who makes the blocks of a product: one machine by streaming, or a cluster.

Attempt: a product made block by block, resumed, verified, published; again in smaller tiles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Protocol, Self, TypeVar

import numpy as np

from georsr.device import DeviceConfig, cpu_threads
from georsr.errors import InterruptedRunError, ResourceError
from georsr.inference.pipeline import ResidualStats, TileStream, Timer
from georsr.inference.predictor import (
    TilePredictor,
    TileTooLargeError,
    choose_batch,
    forward_strategy,
)
from georsr.inference.threads import BackgroundWriter
from georsr.jobs.job import SRJob, check_unchanged, memory_of
from georsr.progress import Cancellable, NullProgress, Progress
from georsr.tiling.grid import ceil_to
from georsr.window import AnyArray, BoolArray, Window
from georsr.writer.layout import OutputLayout
from georsr.writer.lock import Lock
from georsr.writer.partial_tiff import OutputInfo
from georsr.writer.paths import is_virtual, local_path, remove_sidecars, temp_paths
from georsr.writer.writer import RasterWriter

log = logging.getLogger(__name__)

WAITING_BLOCKS = 8
"""Finished blocks that may wait for the writer."""

T = TypeVar("T")


class RunStats(Protocol):
    """What is told of the work that made a product."""

    batch: int
    """Tiles per call of the network."""
    skipped: int
    """Tiles without a valid pixel, for which the network did not run."""
    deviation: ResidualStats
    """How far the network's outputs were from giving their source back."""


class Executor(RunStats, Protocol):
    """Makes what is missing of a product."""

    @property
    def placement(self) -> DeviceConfig | None:
        """Where the network runs; None leaves that to the options."""

    def memory(self, job: SRJob) -> int:
        """Peak memory of this machine, in bytes."""

    def fill(self, job: SRJob, writer: RasterWriter, progress: Cancellable, clock: Timer) -> None:
        """Write the blocks that the writer has not, in the order of one pass over the raster."""


class LocalExecutor:
    """Reader thread -> batched network -> register -> writer thread, in this process."""

    placement: DeviceConfig | None = None

    def __init__(self) -> None:
        self.batch = self.skipped = 0
        self.deviation = ResidualStats()
        self._inference: TilePredictor | None = None

    def memory(self, job: SRJob) -> int:
        """Peak memory of this machine, in bytes."""
        return memory_of(job)

    def fill(self, job: SRJob, writer: RasterWriter, progress: Cancellable, clock: Timer) -> None:
        """Write the blocks that the writer has not."""
        self._inference = inference = self._inference or self._infer(job)
        self.skipped, self.deviation = 0, ResidualStats()
        onward = Onward(progress)

        def put(item: tuple[Window, AnyArray]) -> None:
            writer.write(item[0], *writer.layout.split(item[1]))

        with cpu_threads(job.config.num_threads):
            for first, end in incomplete_rows(writer.done):
                stream = self._stream(
                    job, inference, onward.again(), clock, first * job.layout.blocksize
                )
                rows = _rows(stream.blocks(), job.layout, end, (end - first) * writer.done.shape[1])
                write_in_background(put, rows, clock)
                self.skipped += stream.skipped
                self.deviation.merge(stream.deviation)
        self.batch = inference.batch

    def _infer(self, job: SRJob) -> TilePredictor:
        return job_predictor(job)

    def _stream(
        self, job: SRJob, inference: TilePredictor, progress: Progress, clock: Timer, top: int
    ) -> TileStream:
        return tile_stream(job, inference, progress, clock, top)


def incomplete_rows(done: BoolArray) -> list[tuple[int, int]]:
    """Runs of rows of blocks in which one is missing: first, and one beyond the last.

    Only where blocks were damaged is there more than the run from the first missing one on.
    """
    missing = np.concatenate([[False], ~done.all(axis=1), [False]])
    return [(int(a), int(b)) for a, b in np.flatnonzero(np.diff(missing)).reshape(-1, 2)]


def _rows(
    blocks: Generator[tuple[Window, AnyArray], None, None],
    layout: OutputLayout,
    end: int,
    count: int,
) -> Generator[tuple[Window, AnyArray], None, None]:
    """Blocks above row ``end`` of blocks, of which there are ``count``; then nothing is made."""
    if end == layout.blocks_shape[0]:
        yield from blocks
        return
    with closing(blocks):
        for window, values in blocks:
            if window.top < end * layout.blocksize:
                yield window, values
                count -= 1
            if count == 0:
                return


class Onward(NullProgress):
    """Tells of tiles passed over or made, by several streams one after another, once each."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._seen = self._told = 0

    def again(self) -> Self:
        """The next stream begins, at the first tile."""
        self._seen = 0
        return self

    def advance(self, count: int = 1) -> None:
        """Pass on what is new."""
        self._seen += count
        new = max(0, self._seen - self._told)
        self._told += new
        self._inner.advance(new)


def job_predictor(job: SRJob) -> TilePredictor:
    """The network of a job, in this process."""
    inference = TilePredictor(
        job.model,
        job.placement,
        choose_batch(job.placement, job.config.batch_size),
        compiled=job.config.compile,
        ask=forward_strategy(job.config.tta),
    )
    log.info("%s on %s", job.model.spec.name, job.placement.describe())
    return inference


def tile_stream(
    job: SRJob, inference: TilePredictor, progress: Progress, clock: Timer, top: int = 0
) -> TileStream:
    """The tiles of a job as a stream of blocks.

    Parameters
    ----------
    job, inference, progress, clock
        What to run, on what, whom to tell, and where to note the seconds.
    top
        First row of the product that is wanted, a multiple of the block size. The blocks are the
        same whatever stands here.
    """
    return TileStream(
        read=job.read,
        bands=len(job.reader.info.indexes),
        plan=job.plan,
        stretch=job.stretch,
        form=job.layout,
        inference=inference,
        progress=progress,
        clock=clock,
        top=top,
        area=job.area,
        flat_tiles=job.config.skip_constant_tiles,
        kernel=job.kernel,
    )


def write_in_background(
    put: Callable[[T], None], blocks: Generator[T, None, None], clock: Timer
) -> None:
    """Hand blocks to ``put`` in a thread of its own.

    After an InterruptedRunError among ``blocks`` those before it are still written.
    """
    interruption: InterruptedRunError | None = None
    with BackgroundWriter(put, WAITING_BLOCKS) as sink, closing(blocks):
        try:
            for item in blocks:
                with clock.section("write"):
                    sink.put(item)
        except InterruptedRunError as error:
            interruption = error
    if interruption is not None:
        raise interruption


MIN_TILE = 32
"""Below this, running out of memory is an error: halos would be most of the work."""


Last = Callable[[RasterWriter, OutputInfo], OutputInfo]
"""What is done with a product that is sealed: at least it is published."""


class WriteRun:
    """One pass over the raster with one tile size, from wherever an earlier one stopped."""

    def __init__(
        self,
        job: SRJob,
        maker: Executor,
        progress: Cancellable,
        clock: Timer,
        last: Last = lambda writer, sealed: writer.publish(),
    ) -> None:
        self.job, self.maker, self.progress, self.clock = job, maker, progress, clock
        self.last = last
        self.found = 0
        self.journal = job.journal()

    def make(self) -> OutputInfo:
        """Make the product, or what of it is missing."""
        job, config = self.job, self.job.config
        self.journal = journal = job.journal()
        self.progress.start(len(job.plan), "tiles")
        writer = RasterWriter(
            job.destination,
            job.layout,
            overwrite=config.overwrite,
            verify=config.verify,
            records=journal,
            look=self.progress.check_cancelled,
        )
        try:
            with writer:
                return self._fill(writer)
        except BaseException as error:
            if journal.kept:
                error.add_note(_resume_hint(writer))
            raise

    def _fill(self, writer: RasterWriter) -> OutputInfo:
        self.found = writer.n_resumed_blocks
        if not writer.done.all():
            self.maker.fill(self.job, writer, self.progress, self.clock)
        with self.clock.section("verify"):
            sealed = writer.seal()
            check_unchanged(self.job.reader, self.job.key["source"])
        return self.last(writer, sealed)


def _resume_hint(writer: RasterWriter) -> str:
    if writer.published:
        return f"{writer.dst} is finished: the same command makes what is still missing beside it"
    part = temp_paths(writer.dst).part
    return (
        f"{int(writer.done.sum())} of {writer.done.size} blocks are finished and kept in {part}: "
        f"the same command goes on from there; to give them up, remove {part.stem}.*"
    )


class Retryable(Protocol):
    """What can be tried again with a job of smaller tiles."""

    job: SRJob

    def make(self) -> OutputInfo:
        """Make the product."""


def retry_with_smaller_tiles(attempt: Retryable) -> OutputInfo:
    """Make it; with smaller tiles again where one tile alone does not fit into memory."""
    tried = list[int]()
    while True:
        job = attempt.job
        tried.append(job.plan.tile)
        try:
            return attempt.make()
        except (TileTooLargeError, MemoryError) as error:
            smaller = ceil_to(job.plan.tile // 2, job.plan.multiple_of)
            fixed = job.config.tile_size is not None
            if fixed or smaller < MIN_TILE or smaller == job.plan.tile:
                what = (
                    str(error)
                    if isinstance(error, TileTooLargeError)
                    else f"{job.destination}: memory ran out: use a smaller --tile"
                )
                failure = ResourceError(f"{what} (tiles tried: {', '.join(map(str, tried))})")
                for note in getattr(error, "__notes__", ()):
                    failure.add_note(note)
                raise failure from error
            log.warning("out of memory: starting again with tiles of %d pixels", smaller)
            attempt.job = job.with_tile(smaller)


def remove_stale_files(job: SRJob) -> None:
    """Remove what a run left that was killed after it had published its product."""
    lock = Lock(temp_paths(job.destination).lock, job.destination)
    lock.acquire()
    if not is_virtual(job.destination):
        remove_sidecars(local_path(job.destination))
    for path in temp_paths(job.destination).leftovers():
        path.unlink(missing_ok=True)
    job.journal().remove()
    lock.release()
