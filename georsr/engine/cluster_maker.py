"""ClusterMaker: many machines make blocks, one file takes them in the order of a single pass."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from georsr.device import Placement
from georsr.engine.cluster import Cluster
from georsr.engine.cluster_hand import BlockHand, MadeBlocks
from georsr.engine.deviation import Deviation
from georsr.engine.flight import Flight
from georsr.engine.job import Job, memory_of
from georsr.engine.maker import write_behind
from georsr.engine.preflight import BASE_MEMORY, memory_limit
from georsr.engine.resident import refer
from georsr.engine.stream import Clock
from georsr.progress import ByArea, Stoppable
from georsr.raster.encoder import EncodedBlock
from georsr.raster.writer import RasterWriter
from georsr.tiling.order import block_order
from georsr.tiling.supertiles import Grid, supertiles
from georsr.types import BoolArray

AHEAD = 2
"""Super-tiles under way for each worker: the next one is there when one is done."""
SHARE, MOST_MEMORY = 4, 64 * 2**30
"""A row of super-tiles, which may wait for its first one, has at most this part of so much memory,
or of less if the machine has less; unless the smallest has more."""

Placed = tuple[int, int, EncodedBlock]
"""Block row, block column, and what stands there."""


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
        grid, row_bytes = _grid(job, machines), _row_bytes(job)
        largest = grid.window(0)
        one = largest.height * largest.width * row_bytes // job.layout.width
        waiting = one * (grid.columns + AHEAD * machines)
        part = job.part(largest.coarser(job.plan.scale))
        return BASE_MEMORY + waiting + (self._cluster.local or 0) * (one + memory_of(part))

    def fill(self, job: Job, writer: RasterWriter, progress: Stoppable, clock: Clock) -> None:
        """Write the blocks that the writer has not."""
        hand = BlockHand(job, refer(job.model), self._cluster.config)
        missing = ~writer.done.all(axis=1)
        first = int(np.argmax(missing))

        def put(item: Placed) -> None:
            writer.write_encoded(*item)

        with self._cluster.flight(hand, progress.look) as flight:
            grid = _grid(job, flight.machines, first * job.layout.blocksize)
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


class InOrder:
    """Blocks that are missing, in the order of a single pass, as soon as that lets them.

    At most `AHEAD` super-tiles for each worker are under way, and those that wait for their turn
    are no more than a row of them and those under way.

    Parameters
    ----------
    job : Job
        Of the product.
    grid : Grid
        Super-tiles of it.
    done : bool (block rows, block columns)
        Blocks that nobody wants any more.
    flight : Flight
        Makes `MadeBlocks` of windows.
    landed : callable
        Told of every super-tile that has come back.
    """

    def __init__(
        self,
        job: Job,
        grid: Grid,
        done: BoolArray,
        flight: Flight,
        landed: Callable[[int, MadeBlocks], None],
    ) -> None:
        self._grid, self._done, self._flight, self._landed = grid, done, flight, landed
        self._size = job.layout.blocksize
        self._order = block_order(job.plan, self._size, grid.top // self._size)
        self._held: dict[int, dict[tuple[int, int], EncodedBlock]] = {}
        self._unsent = (number for number in range(len(grid)) if self._missing(number))
        self._next = next(self._unsent, None)

    def _missing(self, number: int) -> bool:
        """Whether a super-tile has a block that is wanted."""
        window, size = self._grid.window(number), self._size
        rows = slice(window.top // size, -(-window.bottom // size))
        columns = slice(window.left // size, -(-window.right // size))
        return not self._done[rows, columns].all()

    def blocks(self, clock: Clock) -> Generator[Placed, None, None]:
        """Yield them; ``clock`` notes the time spent waiting for the network."""
        for row, column in self._order:
            if self._done[row, column]:
                continue
            number = self._grid.owner(row * self._size, column * self._size)
            while number not in self._held:
                self._send(number)
                with clock.stage("network"):
                    self._land()
            block = self._held[number].pop((row, column))
            if not self._held[number]:
                del self._held[number]
            yield row, column, block

    def _send(self, needed: int) -> None:
        """Send what there is room for, and in any case what is waited for."""
        flight = self._flight
        ahead = AHEAD * flight.machines
        most = self._grid.columns + ahead
        while self._next is not None and (
            self._next <= needed
            or (flight.running < ahead and flight.running + len(self._held) < most)
        ):
            flight.send(self._next, self._grid.window(self._next))
            self._next = next(self._unsent, None)

    def _land(self) -> None:
        number, made = self._flight.land()
        self._held[number] = {
            (row, column): block
            for row, column, block in made.blocks
            if not self._done[row, column]
        }
        self._landed(number, made)


def _grid(job: Job, machines: int, top: int = 0) -> Grid:
    return supertiles(
        job.plan,
        job.layout.blocksize,
        machines,
        _row_bytes(job),
        min(memory_limit(), MOST_MEMORY) // SHARE,
        top,
    )


def _row_bytes(job: Job) -> int:
    return job.layout.width * job.layout.planes * np.dtype(job.layout.dtype).itemsize
