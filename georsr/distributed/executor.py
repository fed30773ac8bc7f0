"""ClusterMaker: many machines make blocks, one file takes them in the order of a single pass.

InOrder: blocks that many machines make at once, in the order of a single pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import numpy as np

from georsr.device import DeviceConfig
from georsr.distributed.cluster import Cluster, worker_config
from georsr.distributed.task_queue import PREFETCH_TASKS, IndexedTask, TaskQueue, free_slots
from georsr.distributed.worker import BlockResult, BlockTask
from georsr.inference.model_cache import model_ref
from georsr.inference.pipeline import RunStats
from georsr.inference.threads import write_in_background
from georsr.jobs.job import SRJob, memory_of
from georsr.jobs.preflight import BASE_MEMORY
from georsr.progress import RunContext, Timer
from georsr.system import memory_limit
from georsr.tiling.partition import TaskGrid, completion_order, task_grid
from georsr.window import BoolArray
from georsr.writer.writer import RasterWriter

if TYPE_CHECKING:
    from georsr.writer.encoder import EncodedBlock

IndexedBlock = tuple[int, int, "EncodedBlock"]
"""Block row, block column, and what stands there."""


class OrderedBlocks:
    """Blocks that are missing, in the order of a single pass, as soon as that lets them.

    Super-tiles under way, and those that wait for their turn, are no more than a row of them and
    `AHEAD` for each worker.

    Parameters
    ----------
    job : Job
        Of the product.
    grid : Grid
        Super-tiles of it.
    done : bool (block rows, block columns)
        Blocks that nobody wants any more.
    flight : Flight
        Makes `BlockResult` of windows.
    landed : callable
        Told of every super-tile that has come back.
    """

    def __init__(
        self,
        job: SRJob,
        grid: TaskGrid,
        done: BoolArray,
        flight: TaskQueue,
        landed: Callable[[int, BlockResult], None],
    ) -> None:
        self._grid, self._done, self._flight, self._landed = grid, done, flight, landed
        self._size = job.layout.blocksize
        self._order = completion_order(job.plan, self._size, grid.top // self._size)
        self._held: dict[int, dict[tuple[int, int], EncodedBlock]] = {}
        self._unsent = (number for number in range(len(grid)) if self._missing(number))
        self._next = next(self._unsent, None)

    @property
    def _max_in_flight(self) -> int:
        """Super-tiles that may be under way or wait for their turn."""
        return self._grid.columns + PREFETCH_TASKS * self._flight.machines

    def _missing(self, number: int) -> bool:
        """Whether a super-tile has a block that is wanted."""
        window, size = self._grid.window(number), self._size
        rows = slice(window.top // size, -(-window.bottom // size))
        columns = slice(window.left // size, -(-window.right // size))
        return not self._done[rows, columns].all()

    def blocks(self, clock: Timer) -> Generator[IndexedBlock, None, None]:
        """Yield them; ``clock`` notes the time spent waiting for the network."""
        for row, column in self._order:
            if self._done[row, column]:
                continue
            number = self._grid.index_at(row * self._size, column * self._size)
            while number not in self._held:
                self._submit(number)
                with clock.section("network"):
                    self._collect()
            block = self._held[number].pop((row, column))
            if not self._held[number]:
                del self._held[number]
            yield row, column, block

    def _submit(self, needed: int) -> None:
        """Send what there is room for, and in any case what is waited for."""
        pieces: list[IndexedTask] = []
        free = free_slots(self._flight, self._max_in_flight - len(self._held))
        while self._next is not None and (self._next <= needed or len(pieces) < free):
            pieces.append((self._next, self._grid.window(self._next)))
            self._next = next(self._unsent, None)
        self._flight.submit(pieces)

    def _collect(self) -> None:
        number, made = self._flight.next_completed()
        self._held[number] = {
            (row, column): block
            for row, column, block in made.blocks
            if not self._done[row, column]
        }
        self._landed(number, made)


MEMORY_FRACTION, MAX_TASK_BYTES = 4, 64 * 2**30
"""A row of super-tiles, which may wait for its first one, has at most this part of so much memory,
or of less if the machine has less; unless the smallest has more."""


class DaskExecutor:
    """Makes blocks on a cluster; see `georsr.jobs.run.Executor`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def placement(self) -> DeviceConfig:
        """Where the workers' networks run."""
        return self._cluster.placement

    def memory(self, job: SRJob) -> int:
        """Peak memory of this machine: what waits for its turn, and workers that run here."""
        machines = self._cluster.count()
        waiting = self._largest(job) * (self.grid(job).columns + PREFETCH_TASKS * machines)
        return BASE_MEMORY + waiting + (self._cluster.local or 0) * self.worker_memory(job)

    def worker_memory(self, job: SRJob) -> int:
        """Peak memory of one worker."""
        part = job.part(self.grid(job).window(0).coarser(job.plan.scale))
        return self._largest(job) + memory_of(worker_config(part, self._cluster))

    def grid(self, job: SRJob, top: int = 0) -> TaskGrid:
        """The super-tiles for the workers there are, from a row of the product on."""
        return task_grid(
            job.plan,
            job.layout.blocksize,
            max(1, self._cluster.count()),
            _row_bytes(job),
            min(memory_limit(), MAX_TASK_BYTES) // MEMORY_FRACTION,
            top,
        )

    def _largest(self, job: SRJob) -> int:
        """Bytes of a super-tile of the product."""
        window = self.grid(job).window(0)
        return window.height * window.width * _row_bytes(job) // job.layout.width

    def write_blocks(self, job: SRJob, output: RasterWriter, context: RunContext) -> RunStats:
        """Compute and write the blocks that ``output`` does not have."""
        task = BlockTask(job, model_ref(job.model), self._cluster.config)
        first = int(np.argmax(~output.done.all(axis=1)))
        stats, plan = RunStats(), job.plan
        with context.timer.section("start"):
            self._cluster.start()
        with self._cluster.task_queue(task, context.check_cancelled) as queue:
            grid = self.grid(job, first * job.layout.blocksize)
            done, pixels = grid.top * plan.out_width, plan.out_height * plan.out_width
            context.progress.report(len(plan) * done // pixels)

            def on_result(number: int, result: BlockResult) -> None:
                nonlocal done
                stats.merge(result.stats)
                window = grid.window(number)
                done += window.height * window.width
                context.progress.report(len(plan) * done // pixels)
                context.check_cancelled()

            ordered = OrderedBlocks(job, grid, output.done.copy(), queue, on_result)
            write_in_background(ordered.blocks(context.timer), output.write_encoded, context.timer)
        return stats


def _row_bytes(job: SRJob) -> int:
    return job.layout.width * job.layout.planes * np.dtype(job.layout.dtype).itemsize
