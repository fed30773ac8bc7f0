"""Run: from a plan to a published product, whoever makes its blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable

from georsr.config import SRConfig
from georsr.engine.inference import TileTooLargeError
from georsr.engine.job import Job, prepare
from georsr.engine.maker import Maker, OneMachine
from georsr.engine.stream import Clock
from georsr.errors import ResourceError
from georsr.models.load import Model
from georsr.progress import Progress, Silent, Stoppable
from georsr.provenance import RunReport
from georsr.raster.destination import check_destination, workplace
from georsr.raster.lock import Lock
from georsr.raster.reader import RasterReader
from georsr.raster.records import Written
from georsr.raster.writer import RasterWriter
from georsr.tiling.plan import ceil_to

log = logging.getLogger(__name__)

SMALLEST_TILE = 32
"""Below this, running out of memory is an error: halos would be most of the work."""


class _Attempt:
    """One pass over the raster with one tile size, from wherever an earlier one stopped."""

    def __init__(self, job: Job, maker: Maker, progress: Stoppable, clock: Clock) -> None:
        self.job, self.maker, self.progress, self.clock = job, maker, progress, clock
        self.found = 0

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
        if not writer.done.all():
            self.maker.fill(self.job, writer, self.progress, self.clock)
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
    maker: Maker | None = None,
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
    maker
        Who makes the blocks; this process by default.

    Raises
    ------
    UsageError, InputError, OutputError, ModelError, ResourceError
        As their names say; the destination is then as it was.
    InterruptedRunError
        ``stop`` said so.
    """
    clock, maker = Clock(), maker or OneMachine()
    with clock.stage("total"):
        with clock.stage("read"):
            job = prepare(reader, destination, model, config, maker.placement, maker.memory)
        earlier = job.journal().published()
        if earlier is None:
            sources = [reader.info.path, *reader.info.files]
            check_destination(destination, sources, overwrite=config.overwrite)
            watched = Stoppable(progress or Silent(), stop or (lambda: False))
            watched.look()
            attempt = _Attempt(job, maker, watched, clock)
            written = _until_it_fits(attempt)
        else:
            log.info("%s: an earlier run had finished it", destination)
            _tidy(job)
    if earlier is not None:
        return _report(job, earlier, clock, found=job.layout.blocks_count)
    return _report(attempt.job, written, clock, attempt.found, maker.skipped, maker.batch)


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
