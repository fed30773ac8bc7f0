"""Run: from a plan to a published product, whoever makes its blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from georsr.config import SRConfig
from georsr.engine.attempt import Attempt, tidy, until_it_fits
from georsr.engine.beside import Beside, check_place
from georsr.engine.ensemble import passes
from georsr.engine.job import Job, prepare
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
        earlier = job.journal().published()
        if earlier is not None:
            log.info("%s: an earlier run had finished it", destination)
            if quality is not None:
                tidy(layers_job(job, quality, earlier.checksum))
            tidy(job)
            return report_of(job, earlier, clock, job.layout.blocks_count, maker)
        sources = [reader.info.path, *reader.info.files]
        check_destination(destination, sources, overwrite=config.overwrite)
        costs = (passes(config.tta), *((COST,) if quality is not None else ()))
        stages = Stages(progress or Silent(), costs)
        watched = Stoppable(stages.stage(0), stop)
        watched.look()
        attempt = Attempt(job, maker, watched, clock)
        beside = None
        if quality is not None:
            check_place(job, quality)
            beside = Beside(quality, Stoppable(stages.stage(1), stop), clock)
            attempt.last = partial(beside.finish, attempt)
        written = until_it_fits(attempt)
    report = report_of(attempt.job, written, clock, attempt.found, maker)
    return report if beside is None else replace(report, quality=beside.report)


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
        seconds={k: round(v, 3) for k, v in clock.seconds.items()},
        bytes=written.bytes,
        checksum=written.checksum,
        consistency=consistency,
        warnings=job.reader.info.notes,
    )
