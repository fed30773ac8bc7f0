"""Write an output as a folder of parts, each a COG, and a VRT over them."""

from __future__ import annotations

import logging
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from georsr._files import check_regular, sha256
from georsr.config import SRConfig
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
from georsr.inference.pipeline import RunStats
from georsr.inference.predictor import TilePredictor, TileTooLargeError
from georsr.inference.threads import write_in_background
from georsr.io.reader import RasterReader
from georsr.jobs.job import SRJob, check_unchanged, memory_of, plan_job
from georsr.jobs.preflight import BASE_MEMORY, check_memory, check_space
from georsr.jobs.run import run_report, tile_pipeline, with_smaller_tiles
from georsr.models.io import Model
from georsr.progress import Progress, RunContext, RunProgress, never
from georsr.reports import RunReport
from georsr.tiling.partition import TaskGrid, parts_grid
from georsr.window import Window
from georsr.writer.layout import OutputLayout
from georsr.writer.partial_tiff import OutputInfo
from georsr.writer.paths import check_destination, is_virtual, sync_path
from georsr.writer.verify import block_checksum
from georsr.writer.vrt import publish_assembly
from georsr.writer.writer import RasterWriter

if TYPE_CHECKING:
    from georsr.distributed.cluster import Cluster

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartTask:
    """A part to write, unless it is there.

    Attributes
    ----------
    number : int
        Index of the part in the grid of parts.
    window : Window
        Pixels of the output.
    name : str
        Name of the file.
    finished : FinishedPart or None
        What the journal of an earlier run says of the part.
    """

    number: int
    window: Window
    name: str
    finished: FinishedPart | None

    def __str__(self) -> str:
        return str(self.window)


@dataclass(frozen=True)
class PartResult:
    """A part that is in the folder, and statistics of its tiles.

    Attributes
    ----------
    part : FinishedPart
    resumed : bool
        Whether an earlier run had written it.
    stats : RunStats
    """

    part: FinishedPart
    resumed: bool
    stats: RunStats = field(default_factory=RunStats)


