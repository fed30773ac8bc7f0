"""One machine, streaming: reader thread -> batched network -> register -> writer thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import closing

import numpy as np

from georsr.config import SRConfig
from georsr.device import cpu_threads
from georsr.engine.ensemble import way_of_asking
from georsr.engine.inference import Inference, TileTooLargeError, choose_batch
from georsr.engine.job import Job, prepare
from georsr.engine.pipeline import WriteBehind
from georsr.engine.stream import Clock, TileStream
from georsr.errors import InterruptedRunError, ResourceError
from georsr.models.load import Model
from georsr.progress import Progress, Silent, Stoppable
from georsr.provenance import RunReport
from georsr.raster.destination import check_destination, workplace
from georsr.raster.lock import Lock
from georsr.raster.reader import RasterReader
from georsr.raster.records import Written
from georsr.raster.writer import RasterWriter
from georsr.tiling.plan import ceil_to
from georsr.types import AnyArray, Window

log = logging.getLogger(__name__)

SMALLEST_TILE = 32
"""Below this, running out of memory is an error: halos would be most of the work."""
WAITING_BLOCKS = 32
"""Finished blocks that may wait for the writer."""

Blocks = Generator[tuple[Window, AnyArray], None, None]
"""Windows of the product and their planes (P, h, w), each made of whole blocks."""


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
    )


def write_blocks(writer: RasterWriter, blocks: Blocks, clock: Clock) -> None:
    """Hand blocks to a writer, in a thread of its own; what it has already it passes over.

    After an InterruptedRunError among ``blocks`` those before it are still written.
    """

    def put(item: tuple[Window, AnyArray]) -> None:
        writer.write(item[0], *writer.layout.split(item[1]))

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


class _Attempt:
    """One pass over the raster with one tile size, from wherever an earlier one stopped."""

    def __init__(self, job: Job, inference: Inference, progress: Stoppable, clock: Clock) -> None:
        self.job, self.inference, self.progress, self.clock = job, inference, progress, clock
        self.skipped = self.found = 0

    def make(self) -> Written:
        """Make the product, or what of it is missing."""
        job, config, journal = self.job, self.job.config, self.job.journal()
        self.progress.start(len(job.plan), "tiles")
        writer = RasterWriter(
            job.destination,
            job.layout,
            overwrite=config.overwrite,
            verify=config.verify,
            records=journal,
            look=self.progress.look,
        )
        try:
            with writer:
                return self._fill(writer)
        except BaseException as error:
            if journal.kept:
                error.add_note(_how_to_go_on(writer))
            raise

    def _fill(self, writer: RasterWriter) -> Written:
        self.found = writer.found
        missing = ~writer.done.all(axis=1)
        if missing.any():
            top = int(np.argmax(missing)) * self.job.layout.blocksize
            stream = make_stream(self.job, self.inference, self.progress, self.clock, top)
            write_blocks(writer, stream.blocks(), self.clock)
            self.skipped = stream.skipped
        with self.clock.stage("verify"):
            return writer.commit()


def _how_to_go_on(writer: RasterWriter) -> str:
    part = workplace(writer.dst).part
    return (
        f"{int(writer.done.sum())} of {writer.done.size} blocks are finished and kept in {part}: "
        f"the same command goes on from there; to give them up, remove {part.stem}.*"
    )


def run(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> RunReport:
    """Super-resolve an open raster into a new file.

    Parameters
    ----------
    reader
        The source; read from another thread until this returns.
    destination
        Path of the product; it appears whole and verified, or not at all.
    model, config, progress
        What to run, how, and whom to tell.
    stop
        Asked after every tile; when it says True the run ends, and what is finished is kept.

    Raises
    ------
    UsageError, InputError, OutputError, ModelError, ResourceError
        As their names say; the destination is then as it was.
    InterruptedRunError
        ``stop`` said so.
    """
    clock = Clock()
    with clock.stage("total"):
        with clock.stage("read"):
            job = prepare(reader, destination, model, config)
        earlier = job.journal().published()
        if earlier is None:
            sources = [reader.info.path, *reader.info.files]
            check_destination(destination, sources, overwrite=config.overwrite)
            watched = Stoppable(progress or Silent(), stop or (lambda: False))
            watched.look()
            with cpu_threads(config.jobs):
                attempt = _Attempt(job, _inference(job), watched, clock)
                written = _until_it_fits(attempt)
        else:
            log.info("%s: an earlier run had finished it", destination)
            _tidy(job)
    if earlier is not None:
        return _report(job, earlier, clock, found=job.layout.blocks_count)
    job, inference = attempt.job, attempt.inference
    return _report(job, written, clock, attempt.found, attempt.skipped, inference.batch)


def _inference(job: Job) -> Inference:
    inference = Inference(
        job.model,
        job.placement,
        choose_batch(job.placement, job.config.batch),
        compiled=job.config.compile,
        ask=way_of_asking(job.config.tta),
    )
    log.info("%s on %s", job.model.spec.name, job.placement.describe())
    return inference


def _until_it_fits(attempt: _Attempt) -> Written:
    """Make it; with smaller tiles again where one tile alone does not fit into memory."""
    tried = list[int]()
    while True:
        job = attempt.job
        tried.append(job.plan.tile)
        try:
            return attempt.make()
        except TileTooLargeError as error:
            smaller = ceil_to(job.plan.tile // 2, job.plan.multiple_of)
            fixed = job.config.tile is not None
            if fixed or smaller < SMALLEST_TILE or smaller == job.plan.tile:
                raise ResourceError(
                    f"{error} (tiles tried: {', '.join(map(str, tried))})"
                ) from error
            log.warning("out of memory: starting again with tiles of %d pixels", smaller)
            attempt.job = job.with_tile(smaller)


def _tidy(job: Job) -> None:
    """Remove what a run left that was killed after it had published its product."""
    lock = Lock(workplace(job.destination).lock, job.destination)
    lock.acquire()
    for path in workplace(job.destination).leftovers():
        path.unlink(missing_ok=True)
    job.journal().remove()
    lock.release()


def _report(
    job: Job, written: Written, clock: Clock, found: int, skipped: int = 0, batch: int = 0
) -> RunReport:
    layout, plan = job.layout, job.plan
    return RunReport(
        source=job.reader.info.path,
        output=job.destination,
        model=job.model.spec.name,
        model_sha256=job.model.sha256,
        scale=plan.scale,
        width=layout.width,
        height=layout.height,
        bands=len(layout.bands),
        dtype=layout.dtype,
        device=str(job.placement.device),
        precision=job.placement.precision,
        tile=plan.tile,
        halo=plan.halo,
        overlap=plan.overlap,
        batch=batch,
        tiles=len(plan),
        tiles_skipped=skipped,
        blocks=layout.blocks_count,
        blocks_found=found,
        stretch=job.stretch.to_json(),
        seconds={k: round(v, 3) for k, v in clock.seconds.items()},
        bytes=written.bytes,
        checksum=written.checksum,
    )
