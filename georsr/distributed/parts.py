"""Write an output as a folder of parts, each a COG, and a VRT over them."""

from __future__ import annotations

import logging
import secrets
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from georsr._files import check_regular, sha256
from georsr.device import add_location, cpu_threads
from georsr.distributed.parts_index import LOCK, SCRATCH, FinishedPart, PartsFolder
from georsr.errors import (
    GeorsrError,
    InputError,
    ModelError,
    OutputError,
    ResourceError,
    UsageError,
)
from georsr.inference.pipeline import RunStats, write_in_background
from georsr.inference.predictor import TilePredictor, TileTooLargeError
from georsr.jobs.job import (
    BASE_MEMORY,
    RunRequest,
    SRJob,
    check_memory,
    check_space,
    check_unchanged,
    memory_of,
    plan_job,
)
from georsr.jobs.run import run_report, tile_pipeline, with_smaller_tiles
from georsr.progress import RunContext, RunProgress
from georsr.reports import RunReport
from georsr.tiling.partition import TaskGrid, parts_grid
from georsr.window import Window
from georsr.writer.encoder import block_checksum
from georsr.writer.layout import OutputLayout
from georsr.writer.paths import check_destination, is_virtual, sync_path
from georsr.writer.resumable_tiff import OutputInfo
from georsr.writer.vrt import publish_assembly
from georsr.writer.writer import RasterWriter

if TYPE_CHECKING:
    from georsr.distributed.cluster import Cluster

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartTask:
    """A part to write, unless it is there."""

    number: int
    """Index in the grid of parts."""
    window: Window
    """Pixels of the output."""
    name: str
    """Name of the file."""
    finished: FinishedPart | None
    """Record of the part in the journal of an earlier run."""

    def __str__(self) -> str:
        return str(self.window)


@dataclass(frozen=True)
class PartResult:
    """A part that is in the folder, and statistics of its tiles."""

    part: FinishedPart
    resumed: bool
    """Whether an earlier run had written it."""
    stats: RunStats = field(default_factory=RunStats)


def write_part(
    folder: Path,
    job: SRJob,
    predictor: TilePredictor,
    task: PartTask,
    should_stop: Callable[[], bool],
) -> PartResult:
    """Write and verify a part, then rename it into place; or check the one that is there.

    The folder's path is the same on all machines. ``should_stop`` is called after every tile.

    Raises
    ------
    GeorsrError
        The part cannot be computed or written; no file of it is left.
    """
    if not (folder / LOCK).exists():
        raise ResourceError(
            f"does not see the folder {folder} as the client does; parts go to storage that all "
            "machines share"
        )
    path = folder / task.name
    if task.finished is not None:
        if _is_intact(path, task.finished):
            return PartResult(task.finished, resumed=True)
        log.warning("%s: is missing or damaged: it is written again", path)
    scratch = folder / f"{SCRATCH}{secrets.token_hex(6)}"
    try:
        scratch.mkdir()
        result = _write_cog(scratch / task.name, job, predictor, task, should_stop)
        (scratch / task.name).replace(path)
        sync_path(folder)
    except FileNotFoundError as error:
        raise OutputError(f"{path}: the folder was removed during the run ({error})") from error
    except OSError as error:
        if isinstance(error, GeorsrError):
            raise
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        for leftover in (*scratch.glob("*"), *scratch.glob(".*")):
            leftover.unlink(missing_ok=True)
        if scratch.exists():
            scratch.rmdir()
    return result


def _write_cog(
    path: Path,
    job: SRJob,
    predictor: TilePredictor,
    task: PartTask,
    should_stop: Callable[[], bool],
) -> PartResult:
    part = job.standalone_part(task.window.coarser(job.tile_grid.scale))
    context = RunContext(should_stop=should_stop)
    pipeline = tile_pipeline(part, predictor, context)
    with RasterWriter(path, part.layout, verify=part.config.verify, context=context) as writer:
        write_in_background(pipeline.blocks(part.layout), writer.write_planes, context.timer)
        info = writer.seal()
        checksums = writer.checksums.astype(">u4").tobytes().hex()
        writer.publish()
    finished = FinishedPart(task.number, task.name, info.bytes, sha256(path), checksums)
    return PartResult(finished, False, pipeline.stats)


