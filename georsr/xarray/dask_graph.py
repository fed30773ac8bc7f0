"""Lazy: a Dask array whose chunks are super-resolved when they are asked for.

One task makes one chunk of the product. It gets the pixels that the chunk's tiles read, cut out of
the source's chunks where those lie. The tiles are those of the whole scene, so that neither the
source's chunks nor the product's show in a pixel.

Tasks: what Dask's workers run. They pickle small: a model travels by name and checksum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise, product
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize
from dask.graph_manipulation import clone
from dask.highlevelgraph import HighLevelGraph

from georsr.config import SRConfig
from georsr.device import cpu_threads
from georsr.inference.array import ArrayFormat, array_reader, predict_window
from georsr.inference.bands import match_array_bands
from georsr.inference.consistency import fixed_kernel, requested_kernel, skip_if_noisy, softened
from georsr.inference.kernel_estimation import estimate_kernel, spread_windows
from georsr.inference.model_cache import ModelRef, cached_predictor, load_cached, model_ref
from georsr.inference.sensing import listener, scene_sensor, told
from georsr.inference.tiles import make_tile_grid
from georsr.io.sampling import MAX_DECIMATION, MAX_PIXELS, sample_indices
from georsr.models.io import Model
from georsr.models.spec import SCENE
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.nodata import valid_pixels
from georsr.radiometry.normalization import (
    Normalization,
    fixed_normalization,
    normalization_of_sample,
)
from georsr.reports import georsr_version
from georsr.tiling.grid import TileGrid
from georsr.tiling.partition import chunk_side, chunk_sizes
from georsr.window import AnyArray, PixelBlock, Window

Selection = slice | npt.NDArray[np.int64]
"""Rows or columns: a range, or ascending numbers."""


@dataclass(frozen=True)
class ChunkConfig:
    """What the chunks of all scenes have in common.

    Attributes
    ----------
    model : ModelReference
    plan : TilePlan
        The tiles of a whole scene.
    form : ArrayForm
        What pixels become.
    config : SRConfig
    axes : int
        Axes of the array before the bands.
    banded : bool
        Whether there is an axis of bands.
    nodata : float or None
        Value of invalid pixels in the source.
    limits : (float, float) or None
        Lowest and highest value of the product.
    """

    model: ModelRef
    plan: TileGrid
    form: ArrayFormat
    config: SRConfig
    axes: int
    banded: bool
    nodata: float | None = None
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class TakePixels:
    """Takes pixels of one scene out of a chunk of the source."""

    scene: tuple[int, ...]
    """Index in the chunk along the axes before the bands."""
    banded: bool
    """Whether there is an axis of bands."""
    rows: Selection
    columns: Selection

    def __call__(self, chunk: AnyArray) -> AnyArray:
        """(..., C, h, w) or (..., h, w) -> (C, rows, columns)."""
        pixels = np.asarray(chunk)[self.scene]
        pixels = pixels if self.banded else pixels[None]
        return pixels[:, self.rows][:, :, self.columns]


@dataclass(frozen=True)
class FindNormalization:
    """Finds the stretch of a scene from its sample."""

    mode: str
    nodata: float | None

    def __call__(self, cuts: list[list[list[AnyArray]]]) -> Normalization:
        """From cuts (C, h, w) nested as bands, rows, columns."""
        values: AnyArray = np.block(cuts)
        return normalization_of_sample(values, valid_pixels(values, self.nodata), self.mode)


@dataclass(frozen=True)
class Found:
    """What was found of a scene.

    Attributes
    ----------
    kernel : Kernel or None
        What its product is to be consistent with.
    sensor : tuple of float or None
        What the network is told, normalised; None: it is not told.
    """

    kernel: Kernel | None = None
    sensor: tuple[float, ...] | None = None


@dataclass(frozen=True)
class FindScene:
    """Finds sensor and kernel of a scene from its probes."""

    def __call__(
        self, recipe: ChunkConfig, stretch: Normalization, cuts: list[list[list[list[AnyArray]]]]
    ) -> Found:
        """From cuts (C, h, w) of each probe, nested as bands, rows, columns."""
        patches = [pixel_block(np.block(probe), recipe.nodata) for probe in cuts]
        model = load_cached(recipe.model)
        with cpu_threads(recipe.config.num_threads):
            sensor = scene_sensor(patches, stretch, model, recipe.config)
            asked = requested_kernel(model.spec, recipe.config)
            if asked != SCENE:
                known = softened(fixed_kernel(asked), model.spec, recipe.config)
                return Found(known, sensor)
            kernel = estimate_kernel(
                patches,
                stretch,
                told(model, sensor),
                unless_noise=skip_if_noisy(recipe.config),
            )
        return Found(softened(kernel, model.spec, recipe.config), sensor)


def pixel_block(values: AnyArray, nodata: float | None) -> PixelBlock:
    """Pixels (C, h, w) in the machine's byte order, with their validity."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return PixelBlock(values, valid_pixels(values, nodata), None)


