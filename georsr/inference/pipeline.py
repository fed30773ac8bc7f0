"""Turn the tiles of a raster into finished blocks of the output.

`TilePipeline.blocks` is the loop of every run: rows of tiles are read ahead in a thread,
preprocessed, predicted in batches, stitched, converted to the output's data type and collected in
blocks. Runs on files, parts of an output, Dask workers and arrays in memory all use it. What
happens when a tile does not fit into memory is elsewhere: `georsr.inference.predictor` halves the
batch, then `georsr.jobs.run` the tile.

The main thread may be interrupted anywhere, by an exception out of a signal handler. `queue.Queue`
then loses wake-ups or keeps its lock (CPython's Condition.notify, gh-92530), and no thread ends.
`queue.SimpleQueue` is safe but unbounded, so that a thread checks the number of items before it
puts another.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, TypeVarTuple, cast

import numpy as np

from georsr.config import SRConfig
from georsr.errors import InputError, InterruptedRunError
from georsr.inference.backends import PendingBatch
from georsr.inference.consistency import ConsistencyTarget
from georsr.inference.model_bands import check_bands
from georsr.inference.predictor import TilePredictor
from georsr.io.metadata import RasterInfo
from georsr.io.reader import RasterReader, choose_normalization
from georsr.models.arrays import upsample_bilinear
from georsr.models.spec import ModelSpec
from georsr.progress import RunContext, Timer
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.nodata import dataset_mask
from georsr.radiometry.normalization import Normalization, calculation_dtype, unscaled
from georsr.radiometry.quantize import (
    broadcast_pixel,
    invalid_pixels,
    quantize,
    quantize_alpha,
    replicate,
)
from georsr.tiling.grid import Tile, TileGrid, make_grid
from georsr.tiling.stitch import BlockAssembler, TileStitcher, pad_to
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window

if TYPE_CHECKING:
    from georsr.geo.aoi import AreaOfInterest


def make_tile_grid(height: int, width: int, spec: ModelSpec, config: SRConfig) -> TileGrid:
    """Create the tile grid of a scene, by the options or else the specification of the model."""
    halo = spec.halo if config.halo is None else config.halo
    overlap = spec.overlap if config.overlap is None else config.overlap
    if config.blend == "crop":
        halo, overlap = halo + overlap // 2, overlap % 2
    return make_grid(
        height,
        width,
        scale=spec.scale,
        tile=config.tile_size or spec.tile,
        halo=halo,
        overlap=overlap,
        multiple_of=spec.multiple_of,
    )


def tile_grid_of(
    info: RasterInfo, spec: ModelSpec, config: SRConfig, area: AreaOfInterest | None = None
) -> TileGrid:
    """Create the tile grid of a run.

    The tiles of an area are those of the whole raster, so that its pixels are the same.
    """
    tile_grid = make_tile_grid(info.height, info.width, spec, config)
    return tile_grid if area is None else tile_grid.subgrid(area.window)


class OutputFormat(Protocol):
    """Data type, nodata value, planes and block size of an output: of a file or of an array."""

    @property
    def dtype(self) -> str:
        """Name of the data type."""

    @property
    def nodata(self) -> float | None:
        """Value of invalid pixels, if one is declared."""

    @property
    def alpha(self) -> bool:
        """Whether an alpha plane follows the bands."""

    @property
    def mask(self) -> bool:
        """Whether a plane of 0 and 1 comes last."""

    @property
    def planes(self) -> int:
        """Bands, alpha and mask together."""

    @property
    def blocksize(self) -> int:
        """Height and width of blocks."""


@dataclass(frozen=True)
class RowStrip:
    """Source pixels that the tiles of one grid row read."""

    window: Window
    patch: PixelBlock

    def cut(self, window: Window) -> tuple[AnyArray, AnyArray, AnyArray | None]:
        """Return (values, valid, alpha) inside ``window`` (image coordinates), as views."""
        rows, columns = window.relative_to(self.window).slices
        alpha = self.patch.alpha
        return (
            self.patch.values[:, rows, columns],
            self.patch.valid[:, rows, columns],
            None if alpha is None else alpha[rows, columns],
        )


@dataclass(frozen=True)
class NetworkInput:
    """A tile ready for the network."""

    pixels: FloatArray
    """(C, h, w) in 0..1, padded to the tile's size."""
    remainder: FloatArray | None
    """(C, h, w): what the clip to 0..1 took away; None when nothing."""
    valid: BoolArray | None = None
    """(C, h, w): False where a pixel was filled or padded; None when none was."""
    constant: bool = False
    """Whether all valid source pixels have the same value in each band."""


