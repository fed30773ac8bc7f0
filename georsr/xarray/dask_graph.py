"""Super-resolve Dask arrays lazily: one task for each chunk of the output.

A task gets the pixels that the chunk's tiles read, sliced by Dask. The tiles are those of the whole
scene, so that the output depends neither on the chunks of the source nor on its own. Tasks are
small: a model is passed by name and checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise, product
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.graph_manipulation import clone
from dask.highlevelgraph import HighLevelGraph

from georsr.config import SRConfig
from georsr.device import cpu_threads
from georsr.inference.array import ArrayFormat, array_reader, predict_window
from georsr.inference.blur_and_noise import (
    estimate_kernel,
    probe_windows,
    scene_sensor,
    with_sensor,
)
from georsr.inference.consistency import fixed_kernel, requested_kernel, skip_if_noisy, softened
from georsr.inference.model_bands import match_array_bands
from georsr.inference.model_cache import ModelRef, cached_predictor, load_cached, model_ref
from georsr.inference.pipeline import make_tile_grid
from georsr.inference.predictor import place_model
from georsr.models.io import Model
from georsr.models.spec import SCENE
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.nodata import valid_pixels
from georsr.radiometry.normalization import (
    MAX_DECIMATION,
    MAX_PIXELS,
    Normalization,
    fixed_normalization,
    normalization_of_sample,
    sample_indices,
)
from georsr.reports import georsr_version
from georsr.tiling.grid import TileGrid
from georsr.tiling.partition import chunk_side, chunk_sizes
from georsr.window import AnyArray, PixelBlock, Window

MAX_CHUNK_BYTES = 512 * 2**20
"""Size of a chunk, unless the caller chooses it."""


@dataclass(frozen=True)
class ChunkConfig:
    """What the tasks of all chunks share."""

    model: ModelRef
    """Name and checksum of the model."""
    tile_grid: TileGrid
    """Tiles of a scene."""
    form: ArrayFormat
    """Data type, bands and nodata of the output."""
    config: SRConfig
    source_nodata: tuple[float, ...]
    """Values of invalid pixels of the source."""
    limits: tuple[float, float] | None
    """(float, float): Lowest and highest value of the output."""
    axes: int
    """Number of axes before the bands."""

    def pixel_block(self, blocks: list[Any]) -> PixelBlock:
        """Join blocks of pixels, and mark the valid ones; they get the machine's byte order."""
        values: AnyArray = np.block(blocks)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        return PixelBlock(values, valid_pixels(values, *self.source_nodata), None)


class SceneProperties(NamedTuple):
    """What is estimated of a scene."""

    kernel: Kernel | None = None
    """Kernel that the output is consistent with."""
    sensor: tuple[float, ...] | None = None
    """Normalised description of the sensor, for a model that takes one."""


def find_normalization(chunks: ChunkConfig, sample: list[Any]) -> Normalization:
    """Return the normalization of a scene, from blocks (C, h, w) of a sample of its pixels."""
    block = chunks.pixel_block(sample)
    return normalization_of_sample(block.values, block.valid, chunks.config.stretch)


def find_properties(
    chunks: ChunkConfig, normalization: Normalization, windows: list[list[Any]]
) -> SceneProperties:
    """Estimate sensor and kernel of a scene, from the blocks (C, h, w) of some windows of it."""
    patches = [chunks.pixel_block(blocks) for blocks in windows]
    model, config = load_cached(chunks.model), chunks.config
    with cpu_threads(config.num_threads):
        backend = place_model(model, config).backend
        sensor = scene_sensor(patches, normalization, model, config, backend)
        kernel_name = requested_kernel(model.spec, config)
        if kernel_name != SCENE:
            kernel = fixed_kernel(kernel_name)
        else:
            kernel = estimate_kernel(
                patches,
                normalization,
                with_sensor(model, sensor),
                unless_noise=skip_if_noisy(config),
                backend=backend,
            )
    return SceneProperties(softened(kernel, model.spec, config), sensor)


def predict_chunk(
    window: Window,
    extent: Window,
    chunks: ChunkConfig,
    normalization: Normalization,
    scene: SceneProperties,
    blocks: list[Any],
) -> AnyArray:
    """Compute one chunk of the output.

    Parameters
    ----------
    window
        Pixels of the scene that the chunk covers.
    extent
        Pixels of the scene that its tiles read.
    chunks
        What all chunks share.
    normalization, scene
        Normalization, kernel and sensor of the scene.
    blocks
        Blocks (C, h, w) of the pixels of ``extent``, nested as `numpy.block` takes them.

    Returns
    -------
    ndarray
        (1, ..., C, s * window.height, s * window.width).
    """
    block = chunks.pixel_block(blocks)
    model = replace(chunks.model, sensor=scene.sensor)
    with cached_predictor(model, chunks.config) as predictor:
        pixels = predict_window(
            array_reader(block.values, block.valid, extent),
            window,
            bands=len(block.values),
            tile_grid=chunks.tile_grid,
            normalization=normalization,
            form=chunks.form,
            inference=predictor,
            kernel=scene.kernel,
        )
    if chunks.limits is not None:
        np.clip(pixels, *chunks.limits, out=pixels)
    return pixels[(np.newaxis,) * chunks.axes]


