"""Run a job: compute the blocks of an output, write, verify and publish it.

`run` plans a job, opens its output and calls an executor for the blocks that are missing. If a tile
does not fit into memory, it starts again with smaller tiles. A run that was interrupted leaves a
journal, with which the same call resumes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from georsr.device import DeviceConfig, cpu_threads
from georsr.errors import ResourceError, worded
from georsr.inference.consistency import shrink_valid
from georsr.inference.pipeline import RunStats, TilePipeline, prefetch, write_in_background
from georsr.inference.predictor import TilePredictor, TileTooLargeError, n_forward_passes
from georsr.io.reader import RasterReader, georeference_notes, open_output
from georsr.jobs.job import RunRequest, SRJob, check_unchanged, memory_of, plan_and_check
from georsr.progress import RunContext, RunProgress
from georsr.reports import ConsistencyReport, RunReport
from georsr.tiling.grid import ceil_to
from georsr.window import AnyArray, BoolArray, PixelBlock, Window
from georsr.writer.layout import OutputLayout
from georsr.writer.paths import Lock, is_virtual, local_path, replace_sidecars, temp_paths
from georsr.writer.resumable_tiff import OutputInfo
from georsr.writer.writer import RasterWriter

log = logging.getLogger(__name__)

MIN_TILE = 32
"""Smallest tile size, in source pixels, to try when memory runs out: below, most of it is halo."""


class Executor(Protocol):
    """Computes the blocks of an output: in this process, or on a Dask cluster."""

    @property
    def placement(self) -> DeviceConfig | None:
        """Device and precision of the network; None if the options of the run decide."""

    def memory(self, job: SRJob) -> int:
        """Return the peak memory of this machine, in bytes."""

    def write_blocks(self, job: SRJob, output: RasterWriter, context: RunContext) -> RunStats:
        """Compute and write the blocks that ``output`` does not have."""


class LocalExecutor:
    """Computes the blocks of an output in this process."""

    placement: DeviceConfig | None = None

    def __init__(self) -> None:
        self._predictor: TilePredictor | None = None

    def memory(self, job: SRJob) -> int:
        """Return the peak memory of this machine, in bytes."""
        return memory_of(job)

    def write_blocks(self, job: SRJob, output: RasterWriter, context: RunContext) -> RunStats:
        """Compute and write the blocks that ``output`` does not have."""
        if self._predictor is None:
            self._predictor = TilePredictor.from_config(job.model, job.config, job.placement)
        pipeline = tile_pipeline(job, self._predictor, context)
        with cpu_threads(job.config.num_threads):
            write_missing_blocks(partial(pipeline.blocks, job.layout), output, context)
        return pipeline.stats


def tile_pipeline(
    job: SRJob, predictor: TilePredictor, context: RunContext | None = None
) -> TilePipeline:
    """Create the pipeline that predicts the tiles of a job."""
    return TilePipeline(
        read=job.read,
        bands=len(job.reader.info.indexes),
        tile_grid=job.tile_grid,
        normalization=job.normalization,
        predictor=predictor,
        context=context or RunContext(),
        area=job.area,
        kernel=job.kernel,
    )


Blocks = Generator[tuple[Window, AnyArray], None, None]


def write_missing_blocks(
    compute: Callable[[int], Blocks], output: RasterWriter, context: RunContext
) -> None:
    """Write the blocks that an output does not have.

    ``compute`` yields the finished blocks from a row of pixels of the output on.
    """
    size, columns = output.layout.blocksize, output.done.shape[1]
    for first, end in incomplete_rows(output.done):
        blocks = _until_row(compute(first * size), output.layout, end, (end - first) * columns)
        write_in_background(blocks, output.write_planes, context.timer)


def incomplete_rows(done: BoolArray) -> list[tuple[int, int]]:
    """Return the ranges of block rows in which a block is missing, as (first, one past the last).

    There is more than one range only where blocks of an unfinished output were damaged.
    """
    missing = np.concatenate([[False], ~done.all(axis=1), [False]])
    return [(int(a), int(b)) for a, b in np.flatnonzero(np.diff(missing)).reshape(-1, 2)]


def _until_row(blocks: Blocks, layout: OutputLayout, end: int, count: int) -> Blocks:
    """Yield the ``count`` blocks above block row ``end``; then stop the computation."""
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


def run(request: RunRequest, executor: Executor) -> RunReport:
    """Super-resolve an open raster into a new file.

    Raises
    ------
    UsageError, InputError, OutputError, ModelError, ResourceError
        The run failed; the destination is unchanged.
    InterruptedRunError
        ``should_stop`` returned True.
    """
    costs = [n_forward_passes(request.config.tta)]
    context = RunContext(RunProgress(request.progress, costs), request.should_stop)
    with context.timer.section("total"):
        with context.timer.section("read"):
            job = plan_and_check(request, executor.placement, executor.memory)
        published = job.journal().completed_output()
        if published is None:
            context.check_cancelled()
            report = _write_output(job, executor, context, request.on_published)
        else:
            log.info("%s: an earlier run has published it", job.destination)
            report = run_report(job, published, job.layout.blocks_count, RunStats(), context)
            request.on_published(report)
            remove_stale_files(job)
    return replace(report, seconds=context.timer.rounded())


def _write_output(
    job: SRJob, executor: Executor, context: RunContext, on_published: Callable[[RunReport], None]
) -> RunReport:
    """Write and publish the output, with smaller tiles if one does not fit into memory."""
    tried: list[int] = []
    while True:
        try:
            with prepare_output(job, context) as output:
                stats = compute_output(job, output, executor, context)
                published = output.publish()
                hint_overviews(job)
                report = run_report(job, published, output.n_resumed_blocks, stats, context)
                on_published(report)
            return report
        except (TileTooLargeError, MemoryError) as error:
            job = with_smaller_tiles(job, error, tried)


@contextmanager
def prepare_output(job: SRJob, context: RunContext) -> Iterator[RasterWriter]:
    """Open the output of a job, resuming from the journal of an unfinished run.

    If the block fails and the finished blocks are kept, the exception gets a note that says how to
    resume.
    """
    output = RasterWriter(
        job.destination,
        job.layout,
        overwrite=job.config.overwrite,
        verify=job.config.verify,
        journal=job.journal(),
        context=context,
    )
    try:
        with output:
            yield output
    except BaseException as error:
        if output.journal is not None and output.journal.kept:
            error.add_note(worded(_resume_hint(output)))
        raise


def compute_output(
    job: SRJob, output: RasterWriter, executor: Executor, context: RunContext
) -> RunStats:
    """Compute and write the missing blocks of an output, then verify it."""
    context.progress.start_pass(0, len(job.tile_grid))
    stats = RunStats()
    if output.n_resumed_blocks:
        context.progress.describe(f"resuming at {100 * output.done.mean():.0f} %")
    if not output.done.all():
        stats = executor.write_blocks(job, output, context)
    context.progress.describe("verifying")
    finish_output(job, output, context)
    return stats


def finish_output(job: SRJob, output: RasterWriter, context: RunContext) -> OutputInfo:
    """Verify an output whose blocks are all written, and that its source did not change."""
    with context.timer.section("verify"):
        finished = output.seal()
        check_unchanged(job.reader, job.key["source"])
    return finished


MAX_SIDE_WITHOUT_OVERVIEWS = 8192
"""Height or width in pixels above which a raster without overviews is slow to show."""


def hint_overviews(job: SRJob) -> None:
    """Say how to add overviews to a large output that has none."""
    side = max(job.layout.width, job.layout.height)
    if job.layout.cog_options is None and side > MAX_SIDE_WITHOUT_OVERVIEWS:
        levels = ",".join(str(2**n) for n in range(1, side.bit_length()) if side >> n >= 256)
        command = f"`rio overview --build {levels} -r average {job.destination}`"
        text = f"has no overviews, so viewers show it slowly: use --cog, or run {command}"
        log.warning(worded(f"{job.destination}: {text}"))


def _resume_hint(output: RasterWriter) -> str:
    """Return how to continue a run that ended early."""
    if output.published:
        return (
            f"{output.dst} is finished: rerun the same command for the files that belong to it "
            "and are still missing"
        )
    part = temp_paths(output.dst).part
    return (
        f"{int(output.done.sum())} of {output.done.size} blocks are finished and kept in {part}: "
        f"rerun the same command to resume, or delete {part.stem}.* to discard them"
    )


def with_smaller_tiles(job: SRJob, error: BaseException, tried: list[int]) -> SRJob:
    """Return the job with tiles of half the size, after memory ran out with ``error``.

    ``tried`` has the tile sizes that were tried before; that of ``job`` is appended.

    Raises
    ------
    ResourceError
        The tile size is fixed by the options, or cannot become smaller.
    """
    tried.append(job.tile_grid.tile)
    smaller = ceil_to(job.tile_grid.tile // 2, job.tile_grid.multiple_of)
    fixed = job.config.tile_size is not None
    if fixed or smaller < MIN_TILE or smaller == job.tile_grid.tile:
        reason = f"{job.destination}: memory ran out: use a smaller --tile"
        if isinstance(error, TileTooLargeError):
            reason = str(error)
        failure = ResourceError(f"{reason} (tiles tried: {', '.join(map(str, tried))})")
        for note in getattr(error, "__notes__", ()):
            failure.add_note(note)
        raise failure from error
    log.warning("out of memory: starting again with tiles of %d pixels", smaller)
    return job.with_tile(smaller)


def remove_stale_files(job: SRJob) -> None:
    """Remove the temporary files of a run that was killed after it had published its output."""
    lock = Lock(temp_paths(job.destination).lock, job.destination)
    lock.acquire()
    if not is_virtual(job.destination):
        replace_sidecars(local_path(job.destination), job.layout.world_file_text)
    for path in temp_paths(job.destination).leftovers():
        path.unlink(missing_ok=True)
    job.journal().remove()
    lock.release()


def run_report(
    job: SRJob, published: OutputInfo, n_resumed: int, stats: RunStats, context: RunContext
) -> RunReport:
    """Return the report of a run; ``n_resumed`` blocks of its output are from earlier runs."""
    layout, tile_grid = job.layout, job.tile_grid
    with context.timer.section("verify"):
        consistency = consistency_report(job, stats)
    return RunReport(
        source=job.reader.info.path,
        output=job.destination,
        model=job.model.spec.name,
        model_sha256=job.model.sha256,
        scale=tile_grid.scale,
        width=layout.width,
        height=layout.height,
        bands=len(layout.bands),
        source_bands=job.reader.info.indexes,
        dtype=layout.dtype,
        device=str(job.placement.device),
        precision=job.placement.precision,
        tile_size=tile_grid.tile,
        halo=tile_grid.halo,
        overlap=tile_grid.overlap,
        batch_size=stats.batch,
        tiles=len(tile_grid),
        tiles_skipped=stats.skipped,
        blocks=layout.blocks_count,
        blocks_resumed=n_resumed,
        stretch=job.normalization,
        options=job.config.chosen(),
        cog=layout.cog_options is not None,
        seconds=context.timer.rounded(),
        file_bytes=published.bytes,
        checksum=published.checksum,
        consistency=consistency,
        warnings=(*job.reader.info.notes, *georeference_notes(job.reader.info)),
    )


BLOCK_SIZE = 128
"""Height and width, in source pixels, of the windows that are compared."""
MAX_WINDOWS = 4
"""Largest number of windows along each axis."""


def consistency_report(job: SRJob, stats: RunStats) -> ConsistencyReport | None:
    """Measure how well a published output, when downsampled, matches its source.

    None if consistency is not requested.
    """
    if job.kernel is None:
        return None
    bands = len(job.layout.bands)
    total, count, largest = np.zeros(bands), np.zeros(bands, int), np.zeros(bands)
    with (
        open_output(job.destination, allow_drivers=("VRT",)) as output,
        closing(prefetch(_pairs(job, output))) as pairs,
    ):
        for crop, written, source in pairs:
            image = np.where(written.valid, written.values, 0).astype(np.float32)
            scale = job.tile_grid.scale
            low, low_valid = shrink_valid(image, written.valid, job.kernel, scale)
            valid = source.valid & low_valid[crop]
            difference = np.abs(low[crop] - np.where(valid, source.values, 0).astype(np.float32))
            difference[~valid] = 0
            total += difference.sum((1, 2), dtype=np.float64)
            count += valid.sum((1, 2))
            largest = np.maximum(largest, difference.max((1, 2)))
    before = stats.residuals
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


Crop = tuple[slice, slice, slice]


def _pairs(job: SRJob, output: RasterReader) -> Iterator[tuple[Crop, PixelBlock, PixelBlock]]:
    """Yield (crop, pixels of the output, pixels of the source) of windows spread over the source.

    The output's pixels extend beyond the window by the radius of the kernel; ``crop`` cuts the
    window out of them once they are downsampled.
    """
    assert job.kernel is not None, "without a kernel nothing is compared"
    tile_grid, s = job.tile_grid, job.tile_grid.scale
    radius, extent = job.kernel.radius(s), Window(0, 0, tile_grid.height, tile_grid.width)
    step, rest = divmod(job.layout.blocksize, s)
    step = 1 if rest else step
    for top, bottom in spread_ranges(tile_grid.height, radius, step):
        for left, right in spread_ranges(tile_grid.width, radius, step):
            window = Window(top, left, bottom - top, right - left)
            padded = window.grow(radius).intersection(extent)
            assert padded is not None, "the window is inside the source"
            crop = (slice(None), *window.relative_to(padded).slices)
            yield crop, output.read(padded.scaled(s)), job.read(window)


def spread_ranges(length: int, radius: int, step: int) -> list[tuple[int, int]]:
    """Return (start, stop) of windows along an axis, spread from end to end.

    Unless they cover the axis, their edges are ``radius`` pixels (that of the kernel) inside of a
    block of the output: a block is decoded completely for a single pixel of it. All lengths are in
    source pixels; ``step`` is that of a block.
    """
    if length <= MAX_WINDOWS * BLOCK_SIZE:
        return [(begin, min(begin + BLOCK_SIZE, length)) for begin in range(0, length, BLOCK_SIZE)]
    step = step if step <= length // MAX_WINDOWS else 1
    ranges = []
    for i in range(MAX_WINDOWS):
        start = (length - BLOCK_SIZE) * i // (MAX_WINDOWS - 1) // step * step
        end = start + BLOCK_SIZE
        ranges.append((start + radius if start else 0, end - radius if end < length else length))
    return ranges
