"""Attempt: a product made block by block, resumed, verified, published; again in smaller tiles."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from georsr.engine.fingerprint import check_unchanged
from georsr.engine.inference import TileTooLargeError
from georsr.engine.job import Job
from georsr.engine.maker import Maker
from georsr.engine.stream import Clock
from georsr.errors import ResourceError
from georsr.progress import Stoppable
from georsr.raster.destination import is_virtual, local_path, remove_sidecars, workplace
from georsr.raster.lock import Lock
from georsr.raster.records import Written
from georsr.raster.writer import RasterWriter
from georsr.tiling.plan import ceil_to

log = logging.getLogger(__name__)

SMALLEST_TILE = 32
"""Below this, running out of memory is an error: halos would be most of the work."""


Last = Callable[[RasterWriter, Written], Written]
"""What is done with a product that is sealed: at least it is published."""


class Attempt:
    """One pass over the raster with one tile size, from wherever an earlier one stopped."""

    def __init__(
        self,
        job: Job,
        maker: Maker,
        progress: Stoppable,
        clock: Clock,
        last: Last = lambda writer, sealed: writer.publish(),
    ) -> None:
        self.job, self.maker, self.progress, self.clock = job, maker, progress, clock
        self.last = last
        self.found = 0
        self.journal = job.journal()

    def make(self) -> Written:
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
            sealed = writer.seal()
            check_unchanged(self.job.reader, self.job.key["source"])
        return self.last(writer, sealed)


def _how_to_go_on(writer: RasterWriter) -> str:
    if writer.published:
        return f"{writer.dst} is finished: the same command makes what is still missing beside it"
    part = workplace(writer.dst).part
    return (
        f"{int(writer.done.sum())} of {writer.done.size} blocks are finished and kept in {part}: "
        f"the same command goes on from there; to give them up, remove {part.stem}.*"
    )


class Repeatable(Protocol):
    """What can be tried again with a job of smaller tiles."""

    job: Job

    def make(self) -> Written:
        """Make the product."""


def until_it_fits(attempt: Repeatable) -> Written:
    """Make it; with smaller tiles again where one tile alone does not fit into memory."""
    tried = list[int]()
    while True:
        job = attempt.job
        tried.append(job.plan.tile)
        try:
            return attempt.make()
        except (TileTooLargeError, MemoryError) as error:
            smaller = ceil_to(job.plan.tile // 2, job.plan.multiple_of)
            fixed = job.config.tile is not None
            if fixed or smaller < SMALLEST_TILE or smaller == job.plan.tile:
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


def tidy(job: Job) -> None:
    """Remove what a run left that was killed after it had published its product."""
    lock = Lock(workplace(job.destination).lock, job.destination)
    lock.acquire()
    if not is_virtual(job.destination):
        remove_sidecars(local_path(job.destination))
    for path in workplace(job.destination).leftovers():
        path.unlink(missing_ok=True)
    job.journal().remove()
    lock.release()