def preprocess(strip: RowStrip, tile: Tile, normalization: Normalization) -> NetworkInput | None:
    """Cut, fill, normalize and pad one tile; None if no pixel of its output is valid."""
    valid_output = strip.cut(tile.output_window)[1]
    if not valid_output.any():
        return None
    inside = tile.input_window.intersection(strip.window)
    assert inside is not None, "a tile lies in its own strip"
    values, valid, _ = strip.cut(inside)
    usable = normalization.usable(values, valid)
    clipped, remainder = normalization.clip_with_remainder(
        normalization.forward_filled(values, usable)
    )
    height, width = tile.input_window.height, tile.input_window.width
    padding = ((0, 0), (0, height - inside.height), (0, width - inside.width))
    return NetworkInput(
        pad_to(clipped, height, width),
        None if remainder is None else pad_to(remainder, height, width),
        None if usable.all() and not np.any(padding) else np.pad(usable, padding),
        _is_constant(values, valid),
    )


CONSTANT_RADIUS = 4
"""Distance in source pixels within which each band has one value around a pixel that keeps it. The
halo of the bundled networks is as large, and so much of the source lies around every pixel."""


def constant_pixels(strip: RowStrip, window: Window) -> BoolArray | None:
    """Return the pixels of a window that keep their value, because all pixels around them have it.

    Parameters
    ----------
    strip
        Source pixels of the window and at least `CONSTANT_RADIUS` pixels around it.
    window
        Window in source pixels.

    Returns
    -------
    bool (C, h, w) or None
        True where all valid pixels within `CONSTANT_RADIUS` rows and columns have one value in
        each band, and the pixel is valid; None if there is no such pixel.
    """
    around = window.grow(CONSTANT_RADIUS).intersection(strip.window)
    assert around is not None, "a window lies in its own strip"
    values, valid, _ = strip.cut(around)
    constant = _constant_around(values, valid, CONSTANT_RADIUS)
    if not constant.any():
        return None
    inside = window.relative_to(around).slices
    return constant[inside] & valid[(slice(None), *inside)]


def _is_constant(values: AnyArray, valid: BoolArray) -> bool:
    """Return whether the valid pixels of each band of (C, h, w) have one value."""
    if valid.all() and (values[:, 0] != values[:, 0, :1]).any():
        return False  # cheaper than looking at all pixels
    limits = _limits(values.dtype)
    lowest = values.min((1, 2), where=valid, initial=limits.max)
    highest = values.max((1, 2), where=valid, initial=limits.min)
    return bool((lowest >= highest).all())


def _limits(dtype: np.dtype[Any]) -> Any:
    """Return the lowest and highest value of a data type."""
    return np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)


def _constant_around(values: AnyArray, valid: BoolArray, radius: int) -> BoolArray:
    """Return whether the valid pixels around each pixel of (C, h, w) have one value: (h, w)."""
    if valid.all():
        thinned = values[:, ::2, ::2]  # most images have no two equal pixels side by side
        equal = (thinned[:, 1:, 1:] == thinned[:, 1:, :-1]) & (
            thinned[:, 1:, 1:] == thinned[:, :-1, 1:]
        )
        if min(equal.shape[1:]) and not equal.all(0).any():
            return np.zeros(values.shape[1:], bool)
    limits = _limits(values.dtype)
    lowest = _sliding(np.minimum, np.where(valid, values, limits.max), limits.max, radius)
    highest = _sliding(np.maximum, np.where(valid, values, limits.min), limits.min, radius)
    return np.asarray((lowest >= highest).all(0))


