"""Run: from a plan to a published product, whoever makes its blocks.

Residual: how well a written product gives its source back, measured on the file itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np

from georsr.config import SRConfig
from georsr.inference.pipeline import Timer
from georsr.inference.predictor import n_forward_passes
from georsr.inference.threads import prefetch
from georsr.io.reader import RasterReader, open_output
from georsr.jobs.executor import (
    Executor,
    LocalExecutor,
    RunStats,
    WriteRun,
    remove_stale_files,
    retry_with_smaller_tiles,
)
from georsr.jobs.job import SRJob, plan_and_check
from georsr.models.io import Model
from georsr.progress import Cancellable, NullProgress, Progress, ProgressStages
from georsr.quality.consistency_maps import shrink_valid
from georsr.quality.write import COST, QualityWriter, check_layers_path, layers_job
from georsr.quality.write import report_of as layers_report
from georsr.reports import ConsistencyReport, RunReport
from georsr.window import PixelBlock, Window
from georsr.writer.journal import Journal
from georsr.writer.partial_tiff import OutputInfo
from georsr.writer.paths import check_destination
from georsr.writer.writer import RasterWriter

BLOCK_SIZE = 128
"""Height and width, in source pixels, of what is compared at a time."""
GRID_STEP = 4
"""Most windows along each axis; they are spread over the product."""


def consistency_report(job: SRJob, tally: RunStats) -> ConsistencyReport | None:
    """What consistency did to a product that is there; None where none was asked for.

    Parameters
    ----------
    job
        The run that made it.
    tally
        What the network gave.
    """
    if job.kernel is None:
        return None
    bands = len(job.layout.bands)
    total, count, largest = np.zeros(bands), np.zeros(bands, int), np.zeros(bands)
    with (
        open_output(job.destination, allow_drivers=("VRT",)) as product,
        closing(prefetch(_pairs(job, product))) as pairs,
    ):
        for inner, made, source in pairs:
            image = np.where(made.valid, made.values, 0).astype(np.float32)
            low, good = shrink_valid(image, made.valid, job.kernel, job.plan.scale)
            both = source.valid & good[inner]
            apart = np.abs(low[inner] - np.where(both, source.values, 0).astype(np.float32))
            apart[~both] = 0
            total += apart.sum((1, 2), dtype=np.float64)
            count += both.sum((1, 2))
            largest = np.maximum(largest, apart.max((1, 2)))
    before = tally.deviation
    return ConsistencyReport(
        kernel=str(job.kernel),
        network_mean=before.mean,
        network_max=before.largest,
        output_mean=float(total.sum() / max(1, count.sum())),
        output_max=float(largest.max()),
        pixels=int(count.sum()),
        band_mean=tuple((total / np.maximum(1, count)).tolist()),
        band_max=tuple(largest.tolist()),
    )


Inner = tuple[slice, slice, slice]


def _pairs(job: SRJob, product: RasterReader) -> Iterator[tuple[Inner, PixelBlock, PixelBlock]]:
    """Windows of the source, in product and source, and where the second lies in the first."""
    assert job.kernel is not None, "without a kernel nothing is compared"
    plan, s = job.plan, job.plan.scale
    reach, whole = job.kernel.radius(s), Window(0, 0, plan.height, plan.width)
    step, rest = divmod(job.layout.blocksize, s)
    for window in _windows(plan.height, plan.width, reach, 1 if rest else step):
        around = _grow(window, reach, whole)
        inner = (slice(None), *window.relative_to(around).slices)
        yield inner, product.read(around.scaled(s)), job.read(window)


def _windows(height: int, width: int, reach: int, step: int) -> Iterator[Window]:
    for top, bottom in _spread(height, reach, step):
        for left, right in _spread(width, reach, step):
            yield Window(top, left, bottom - top, right - left)


def _spread(length: int, reach: int, step: int) -> list[tuple[int, int]]:
    """(begin, end) of windows along an axis, from end to end.

    Those that leave something out are as large as they can be without a look, ``reach`` pixels
    round them, into another block of the product than they have to: all of a block is decoded
    for a single pixel of it.

    Parameters
    ----------
    length, reach
        Of the axis, and of the kernel, in source pixels.
    step
        Source pixels to a block.
    """
    if length <= GRID_STEP * BLOCK_SIZE:
        return [(begin, min(begin + BLOCK_SIZE, length)) for begin in range(0, length, BLOCK_SIZE)]
    step = step if step <= length // GRID_STEP else 1
    starts = [(length - BLOCK_SIZE) * i // (GRID_STEP - 1) // step * step for i in range(GRID_STEP)]
    ends = [start + BLOCK_SIZE for start in starts]
    return [
        (start + reach if start else 0, end - reach if end < length else length)
        for start, end in zip(starts, ends, strict=True)
    ]


def _grow(window: Window, reach: int, whole: Window) -> Window:
    grown = Window(
        window.top - reach,
        window.left - reach,
        window.height + 2 * reach,
        window.width + 2 * reach,
    )
    inside = grown.intersection(whole)
    assert inside is not None, "windows lie in the product"
    return inside


log = logging.getLogger(__name__)


def run(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    maker: Executor | None = None,
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
    clock, maker = Timer(), maker or LocalExecutor()
    stop = stop or (lambda: False)
    with clock.section("total"):
        with clock.section("read"):
            job = plan_and_check(reader, destination, model, config, maker.placement, maker.memory)
        journal = job.journal()
        earlier = journal.completed_output()
        if earlier is not None:
            report = _found(job, journal, earlier, clock, maker, quality)
            then(report)
            if quality is not None:
                remove_stale_files(layers_job(job, quality, earlier.checksum))
            remove_stale_files(job)
        else:
            report = _made(job, progress or NullProgress(), stop, maker, clock, quality, then)
    return replace(report, seconds=clock.rounded())


def _found(
    job: SRJob,
    journal: Journal,
    earlier: OutputInfo,
    clock: Timer,
    maker: Executor,
    quality: str | None,
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
    job: SRJob,
    progress: Progress,
    stop: Callable[[], bool],
    maker: Executor,
    clock: Timer,
    quality: str | None,
    then: Callable[[RunReport], None],
) -> RunReport:
    """Make and publish the product, and layers if they are wanted."""
    config, info = job.config, job.reader.info
    check_destination(job.destination, [info.path, *info.files], overwrite=config.overwrite)
    stages = ProgressStages(
        progress, (n_forward_passes(config.tta), *((COST,) if quality is not None else ()))
    )
    watched = Cancellable(stages.stage(0), stop)
    watched.check_cancelled()
    attempt = WriteRun(job, maker, watched, clock)
    beside, reports = None, list[RunReport]()
    if quality is not None:
        check_layers_path(job, quality)
        beside = QualityWriter(quality, Cancellable(stages.stage(1), stop), clock)

    def last(writer: RasterWriter, sealed: OutputInfo) -> OutputInfo:
        written = writer.publish() if beside is None else beside.finish(attempt, writer, sealed)
        report = report_of(attempt.job, written, clock, attempt.found, maker)
        reports.append(report if beside is None else replace(report, quality=beside.report))
        then(reports[-1])  # before it is forgotten how to recognise the product
        return written

    attempt.last = last
    retry_with_smaller_tiles(attempt)
    return reports[-1]


def report_of(
    job: SRJob, written: OutputInfo, clock: Timer, found: int, tally: RunStats
) -> RunReport:
    """What a run did, once its product is there; ``found``: blocks of earlier runs."""
    layout, plan = job.layout, job.plan
    with clock.section("verify"):
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
        tile_size=plan.tile,
        halo=plan.halo,
        overlap=plan.overlap,
        batch_size=tally.batch,
        tiles=len(plan),
        tiles_skipped=tally.skipped,
        blocks=layout.blocks_count,
        blocks_resumed=found,
        stretch=job.stretch,
        options=job.config.chosen(),
        cog=layout.cog_options is not None,
        seconds=clock.rounded(),
        file_bytes=written.bytes,
        checksum=written.checksum,
        consistency=consistency,
        warnings=job.reader.info.notes,
    )
