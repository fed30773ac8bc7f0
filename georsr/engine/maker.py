"""Maker: who makes the blocks of a product: one machine by streaming, or a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Protocol, Self, TypeVar

import numpy as np

from georsr.device import Placement, cpu_threads
from georsr.engine.deviation import Deviation
from georsr.engine.ensemble import way_of_asking
from georsr.engine.inference import Inference, choose_batch
from georsr.engine.job import Job, memory_of
from georsr.engine.pipeline import WriteBehind
from georsr.engine.stream import Clock, TileStream
from georsr.errors import InterruptedRunError
from georsr.progress import Progress, Silent, Stoppable
from georsr.raster.layout import ProductLayout
from georsr.raster.writer import RasterWriter
from georsr.types import AnyArray, BoolArray, Window

log = logging.getLogger(__name__)

WAITING_BLOCKS = 8
"""Finished blocks that may wait for the writer."""

T = TypeVar("T")


class Tally(Protocol):
    """What is told of the work that made a product."""

    batch: int
    """Tiles per call of the network."""
    skipped: int
    """Tiles without a valid pixel, for which the network did not run."""
    deviation: Deviation
    """How far the network's outputs were from giving their source back."""


class Maker(Tally, Protocol):
    """Makes what is missing of a product."""

    @property
    def placement(self) -> Placement | None:
        """Where the network runs; None leaves that to the options."""

    def memory(self, job: Job) -> int:
        """Peak memory of this machine, in bytes."""

    def fill(self, job: Job, writer: RasterWriter, progress: Stoppable, clock: Clock) -> None:
        """Write the blocks that the writer has not, in the order of one pass over the raster."""


class OneMachine:
    """Reader thread -> batched network -> register -> writer thread, in this process."""

    placement: Placement | None = None

    def __init__(self) -> None:
        self.batch = self.skipped = 0
        self.deviation = Deviation()
        self._inference: Inference | None = None

    def memory(self, job: Job) -> int:
        """Peak memory of this machine, in bytes."""
        return memory_of(job)

    def fill(self, job: Job, writer: RasterWriter, progress: Stoppable, clock: Clock) -> None:
        """Write the blocks that the writer has not."""
        self._inference = inference = self._inference or self._infer(job)
        self.skipped, self.deviation = 0, Deviation()
        onward = Onward(progress)

        def put(item: tuple[Window, AnyArray]) -> None:
            writer.write(item[0], *writer.layout.split(item[1]))

        with cpu_threads(job.config.jobs):
            for first, end in incomplete_rows(writer.done):
                stream = self._stream(
                    job, inference, onward.again(), clock, first * job.layout.blocksize
                )
                rows = _rows(stream.blocks(), job.layout, end, (end - first) * writer.done.shape[1])
                write_behind(put, rows, clock)
                self.skipped += stream.skipped
                self.deviation.merge(stream.deviation)
        self.batch = inference.batch

    def _infer(self, job: Job) -> Inference:
        return infer(job)

    def _stream(
        self, job: Job, inference: Inference, progress: Progress, clock: Clock, top: int
    ) -> TileStream:
        return make_stream(job, inference, progress, clock, top)


def incomplete_rows(done: BoolArray) -> list[tuple[int, int]]:
    """Runs of rows of blocks in which one is missing: first, and one beyond the last.

    Only where blocks were damaged is there more than the run from the first missing one on.
    """
    missing = np.concatenate([[False], ~done.all(axis=1), [False]])
    return [(int(a), int(b)) for a, b in np.flatnonzero(np.diff(missing)).reshape(-1, 2)]


def _rows(
    blocks: Generator[tuple[Window, AnyArray], None, None],
    layout: ProductLayout,
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


class Onward(Silent):
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


def infer(job: Job) -> Inference:
    """The network of a job, in this process."""
    inference = Inference(
        job.model,
        job.placement,
        choose_batch(job.placement, job.config.batch),
        compiled=job.config.compile,
        ask=way_of_asking(job.config.tta),
    )
    log.info("%s on %s", job.model.spec.name, job.placement.describe())
    return inference


def make_stream(
    job: Job, inference: Inference, progress: Progress, clock: Clock, top: int = 0
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
        bands=len(job.reader.info.bidx),
        plan=job.plan,
        stretch=job.stretch,
        form=job.layout,
        inference=inference,
        progress=progress,
        clock=clock,
        top=top,
        area=job.area,
        flat_tiles=job.config.flat_tiles,
        kernel=job.kernel,
    )


def write_behind(put: Callable[[T], None], blocks: Generator[T, None, None], clock: Clock) -> None:
    """Hand blocks to ``put`` in a thread of its own.

    After an InterruptedRunError among ``blocks`` those before it are still written.
    """
    interruption: InterruptedRunError | None = None
    with WriteBehind(put, WAITING_BLOCKS) as sink, closing(blocks):
        try:
            for item in blocks:
                with clock.stage("write"):
                    sink.put(item)
        except InterruptedRunError as error:
            interruption = error
    if interruption is not None:
        raise interruption
