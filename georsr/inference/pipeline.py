"""Turn the tiles of a raster into finished blocks of the output.

`TilePipeline.blocks` is the loop of every run: rows of tiles are read ahead in a thread,
preprocessed, predicted in batches, stitched, converted to the output's data type and collected in
blocks. Runs on files, parts of an output, Dask workers and arrays in memory all use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from georsr.inference.consistency import ConsistencyTarget
from georsr.inference.predictor import PendingBatch, TilePredictor
from georsr.inference.threads import OrderedThreadPool, prefetch
from georsr.inference.tiles import (
    NetworkInput,
    OutputFormat,
    RowStrip,
    constant_tile,
    denormalize,
    finalize,
    mask_outside,
    preprocess,
)
from georsr.progress import RunContext
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.normalization import Normalization, calculation_dtype, unscaled
from georsr.tiling.grid import Tile, TileGrid
from georsr.tiling.stitch import BlockAssembler, TileStitcher
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window

if TYPE_CHECKING:
    from georsr.geo.aoi import AreaOfInterest


@dataclass
class ResidualStats:
    """Sums of the differences between a source and the network's downsampled outputs.

    Attributes
    ----------
    total : float
        Sum of absolute differences, in source units.
    count : int
        Number of valid pixels, counted in each band.
    largest : float
        Largest absolute difference, in source units.
    """

    total: float = 0.0
    count: int = 0
    largest: float = 0.0

    def add(
        self, residual: FloatArray, valid: BoolArray | None, tile: Tile, stretch: Normalization
    ) -> None:
        """Add the differences of one tile.

        Parameters
        ----------
        residual
            (C, h, w) of the tile's input window, on the 0..1 scale.
        valid
            (C, h, w) bool; None if every pixel is valid.
        tile
            Position of the tile; only its output window counts.
        stretch
            Scale of the residual.
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
        """Add the sums of other tiles."""
        self.total += other.total
        self.count += other.count
        self.largest = max(self.largest, other.largest)

    @property
    def mean(self) -> float:
        """Mean absolute difference; 0 without pixels."""
        return self.total / self.count if self.count else 0.0


@dataclass
class RunStats:
    """Statistics of a run, for its report.

    Attributes
    ----------
    batch : int
        Tiles per call of the network.
    skipped : int
        Tiles that the network did not see, because no pixel is valid or all are the same.
    residuals : ResidualStats
        Differences between the source and the network's downsampled outputs.
    """

    batch: int = 0
    skipped: int = 0
    residuals: ResidualStats = field(default_factory=ResidualStats)

    def merge(self, other: RunStats) -> None:
        """Add the statistics of another part of the run."""
        self.batch = max(self.batch, other.batch)
        self.skipped += other.skipped
        self.residuals.merge(other.residuals)


@dataclass
class TileResult:
    """A tile on its way through the pipeline.

    Attributes
    ----------
    tile : Tile
        Position of the tile.
    strip : RowStrip
        Source pixels of the tile's grid row.
    network_input : NetworkInput or None
        Pixels for the network; None if no pixel of the tile is valid.
    constant : bool
        Whether the tile keeps its one value, without the network.
    output : ndarray or None
        (C, s * h, s * w) float32, output of the network; None before, or without one.
    """

    tile: Tile
    strip: RowStrip
    network_input: NetworkInput | None
    constant: bool = False
    output: FloatArray | None = None

    @property
    def needs_network(self) -> bool:
        """Whether the network has to see the tile."""
        return self.network_input is not None and not self.constant


InFlightBatch = tuple[list[TileResult], Callable[[], list[PendingBatch]]]
"""Tiles of a batch, and a function that waits for their outputs."""