def super_resolve_dask(
    array: da.Array,
    model: Model,
    config: SRConfig,
    *,
    source_nodata: tuple[float, ...] = (),
    nodata: float | None = None,
    limits: tuple[float, float] | None = None,
    sides: tuple[int | None, int | None] = (None, None),
) -> da.Array:
    """Super-resolve scenes lazily, each by itself.

    Parameters
    ----------
    array
        (..., C, h, w): scenes of C bands.
    model
        Model that can be opened by its name or path where the tasks run.
    config
        Options.
    source_nodata, nodata
        Values of invalid pixels in the source, and their value in the output; None in the output:
        they keep their own.
    limits
        Lowest and highest value of the output.
    sides
        Height and width of the output's chunks in pixels, multiples of the scale. By default
        they are whole blocks of ``config.blocksize``, so large that at most a quarter of the
        tiles is computed twice, within `MAX_CHUNK_BYTES`.

    Returns
    -------
    dask array
        (..., C, s * h, s * w); a chunk has all bands of one scene.

    Raises
    ------
    UsageError
        Options, tiles or sides are not valid, or the model exists in memory only.
    """
    *scenes, bands, height, width = array.shape
    model = match_array_bands(model, bands, config)
    tile_grid = make_tile_grid(height, width, model.spec, config)
    dtype = np.dtype(config.dtype or array.dtype.name)
    form = ArrayFormat(dtype.name, bands, config.blocksize, nodata)
    chunks = ChunkConfig(
        model_ref(model), tile_grid, form, config, source_nodata, limits, len(scenes)
    )
    side = chunk_side(tile_grid, config.blocksize, bands * dtype.itemsize, MAX_CHUNK_BYTES)
    rows = chunk_sizes(tile_grid.out_height, sides[0] or side)
    columns = chunk_sizes(tile_grid.out_width, sides[1] or side)
    token = tokenize(georsr_version(), array.name, repr(chunks), rows, columns)
    name, shared = f"georsr-{token}", f"georsr-config-{token}"
    tasks: dict[Any, Any] = {shared: chunks}
    slices = list[Any]()

    def keys_of(pixels: da.Array) -> list[Any]:
        slices.append(pixels)
        return pixels.__dask_keys__()

    fixed = fixed_normalization(array.dtype.name, bands, config.stretch)
    sampled = array
    if fixed is None and height * width > MAX_DECIMATION * MAX_PIXELS:
        # Read again: most of a large scene would wait in memory for its turn in the output.
        sampled = clone(array, seed=token)
    kernel = requested_kernel(model.spec, config)
    uses_sensor = model.spec_of_network.uses_sensor or config.sensor is not None
    estimates = kernel == SCENE or uses_sensor
    for scene in np.ndindex(*scenes):
        pixels = array[scene]
        normalization: Any = fixed
        if fixed is None:
            normalization = (f"georsr-normalization-{token}", *scene)
            sample_rows, sample_columns = sample_indices(height, width)
            sample = sampled[scene][:, sample_rows][:, :, sample_columns]
            tasks[normalization] = (find_normalization, shared, keys_of(sample))
        properties: Any
        if estimates:
            properties = (f"georsr-properties-{token}", *scene)
            windows = [
                keys_of(pixels[(slice(None), *window.slices)])
                for window in probe_windows(height, width)
            ]
            tasks[properties] = (find_properties, shared, normalization, windows)
        else:
            properties = SceneProperties(softened(fixed_kernel(kernel), model.spec, config))
        for i, j, window in _windows(rows, columns, tile_grid.scale):
            extent = tile_grid.subgrid(window).read_extent.moved(window.top, window.left)
            predict = partial(predict_chunk, window, extent)
            blocks = keys_of(pixels[(slice(None), *extent.slices)])
            tasks[(name, *scene, 0, i, j)] = (predict, shared, normalization, properties, blocks)
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=slices)
    sizes = (*((1,) * length for length in scenes), (bands,), rows, columns)
    return da.Array(graph, name, sizes, meta=np.empty((0,) * array.ndim, dtype))


def _windows(
    rows: tuple[int, ...], columns: tuple[int, ...], scale: int
) -> Iterator[tuple[int, int, Window]]:
    """Yield (row, column, window of the scene) of every chunk of the output."""
    spans = (enumerate(pairwise(accumulate(sizes, initial=0))) for sizes in (rows, columns))
    for (i, (top, bottom)), (j, (left, right)) in product(*spans):
        yield i, j, Window(top, left, bottom - top, right - left).coarser(scale)
