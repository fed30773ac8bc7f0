"""Labels of a product: everything that its source DataArray says and that still holds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from affine import Affine

from georsr.raster.dataarray import CODING, FILLS, TURNED, ArrayInfo
from georsr.raster.georef import scale_gcps, scale_transform

_OF_THE_GRID = ("transform", "res", "resolution", "spec")
"""Attributes by which other packages describe the grid: wrong for any other."""
_OF_THE_FILE = ("OVR_RESAMPLING_ALG", "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")


def label_product(
    data: Any,
    array: xr.DataArray,
    info: ArrayInfo,
    scale: int,
    *,
    nodata: float | None,
    recoded: bool,
    tags: Mapping[str, str],
) -> xr.DataArray:
    """A product with everything that its source says and that still holds.

    Parameters
    ----------
    data
        In the order of ``info.order``.
    array, info
        The source.
    scale
        Product pixels per source pixel.
    nodata
        Of the product.
    recoded
        ``nodata`` or the data type are not what the source declares: its own declaration and
        encoding are left out.
    tags
        Added to the attributes.
    """
    over_grid = [name for name, c in array.coords.items() if {info.y, info.x} & {*c.dims}]
    left_out = [*_OF_THE_GRID, *_OF_THE_FILE, *(FILLS if recoded else ())]
    attrs = {k: v for k, v in array.attrs.items() if k not in left_out}
    attrs = {k: v for k, v in attrs.items() if not str(k).startswith("STATISTICS_")}
    attrs = _band_names(array, info) | attrs
    product = xr.DataArray(
        data,
        dims=info.order,
        coords=array.drop_vars(over_grid).coords,
        attrs=attrs | dict(tags),
    ).assign_coords(_grid_coordinates(data, array, info, scale))
    kept = ("grid_mapping",) if recoded else ("grid_mapping", *FILLS, *CODING)
    product.name = array.name  # given as None, it would be that of the Dask array
    product.encoding = {k: v for k, v in array.encoding.items() if k in kept}
    if recoded and nodata is not None:
        product.attrs["_FillValue"] = product.dtype.type(nodata)
    if "transform" in array.attrs and info.transform is not None:
        product.attrs["transform"] = scale_transform(info.transform, scale)
    product = product.transpose(*array.dims)
    product.rio.set_spatial_dims(x_dim=info.x, y_dim=info.y)
    if gcps := array.rio.get_gcps():
        product.rio.write_gcps(scale_gcps(gcps, scale), array.rio.crs, inplace=True)
    return product


def _band_names(array: xr.DataArray, info: ArrayInfo) -> dict[Hashable, Any]:
    """Names that a coordinate gives the bands, as rioxarray writes them into files."""
    labels = None if info.band is None else array.coords.get(info.band)
    if labels is None or not all(isinstance(label, str) for label in labels.values.tolist()):
        return {}
    return {"long_name": tuple(labels.values.tolist())}


def _grid_coordinates(
    data: Any, array: xr.DataArray, info: ArrayInfo, scale: int
) -> dict[Hashable, Any]:
    """Labels of the product's rows and columns, and its transform."""
    made = dict[Hashable, Any]()
    for dim, axis in zip((info.y, info.x), info.axes or (), strict=False):
        made[dim] = (dim, axis.finer(scale).labels(), array[dim].attrs)
    if info.transform is None:
        return made
    fine = scale_transform(info.transform, scale)
    mapping = array.coords.get(array.rio.grid_mapping)
    if mapping is not None:
        text = " ".join(map(str, fine.to_gdal()))
        made[mapping.name] = ((), mapping.values, {**mapping.attrs, "GeoTransform": text})
    if info.axes is None and {*TURNED} <= {*array.coords}:
        made |= _turned_coordinates(data, array, info, fine)
    return made


def _turned_coordinates(
    data: Any, array: xr.DataArray, info: ArrayInfo, fine: Affine
) -> dict[Hashable, Any]:
    """Coordinates of every pixel of a rotated grid: lazy where the pixels are."""
    columns = np.arange(data.shape[-1], dtype=np.float64)
    rows = np.arange(data.shape[-2], dtype=np.float64)
    if isinstance(data, da.Array):
        from_array: Any = da.from_array  # untyped
        columns = from_array(columns, chunks=(data.chunks[-1],))
        rows = from_array(rows, chunks=(data.chunks[-2],))
    a, b, c, d, e, f = tuple(fine @ Affine.translation(0.5, 0.5))[:6]
    x = columns * a + rows[:, None] * b + c
    y = columns * d + rows[:, None] * e + f
    return {
        name: ((info.y, info.x), values, array[name].attrs)
        for name, values in zip(TURNED, (x, y), strict=True)
    }
