"""Stream: the tiles of one raster, read ahead, computed in batches, joined into blocks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from georsr.engine.consistency import Aim
from georsr.engine.deviation import Deviation
from georsr.engine.inference import Batch, Inference
from georsr.engine.patch import Form, Prepared, Strip, blank, finish, prepare, restore
from georsr.engine.pipeline import SideBySide, read_ahead
from georsr.kernels import Kernel
from georsr.progress import Progress
from georsr.raster.aoi import Area
from georsr.raster.reader import Patch
from georsr.raster.stretch import Stretch
from georsr.tiling.plan import Tile, TilePlan
from georsr.tiling.register import Register
from georsr.types import AnyArray, FloatArray, Window

Waiting = tuple[Tile, Strip, Prepared | None, bool]
"""A tile, the strip it lies in, what there is to see of it (None: nothing valid), and whether the
network is to see it."""
Flight = tuple[list[Waiting], Callable[[], list[Batch]]]
"""Tiles whose outputs are being made, and what waits for those."""

Made = tuple[Tile, Strip, FloatArray | None]
"""A tile's values in product units; None where none is valid."""


@dataclass
class Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside the block to ``name``."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - since

    def rounded(self) -> dict[str, float]:
        """Seconds by stage, to the millisecond, of stages that are over."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}


@dataclass
class TileStream:
    """One pass over the raster with one tile size."""

    read: Callable[[Window], Patch]
    bands: int
    plan: TilePlan
    stretch: Stretch
    form: Form
    inference: Inference
    progress: Progress
    clock: Clock
    top: int = 0
    """First output row wanted: a border of blocks."""
    area: Area | None = None
    """Outside of it nothing is computed and every pixel is invalid."""
    kernel: Kernel | None = None
    """What shrinks the product to its source; None: it need not."""
    flat_tiles: bool = False
    """Tiles of one value keep it, without the network."""
    skipped: int = 0
    deviation: Deviation = field(default_factory=Deviation)
    """How far the network's outputs were from that."""

    def blocks(self) -> Generator[tuple[Window, AnyArray], None, None]:
        """Finished output blocks, in the order they are complete."""
        register = Register(
            self.plan,
            self.bands,
            self.form.planes,
            np.dtype(self.form.dtype),
            self.form.blocksize,
            self.top,
        )
        self.progress.advance(self._first_row * len(self.plan.columns))
        with closing(self._made_tiles()) as made:
            for tile, strip, values in made:
                done = partial(self._finish, strip=strip)
                with self.clock.stage("join"):
                    finished = list(register.add(tile, values, done))
                yield from finished
                self.progress.advance()
        assert register.empty, "every output pixel belongs to a tile"

    def _finish(self, values: FloatArray | None, window: Window, strip: Strip) -> AnyArray:
        planes = finish(values, window, strip, self.form, self.plan.scale)
        outside = None if self.area is None else self.area.outside(window, self.plan.scale)
        if outside is not None:
            planes = blank(planes, outside, self.form)
        return planes

    def _prepare(self, strip: Strip, tile: Tile) -> Prepared | None:
        if self.area is not None and not self.area.touches(tile.made):
            return None
        return prepare(strip, tile, self.stretch)

    def _flat(self, ready: Prepared, tile: Tile) -> FloatArray:
        s = self.plan.scale
        each = np.ones((1, tile.read.height * s, tile.read.width * s), np.float32)
        return restore(ready.pixels[:, :1, :1] * each, None, tile, self.stretch)

    def _restore(self, output: FloatArray, ready: Prepared, tile: Tile) -> FloatArray:
        remainder = ready.remainder if self.kernel is None else None
        return restore(output, remainder, tile, self.stretch)

    @property
    def _first_row(self) -> int:
        return self.plan.first_row(self.top)

    def _strips(self) -> Iterator[tuple[int, Strip]]:
        """Runs in the reader thread."""
        for row in range(self._first_row, len(self.plan.rows)):
            window = self.plan.strip(row)
            yield row, Strip(window, self.read(window))

    def _made_tiles(self) -> Generator[Made, None, None]:
        """Every tile's values in product units, in plan order, computed in batches.

        Where the device works by itself, one batch is in flight while the tiles before it are
        joined and the tiles after it are prepared. On a CPU a batch for each lane is, and one more
        that waits for the first lane to be free.
        """
        waiting: list[Waiting] = []
        flying: deque[Flight] = deque()
        lanes = self.inference.lanes(len(self.plan))
        ahead = lanes.count + 1 if lanes.count > 1 else int(self.inference.overlaps)
        with (
            closing(read_ahead(self._strips())) as strips,
            SideBySide(lanes.count, lanes.enter) as side,
        ):
            while (item := self._next(strips)) is not None:
                row, strip = item
                for tile in self.plan.tiles_in_row(row):
                    with self.clock.stage("join"):
                        ready = self._prepare(strip, tile)
                        flat = ready is not None and self.flat_tiles and ready.flat
                        waiting.append((tile, strip, ready, ready is not None and not flat))
                    if self._due(waiting):
                        flying.append(self._submit(waiting, side))
                        waiting = []
                    while len(flying) > ahead:
                        yield from self._land(flying.popleft())
            flying.append(self._submit(waiting, side))
            while flying:
                yield from self._land(flying.popleft())

    def _due(self, waiting: list[Waiting]) -> bool:
        """A batch is full, there is nothing to batch, or too many strips would be held."""
        busy = sum(seen for _, _, _, seen in waiting)
        return busy in (0, self.inference.batch) or len(waiting) >= 4 * self.inference.batch

    def _next(self, strips: Iterator[tuple[int, Strip]]) -> tuple[int, Strip] | None:
        with self.clock.stage("read"):
            return next(strips, None)

    def _submit(self, waiting: list[Waiting], side: SideBySide) -> Flight:
        busy = [(tile, ready) for tile, _, ready, seen in waiting if ready is not None and seen]
        if not busy:
            return waiting, list
        names = [f"tile {tile.index} ({tile.read})" for tile, _ in busy]
        tiles = [ready.pixels for _, ready in busy]
        aims = [Aim(ready.remainder, ready.valid) for _, ready in busy]
        ask = partial(self.inference.submit, tiles, names, aims, self.kernel)
        with self.clock.stage("network"):
            return waiting, side.start(ask)

    def _land(self, flight: Flight) -> Iterator[Made]:
        waiting, landing = flight
        with self.clock.stage("network"):
            outputs = iter(
                [
                    pair
                    for batch in landing()
                    for pair in zip(batch.result(), batch.residuals(), strict=True)
                ]
            )
        for tile, strip, ready, seen in waiting:
            if ready is None or not seen:
                self.skipped += 1
                yield tile, strip, None if ready is None else self._flat(ready, tile)
                continue
            with self.clock.stage("join"):
                output, residual = next(outputs)
                if residual is not None:
                    self.deviation.add(residual, ready.valid, tile, self.stretch)
                values = self._restore(output, ready, tile)
            yield tile, strip, values
