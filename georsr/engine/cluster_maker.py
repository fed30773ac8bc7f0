"""ClusterMaker: many machines make blocks, one file takes them in the order of a single pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from georsr.device import Placement
from georsr.engine.cluster import Cluster, as_worker
from georsr.engine.cluster_hand import BlockHand, MadeBlocks
from georsr.engine.deviation import Deviation
from georsr.engine.flight import AHEAD
from georsr.engine.job import Job, memory_of
from georsr.engine.maker import write_behind
from georsr.engine.order import InOrder, Placed
from georsr.engine.preflight import BASE_MEMORY
from georsr.engine.resident import refer
from georsr.engine.stream import Clock
from georsr.machine import memory_limit
from georsr.progress import ByArea, Stoppable
from georsr.raster.writer import RasterWriter
from georsr.tiling.supertiles import Grid, supertiles

SHARE, MOST_MEMORY = 4, 64 * 2**30
"""A row of super-tiles, which may wait for its first one, has at most this part of so much memory,
or of less if the machine has less; unless the smallest has more."""


class ClusterMaker:
    """Makes blocks on a cluster; see `georsr.engine.maker.Maker`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.batch = self.skipped = 0
        self.deviation = Deviation()

    @property
    def placement(self) -> Placement:
        """Where the workers' networks run."""
        return self._cluster.placement

    def memory(self, job: Job) -> int:
        """Peak memory of this machine: what waits for its turn, and workers that run here."""
        machines = self._cluster.count()
        waiting = self._largest(job) * (self.grid(job).columns + AHEAD * machines)
        return BASE_MEMORY + waiting + (self._cluster.local or 0) * self.worker_memory(job)

    def worker_memory(self, job: Job) -> int:
        """Peak memory of one worker."""
        part = job.part(self.grid(job).window(0).coarser(job.plan.scale))
        return self._largest(job) + memory_of(as_worker(part, self._cluster))

    def grid(self, job: Job, top: int = 0) -> Grid:
        """The super-tiles for the workers there are, from a row of the product on."""
        return supertiles(
            job.plan,
            job.layout.blocksize,
            max(1, self._cluster.count()),
            _row_bytes(job),
            min(memory_limit(), MOST_MEMORY) // SHARE,
            top,
        )

    def _largest(self, job: Job) -> int:
        """Bytes of a super-tile of the product."""
        window = self.grid(job).window(0)
        return window.height * window.width * _row_bytes(job) // job.layout.width

    def fill(self, job: Job, writer: RasterWriter, progress: Stoppable, clock: Clock) -> None:
        """Write the blocks that the writer has not."""
        hand = BlockHand(job, refer(job.model), self._cluster.config)
        missing = ~writer.done.all(axis=1)
        first = int(np.argmax(missing))

        def put(item: Placed) -> None:
            writer.write_encoded(*item)

        with clock.stage("start"):
            self._cluster.join()
        with self._cluster.flight(hand, progress.look) as flight:
            grid = self.grid(job, first * job.layout.blocksize)
            landed = self._counted(job, grid, progress)
            source = InOrder(job, grid, writer.done.copy(), flight, landed)
            write_behind(put, source.blocks(clock), clock)

    def _counted(
        self, job: Job, grid: Grid, progress: Stoppable
    ) -> Callable[[int, MadeBlocks], None]:
        """What is told of every super-tile that lands."""
        told = ByArea(progress, len(job.plan), job.plan.out_height * job.plan.out_width)
        told.add(grid.top * job.plan.out_width)

        def count(number: int, made: MadeBlocks) -> None:
            window = grid.window(number)
            told.add(window.height * window.width)
            self.batch = max(self.batch, made.batch)
            self.skipped += made.skipped
            self.deviation.merge(made.deviation)

        return count


def _row_bytes(job: Job) -> int:
    return job.layout.width * job.layout.planes * np.dtype(job.layout.dtype).itemsize