def _sliding(function: np.ufunc, planes: AnyArray, edge: float, radius: int) -> AnyArray:
    """Return the minimum or maximum around each pixel of (C, h, w); ``edge`` changes none."""
    size = 2 * radius + 1
    padded = np.pad(planes, ((0, 0), (radius, radius), (radius, radius)), constant_values=edge)
    for axis in (1, 2):
        width = 1
        while width < size:
            step = min(width, size - width)
            first, second = [slice(None)] * 3, [slice(None)] * 3
            first[axis], second[axis] = slice(None, -step), slice(step, None)
            padded = function(padded[tuple(first)], padded[tuple(second)])
            width += step
    return padded


def constant_tile(network_input: NetworkInput, tile: Tile, scale: int) -> FloatArray:
    """Return a tile of one value, enlarged without the network: (C, s * h, s * w) in 0..1."""
    height, width = tile.input_window.height * scale, tile.input_window.width * scale
    return network_input.pixels[:, :1, :1] * np.ones((1, height, width), network_input.pixels.dtype)


def denormalize(
    output: FloatArray,
    remainder: FloatArray | None,
    tile: Tile,
    normalization: Normalization,
    dtype: np.dtype[np.floating],
) -> FloatArray:
    """Return the network's output in source units, cut to the output window of the tile.

    Parameters
    ----------
    output
        (C, s * h, s * w) for the padded tile, around 0..1. Its memory is used for what is returned:
        fewer large arrays come and go, and leave fewer gaps in the heap.
    remainder
        (C, h, w) part of the values outside 0..1, which is added to ``output``; None if all are
        inside.
    tile, normalization
        Tile of the grid, and normalization.
    dtype
        Type to calculate in: `georsr.radiometry.normalization.calculation_dtype` of the source.

    Returns
    -------
    ndarray
        (C, s * made.height, s * made.width) of ``dtype`` in the source's units, which nothing else
        uses.
    """
    scale = output.shape[1] // tile.input_window.height
    inner = tile.output_window.relative_to(tile.input_window)
    cut = (slice(None), *inner.scaled(scale).slices)
    values = output[cut]
    if remainder is not None:
        # bilinear: what lies beyond the range must not ring
        values = values + upsample_bilinear(remainder, scale)[cut]
    return normalization.inverse(values, out=values, dtype=dtype)


def finalize(
    values: FloatArray | None,
    window: Window,
    strip: RowStrip,
    form: OutputFormat,
    scale: int,
    normalization: Normalization,
    *,
    keep_constant: bool = False,
) -> AnyArray:
    """Round, clip, restore invalid pixels, and add alpha and mask planes.

    Parameters
    ----------
    values
        (C, H, W) in the source's units, blended; None where no pixel is valid. Pixels whose source
        is out of the network's reach are replaced by it.
    window
        Where they lie in the output; its edges are multiples of ``scale``.
    strip, form, scale, normalization
        Source pixels below, the output's form, pixels per source pixel, range of the network.
    keep_constant
        Whether `constant_pixels` get the value of the source.

    Returns
    -------
    ndarray
        (P, H, W) in the output's dtype: bands, then alpha where the output has one, then
        non-zero for valid pixels where it has a mask. Without values it may be one pixel that
        repeats (`georsr.radiometry.quantize`), which cannot be written.
    """
    source_window = window.coarser(scale)
    source, valid, alpha = strip.cut(source_window)
    masked = form.mask or form.alpha
    low = []
    if form.alpha and alpha is not None:
        low.append(quantize_alpha(alpha, form.dtype)[None])
    if form.mask:
        low.append(dataset_mask(valid)[None].astype(form.dtype))
    if values is None:
        bands = invalid_pixels(source, form.dtype, form.nodata, masked=masked)
        return replicate(np.concatenate([bands, *low]) if low else bands, scale)
    beyond = normalization.out_of_reach(source)
    if beyond is not None:
        np.copyto(values, replicate(source, scale), where=replicate(beyond, scale))
    whole = bool(valid.all())
    pixels = quantize(
        values,
        None if whole else replicate(valid, scale),
        None if whole else replicate(source, scale),
        form.dtype,
        form.nodata,
        masked=masked,
    )
    if keep_constant and (constant := constant_pixels(strip, source_window)) is not None:
        exact = quantize(source.astype(np.float64), None, None, form.dtype, form.nodata)
        pixels = np.where(replicate(constant, scale), replicate(exact, scale), pixels)
    return np.concatenate([pixels, *(replicate(plane, scale) for plane in low)]) if low else pixels


