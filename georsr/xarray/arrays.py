"""From DataArray to DataArray: what was asked for, on whatever holds the pixels."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from georsr.config import OPTIONS, SRConfig
from georsr.errors import GeoreferenceWarning, UsageError
from georsr.inference.array import check_count, predict_stack
from georsr.inference.bands import match_array_bands
from georsr.inference.consistency import requested_kernel
from georsr.io.metadata import SUPPORTED_DTYPES
from georsr.models.io import Model, open_model
from georsr.reports import product_tags
from georsr.writer.layout import output_nodata
from georsr.xarray.coords import (
    GridInfo,
    assign_output_coords,
    encodable_range,
    grid_dims,
    grid_info,
)
from georsr.xarray.dask_graph import ArraySource, super_resolve_dask

Chunks = int | Mapping[Any, int] | None

_INSTEAD = {
    "indexes": "select bands with da.sel(band=[...]); or name the guide of output_bands='all'",
    "bounds": "cut the product with rio.clip_box; lazy pixels outside are not computed",
    "aoi": "cut the product with rio.clip",
}


@dataclass(frozen=True)
class ArrayRequest:
    """What is asked for; made by `parse_request`.

    Attributes
    ----------
    model : Model
    config : SRConfig
    chunks : int, mapping of dimension to int, or None
        Of the product, in its pixels.
    band : str
        Dimension of the bands.
    """

    model: Model
    config: SRConfig
    chunks: Chunks
    band: str

    def nodata(self, array: xr.DataArray, info: GridInfo) -> float | None:
        """Of the product."""
        return output_nodata(
            info.nodata, self.config.dtype or array.dtype.name, self.config.dst_nodata
        )

    def recodes(self, array: xr.DataArray) -> bool:
        """Whether the product's data type or nodata are not what the array declares."""
        config = self.config
        return (
            config.dtype not in (None, array.dtype.name)
            or config.src_nodata is not None
            or config.dst_nodata is not None
        )

    def pixels(self, array: xr.DataArray, info: GridInfo) -> Any:
        """The product's, in the order of ``info.order``: in memory, or lazy where they are."""
        scale = self.model.spec.scale
        count = 1 if info.band is None else array.sizes[info.band]
        check_count(
            count,
            # axes that nobody called bands may yet be bands: not so many grey scenes
            self.model.spec
            if info.band is None and array.ndim > 2
            else match_array_bands(self.model, count, self.config).spec,
            f": {info.name} has the dimensions {', '.join(map(str, array.dims))}; select bands "
            f"with da.sel({self.band}=[...]), or name their dimension with band_dim=...",
        )
        nodata = self.nodata(array, info)
        limits = None if self.recodes(array) else encodable_range(array)
        banded = info.band is not None
        sides = _sides(self.chunks, info, scale)
        if array.chunks is None and self.chunks is not None:
            array = array.chunk()
        ordered = array.transpose(*info.order)
        if ordered.chunks is not None:
            return super_resolve_dask(
                ArraySource(ordered.data, banded, info.nodata),
                self.model,
                self.config,
                nodata=nodata,
                limits=limits,
                sides=sides,
            )
        values = ordered.values if banded else ordered.values[..., np.newaxis, :, :]
        made = predict_stack(
            values,
            self.model,
            self.config,
            source_nodata=info.nodata,
            nodata=nodata,
            limits=limits,
        )
        return made if banded else made[..., 0, :, :]

    def label(self, data: Any, array: xr.DataArray, info: GridInfo) -> xr.DataArray:
        """The product of one array."""
        spec = self.model.spec
        return assign_output_coords(
            data,
            array,
            info,
            spec.scale,
            nodata=self.nodata(array, info),
            recoded=self.recodes(array),
            tags=product_tags(
                model=spec.name,
                model_sha256=self.model.sha256,
                scale=spec.scale,
                source_name=info.source,
                stretch=self.config.stretch,
                consistency=requested_kernel(spec, self.config) or "off",
                options=self.config.tags_json(),
            ),
        )