@dataclass(frozen=True)
class PredictChunk:
    """Makes one chunk of the product."""

    window: Window
    """Of the scene, in source pixels."""
    reach: Window
    """What the tiles that touch it read."""

    def __call__(
        self, recipe: ChunkConfig, stretch: Normalization, found: Found, cuts: list[Any]
    ) -> AnyArray:
        """From cuts (C, h, w) of the reach, nested as bands, rows, columns: (1, ..., C, H, W)."""
        patch = pixel_block(np.block(cuts), recipe.nodata)
        read = array_reader(patch.values, patch.valid, self.reach)
        reference = replace(recipe.model, sensor=found.sensor)
        with cached_predictor(reference, recipe.config) as inference:
            pixels = predict_window(
                read,
                self.window,
                bands=len(patch.values),
                plan=recipe.plan,
                stretch=stretch,
                form=recipe.form,
                inference=inference,
                kernel=found.kernel,
                flat_tiles=recipe.config.skip_constant_tiles,
            )
        if recipe.limits is not None:
            np.clip(pixels, *recipe.limits, out=pixels)
        pixels = pixels if recipe.banded else pixels[0]
        return pixels[(np.newaxis,) * recipe.axes]


MAX_CHUNK_BYTES = 512 * 2**20
"""Bytes of a chunk, where the caller does not choose."""

Tasks = dict[Any, Any]


