"""Super-resolve DataArrays and Datasets, in memory or lazily."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from georsr.config import OPTIONS, ArrayOptions, SRConfig, config_of
from georsr.errors import GeoreferenceWarning, UsageError
from georsr.inference.array import check_count, is_bands_last, predict_stack
from georsr.inference.consistency import requested_kernel
from georsr.inference.model_bands import match_array_bands
from georsr.io.metadata import SUPPORTED_DTYPES, BandInfo
from georsr.io.rgb_bands import declared_rgb_bands
from georsr.models.io import Model, open_model
from georsr.reports import output_tags
from georsr.writer.layout import output_nodata
from georsr.xarray.coords import (
    GridInfo,
    assign_output_coords,
    band_names,
    encodable_range,
    grid_dims,
    grid_info,
)
from georsr.xarray.dask_graph import super_resolve_dask

log = logging.getLogger(__name__)

T = TypeVar("T", xr.DataArray, xr.Dataset)
Chunks = int | Mapping[Any, int] | None

ALTERNATIVES = {
    "bounds": "cut the output with rio.clip_box; lazy pixels outside are not computed",
    "aoi": "cut the output with rio.clip",
}


@dataclass(frozen=True)
class ArrayRequest:
    """Validated arguments of ``super_resolve``; see `parse_request`."""

    model: Model
    config: SRConfig
    chunks: Chunks
    """Chunk sizes of the output along rows and columns, in its pixels."""
    band_dim: str
    """Dimension of the bands."""


def parse_request(
    model: str | Model | None,
    scale: int | None,
    chunks: Chunks,
    band_dim: str,
    options: ArrayOptions,
) -> ArrayRequest:
    """Check what can be checked without an array, and open the model.

    Raises
    ------
    UsageError, ModelError
        An option does not apply to arrays, or there is no such model.
    """
    config = config_of("super_resolve", options)
    unknown = [name for name in options if not OPTIONS[name].arrays]
    if config.indexes is not None and config.output_bands == "rgb":
        raise UsageError(
            "indexes: for arrays it names the guide of output_bands='all'; select bands with "
            "da.sel(band=[...])"
        )
    if unknown:
        alternative = ALTERNATIVES.get(unknown[0], "write the output with rio.to_raster")
        raise UsageError(f"option {unknown[0]} is for files, not for arrays: {alternative}")
    if config.dtype is not None and config.dtype not in SUPPORTED_DTYPES:
        raise UsageError(f"data type {config.dtype} is not one of {', '.join(SUPPORTED_DTYPES)}")
    opened = model if isinstance(model, Model) else open_model(model, scale)
    if scale not in (None, opened.spec.scale):
        raise UsageError(
            f"model {opened.spec.name} enlarges x{opened.spec.scale}, but x{scale} was asked for"
        )
    return ArrayRequest(opened, config, chunks, band_dim)


def _chunk_shape(chunks: Chunks, info: GridInfo, scale: int) -> tuple[int | None, int | None]:
    """Return height and width of the output's chunks; None: not given."""
    given = {info.y: chunks, info.x: chunks} if isinstance(chunks, int) else chunks or {}
    if unknown := [dim for dim in given if dim not in (info.y, info.x)]:
        raise UsageError(
            f"chunks along {unknown[0]!r}: only those along {info.y!r} and {info.x!r} are free; "
            "a chunk has all bands of one scene"
        )
    for dim, side in given.items():
        if side != -1 and (side < 1 or side % scale):
            raise UsageError(
                f"chunks of {side} along {dim!r}: expected a multiple of the scale {scale}, or -1 "
                "for all"
            )
    down, across = (given.get(dim) for dim in (info.y, info.x))
    return sys.maxsize if down == -1 else down, sys.maxsize if across == -1 else across


def super_resolve(data: T, request: ArrayRequest) -> T:
    """Super-resolve a DataArray or Dataset; see `georsr.xarray.Accessor.super_resolve`."""
    if isinstance(data, xr.Dataset):
        return super_resolve_dataset(data, request)
    return super_resolve_dataarray(data, request)