def mask_outside(planes: AnyArray, outside: BoolArray, form: OutputFormat) -> AnyArray:
    """Make the pixels outside of an area invalid.

    ``planes`` (P, H, W) are those of :func:`finalize`, as is what is returned; ``outside`` is
    (H, W), True outside.
    """
    bands = form.planes - form.alpha - form.mask
    nothing = np.zeros((form.planes, 1, 1), form.dtype)
    nothing[:bands] = 0 if form.nodata is None else form.nodata
    if outside.all():
        return broadcast_pixel(nothing, *outside.shape)
    return np.where(outside, nothing, planes)


MAX_TILES = 24
"""Tiles: more change the ranges of features no further, and each costs a pass."""


def calibration_tiles(
    reader: RasterReader, spec: ModelSpec, tile: int | None = None
) -> list[FloatArray]:
    """Return tiles spread over a raster, normalized and filled as for a run.

    Parameters
    ----------
    reader, spec
        The raster, and the contract of the model that is to see it.
    tile
        Height and width; None takes the model's.

    Returns
    -------
    list of ndarray
        Each (C, tile, tile) float32 in 0..1.

    Raises
    ------
    UsageError
        The bands are not the model's.
    InputError
        No pixel of the raster is valid.
    """
    check_bands(reader.info, spec)
    tile_grid = tile_grid_of(reader.info, spec, SRConfig(tile_size=tile))
    normalization = choose_normalization(reader, "auto")
    side = tile or spec.tile
    inputs = []
    for index in range(0, len(tile_grid), max(1, len(tile_grid) // MAX_TILES)):
        tile_seen = tile_grid.tile_at(*divmod(index, len(tile_grid.columns)))
        window = tile_seen.input_window.intersection(tile_grid.image_window)
        assert window is not None, "a tile reads some of the image"
        network_input = preprocess(RowStrip(window, reader.read(window)), tile_seen, normalization)
        if network_input is not None:
            inputs.append(pad_to(network_input.pixels, side, side))
    if not inputs:
        raise InputError(f"{reader.info.path}: has no valid pixel to learn ranges from")
    return inputs[:MAX_TILES]


@dataclass
class ResidualStats:
    """Sums of the differences between a source and the network's downsampled outputs."""

    total: float = 0.0
    """Sum of absolute differences, in source units."""
    count: int = 0
    """Number of valid pixels, counted in each band."""
    largest: float = 0.0
    """Largest absolute difference, in source units."""

    def add(
        self,
        residual: FloatArray,
        valid: BoolArray | None,
        tile: Tile,
        normalization: Normalization,
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
        normalization
            Scale of the residual.
        """
        inner = (slice(None), *tile.output_window.relative_to(tile.input_window).slices)
        units = normalization.scale_difference(np.abs(residual[inner]))
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
    """Statistics of a run, for its report."""

    batch: int = 0
    """Tiles per call of the network."""
    skipped: int = 0
    """Tiles that the network did not see, because no pixel is valid or all are the same."""
    residuals: ResidualStats = field(default_factory=ResidualStats)
    """Differences between the source and the network's downsampled outputs."""

    def merge(self, other: RunStats) -> None:
        """Add the statistics of another part of the run."""
        self.batch = max(self.batch, other.batch)
        self.skipped += other.skipped
        self.residuals.merge(other.residuals)


@dataclass
class TileResult:
    """A tile on its way through the pipeline."""

    tile: Tile
    """Position of the tile."""
    strip: RowStrip
    """Source pixels of the tile's grid row."""
    network_input: NetworkInput | None
    """Pixels for the network; None if no pixel of the tile is valid."""
    constant: bool = False
    """Whether the tile keeps its one value, without the network."""
    output: FloatArray | None = None
    """(C, s * h, s * w) float32, output of the network; None before, or without one."""

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
    tile_grid : TileGrid
        Grid of the tiles.
    normalization : Normalization
        Scales source units to 0..1; replaced by `unscaled` if the predictor interpolates.
    predictor : TilePredictor
        Runs the network.
    context : RunContext
        Progress, cancellation and timing.
    area : AreaOfInterest or None
        Area outside of which nothing is computed and every pixel is invalid; None for no limit.
    kernel : Kernel or None
        Kernel that has to downsample the output to the source; None if it need not.
    keep_constant : bool
        Whether constant areas keep their value, and constant tiles do without the network.
    stats : RunStats
        Statistics of the tiles so far.
    """

    read: Callable[[Window], PixelBlock]
    bands: int
    tile_grid: TileGrid
    normalization: Normalization
    predictor: TilePredictor
    context: RunContext = field(default_factory=RunContext)
    area: AreaOfInterest | None = None
    kernel: Kernel | None = None
    keep_constant: bool = True
    stats: RunStats = field(default_factory=RunStats)

    def __post_init__(self) -> None:
        if self.predictor.interpolates:
            self.normalization = unscaled(self.bands)

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
        stitcher = TileStitcher(self.tile_grid, self.bands)
        assembler = block_assembler(self.tile_grid, output_format, top)
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
        ``top`` is the first output row that is wanted.
        """
        first_row = self.tile_grid.first_row_for(top)
        self.context.progress.report(first_row * len(self.tile_grid.columns))
        self.context.check_cancelled()
        waiting: list[TileResult] = []
        in_flight: deque[InFlightBatch] = deque()
        lanes = self.predictor.lanes(len(self.tile_grid))
        ahead = lanes.count + 1 if lanes.count > 1 else int(self.predictor.overlaps)
        with (
            closing(prefetch(self._strips(first_row))) as strips,
            OrderedThreadPool(lanes.count, lanes.enter) as pool,
        ):
            while (item := self._next(strips)) is not None:
                row, strip = item
                for tile in self.tile_grid.tiles_in_row(row):
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
        for row in range(first_row, len(self.tile_grid.rows)):
            window = self.tile_grid.row_window(row)
            yield row, RowStrip(window, self.read(window))

    def _next(self, strips: Iterator[tuple[int, RowStrip]]) -> tuple[int, RowStrip] | None:
        with self.context.timer.section("read"):
            return next(strips, None)

    def _preprocess(self, strip: RowStrip, tile: Tile) -> TileResult:
        if self.area is not None and not self.area.intersects(tile.output_window):
            return TileResult(tile, strip, None)
        network_input = preprocess(strip, tile, self.normalization)
        constant = network_input is not None and self.keep_constant and network_input.constant
        return TileResult(tile, strip, network_input, constant)

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
            network_input, tile = result.network_input, result.tile
            if network_input is not None and result.needs_network:
                pixels.append(network_input.pixels)
                names.append(f"tile {tile.index} ({tile.input_window})")
                targets.append(ConsistencyTarget(network_input.remainder, network_input.valid))
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
            network_input = result.network_input
            if network_input is None or not result.needs_network:
                self.stats.skipped += 1
                yield result
                continue
            with self.context.timer.section("join"):
                result.output, residual = next(outputs)
                if residual is not None:
                    self.stats.residuals.add(
                        residual, network_input.valid, result.tile, self.normalization
                    )
            yield result

    def _denormalize(self, result: TileResult) -> FloatArray | None:
        """Return the tile in source units; None if no pixel is valid."""
        network_input, output = result.network_input, result.output
        if network_input is None:
            return None
        remainder = network_input.remainder
        if output is None:
            output = constant_tile(network_input, result.tile, self.tile_grid.scale)
        elif self.kernel is not None:
            remainder = None  # the predictor has added it already
        dtype = calculation_dtype(result.strip.patch.values.dtype.name)
        return denormalize(output, remainder, result.tile, self.normalization, dtype)

    def _finalize(
        self,
        values: FloatArray | None,
        window: Window,
        strip: RowStrip,
        output_format: OutputFormat,
    ) -> AnyArray:
        """Return pixels of the output's data type, invalid outside of the area."""
        pixels = finalize(
            values,
            window,
            strip,
            output_format,
            self.tile_grid.scale,
            self.normalization,
            keep_constant=self.keep_constant and self.tile_grid.halo >= CONSTANT_RADIUS,
        )
        outside = (
            None if self.area is None else self.area.outside_mask(window, self.tile_grid.scale)
        )
        return pixels if outside is None else mask_outside(pixels, outside, output_format)


def block_assembler(
    tile_grid: TileGrid, output_format: OutputFormat, top: int = 0
) -> BlockAssembler:
    """Create the assembler of an output's blocks."""
    return BlockAssembler(
        tile_grid.out_height,
        tile_grid.out_width,
        output_format.planes,
        np.dtype(output_format.dtype),
        output_format.blocksize,
        top,
    )


T = TypeVar("T")
Block = TypeVarTuple("Block")

_POLL_SECONDS = 0.001, 0.02
"""How soon a blocked thread first looks whether there is room, or the other side has gone; and how
long it sleeps at most, looking twice as late every time: a thread that looks a thousand times a
second takes more than a hundredth of a processor from the network."""


class _End:
    """Marks the end of a stream."""


def prefetch(source: Iterator[T], depth: int = 1) -> Generator[T, None, None]:
    """Yield the items of ``source``, produced in a thread at most ``depth`` items ahead.

    An error of the source is raised here, at its place in the stream. Closing the generator (or
    leaving the loop) ends the thread before returning.
    """
    items: queue.SimpleQueue[T | _End | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def put(item: T | _End | BaseException) -> bool:
        pauses = _pauses()
        while items.qsize() >= depth:
            if stop.wait(next(pauses)):
                return False
        items.put(item)
        return not stop.is_set()

    work = partial(_produce, source, put, stop)
    thread = WorkerThread(work, "georsr-reader")
    try:
        thread.start()
        while not isinstance(item := items.get(), _End):
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.wait()


def _produce(
    source: Iterator[T],
    put: Callable[[T | _End | BaseException], bool],
    stop: threading.Event,
) -> None:
    """Put every item into the queue, then the end or the error; runs in the reader thread."""
    if stop.is_set():
        return  # its starter was interrupted before the thread ran, and did not wait for it
    try:
        for item in source:
            if not put(item):
                return
        put(_End())
    except BaseException as error:
        put(error)


def _pauses() -> Iterator[float]:
    pause, longest = _POLL_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, longest)


class WorkerThread(threading.Thread):
    """A daemon thread that uses what its starter closes once the thread has ended.

    Ctrl-C does not end the waiting for it: `join` alone takes a thread for ended once it is
    interrupted.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(target=work, name=name, daemon=True)
        self._finished = threading.Event()

    def run(self) -> None:
        """Do the work."""
        try:
            super().run()
        finally:
            self._finished.set()

    def wait(self) -> None:
        """Wait until the thread has ended, if it was started."""
        if not self.is_alive():
            return
        try:
            self._finished.wait()
        except BaseException:
            self._finished.wait()
            raise
        finally:
            self.join()


class BackgroundWriter(Generic[T]):
    """Passes items to ``consume`` in one thread, in order; at most ``depth`` of them wait.

    An error of the consumer is raised by the next :meth:`put` or on leaving the block; leaving it
    with an error of one's own drops what is waiting.
    """

    def __init__(self, consume: Callable[[T], None], depth: int) -> None:
        self._consume = consume
        self._depth = depth
        self._items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._dropping = threading.Event()
        self._thread = WorkerThread(self._run, "georsr-writer")

    def _run(self) -> None:
        while not isinstance(item := self._items.get(), _End):
            # After an error the queue is still emptied, so that no caller waits for room in it.
            if self._error is None and not self._dropping.is_set():
                try:
                    self._consume(item)
                except BaseException as error:
                    self._error = error

    def put(self, item: T) -> None:
        """Pass on one item; waits while ``depth`` items are waiting."""
        pauses = _pauses()
        while self._items.qsize() >= self._depth:
            time.sleep(next(pauses))
        if self._error is not None:
            raise self._error
        self._items.put(item)

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except BaseException:
            self._items.put(_End())
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._dropping.set()
        self._items.put(_End())
        self._thread.wait()
        if error is None and self._error is not None:
            raise self._error


WAITING_BLOCKS = 8
"""Finished blocks that may wait for the writer."""


def write_in_background(
    blocks: Generator[tuple[*Block], None, None], write: Callable[[*Block], None], timer: Timer
) -> None:
    """Write blocks in a thread of its own.

    ``blocks`` yields the arguments of ``write``; ``timer`` adds up the seconds that this thread
    waits for the other. After an InterruptedRunError in ``blocks``, those before it are still
    written.
    """
    interruption: InterruptedRunError | None = None
    with (
        BackgroundWriter[tuple[*Block]](lambda block: write(*block), WAITING_BLOCKS) as writer,
        closing(blocks),
    ):
        try:
            for block in blocks:
                with timer.section("write"):
                    writer.put(block)
        except InterruptedRunError as error:
            interruption = error
    if interruption is not None:
        raise interruption


class OrderedThreadPool:
    """Threads that run calls at the same time.

    Leaving the block waits for the calls that have begun and drops the others; by SystemExit it
    waits for none, since the process is to end.

    Parameters
    ----------
    count
        Threads; with one, the caller makes every call itself, at once.
    enter
        Called by each thread before its first call.
    """

    def __init__(self, count: int, enter: Callable[[], None]) -> None:
        self._enter = enter
        self._calls: queue.SimpleQueue[Callable[[], None] | _End] = queue.SimpleQueue()
        self._dropping = threading.Event()
        self._threads = [
            WorkerThread(self._run, f"georsr-lane-{i}") for i in range(count if count > 1 else 0)
        ]

    def _run(self) -> None:
        self._enter()
        while not isinstance(call := self._calls.get(), _End):
            if not self._dropping.is_set():
                call()

    def submit(self, work: Callable[[], T]) -> Callable[[], T]:
        """Start a call as soon as a thread is free.

        Returns
        -------
        callable
            Waits for the call and returns its result, or raises its error. To be called once.
        """
        if not self._threads:
            made = work()
            return lambda: made
        answer: queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]]
        answer = queue.SimpleQueue()

        def call() -> None:
            try:
                answer.put((work(), None))
            except BaseException as error:
                answer.put((None, error))

        def result() -> T:
            value, error = answer.get()
            if error is not None:
                raise error
            return cast(T, value)

        self._calls.put(call)
        return result

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end()
        if kind is not None and issubclass(kind, SystemExit):
            return
        for thread in self._threads:
            thread.wait()

    def _end(self) -> None:
        self._dropping.set()
        for _ in self._threads:
            self._calls.put(_End())
