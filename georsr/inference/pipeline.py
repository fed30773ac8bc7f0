"""Stream: the tiles of one raster, read ahead, computed in batches, joined into blocks.

Deviation: how far a network's outputs, shrunk again, were from their source.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from georsr.geo.aoi import AreaOfInterest
from georsr.inference.consistency import ConsistencyTarget
from georsr.inference.predictor import PendingBatch, TilePredictor
from georsr.inference.threads import OrderedThreadPool, prefetch
from georsr.inference.tiles import (
    NetworkInput,
    OutputFormat,
    RowStrip,
    denormalize,
    finalize,
    mask_outside,
    preprocess,
)
from georsr.progress import Progress
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.normalization import Normalization
from georsr.tiling.grid import Tile, TileGrid
from georsr.tiling.stitch import TileStitcher
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window


@dataclass
class ResidualStats:
    """Sums over tiles, in the source's units."""

    total: float = 0.0
    """Of absolute differences."""
    count: int = 0
    """Pixels, band by band."""
    largest: float = 0.0

    def add(
        self, residual: FloatArray, valid: BoolArray | None, tile: Tile, stretch: Normalization
    ) -> None:
        """Add what a tile makes.

        Parameters
        ----------
        residual, valid
            (C, h, w) on the 0..1 scale, of all that the tile reads; None: all valid.
        tile, stretch
            Which one, and its scale.
        """
        inner = (slice(None), *tile.output_window.relative_to(tile.input_window).slices)
        units = stretch.scale_difference(np.abs(residual[inner]))
        if valid is not None:
            units = np.where(valid[inner], units, np.float32(0))
            self.count += int(valid[inner].sum())
        else:
            self.count += units.size
        self.total += float(units.sum(dtype=np.float64))
        self.largest = max(self.largest, float(units.max(initial=0.0)))

    def merge(self, other: ResidualStats) -> None:
        """Add what others have added up."""
        self.total += other.total
        self.count += other.count
        self.largest = max(self.largest, other.largest)

    @property
    def mean(self) -> float:
        """Mean absolute difference; 0 where nothing was looked at."""
        return self.total / self.count if self.count else 0.0


PendingTile = tuple[Tile, RowStrip, NetworkInput | None, bool]
"""A tile, the strip it lies in, what there is to see of it (None: nothing valid), and whether the
network is to see it."""
InFlightBatch = tuple[list[PendingTile], Callable[[], list[PendingBatch]]]
"""Tiles whose outputs are being made, and what waits for those."""

ComputedTile = tuple[Tile, RowStrip, FloatArray | None]
"""A tile's values in product units; None where none is valid."""


