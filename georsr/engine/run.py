"""Run: from a plan to a published product, whoever makes its blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from georsr.config import SRConfig
from georsr.engine.attempt import Attempt, tidy, until_it_fits
from georsr.engine.beside import Beside, check_place
from georsr.engine.beside import report_of as layers_report
from georsr.engine.ensemble import passes
from georsr.engine.job import Job, prepare
from georsr.engine.journal import Journal
from georsr.engine.maker import Maker, OneMachine, Tally
from georsr.engine.residual import consistency_report
from georsr.engine.stream import Clock
from georsr.engine.surveyor import COST, layers_job
from georsr.models.load import Model
from georsr.progress import Progress, Silent, Stages, Stoppable
from georsr.provenance import RunReport
from georsr.raster.destination import check_destination
from georsr.raster.reader import RasterReader
from georsr.raster.records import Written
from georsr.raster.writer import RasterWriter

log = logging.getLogger(__name__)


def run(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    maker: Maker | None = None,
    quality: str | None = None,
    then: Callable[[RunReport], None] = lambda report: None,
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
    quality
        Path of quality layers to make beside the product, by this process.
    then
        Called with the report once the product has its name. Killed or failing there, the run is
        gone on with by the same call: ``then`` is called again.

    Raises
    ------
    UsageError, InputError, OutputError, ModelError, ResourceError
        As their names say; the destination is then as it was.
    InterruptedRunError
        ``stop`` said so.
    """
    clock, maker = Clock(), maker or OneMachine()
    stop = stop or (lambda: False)
    with clock.stage("total"):
        with clock.stage("read"):
            job = prepare(reader, destination, model, config, maker.placement, maker.memory)
        journal = job.journal()
        earlier = journal.published()
        if earlier is not None:
            report = _found(job, journal, earlier, clock, maker, quality)
            then(report)
            if quality is not None:
                tidy(layers_job(job, quality, earlier.checksum))
            tidy(job)
        else:
            report = _made(job, progress or Silent(), stop, maker, clock, quality, then)
    return replace(report, seconds=clock.rounded())


def _found(
    job: Job, journal: Journal, earlier: Written, clock: Clock, maker: Maker, quality: str | None
) -> RunReport:
    """What is told of a product that an earlier run had published before it was killed."""
    log.info("%s: an earlier run had finished it", job.destination)
    report = report_of(job, earlier, clock, job.layout.blocks_count, maker)
    if quality is None or journal.beside is None:
        return report
    layers = layers_job(job, quality, earlier.checksum)
    told = layers_report(layers, journal.beside, layers.layout.blocks_count)
    return replace(report, quality=told)


def _made(
    job: Job,
    progress: Progress,
    stop: Callable[[], bool],
    maker: Maker,
    clock: Clock,
    quality: str | None,
    then: Callable[[RunReport], None],
) -> RunReport:
    """Make and publish the product, and layers if they are wanted."""
    config, info = job.config, job.reader.info
    check_destination(job.destination, [info.path, *info.files], overwrite=config.overwrite)
    stages = Stages(progress, (passes(config.tta), *((COST,) if quality is not None else ())))
    watched = Stoppable(stages.stage(0), stop)
    watched.look()
    attempt = Attempt(job, maker, watched, clock)
    beside, reports = None, list[RunReport]()
    if quality is not None:
        check_place(job, quality)
        beside = Beside(quality, Stoppable(stages.stage(1), stop), clock)

    def last(writer: RasterWriter, sealed: Written) -> Written:
        written = writer.publish() if beside is None else beside.finish(attempt, writer, sealed)
        report = report_of(attempt.job, written, clock, attempt.found, maker)
        reports.append(report if beside is None else replace(report, quality=beside.report))
        then(reports[-1])  # before it is forgotten how to recognise the product
        return written

    attempt.last = last
    until_it_fits(attempt)
    return reports[-1]


def report_of(job: Job, written: Written, clock: Clock, found: int, tally: Tally) -> RunReport:
    """What a run did, once its product is there; ``found``: blocks of earlier runs."""
    layout, plan = job.layout, job.plan
    with clock.stage("verify"):
        consistency = consistency_report(job, tally)
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
        batch=tally.batch,
        tiles=len(plan),
        tiles_skipped=tally.skipped,
        blocks=layout.blocks_count,
        blocks_found=found,
        stretch=job.stretch.to_json(),
        options=job.config.told(),
        cog=layout.cog_options is not None,
        seconds=clock.rounded(),
        bytes=written.bytes,
        checksum=written.checksum,
        consistency=consistency,
        warnings=job.reader.info.notes,
    )