def _is_intact(path: Path, finished: FinishedPart) -> bool:
    try:
        check_regular(path)
        return path.stat().st_size == finished.bytes and sha256(path) == finished.sha256
    except OSError:
        return False


def _write_parts(
    job: SRJob,
    folder: Path,
    cluster: Cluster | None,
    context: RunContext,
    on_published: Callable[[RunReport], None],
) -> RunReport:
    """Write the missing parts of an output, and publish the VRT over them."""
    config, info, grid = job.config, job.reader.info, grid_of(job)
    key = job.key | {
        "tile": str(job.tile_grid.tile),
        "parts": f"{grid.task_height} x {grid.task_width}",
    }
    stats, n_resumed, pixels = RunStats(), 0, 0
    with PartsFolder(folder, job.destination, key, config.resume) as index:
        index.keep_only({n: index.part_name(*divmod(n, grid.columns)) for n in range(len(grid))})
        overwrite = config.overwrite or index.published
        check_destination(job.destination, [info.path, *info.files], overwrite)
        existing = sum(part.bytes for part in index.finished.values())
        check_space(stored_layout(job), str(folder / LOCK), config, existing)
        check_memory(memory_here(job, cluster), config)
        index.start()
        context.progress.start_pass(0, len(job.tile_grid))
        tasks = _tasks(job, grid, index)
        if cluster is None:
            results = _compute_here(job, folder.absolute(), tasks, context)
        else:
            results = _compute_on_cluster(job, folder.absolute(), tasks, context, cluster)
        with closing(results):
            for number, result in results:
                index.add(result.part)
                n_resumed += result.resumed * len(result.part.blocks) // 8
                stats.merge(result.stats)
                window = grid.window(number)
                pixels += window.height * window.width
                context.progress.report(job.tile_grid.tiles_in_pixels(pixels))
                context.check_cancelled()
        with context.timer.section("verify"):
            try:
                check_unchanged(job.reader, job.key["source"])
            except InputError:
                index.finished.clear()  # they are of no use for a changed source
                raise
            output = _publish(job, folder, grid, index)
        report = run_report(job, output, n_resumed, stats, context)
        on_published(report)
        index.close()
    return report


def _tasks(job: SRJob, grid: TaskGrid, index: PartsFolder) -> Iterator[tuple[int, PartTask]]:
    """Yield the parts that touch the area of interest, by number."""
    for number, window in enumerate(grid):
        if job.area is None or job.area.intersects(window.coarser(job.tile_grid.scale)):
            name = index.part_name(*divmod(number, grid.columns))
            yield number, PartTask(number, window, name, index.finished.get(number))
        else:
            index.finished.pop(number, None)


def _compute_here(
    job: SRJob, folder: Path, tasks: Iterator[tuple[int, PartTask]], context: RunContext
) -> Generator[tuple[int, PartResult], None, None]:
    predictor = TilePredictor.from_config(job.model, job.config, job.placement)
    with cpu_threads(job.config.num_threads):
        for number, task in tasks:
            try:
                with context.timer.section("network"):
                    result = write_part(folder, job, predictor, task, context.should_stop)
            except (ModelError, ResourceError) as error:
                raise add_location(error, f"{task} of the output") from error
            yield number, result


def _compute_on_cluster(
    job: SRJob,
    folder: Path,
    tasks: Iterator[tuple[int, PartTask]],
    context: RunContext,
    cluster: Cluster,
) -> Generator[tuple[int, PartResult], None, None]:
    from georsr.distributed.executor import task_queue

    with context.timer.section("start"):
        queue = task_queue(cluster, job, partial(write_part, folder), context.check_cancelled)
    with queue:
        yield from queue.map(tasks, context.timer)


