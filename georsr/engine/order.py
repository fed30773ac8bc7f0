"""InOrder: blocks that many machines make at once, in the order of a single pass."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from georsr.engine.flight import AHEAD, Flight, Numbered, room
from georsr.tiling.order import block_order
from georsr.tiling.supertiles import Grid
from georsr.types import BoolArray

if TYPE_CHECKING:
    from georsr.engine.cluster_hand import MadeBlocks
    from georsr.engine.job import Job
    from georsr.engine.stream import Clock
    from georsr.raster.encoder import EncodedBlock

Placed = tuple[int, int, "EncodedBlock"]
"""Block row, block column, and what stands there."""


class InOrder:
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

    @property
    def _most(self) -> int:
        """Super-tiles that may be under way or wait for their turn."""
        return self._grid.columns + AHEAD * self._flight.machines

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
        pieces: list[Numbered] = []
        free = room(self._flight, self._most - len(self._held))
        while self._next is not None and (self._next <= needed or len(pieces) < free):
            pieces.append((self._next, self._grid.window(self._next)))
            self._next = next(self._unsent, None)
        self._flight.send(pieces)

    def _land(self) -> None:
        number, made = self._flight.land()
        self._held[number] = {
            (row, column): block
            for row, column, block in made.blocks
            if not self._done[row, column]
        }
        self._landed(number, made)