def super_resolve_dataarray(array: xr.DataArray, request: ArrayRequest) -> xr.DataArray:
    """Super-resolve a DataArray."""
    info = grid_info(array, request.band_dim, request.config.src_nodata)
    _warn_if_not_georeferenced(info)
    array, request = _with_found_bands(array, info, request)
    return _label(_predict(array, info, request), array, info, request)


def _with_found_bands(
    array: xr.DataArray, info: GridInfo, request: ArrayRequest
) -> tuple[xr.DataArray, ArrayRequest]:
    """Find red, green and blue among more than three bands by the bands' names."""
    spec, config = request.model.spec, request.config
    if info.band is None or spec.bands != 3 or array.sizes[info.band] <= 3 or config.indexes:
        return array, request
    names = band_names(array, info) or ()
    bands = [BandInfo(number, array.dtype.name, name) for number, name in enumerate(names, 1)]
    indexes = declared_rgb_bands(bands)
    if indexes is None:
        return array, request
    if config.output_bands == "all":
        return array, replace(request, config=replace(config, indexes=indexes))
    log.warning(
        "%s: bands %s of %d (red, green, blue); for the others: output_bands='all'",
        info.name,
        ",".join(names[number - 1] for number in indexes),
        len(names),
    )
    return array.isel({info.band: [number - 1 for number in indexes]}), request


def super_resolve_dataset(dataset: xr.Dataset, request: ArrayRequest) -> xr.Dataset:
    """Super-resolve the variables of a Dataset that have rows and columns."""
    y, x = grid_dims(dataset, "dataset")
    arrays = {name: array for name, array in dataset.data_vars.items() if {y, x} <= {*array.dims}}
    if not arrays:
        raise UsageError(f"dataset: no variable has the dimensions {y!r} and {x!r}")
    for array in arrays.values():
        array.rio.set_spatial_dims(x_dim=x, y_dim=y)
    bands = any(request.band_dim in array.dims for array in arrays.values())
    if request.model.spec.bands == 0 or bands:
        outputs = {name: super_resolve_dataarray(array, request) for name, array in arrays.items()}
    else:
        outputs = _super_resolve_bands(arrays, request)
    others = {name: a for name, a in dataset.data_vars.items() if not {y, x} & {*a.dims}}
    output = xr.Dataset({**outputs, **others}, attrs=dataset.attrs)
    output.rio.set_spatial_dims(x_dim=x, y_dim=y)
    return output


def _super_resolve_bands(
    arrays: dict[Hashable, xr.DataArray], request: ArrayRequest
) -> dict[Hashable, xr.DataArray]:
    """Super-resolve variables as the bands of one array."""
    infos = [
        grid_info(array, request.band_dim, request.config.src_nodata) for array in arrays.values()
    ]
    first, info = next(iter(arrays.values())), infos[0]
    _warn_if_not_georeferenced(info)
    for array, other in zip(arrays.values(), infos, strict=True):
        for label, expected, value in (
            ("dimensions", first.dims, array.dims),
            ("data type", first.dtype, array.dtype),
            ("nodata", info.nodata, other.nodata),
            ("nodata values", info.source_nodata, other.source_nodata),
            ("range of encoded values", encodable_range(first), encodable_range(array)),
        ):
            if repr(expected) != repr(value):  # NaN equals NaN
                raise UsageError(
                    f"dataset: {label} of {first.name!r} and {array.name!r} differ: {expected} and "
                    f"{value}; choose variables that are bands of one scene: ds[[...]]"
                )
    bands = xr.Dataset(arrays).to_dataarray(request.band_dim)
    bands.encoding = first.encoding
    data = _predict(bands, replace(info, name="dataset", band=request.band_dim), request)
    return {
        name: _label(data[..., i, :, :], array, info, request)
        for i, (name, array) in enumerate(arrays.items())
    }