def write_part(
    folder: Path,
    job: SRJob,
    predictor: TilePredictor,
    task: PartTask,
    should_stop: Callable[[], bool],
) -> PartResult:
    """Write and verify a part, then rename it into place; or check the one that is there.

    Parameters
    ----------
    folder
        Folder of the parts, under a name that holds on all machines.
    job
        Job of the whole output.
    predictor
        The job's model.
    task
        The part.
    should_stop
        Called after every tile; true cancels the part.

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
    part = job.standalone_part(task.window.coarser(job.plan.scale))
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


class WriteParts:
    """Writes the missing parts of an output and the VRT over them, with one tile size.

    Parameters
    ----------
    job : SRJob
        Job of the output.
    folder : Path
        Folder of the parts.
    cluster : Cluster, optional
        Workers that write the parts; None: this process.
    context : RunContext
        Progress, cancellation and timing of the run.
    on_published : callable
        Called with the report when the VRT is in place, before the journal is removed.
    """

    def __init__(
        self,
        job: SRJob,
        folder: Path,
        cluster: Cluster | None,
        context: RunContext,
        on_published: Callable[[RunReport], None],
    ) -> None:
        self.job, self.folder, self.cluster = job, folder, cluster
        self.context, self.on_published = context, on_published
        self.stats = RunStats()

    def write(self) -> RunReport:
        """Write the missing parts, and publish the VRT."""
        job, config, info = self.job, self.job.config, self.job.reader.info
        grid = grid_of(job)
        key = job.key | {
            "tile": str(job.plan.tile),
            "parts": f"{grid.task_height} x {grid.task_width}",
        }
        index = PartsFolder(self.folder, job.destination, key, config.resume)
        try:
            with index:
                overwrite = config.overwrite or index.published
                check_destination(job.destination, [info.path, *info.files], overwrite)
                existing = sum(part.bytes for part in index.finished.values())
                check_space(stored_layout(job), str(self.folder / LOCK), config, existing)
                check_memory(memory_here(job, self.cluster), config)
                index.start()
                self.context.progress.start_pass(0, len(job.plan))
                resumed = self._write_parts(grid, index)
                with self.context.timer.section("verify"):
                    self._check_source(index)
                    output = self._write_vrt(grid, index)
                report = run_report(job, output, resumed, self.stats, self.context)
                self.on_published(report)
                index.close()
                return report
        except BaseException as error:
            if index.begun and index.kept:
                error.add_note(
                    f"{len(index.finished)} of {len(grid)} parts are finished and kept in "
                    f"{self.folder}: repeat the command to resume"
                )
            raise

    def _check_source(self, index: PartsFolder) -> None:
        try:
            check_unchanged(self.job.reader, self.job.key["source"])
        except InputError:
            index.useless = True
            raise

    def _tasks(self, grid: TaskGrid, index: PartsFolder) -> Iterator[tuple[int, PartTask]]:
        """Yield the parts that touch the area of interest."""
        for number, window in enumerate(grid):
            area = self.job.area
            if area is None or area.intersects(window.coarser(self.job.plan.scale)):
                name = index.name(*divmod(number, grid.columns))
                yield number, PartTask(number, window, name, index.finished.get(number))
            else:
                index.finished.pop(number, None)

    def _write_parts(self, grid: TaskGrid, index: PartsFolder) -> int:
        """Write the parts that are missing; return the number of blocks of earlier runs."""
        resumed = pixels = 0
        compute = self._compute_here if self.cluster is None else self._compute_on_cluster
        for number, result in compute(self._tasks(grid, index)):
            index.add(result.part)
            resumed += result.resumed * len(result.part.blocks) // 8
            self.stats.merge(result.stats)
            window = grid.window(number)
            pixels += window.height * window.width
            self.context.progress.report(self.job.plan.tiles_in_pixels(pixels))
            self.context.check_cancelled()
        return resumed

    def _compute_here(
        self, tasks: Iterator[tuple[int, PartTask]]
    ) -> Iterator[tuple[int, PartResult]]:
        job, folder, should_stop = self.job, self.folder.absolute(), self.context.should_stop
        predictor = TilePredictor.from_config(job.model, job.config, job.placement)
        with cpu_threads(job.config.num_threads):
            for number, task in tasks:
                try:
                    with self.context.timer.section("network"):
                        result = write_part(folder, job, predictor, task, should_stop)
                except (ModelError, ResourceError) as error:
                    raise add_location(error, f"{task} of the output") from error
                yield number, result

    def _compute_on_cluster(
        self, tasks: Iterator[tuple[int, PartTask]]
    ) -> Iterator[tuple[int, PartResult]]:
        from georsr.distributed.executor import task_queue

        assert self.cluster is not None, "there is a cluster"
        compute = partial(write_part, self.folder.absolute())
        with self.context.timer.section("start"):
            queue = task_queue(self.cluster, self.job, compute, self.context.check_cancelled)
        with queue:
            yield from queue.map(tasks, self.context.timer)

    def _write_vrt(self, grid: TaskGrid, index: PartsFolder) -> OutputInfo:
        job = self.job
        parts = [
            (self.folder.resolve() / part.name, grid.window(number))
            for number, part in sorted(index.finished.items())
        ]
        index.write_index()
        size = publish_assembly(job.destination, job.layout, parts)
        size += sum(part.bytes for part in index.finished.values())
        return OutputInfo(job.destination, size, 0.0, self._checksum(grid, index))

    def _checksum(self, grid: TaskGrid, index: PartsFolder) -> str:
        """Return the checksum that one file of all blocks would have.

        See `georsr.writer.partial_tiff.OutputInfo`.
        """
        layout = self.job.layout
        checksums = np.zeros(layout.blocks_shape, "<u4")
        empty = dict[tuple[int, int], int]()
        for number, window in enumerate(grid):
            part = index.finished.get(number)
            written = iter(np.frombuffer(bytes.fromhex(part.blocks), ">u4")) if part else None
            for row, column, block in layout.blocks(window):
                if written is not None:
                    checksums[row, column] = next(written)
                    continue
                size = block.height, block.width
                if size not in empty:
                    empty[size] = self._empty_checksum(*size)
                checksums[row, column] = empty[size]
        return f"{zlib.crc32(checksums.tobytes()):08x}"

    def _empty_checksum(self, height: int, width: int) -> int:
        """Return the checksum of a block without a valid pixel."""
        layout = self.job.layout
        values = np.full((layout.count, height, width), layout.nodata or 0, layout.dtype)
        if layout.alpha:
            values[-1] = 0
        return block_checksum(values, np.zeros((height, width), np.uint8) if layout.mask else None)


def grid_of(job: SRJob) -> TaskGrid:
    """Return the windows of the output that are parts."""
    return parts_grid(job.plan, job.layout.blocksize)


def part_memory(job: SRJob, cluster: Cluster | None) -> int:
    """Return the peak memory of a process that writes parts, in bytes: this one, or a worker."""
    part = job.part(grid_of(job).window(0).coarser(job.plan.scale))
    return memory_of(part if cluster is None else cluster.worker_job(part))


def memory_here(job: SRJob, cluster: Cluster | None) -> int:
    """Return the peak memory of this machine, with the workers that it starts, in bytes."""
    process = part_memory(job, cluster)
    return process if cluster is None else BASE_MEMORY + (cluster.local or 0) * process


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


def run_parts(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    progress: Progress | None,
    should_stop: Callable[[], bool] | None,
    folder: str,
    cluster: Cluster | None = None,
    on_published: Callable[[RunReport], None] = lambda report: None,
) -> RunReport:
    """Super-resolve an open raster into parts, which are COGs, and a VRT over them.

    Parameters
    ----------
    reader, model, config, progress, should_stop
        As for `georsr.jobs.run.run`.
    destination
        Path of the VRT, which appears when all parts are written and verified.
    folder
        Folder of the parts.
    cluster
        Workers that write the parts; None: this process.
    on_published
        Called with the report when the VRT is in place. If it fails, the same call repeats it.

    Raises
    ------
    GeorsrError
        The destination is unchanged; finished parts are kept.
    """
    context = RunContext(RunProgress(progress), should_stop or never)
    check_names(destination, folder)
    with context.timer.section("total"):
        with context.timer.section("read"):
            placement = None if cluster is None else cluster.placement
            job = plan_job(reader, destination, model, replace(config, cog=True), placement)
        context.check_cancelled()
        report = _write_output(job, Path(folder), cluster, context, on_published)
    return replace(report, seconds=context.timer.rounded())


def _write_output(
    job: SRJob,
    folder: Path,
    cluster: Cluster | None,
    context: RunContext,
    on_published: Callable[[RunReport], None],
) -> RunReport:
    """Write and publish the output, with smaller tiles if one does not fit into memory."""
    tried: list[int] = []
    while True:
        try:
            return WriteParts(job, folder, cluster, context, on_published).write()
        except (TileTooLargeError, MemoryError) as error:
            job = with_smaller_tiles(job, error, tried)