@dataclass(frozen=True)
class ArraySource:
    """A Dask array of scenes.

    Attributes
    ----------
    array : dask array
        (..., C, h, w) or (..., h, w).
    banded : bool
        Whether there is an axis of bands.
    nodata : float or None
        Value of invalid pixels.
    """

    array: da.Array
    banded: bool
    nodata: float | None = None

    @property
    def scenes(self) -> tuple[int, ...]:
        """Lengths of the axes before the bands."""
        return tuple(self.array.shape[: -3 if self.banded else -2])

    @property
    def bands(self) -> int:
        """Bands of a scene."""
        return int(self.array.shape[-3]) if self.banded else 1

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a scene."""
        height, width = self.array.shape[-2:]
        return height, width

    def slice_tasks(
        self, name: tuple[Any, ...], scene: tuple[int, ...], rows: Selection, columns: Selection
    ) -> tuple[Tasks, list[Any]]:
        """Tasks that cut pixels out of a scene, and their keys nested as bands, rows, columns.

        Parameters
        ----------
        name
            What the keys begin with.
        scene
            Index along the axes before the bands.
        rows, columns
            Of the scene.
        """
        chunks = self.array.chunks
        ahead = [_found(chunks[axis], slice(i, i + 1))[0] for axis, i in enumerate(scene)]
        first = tuple(block for block, _ in ahead)
        cut = partial(TakePixels, tuple(inside.start for _, inside in ahead), self.banded)
        down, across = _found(chunks[-2], rows), _found(chunks[-1], columns)
        layers = [(*first, k) for k in range(len(chunks[-3]))] if self.banded else [first]
        tasks = {
            (*name, *layer, i, j): (cut(here, there), (self.array.name, *layer, i, j))
            for layer in layers
            for (i, here), (j, there) in product(down, across)
        }
        keys = [[[(*name, *layer, i, j) for j, _ in across] for i, _ in down] for layer in layers]
        return tasks, keys


def _found(sizes: Sequence[int], chosen: Selection) -> list[tuple[int, Any]]:
    """The chunks of an axis that hold what is chosen, each with its part of the selection."""
    edges = list(accumulate(sizes, initial=0))
    if isinstance(chosen, slice):
        return [
            (k, slice(max(chosen.start, start) - start, min(chosen.stop, stop) - start))
            for k, (start, stop) in enumerate(pairwise(edges))
            if max(chosen.start, start) < min(chosen.stop, stop)
        ]
    owner = np.searchsorted(edges, chosen, "right") - 1
    return [(int(k), chosen[owner == k] - edges[k]) for k in np.unique(owner)]


def super_resolve_dask(
    source: ArraySource,
    model: Model,
    config: SRConfig,
    *,
    nodata: float | None = None,
    limits: tuple[float, float] | None = None,
    sides: tuple[int | None, int | None] = (None, None),
) -> da.Array:
    """Super-resolve scenes, each by itself; nothing is read or computed yet.

    Parameters
    ----------
    source
        The scenes.
    model
        One that can be opened by its name or path wherever the tasks run.
    config
        Options.
    nodata
        Value of invalid pixels in the product; None: they keep their own.
    limits
        Lowest and highest value of the product, if it has such.
    sides
        Height and width of the product's chunks in its pixels, multiples of the scale. By default
        whole blocks of ``config.blocksize``, so many that at most a quarter of the tiles is
        made twice, as far as `MAX_CHUNK_BYTES` allows.

    Returns
    -------
    dask array
        (..., C, s * h, s * w) or (..., s * h, s * w); a chunk has all bands of one scene.

    Raises
    ------
    UsageError
        Options, tiles or sides that cannot be; a model that exists in memory only.
    """
    model = match_array_bands(model, source.bands, config)
    plan = make_tile_grid(*source.size, model.spec, config)
    dtype = np.dtype(config.dtype or source.array.dtype.name)
    form = ArrayFormat(dtype.name, source.bands, config.blocksize, nodata)
    recipe = ChunkConfig(
        model_ref(model),
        plan,
        form,
        config,
        len(source.scenes),
        source.banded,
        source.nodata,
        limits,
    )
    usual = chunk_side(plan, config.blocksize, source.bands * dtype.itemsize, MAX_CHUNK_BYTES)
    rows = chunk_sizes(plan.out_height, sides[0] or usual)
    columns = chunk_sizes(plan.out_width, sides[1] or usual)
    token = tokenize(georsr_version(), source.array.name, repr(recipe), rows, columns)
    stretches, keys, sampled = _stretches(source, config.stretch, f"georsr-stretch-{token}")
    looks, found_of = _looks(source, recipe, model, token, keys)
    tasks = looks | _chunks(source, recipe, token, keys, found_of, (rows, columns))
    bands = ((source.bands,),) if source.banded else ()
    single = tuple((1,) * length for length in source.scenes)
    name = f"georsr-{token}"
    read: list[Any] = [source.array, sampled]
    graph = HighLevelGraph.from_collections(name, stretches | tasks, dependencies=read)
    chunks = (*single, *bands, rows, columns)
    return da.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), dtype))


def _stretches(
    source: ArraySource, mode: str, name: str
) -> tuple[Tasks, dict[tuple[int, ...], Any], da.Array]:
    """Tasks that find the stretch of every scene, scene -> key, and the array they read."""
    scenes = list(np.ndindex(source.scenes))
    known = fixed_normalization(source.array.dtype.name, source.bands, mode)
    if known is not None:
        return {name: known}, dict.fromkeys(scenes, name), source.array
    height, width = source.size
    sampled = source
    if height * width > MAX_DECIMATION * MAX_PIXELS:
        # Read by itself: else what the sample needs would stay in memory, which for a large scene
        # is most of it, until its turn in the product comes.
        sampled = replace(source, array=clone(source.array, seed=name))
    rows, columns = sample_indices(height, width)
    tasks: Tasks = {}
    for scene in scenes:
        cuts, keys = sampled.slice_tasks((f"{name}-cut", *scene), scene, rows, columns)
        tasks |= cuts
        tasks[(name, *scene)] = (FindNormalization(mode, source.nodata), keys)
    return tasks, {scene: (name, *scene) for scene in scenes}, sampled.array


def _looks(
    source: ArraySource,
    recipe: ChunkConfig,
    model: Model,
    token: str,
    stretches: dict[tuple[int, ...], Any],
) -> tuple[Tasks, dict[tuple[int, ...], Any]]:
    """Tasks that find sensor and kernel of every scene; scene -> what gives them to a task."""
    asked = requested_kernel(model.spec, recipe.config)
    if asked != SCENE and listener(model.network) is None and recipe.config.sensor is None:
        known = softened(fixed_kernel(asked), model.spec, recipe.config)
        return {}, dict.fromkeys(stretches, Found(known))
    tasks: Tasks = {}
    names = {scene: (f"georsr-scene-{token}", *scene) for scene in stretches}
    for scene, name in names.items():
        probes = []
        for number, window in enumerate(spread_windows(*source.size)):
            place = (f"georsr-probe-{token}", *scene, number)
            cuts, keys = source.slice_tasks(place, scene, *window.slices)
            tasks |= cuts
            probes.append(keys)
        tasks[name] = (FindScene(), f"georsr-recipe-{token}", stretches[scene], probes)
    return tasks, names


def _chunks(
    source: ArraySource,
    recipe: ChunkConfig,
    token: str,
    stretches: dict[tuple[int, ...], Any],
    found: dict[tuple[int, ...], Any],
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
) -> Tasks:
    """Tasks that make every chunk of the product, and those that cut its source."""
    shared = f"georsr-recipe-{token}"
    tasks: Tasks = {shared: recipe}
    band = (0,) if source.banded else ()
    for i, j, window in _windows(sizes, recipe.plan.scale):
        reach = recipe.plan.subgrid(window).read_extent.moved(window.top, window.left)
        make = PredictChunk(window, reach)
        for scene, stretch in stretches.items():
            cuts, keys = source.slice_tasks(
                (f"georsr-cut-{token}", *scene, i, j), scene, *reach.slices
            )
            tasks |= cuts
            tasks[(f"georsr-{token}", *scene, *band, i, j)] = (
                make,
                shared,
                stretch,
                found[scene],
                keys,
            )
    return tasks


def _windows(
    sizes: tuple[tuple[int, ...], tuple[int, ...]], scale: int
) -> Iterator[tuple[int, int, Window]]:
    """(row, column, window of the scene) of every chunk of the product."""
    down, across = (list(pairwise(accumulate(axis, initial=0))) for axis in sizes)
    for (i, (top, bottom)), (j, (left, right)) in product(enumerate(down), enumerate(across)):
        edges = (top, left, bottom - top, right - left)
        yield i, j, Window(*(edge // scale for edge in edges))