def parse_request(
    model: str | Model | None,
    scale: int | None,
    chunks: Chunks,
    band: str,
    options: dict[str, Any],
) -> ArrayRequest:
    """Check what can be checked before there is an array.

    Raises
    ------
    UsageError, ModelError
        Options that mean nothing for arrays, no such model.
    """
    config = SRConfig(**options)
    foreign = [name for name in options if not OPTIONS[name].arrays]
    if "indexes" in options and config.output_bands == "rgb":
        foreign.append("indexes")
    if foreign:
        instead = _INSTEAD.get(foreign[0], "write the product with rio.to_raster")
        raise UsageError(f"option {foreign[0]} is for files, not for arrays: {instead}")
    if config.dtype is not None and config.dtype not in SUPPORTED_DTYPES:
        raise UsageError(f"data type {config.dtype} is not one of {', '.join(SUPPORTED_DTYPES)}")
    opened = model if isinstance(model, Model) else open_model(model, scale)
    if scale not in (None, opened.spec.scale):
        raise UsageError(
            f"model {opened.spec.name} enlarges x{opened.spec.scale}, but x{scale} was asked for"
        )
    return ArrayRequest(opened, config, chunks, band)


def _sides(chunks: Chunks, info: GridInfo, scale: int) -> tuple[int | None, int | None]:
    """Height and width of the product's chunks, where they are given."""
    if chunks is None or isinstance(chunks, int):
        given: Mapping[Any, int] = {} if chunks is None else {info.y: chunks, info.x: chunks}
    else:
        given = chunks
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


def super_resolve_dataarray(array: xr.DataArray, request: ArrayRequest) -> xr.DataArray:
    """See `georsr.xarray.ArrayAccessor.super_resolve`."""
    info = grid_info(array, request.band, request.config.src_nodata)
    _warn(info)
    return request.label(request.pixels(array, info), array, info)


def super_resolve_dataset(dataset: xr.Dataset, request: ArrayRequest) -> xr.Dataset:
    """See `georsr.xarray.DatasetAccessor.super_resolve`."""
    y, x = grid_dims(dataset, "dataset")
    arrays = {name: array for name, array in dataset.data_vars.items() if {y, x} <= {*array.dims}}
    if not arrays:
        raise UsageError(f"dataset: no variable has the dimensions {y!r} and {x!r}")
    for array in arrays.values():
        array.rio.set_spatial_dims(x_dim=x, y_dim=y)
    if request.model.spec.bands == 0 or any(request.band in a.dims for a in arrays.values()):
        made = {name: super_resolve_dataarray(array, request) for name, array in arrays.items()}
    else:
        made = _as_bands(arrays, request)
    others = {name: a for name, a in dataset.data_vars.items() if not {y, x} & {*a.dims}}
    product = xr.Dataset({**made, **others}, attrs=dataset.attrs)
    product.rio.set_spatial_dims(x_dim=x, y_dim=y)
    return product


def _as_bands(
    arrays: dict[Hashable, xr.DataArray], request: ArrayRequest
) -> dict[Hashable, xr.DataArray]:
    """Variables of a dataset as the bands of one array."""
    infos = [grid_info(array, request.band, request.config.src_nodata) for array in arrays.values()]
    first, info = next(iter(arrays.values())), infos[0]
    _warn(info)
    for array, other in zip(arrays.values(), infos, strict=True):
        for what, ours, theirs in (
            ("dimensions", first.dims, array.dims),
            ("data type", first.dtype, array.dtype),
            ("nodata", info.nodata, other.nodata),
            ("range of encoded values", encodable_range(first), encodable_range(array)),
        ):
            if repr(ours) != repr(theirs):  # NaN equals NaN
                raise UsageError(
                    f"dataset: {what} of {first.name!r} and {array.name!r} differ: {ours} and "
                    f"{theirs}; choose variables that are bands of one scene: ds[[...]]"
                )
    bands = xr.Dataset(arrays).to_dataarray(request.band)
    bands.encoding = first.encoding
    data = request.pixels(bands, replace(info, name="dataset", band=request.band))
    return {
        name: request.label(data[..., i, :, :], array, info)
        for i, (name, array) in enumerate(arrays.items())
    }


def _warn(info: GridInfo) -> None:
    if info.lacking is not None:
        warnings.warn(
            f"{info.name}: has no {info.lacking}; the product will have none either",
            GeoreferenceWarning,
            stacklevel=4,
        )