@dataclass
class TilePipeline:
    """Predicts the tiles of one raster.

    Attributes
    ----------
    read : callable
        Returns the pixels of a window of the source. Called from another thread.
    bands : int
        Number of bands of the source.
    plan : TileGrid
        Grid of the tiles.
    stretch : Normalization
        Scales source units to 0..1; replaced by `unscaled` if the predictor interpolates.
    predictor : TilePredictor
        Runs the network.
    context : RunContext
        Progress, cancellation and timing.
    area : AreaOfInterest or None
        Area outside of which nothing is computed and every pixel is invalid; None for no limit.
    kernel : Kernel or None
        Kernel that has to downsample the output to the source; None if it need not.
    skip_constant_tiles : bool
        Whether tiles of one value keep it, without the network.
    stats : RunStats
        Statistics of the tiles so far.
    """

    read: Callable[[Window], PixelBlock]
    bands: int
    plan: TileGrid
    stretch: Normalization
    predictor: TilePredictor
    context: RunContext = field(default_factory=RunContext)
    area: AreaOfInterest | None = None
    kernel: Kernel | None = None
    skip_constant_tiles: bool = False
    stats: RunStats = field(default_factory=RunStats)

    def __post_init__(self) -> None:
        if self.predictor.interpolates:
            self.stretch = unscaled(self.bands)

    def blocks(
        self, output_format: OutputFormat, top: int = 0
    ) -> Generator[tuple[Window, AnyArray], None, None]:
        """Yield the finished blocks of the output, in the order in which they are complete.

        Parameters
        ----------
        output_format
            Data type, nodata value, planes and block size of the output.
        top
            First output row to compute, a multiple of the block size. The blocks do not depend
            on it.
        """
        stitcher = TileStitcher(self.plan, self.bands)
        assembler = block_assembler(self.plan, output_format, top)
        with closing(self.predicted_tiles(top)) as tiles:
            for result in tiles:
                with self.context.timer.section("join"):
                    values = self._denormalize(result)
                    window, values = stitcher.add(result.tile, values)
                    complete = []
                    if window.height and window.width:
                        pixels = self._finalize(values, window, result.strip, output_format)
                        complete = list(assembler.add(window, pixels))
                yield from complete
                self.finish_tile(result.tile)
        assert assembler.n_incomplete == 0, "every output pixel belongs to a tile"

    def predicted_tiles(self, top: int = 0) -> Generator[TileResult, None, None]:
        """Yield every tile with the output of the network, in the order of the grid.

        On a GPU, one batch is computed while the tiles before it are joined and those after it are
        prepared. On a CPU, one batch for each thread is, and another waits for a free thread.

        Parameters
        ----------
        top
            First output row that is wanted.
        """
        first_row = self.plan.first_row_for(top)
        self.context.progress.report(first_row * len(self.plan.columns))
        self.context.check_cancelled()
        waiting: list[TileResult] = []
        in_flight: deque[InFlightBatch] = deque()
        lanes = self.predictor.lanes(len(self.plan))
        ahead = lanes.count + 1 if lanes.count > 1 else int(self.predictor.overlaps)
        with (
            closing(prefetch(self._strips(first_row))) as strips,
            OrderedThreadPool(lanes.count, lanes.enter) as pool,
        ):
            while (item := self._next(strips)) is not None:
                row, strip = item
                for tile in self.plan.tiles_in_row(row):
                    with self.context.timer.section("join"):
                        waiting.append(self._preprocess(strip, tile))
                    if self._batch_ready(waiting):
                        in_flight.append((waiting, self._submit(waiting, pool)))
                        waiting = []
                    while len(in_flight) > ahead:
                        yield from self._collect(*in_flight.popleft())
            in_flight.append((waiting, self._submit(waiting, pool)))
            while in_flight:
                yield from self._collect(*in_flight.popleft())

    def finish_tile(self, tile: Tile) -> None:
        """Report that a tile is done.

        Raises
        ------
        InterruptedRunError
            The run is to stop.
        """
        self.context.progress.report(tile.index + 1)
        self.context.check_cancelled()

    def _strips(self, first_row: int) -> Iterator[tuple[int, RowStrip]]:
        """Read the source, one grid row at a time; runs in the reader thread."""
        for row in range(first_row, len(self.plan.rows)):
            window = self.plan.row_window(row)
            yield row, RowStrip(window, self.read(window))

    def _next(self, strips: Iterator[tuple[int, RowStrip]]) -> tuple[int, RowStrip] | None:
        with self.context.timer.section("read"):
            return next(strips, None)

    def _preprocess(self, strip: RowStrip, tile: Tile) -> TileResult:
        if self.area is not None and not self.area.intersects(tile.output_window):
            return TileResult(tile, strip, None)
        ready = preprocess(strip, tile, self.stretch)
        constant = ready is not None and self.skip_constant_tiles and ready.flat
        return TileResult(tile, strip, ready, constant)

    def _batch_ready(self, waiting: list[TileResult]) -> bool:
        """Return whether a batch is full, is not needed, or would hold too many strips."""
        count = sum(result.needs_network for result in waiting)
        return count in (0, self.predictor.batch) or len(waiting) >= 4 * self.predictor.batch

    def _submit(
        self, waiting: list[TileResult], pool: OrderedThreadPool
    ) -> Callable[[], list[PendingBatch]]:
        """Start to predict a batch; return a function that waits for it."""
        pixels, names, targets = [], [], []
        for result in waiting:
            ready, tile = result.network_input, result.tile
            if ready is not None and result.needs_network:
                pixels.append(ready.pixels)
                names.append(f"tile {tile.index} ({tile.input_window})")
                targets.append(ConsistencyTarget(ready.remainder, ready.valid))
        if not pixels:
            return list
        predict = partial(self.predictor.submit, pixels, names, targets, self.kernel)
        with self.context.timer.section("network"):
            return pool.submit(predict)

    def _collect(
        self, waiting: list[TileResult], wait: Callable[[], list[PendingBatch]]
    ) -> Iterator[TileResult]:
        """Wait for a batch and yield its tiles."""
        with self.context.timer.section("network"):
            outputs = iter(
                [
                    pair
                    for batch in wait()
                    for pair in zip(batch.result(), batch.residuals(), strict=True)
                ]
            )
        self.stats.batch = self.predictor.batch  # it may have shrunk
        for result in waiting:
            ready = result.network_input
            if ready is None or not result.needs_network:
                self.stats.skipped += 1
                yield result
                continue
            with self.context.timer.section("join"):
                result.output, residual = next(outputs)
                if residual is not None:
                    self.stats.residuals.add(residual, ready.valid, result.tile, self.stretch)
            yield result

    def _denormalize(self, result: TileResult) -> FloatArray | None:
        """Return the tile in source units; None if no pixel is valid."""
        ready = result.network_input
        if ready is None:
            return None
        if result.output is None:
            output, remainder = constant_tile(ready, result.tile, self.plan.scale), None
        else:
            # with a kernel, the predictor has added the remainder already
            output, remainder = result.output, ready.remainder if self.kernel is None else None
        dtype = calculation_dtype(result.strip.patch.values.dtype.name)
        return denormalize(output, remainder, result.tile, self.stretch, dtype)

    def _finalize(
        self,
        values: FloatArray | None,
        window: Window,
        strip: RowStrip,
        output_format: OutputFormat,
    ) -> AnyArray:
        """Return pixels of the output's data type, invalid outside of the area."""
        pixels = finalize(values, window, strip, output_format, self.plan.scale, self.stretch)
        outside = None if self.area is None else self.area.outside_mask(window, self.plan.scale)
        return pixels if outside is None else mask_outside(pixels, outside, output_format)


def block_assembler(plan: TileGrid, output_format: OutputFormat, top: int = 0) -> BlockAssembler:
    """Create the assembler of an output's blocks."""
    return BlockAssembler(
        plan.out_height,
        plan.out_width,
        output_format.planes,
        np.dtype(output_format.dtype),
        output_format.blocksize,
        top,
    )