def _warn_if_not_georeferenced(info: GridInfo) -> None:
    if info.missing_georeference is not None:
        warnings.warn(
            f"{info.name}: has no {info.missing_georeference}; the output will have none either",
            GeoreferenceWarning,
            stacklevel=4,
        )


def _predict(array: xr.DataArray, info: GridInfo, request: ArrayRequest) -> Any:
    """Return the output's pixels in the order of ``info.order``, lazy where the array is."""
    model, config = request.model, request.config
    bands = 1 if info.band is None else array.sizes[info.band]
    # axes that are not named as bands may be bands, and are then not that many grey scenes
    unnamed = info.band is None and array.ndim > 2
    spec = model.spec if unnamed else match_array_bands(model, bands, config).spec
    check_count(bands, spec, _bands_remedy(array, info, request))
    sides = _chunk_shape(request.chunks, info, model.spec.scale)
    if array.chunks is None and request.chunks is not None:
        array = array.chunk()
    ordered = array.transpose(*info.order)
    data = ordered.values if ordered.chunks is None else ordered.data
    if info.band is None:
        data = data[..., np.newaxis, :, :]
    predict: Any = predict_stack
    if ordered.chunks is not None:
        predict = partial(super_resolve_dask, sides=sides)
    output = predict(
        data,
        model,
        config,
        source_nodata=info.source_nodata,
        nodata=_output_nodata(array, info, config),
        limits=None if _is_recoded(array, config) else encodable_range(array),
    )
    return output if info.band is not None else output[..., 0, :, :]


def _bands_remedy(array: xr.DataArray, info: GridInfo, request: ArrayRequest) -> str:
    """Return the end of a message about a number of bands that the model does not take."""
    start = f": {info.name} has the dimensions {', '.join(map(str, array.dims))}"
    if info.band is None and info.scenes:
        named = info.scenes[-1]
        return f"{start}; name that of the bands, for example with band_dim={named!r}"
    if is_bands_last(array.shape) and array.dims == (info.band, info.y, info.x):
        return (
            f"{start} and has the shape {array.shape}; if its axes are rows, columns, bands, use "
            f"dims=({info.y!r}, {info.x!r}, {info.band!r})"
        )
    return (
        f"{start}; select bands with da.sel({request.band_dim}=[...]), or name their dimension "
        "with band_dim=..."
    )


def _label(data: Any, array: xr.DataArray, info: GridInfo, request: ArrayRequest) -> xr.DataArray:
    """Return the output of one array: pixels with coordinates and attributes."""
    spec, config = request.model.spec, request.config
    return assign_output_coords(
        data,
        array,
        info,
        spec.scale,
        nodata=_output_nodata(array, info, config),
        recoded=_is_recoded(array, config),
        tags=output_tags(
            model=spec.name,
            model_sha256=request.model.sha256,
            scale=spec.scale,
            source_name=info.source,
            stretch=config.stretch,
            consistency=requested_kernel(spec, config) or "off",
            options=_with_source_bands(config, array, info, data).tags_json(),
        ),
    )


def _with_source_bands(
    config: SRConfig, array: xr.DataArray, info: GridInfo, output: Any
) -> SRConfig:
    """Return options that name the bands of the file from which rioxarray read the array.

    Its labels of bands are their numbers. Quality layers of the output need them.
    """
    labels = array.coords.get(info.band) if array.encoding.get("source") else None
    if (
        labels is None
        or labels.dtype.kind not in "iu"
        or labels.size != output.shape[-3]
        or config.indexes is not None
        or config.output_bands == "all"
    ):
        return config
    return replace(config, indexes=tuple(labels.values.ravel().tolist()))


def _output_nodata(array: xr.DataArray, info: GridInfo, config: SRConfig) -> float | None:
    return output_nodata(info.nodata, config.dtype or array.dtype.name, config.dst_nodata)


def _is_recoded(array: xr.DataArray, config: SRConfig) -> bool:
    """Return whether the output's data type or nodata differ from what the array declares."""
    return (
        config.dtype not in (None, array.dtype.name)
        or config.src_nodata is not None
        or config.dst_nodata is not None
    )
