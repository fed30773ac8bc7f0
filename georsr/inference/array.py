"""Super-resolve arrays in memory, and windows of a scene.

A window of an output is computed from the tiles that touch it. The tiles are those of the complete
output, so that every pixel is the same expression of the same tiles as in one pass over the raster.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from georsr.config import SRConfig
from georsr.device import cpu_threads
from georsr.errors import BandWarning, UsageError
from georsr.inference.blur_and_noise import resolve_kernel, with_scene_sensor
from georsr.inference.model_bands import match_array_bands
from georsr.inference.pipeline import OutputFormat, TilePipeline, make_tile_grid
from georsr.inference.predictor import TilePredictor, place_model
from georsr.models.io import Model
from georsr.models.spec import ModelSpec
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.nodata import valid_pixels
from georsr.radiometry.normalization import Normalization, normalization_of_sample, sample_indices
from georsr.radiometry.quantize import replicate
from georsr.tiling.grid import TileGrid
from georsr.window import AnyArray, BoolArray, PixelBlock, Window


def predict_window(
    read: Callable[[Window], PixelBlock],
    window: Window,
    *,
    bands: int,
    tile_grid: TileGrid,
    normalization: Normalization,
    form: OutputFormat,
    inference: TilePredictor,
    kernel: Kernel | None = None,
) -> AnyArray:
    """Super-resolve a window of a scene.

    Parameters
    ----------
    read
        Returns the pixels of a window of the scene. It is called from another thread, for one
        window at a time, inside ``tile_grid.subgrid(window).read_extent``.
    window
        Window of the scene, in source pixels.
    bands
        Number of bands that ``read`` returns.
    tile_grid, normalization
        Tile grid and normalization of the complete scene.
    form, inference
        Format of the output, and the predictor.
    kernel
        Kernel of consistency; None if the output need not be consistent.

    Returns
    -------
    ndarray
        (form.planes, s * window.height, s * window.width) of ``form.dtype``.
    """
    part = tile_grid.subgrid(window)
    pipeline = TilePipeline(
        read=lambda strip: read(strip.moved(window.top, window.left)),
        bands=bands,
        tile_grid=part,
        normalization=normalization,
        predictor=inference,
        kernel=kernel,
    )
    output = np.empty((form.planes, part.out_height, part.out_width), form.dtype)
    with closing(pipeline.blocks(form)) as blocks:
        for block, pixels in blocks:
            output[(slice(None), *block.slices)] = pixels
    return output


def array_reader(
    values: AnyArray, valid: BoolArray, origin: Window
) -> Callable[[Window], PixelBlock]:
    """Return the function with which `predict_window` reads pixels in memory.

    ``values`` and ``valid`` are (C, h, w); ``origin`` is where they lie in the scene.
    """

    def read(window: Window) -> PixelBlock:
        rows, columns = window.relative_to(origin).slices
        return PixelBlock(values[:, rows, columns], valid[:, rows, columns], None)

    return read


@dataclass(frozen=True)
class ArrayFormat:
    """Data type, planes and block size of an output that stays in memory."""

    dtype: str
    planes: int
    blocksize: int
    nodata: float | None = None
    alpha: bool = False
    mask: bool = False


def check_count(bands: int, spec: ModelSpec, remedy: str = "") -> None:
    """Refuse a number of bands that the model does not take.

    Raises
    ------
    UsageError
        Ends with ``remedy``.
    """
    if spec.bands and bands != spec.bands:
        names = f" ({', '.join(spec.band_names)})" if spec.band_names else ""
        raise UsageError(
            f"model {spec.name} takes {spec.bands} bands{names}, the array has {bands}{remedy}"
        )


def is_bands_last(shape: tuple[int, ...]) -> bool:
    """Return whether the shape of an array is that of (rows, columns, bands) of a picture."""
    return len(shape) == 3 and 3 <= shape[2] <= 16 <= min(shape[:2])


def _check_axes(shape: tuple[int, ...], model: Model, config: SRConfig) -> None:
    """Refuse bands that a model does not take, and bands in the last axis.

    Raises
    ------
    UsageError
        The message says how to choose bands or to transpose the array.
    """
    spec, bands = model.spec, shape[0]
    if is_bands_last(shape) and bands != spec.bands:
        text = (
            f"array of shape {shape}: {bands} bands of {shape[1]} x {shape[2]} pixels; if its axes "
            "are (rows, columns, bands), use array.transpose(2, 0, 1)"
        )
        if spec.bands:
            raise UsageError(text)
        warnings.warn(text, BandWarning, stacklevel=4)
    if config.indexes is not None and config.output_bands == "rgb":
        chosen = [index - 1 for index in config.indexes]
        raise UsageError(
            "indexes: for arrays it names the guide of output_bands='all'; select bands, counted "
            f"from 0, with array[{chosen}]"
        )
    remedy = ""
    if bands > spec.bands:
        remedy = f"; choose them in that order, counted from 0: array[{list(range(spec.bands))}]"
        if spec.bands == 3:
            remedy += ", or keep all with output_bands='all'"
    check_count(bands, match_array_bands(model, bands, config).spec, remedy)


def check_array(values: object, valid: BoolArray | None = None) -> None:
    """Refuse what is not a numpy array of pixels, and a validity that does not fit it.

    Raises
    ------
    UsageError
        The message names the remedy.
    """
    if not isinstance(values, np.ndarray):
        name = f"{type(values).__module__}.{type(values).__qualname__}".removeprefix("builtins.")
        remedy = "convert it first with numpy.asarray"
        if name.startswith("xarray."):
            remedy = "import georsr.xarray, and call array.georsr.super_resolve"
        raise UsageError(f"values: {name}, expected a numpy array (bands, rows, columns); {remedy}")
    if values.ndim != 3:
        remedy = {2: "; for one band use array[np.newaxis]"}.get(values.ndim, "")
        raise UsageError(f"array of {values.ndim} axes, expected (bands, rows, columns){remedy}")
    if not values.size:
        raise UsageError(f"array of shape {values.shape}: has no pixels")
    if values.dtype.kind not in "uif" or (values.dtype.kind != "f" and values.dtype.itemsize > 4):
        raise UsageError(
            f"array of {values.dtype}, expected a real dtype of at most 32 bits, or float64"
        )
    if valid is None:
        return
    valid = np.asanyarray(valid)
    if np.ma.is_masked(valid) or valid.dtype != bool:
        raise UsageError("valid: expected booleans, True at valid pixels; use for example mask > 0")
    if valid.shape not in (values.shape, values.shape[1:]):
        raise UsageError(
            f"valid: shape {valid.shape}, expected {values.shape} or {values.shape[1:]}"
        )


def predict_masked_array(
    values: AnyArray, valid: BoolArray | None, model: Model, config: SRConfig
) -> AnyArray:
    """Super-resolve an array that may be masked: masked pixels are invalid, and stay masked."""
    check_array(values, valid)
    _check_axes(values.shape, model, config)
    if not isinstance(values, np.ma.MaskedArray):
        return predict_array(values, valid, model, config)
    mask = np.ma.getmaskarray(values)
    visible = ~mask if valid is None else ~mask & valid
    output = predict_array(values.data, visible, model, config)
    masked = np.ma.MaskedArray(output, np.array(replicate(mask, model.spec.scale)))
    if masked.dtype == values.dtype:
        masked.fill_value = values.fill_value
    return masked


def predict_array(
    values: AnyArray,
    valid: BoolArray | None,
    model: Model,
    config: SRConfig,
    nodata: float | None = None,
) -> AnyArray:
    """Super-resolve an array (bands, rows, columns); see `georsr.api.super_resolve_array`.

    ``nodata`` is the value that invalid pixels of the result get; None: they keep their own.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    bands, height, width = values.shape
    model = match_array_bands(model, bands, config)
    check_count(bands, model.spec)
    good = np.isfinite(values)
    if valid is not None:
        good &= valid
    tile_grid = make_tile_grid(height, width, model.spec, config)
    rows, columns = sample_indices(height, width)
    placement = place_model(model, config)
    whole = Window(0, 0, height, width)
    normalization = normalization_of_sample(
        values[:, rows][:, :, columns], good[:, rows][:, :, columns], config.stretch
    )
    read = array_reader(values, good, whole)
    model = with_scene_sensor(read, height, width, normalization, model, config, placement)
    with cpu_threads(config.num_threads):
        return predict_window(
            read,
            whole,
            bands=bands,
            tile_grid=tile_grid,
            normalization=normalization,
            form=ArrayFormat(config.dtype or str(values.dtype), bands, config.blocksize, nodata),
            inference=TilePredictor.from_config(model, config, placement),
            kernel=resolve_kernel(read, height, width, normalization, model, config, placement),
        )


def predict_stack(
    values: AnyArray,
    model: Model,
    config: SRConfig,
    *,
    source_nodata: tuple[float, ...] = (),
    nodata: float | None = None,
    limits: tuple[float, float] | None = None,
) -> AnyArray:
    """Super-resolve several scenes in memory, one after the other.

    Parameters
    ----------
    values
        (..., C, h, w).
    model, config
        What to run and how.
    source_nodata, nodata
        Values of invalid pixels in the source, and their value in the output; None in the output:
        they keep their own.
    limits
        Lowest and highest value of the output, if it has such.

    Returns
    -------
    ndarray
        (..., C, s * h, s * w).
    """
    s = model.spec.scale
    *scenes, bands, height, width = values.shape
    output = np.empty((*scenes, bands, height * s, width * s), config.dtype or values.dtype.name)
    for scene in np.ndindex(*scenes):
        valid = valid_pixels(values[scene], *source_nodata)
        output[scene] = predict_array(values[scene], valid, model, config, nodata)
    return output if limits is None else np.clip(output, *limits, out=output)
