"""Compute the blocks of an output on a Dask cluster and write them in the order of one process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from georsr.config import SRConfig
from georsr.device import DeviceConfig
from georsr.distributed.cluster import Cluster
from georsr.distributed.task_queue import PREFETCH_BATCHES, IndexedTask, TaskQueue
from georsr.errors import ResourceError
from georsr.inference.model_cache import ModelRef, cached_predictor, load_cached, model_ref
from georsr.inference.pipeline import RunStats, write_in_background
from georsr.inference.predictor import TilePredictor, with_own_gpu
from georsr.io.gdal_env import absolute_path
from georsr.jobs.job import BASE_MEMORY, SRJob, memory_of, source_hash
from georsr.jobs.run import tile_pipeline
from georsr.progress import RunContext, Timer
from georsr.system import memory_limit
from georsr.tiling.grid import TileGrid
from georsr.tiling.partition import TaskGrid, completion_order, task_grid
from georsr.window import BoolArray, Window
from georsr.writer.encoder import BlockEncoder, EncodedBlock, encoders, to_encodable
from georsr.writer.paths import paths_behind_vsi
from georsr.writer.writer import RasterWriter

MEMORY_FRACTION, MAX_ROW_BYTES = 4, 64 * 2**30
"""A row of tasks, which may have to wait for its first one, takes at most one part in
`MEMORY_FRACTION` of the memory, or of `MAX_ROW_BYTES` if there is more; a row of the smallest tasks
may take more."""

IndexedBlock = tuple[int, int, EncodedBlock]
"""Block row, block column, and the encoded block."""
Compute = Callable[[SRJob, TilePredictor, Any, Callable[[], bool]], Any]
"""Function of one task: (job, predictor, task, should_stop) -> result."""


class JobRunner:
    """Computes the tasks of a job on a worker.

    The job is pickled without its network; each worker opens the model by name and checksum.

    Parameters
    ----------
    job : SRJob
        Job of the client.
    model : ModelRef
        Name and checksum of the job's model.
    config : SRConfig
        Options of the job, with the device and the number of threads of a worker.
    compute : callable
        Module-level function of one task.
    """

    def __init__(self, job: SRJob, model: ModelRef, config: SRConfig, compute: Compute) -> None:
        self.job = replace(job, model=replace(job.model, weights=None))
        self.model, self.config, self.compute = model, config, compute
        self.source_files = [
            absolute_path(path) for path in job.reader.info.files if paths_behind_vsi(path)
        ]

    def prepare(self, worker_name: object) -> None:
        """Check that the source is that of the client, and load the model.

        Raises
        ------
        GeorsrError
            The source is missing or differs, or the model cannot be loaded.
        """
        for path in self.source_files:
            if not paths_behind_vsi(path):
                raise ResourceError(
                    f"has no file {path}; put it where all machines see it under the same name"
                )
        with self.job.reader.reopen() as reader:
            if source_hash(reader) != self.job.key["source"]:
                raise ResourceError(
                    f"sees another file under the name {reader.info.path} (header, size or "
                    "modification time differ); put it where all machines see the same file"
                )
        load_cached(self.model)
        self.config = with_own_gpu(self.config, worker_name)

    def __call__(self, task: Any, should_stop: Callable[[], bool]) -> Any:
        """Compute one task."""
        with cached_predictor(self.model, self.config) as predictor:
            return self.compute(self.job, predictor, task, should_stop)


def task_queue(
    cluster: Cluster, job: SRJob, compute: Compute, check_cancelled: Callable[[], None]
) -> TaskQueue:
    """Start the workers of a cluster, and return a queue for the tasks of a job.

    Raises
    ------
    UsageError
        The model exists in memory only.
    ResourceError
        The workers cannot be started.
    """
    runner = JobRunner(job, model_ref(job.model), cluster.config, compute)
    return cluster.task_queue(runner, check_cancelled)


@dataclass(frozen=True)
class BlockResult:
    """Blocks of a window of the output, and statistics of their tiles."""

    blocks: list[IndexedBlock]
    stats: RunStats


def compute_blocks(
    job: SRJob, predictor: TilePredictor, window: Window, should_stop: Callable[[], bool]
) -> BlockResult:
    """Compute and encode the blocks of a window of the output, which consists of whole blocks."""
    part, size = job.part(window.coarser(job.tile_grid.scale)), job.layout.blocksize
    encode, context = BlockEncoder(job.layout), RunContext(should_stop=should_stop)
    with ThreadPoolExecutor(encoders()) as pool:
        pipeline = tile_pipeline(part, predictor, context)
        encoding = []
        for block, planes in pipeline.blocks(part.layout):
            row, column = (window.top + block.top) // size, (window.left + block.left) // size
            pixels, mask = to_encodable(*part.layout.split(planes))
            encoding.append((row, column, pool.submit(encode, pixels, mask)))
    blocks = [(row, column, encoded.result()) for row, column, encoded in encoding]
    return BlockResult(blocks, pipeline.stats)


def ordered_blocks(
    tile_grid: TileGrid,
    blocksize: int,
    grid: TaskGrid,
    done: BoolArray,
    queue: TaskQueue,
    timer: Timer,
    on_result: Callable[[int, BlockResult], None],
) -> Generator[IndexedBlock, None, None]:
    """Compute the missing blocks on a cluster, and yield them in the order of one process.

    The tasks in flight and the results that wait for their turn are at most a row of tasks and
    `PREFETCH_BATCHES` for each worker.

    Parameters
    ----------
    tile_grid
        Tiles of the output.
    blocksize
        Height and width of a block, pixels.
    grid
        Windows of the output; each is a task.
    done : bool (block rows, block columns)
        Blocks that are not needed.
    queue
        Computes the `BlockResult` of each window.
    timer
        Measures the time spent waiting for results.
    on_result
        Called with (index of the task, result) when a result arrives.
    """
    tasks = _missing_tasks(grid, blocksize, done)
    last, results = -1, dict[int, dict[tuple[int, int], EncodedBlock]]()
    for row, column in completion_order(tile_grid, blocksize, grid.top // blocksize):
        if done[row, column]:
            continue
        index = grid.index_at(row * blocksize, column * blocksize)
        while index not in results:
            bound = grid.columns + PREFETCH_BATCHES * queue.workers - len(results)
            slots, batch = queue.free_slots(bound), list[IndexedTask]()
            # the task that is waited for is submitted in any case
            while (last < index or len(batch) < slots) and (task := next(tasks, None)):
                batch.append(task)
                last = task[0]
            queue.submit(batch)
            with timer.section("network"):
                number, result = queue.next_completed()
            results[number] = {(r, c): block for r, c, block in result.blocks if not done[r, c]}
            on_result(number, result)
        yield row, column, results[index].pop((row, column))
        if not results[index]:
            del results[index]


def _missing_tasks(grid: TaskGrid, blocksize: int, done: BoolArray) -> Iterator[IndexedTask]:
    for index, window in enumerate(grid):
        rows = slice(window.top // blocksize, -(-window.bottom // blocksize))
        columns = slice(window.left // blocksize, -(-window.right // blocksize))
        if not done[rows, columns].all():
            yield index, window


class DaskExecutor:
    """Computes blocks on a cluster; see `georsr.jobs.run.Executor`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def placement(self) -> DeviceConfig:
        """Device and precision of the workers."""
        return self._cluster.placement

    def memory(self, job: SRJob) -> int:
        """Return the peak memory of this machine, with the workers that it starts, in bytes."""
        tasks = self.grid(job).columns + PREFETCH_BATCHES * self._cluster.count()
        workers = (self._cluster.local or 0) * self.worker_memory(job)
        return BASE_MEMORY[self.placement.backend] + tasks * self._task_bytes(job) + workers

    def worker_memory(self, job: SRJob) -> int:
        """Return the peak memory of one worker, in bytes."""
        part = job.part(self.grid(job).window(0).coarser(job.tile_grid.scale))
        return self._task_bytes(job) + memory_of(self._cluster.worker_job(part))

    def grid(self, job: SRJob, top: int = 0) -> TaskGrid:
        """Return the windows that are tasks, from row ``top`` of the output on."""
        return task_grid(
            job.tile_grid,
            job.layout.blocksize,
            max(1, self._cluster.count()),
            _row_bytes(job),
            min(memory_limit(), MAX_ROW_BYTES) // MEMORY_FRACTION,
            top,
        )

    def _task_bytes(self, job: SRJob) -> int:
        window = self.grid(job).window(0)
        return window.height * window.width * _row_bytes(job) // job.layout.width

    def write_blocks(self, job: SRJob, output: RasterWriter, context: RunContext) -> RunStats:
        """Compute and write the blocks that ``output`` does not have."""
        blocksize, tile_grid, stats = job.layout.blocksize, job.tile_grid, RunStats()
        done = output.done.copy()
        context.progress.describe("waiting for workers")
        with context.timer.section("start"):
            queue = task_queue(self._cluster, job, compute_blocks, context.check_cancelled)
        grid = self.grid(job, int(np.argmin(done.all(axis=1))) * blocksize)
        pixels = grid.top * tile_grid.out_width

        def on_result(index: int, result: BlockResult) -> None:
            nonlocal pixels
            window = grid.window(index)
            pixels += window.height * window.width
            stats.merge(result.stats)
            context.progress.report(tile_grid.tiles_in_pixels(pixels))
            context.check_cancelled()

        with queue:
            context.progress.describe("")
            context.progress.report(tile_grid.tiles_in_pixels(pixels))
            timer = context.timer
            blocks = ordered_blocks(tile_grid, blocksize, grid, done, queue, timer, on_result)
            write_in_background(blocks, output.write_encoded, timer)
        return stats


def _row_bytes(job: SRJob) -> int:
    return job.layout.width * job.layout.planes * np.dtype(job.layout.dtype).itemsize