@dataclass
class Timer:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
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

    read: Callable[[Window], PixelBlock]
    bands: int
    plan: TileGrid
    stretch: Normalization
    form: OutputFormat
    inference: TilePredictor
    progress: Progress
    clock: Timer
    top: int = 0
    """First output row wanted: a border of blocks."""
    area: AreaOfInterest | None = None
    """Outside of it nothing is computed and every pixel is invalid."""
    kernel: Kernel | None = None
    """What shrinks the product to its source; None: it need not."""
    flat_tiles: bool = False
    """Tiles of one value keep it, without the network."""
    skipped: int = 0
    deviation: ResidualStats = field(default_factory=ResidualStats)
    """How far the network's outputs were from that."""

    def blocks(self) -> Generator[tuple[Window, AnyArray], None, None]:
        """Finished output blocks, in the order they are complete."""
        register = TileStitcher(
            self.plan,
            self.bands,
            self.form.planes,
            np.dtype(self.form.dtype),
            self.form.blocksize,
            self.top,
        )
        self.progress.advance(self._first_row * len(self.plan.columns))
        with closing(self._predict()) as made:
            for tile, strip, values in made:
                done = partial(self._finish, strip=strip)
                with self.clock.section("join"):
                    finished = list(register.add(tile, values, done))
                yield from finished
                self.progress.advance()
        assert register.empty, "every output pixel belongs to a tile"

    def _finish(self, values: FloatArray | None, window: Window, strip: RowStrip) -> AnyArray:
        planes = finalize(values, window, strip, self.form, self.plan.scale)
        outside = None if self.area is None else self.area.outside_mask(window, self.plan.scale)
        if outside is not None:
            planes = mask_outside(planes, outside, self.form)
        return planes

    def _prepare(self, strip: RowStrip, tile: Tile) -> NetworkInput | None:
        if self.area is not None and not self.area.intersects(tile.output_window):
            return None
        return preprocess(strip, tile, self.stretch)

    def _constant_tile(self, ready: NetworkInput, tile: Tile) -> FloatArray:
        s = self.plan.scale
        each = np.ones((1, tile.input_window.height * s, tile.input_window.width * s), np.float32)
        return denormalize(ready.pixels[:, :1, :1] * each, None, tile, self.stretch)

    def _restore(self, output: FloatArray, ready: NetworkInput, tile: Tile) -> FloatArray:
        remainder = ready.remainder if self.kernel is None else None
        return denormalize(output, remainder, tile, self.stretch)

    @property
    def _first_row(self) -> int:
        return self.plan.first_row_for(self.top)

    def _strips(self) -> Iterator[tuple[int, RowStrip]]:
        """Runs in the reader thread."""
        for row in range(self._first_row, len(self.plan.rows)):
            window = self.plan.row_window(row)
            yield row, RowStrip(window, self.read(window))

    def _predict(self) -> Generator[ComputedTile, None, None]:
        """Every tile's values in product units, in plan order, computed in batches.

        Where the device works by itself, one batch is in flight while the tiles before it are
        joined and the tiles after it are prepared. On a CPU a batch for each lane is, and one more
        that waits for the first lane to be free.
        """
        waiting: list[PendingTile] = []
        flying: deque[InFlightBatch] = deque()
        lanes = self.inference.lanes(len(self.plan))
        ahead = lanes.count + 1 if lanes.count > 1 else int(self.inference.overlaps)
        with (
            closing(prefetch(self._strips())) as strips,
            OrderedThreadPool(lanes.count, lanes.enter) as side,
        ):
            while (item := self._next(strips)) is not None:
                row, strip = item
                for tile in self.plan.tiles_in_row(row):
                    with self.clock.section("join"):
                        ready = self._prepare(strip, tile)
                        flat = ready is not None and self.flat_tiles and ready.flat
                        waiting.append((tile, strip, ready, ready is not None and not flat))
                    if self._batch_ready(waiting):
                        flying.append(self._submit(waiting, side))
                        waiting = []
                    while len(flying) > ahead:
                        yield from self._collect(flying.popleft())
            flying.append(self._submit(waiting, side))
            while flying:
                yield from self._collect(flying.popleft())

    def _batch_ready(self, waiting: list[PendingTile]) -> bool:
        """A batch is full, there is nothing to batch, or too many strips would be held."""
        busy = sum(seen for _, _, _, seen in waiting)
        return busy in (0, self.inference.batch) or len(waiting) >= 4 * self.inference.batch

    def _next(self, strips: Iterator[tuple[int, RowStrip]]) -> tuple[int, RowStrip] | None:
        with self.clock.section("read"):
            return next(strips, None)

    def _submit(self, waiting: list[PendingTile], side: OrderedThreadPool) -> InFlightBatch:
        busy = [(tile, ready) for tile, _, ready, seen in waiting if ready is not None and seen]
        if not busy:
            return waiting, list
        names = [f"tile {tile.index} ({tile.input_window})" for tile, _ in busy]
        tiles = [ready.pixels for _, ready in busy]
        aims = [ConsistencyTarget(ready.remainder, ready.valid) for _, ready in busy]
        ask = partial(self.inference.submit, tiles, names, aims, self.kernel)
        with self.clock.section("network"):
            return waiting, side.submit(ask)

    def _collect(self, flight: InFlightBatch) -> Iterator[ComputedTile]:
        waiting, landing = flight
        with self.clock.section("network"):
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
                yield tile, strip, None if ready is None else self._constant_tile(ready, tile)
                continue
            with self.clock.section("join"):
                output, residual = next(outputs)
                if residual is not None:
                    self.deviation.add(residual, ready.valid, tile, self.stretch)
                values = self._restore(output, ready, tile)
            yield tile, strip, values