def _publish(job: SRJob, folder: Path, grid: TaskGrid, index: PartsFolder) -> OutputInfo:
    parts = [
        (folder.resolve() / part.name, grid.window(number))
        for number, part in sorted(index.finished.items())
    ]
    index.write_index()
    size = publish_assembly(job.destination, job.layout, parts)
    size += sum(part.bytes for part in index.finished.values())
    checksum = _output_checksum(job.layout, grid, index.finished)
    return OutputInfo(job.destination, size, 0.0, checksum)


def _output_checksum(
    layout: OutputLayout, grid: TaskGrid, parts: Mapping[int, FinishedPart]
) -> str:
    """Return the checksum of one file of all blocks; see `OutputInfo`.

    Blocks of parts that were not written are without a valid pixel.
    """
    checksums = np.zeros(layout.blocks_shape, "<u4")
    empty_checksum = cache(partial(_empty_checksum, layout))
    for number, window in enumerate(grid):
        written = bytes.fromhex(parts[number].blocks) if number in parts else None
        for i, (row, column, block) in enumerate(layout.blocks(window)):
            if written is None:
                checksums[row, column] = empty_checksum(block.height, block.width)
            else:
                checksums[row, column] = int.from_bytes(written[4 * i : 4 * i + 4])
    return f"{zlib.crc32(checksums.tobytes()):08x}"


def _empty_checksum(layout: OutputLayout, height: int, width: int) -> int:
    values = np.full((layout.count, height, width), layout.nodata or 0, layout.dtype)
    if layout.alpha:
        values[-1] = 0
    return block_checksum(values, np.zeros((height, width), np.uint8) if layout.mask else None)


def grid_of(job: SRJob) -> TaskGrid:
    """Return the windows of the output that are parts."""
    return parts_grid(job.tile_grid, job.layout.blocksize)


def part_memory(job: SRJob, cluster: Cluster | None) -> int:
    """Return the peak memory of a process that writes parts, in bytes: this one, or a worker."""
    part = job.part(grid_of(job).window(0).coarser(job.tile_grid.scale))
    return memory_of(part if cluster is None else cluster.worker_job(part))


def memory_here(job: SRJob, cluster: Cluster | None) -> int:
    """Return the peak memory of this machine, with the workers that it starts, in bytes."""
    process = part_memory(job, cluster)
    if cluster is None:
        return process
    return BASE_MEMORY[cluster.placement.backend] + (cluster.local or 0) * process


def stored_layout(job: SRJob) -> OutputLayout:
    """Return the layout from which disk space is estimated.

    It is not that of a COG, whose second copy exists for one part at a time only.
    """
    return replace(job.layout, cog_options=None)


def check_names(destination: str, folder: str) -> None:
    """Refuse names that the VRT and the folder of its parts cannot have.

    Raises
    ------
    UsageError
        The destination is not a VRT, or one of the two is not in a file system.
    """
    if Path(destination).suffix.lower() != ".vrt" or is_virtual(destination):
        raise UsageError(
            f"{destination}: with --parts the output is a VRT: expected a name such as OUT.vrt"
        )
    if is_virtual(folder):
        raise UsageError(f"--parts {folder}: expected a folder of a file system")


def run_parts(request: RunRequest, cluster: Cluster | None, folder: str) -> RunReport:
    """Super-resolve an open raster into parts, which are COGs, and a VRT over them.

    Parameters
    ----------
    request
        Source, path of the VRT, model and options. The VRT appears when all parts are written and
        verified.
    cluster
        Workers that write the parts; None: this process.
    folder
        Folder of the parts.

    Raises
    ------
    GeorsrError
        The destination is unchanged; finished parts are kept.
    """
    context = RunContext(RunProgress(request.progress), request.should_stop)
    check_names(request.destination, folder)
    with context.timer.section("total"):
        with context.timer.section("read"):
            placement = None if cluster is None else cluster.placement
            config = replace(request.config, cog=True)
            job = plan_job(request.reader, request.destination, request.model, config, placement)
        context.check_cancelled()
        report, tried = None, list[int]()
        while report is None:
            try:
                report = _write_parts(job, Path(folder), cluster, context, request.on_published)
            except (TileTooLargeError, MemoryError) as error:
                job = with_smaller_tiles(job, error, tried)
    return replace(report, seconds=context.timer.rounded())
