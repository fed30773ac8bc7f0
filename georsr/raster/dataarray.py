"""What an xarray.DataArray says about itself, read once, and the labels of its product."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import rioxarray  # noqa: F401  (registers the accessor `rio`)
import xarray as xr
from affine import Affine
from rioxarray.exceptions import MissingSpatialDimensionError

from georsr.errors import UsageError
from georsr.raster.axes import SLACK, Axis, read_axis
from georsr.raster.bands import SUPPORTED
from georsr.raster.mask import holds
from georsr.redact import redact_url

FILLS = ("_FillValue", "missing_value", "fill_value", "nodata", "nodatavals")
"""Attributes and encodings that declare nodata."""
CODING = (
    "dtype",
    "rasterio_dtype",
    "scale_factor",
    "add_offset",
    "scales",
    "offsets",
    "_Unsigned",
)
"""Encodings that say how values are stored."""
TURNED = ("xc", "yc")
"""Coordinates of every pixel, as rioxarray names them where the grid is rotated."""


@dataclass(frozen=True)
class ArrayInfo:
    """A DataArray of scenes on one grid.

    Attributes
    ----------
    name : str
        For messages.
    y, x : hashable
        Dimensions of the grid.
    band : hashable or None
        Dimension of the bands, if there is one.
    scenes : tuple of hashable
        All other dimensions.
    transform : Affine or None
        Pixel corner (column, row) to CRS.
    axes : (Axis, Axis) or None
        Rows and columns, if both are labelled.
    nodata : float or None
        Value of invalid pixels; NaN and infinity are invalid besides.
    source : str
        Name of the file it came from, or its own.
    lacking : str or None
        What is not there to say where on Earth it lies.
    """

    name: str
    y: Hashable
    x: Hashable
    band: Hashable | None
    scenes: tuple[Hashable, ...]
    transform: Affine | None
    axes: tuple[Axis, Axis] | None
    nodata: float | None
    source: str
    lacking: str | None

    @property
    def order(self) -> tuple[Hashable, ...]:
        """Scenes, bands, rows, columns."""
        band = () if self.band is None else (self.band,)
        return (*self.scenes, *band, self.y, self.x)


def describe_array(
    array: xr.DataArray, band: Hashable = "band", nodata: float | None = None
) -> ArrayInfo:
    """Read dimensions, grid and nodata.

    Parameters
    ----------
    array
        Of rows, columns, perhaps bands, and anything else.
    band
        Dimension of the bands, if the array has it.
    nodata
        Overrides what the array says.

    Raises
    ------
    UsageError
        No rows and columns, no regular grid, a data type or nodata that cannot be.
    """
    name = "array" if array.name is None else f"array {array.name!r}"
    y, x = grid_dims(array, name)
    if array.dtype.name not in SUPPORTED:
        raise UsageError(
            f"{name}: data type {array.dtype} is not supported; convert it with da.astype(...) to "
            f"one of {', '.join(SUPPORTED)}"
        )
    transform, axes = _grid(array, y, x)
    try:
        crs = array.rio.crs
    except (ValueError, RuntimeError) as error:  # of rasterio, of pyproj
        raise UsageError(
            f"{name}: its coordinate reference system cannot be read ({error}); "
            "write it again with da.rio.write_crs(...)"
        ) from error
    lacking = None
    if crs is None:
        lacking = "coordinate reference system"
    elif transform is None and not array.rio.get_gcps():
        lacking = "geotransform"
    return ArrayInfo(
        name=name,
        y=y,
        x=x,
        band=band if band in array.dims else None,
        scenes=tuple(dim for dim in array.dims if dim not in (y, x, band)),
        transform=transform,
        axes=axes,
        nodata=_nodata(array, name, nodata),
        source=PurePath(redact_url(str(array.encoding.get("source", array.name or "array")))).name,
        lacking=lacking,
    )


def grid_dims(labelled: xr.DataArray | xr.Dataset, name: str) -> tuple[Hashable, Hashable]:
    """Dimensions of rows and columns.

    Raises
    ------
    UsageError
        They are not to be found; calls the array or dataset ``name``.
    """
    try:
        return labelled.rio.y_dim, labelled.rio.x_dim
    except MissingSpatialDimensionError as error:
        dims = ", ".join(map(repr, labelled.dims)) or "none"
        raise UsageError(
            f"{name} of dimensions {dims}: which are rows and columns? name them with "
            "rio.set_spatial_dims(x_dim=..., y_dim=...)"
        ) from error


def _nodata(array: xr.DataArray, name: str, wanted: float | None) -> float | None:
    dtype = array.dtype.name
    if wanted is not None:
        if not holds(dtype, wanted):
            raise UsageError(f"{name}: nodata {wanted:g} cannot occur in data of type {dtype}")
        return float(wanted)
    try:
        # integers are not decoded: what the encoding calls fill value is in the pixels
        stored = None if array.dtype.kind == "f" else array.rio.encoded_nodata
        value = array.rio.nodata if stored is None else stored
    except (OverflowError, ValueError):
        return None  # no pixel can have it
    return float(value) if value is not None and holds(dtype, float(value)) else None


def _written(array: xr.DataArray) -> tuple[Affine | None, bool]:
    """The transform that is written down, and whether it is so by the way of stackstac."""
    mapping = array.coords.get(array.rio.grid_mapping)
    text = None if mapping is None else mapping.attrs.get("GeoTransform")
    if text is not None:
        return Affine.from_gdal(*map(float, text.split())), False
    numbers = array.attrs.get("transform")
    return (None, False) if numbers is None else (Affine(*tuple(numbers)[:6]), True)


def _grid(
    array: xr.DataArray, y: Hashable, x: Hashable
) -> tuple[Affine | None, tuple[Axis, Axis] | None]:
    written, corners = _written(array)
    if written is not None and (written.b or written.d):
        return _turned(array, written, y, x), None
    if y not in array.coords or x not in array.coords:
        return (None if written == Affine.identity() else written), None
    known = None if written is None else ((written.f, written.e), (written.c, written.a))
    down, across = (
        read_axis(str(dim), array[dim].values, known and known[i], corners=corners)
        for i, dim in enumerate((y, x))
    )
    transform = Affine(across.step, 0.0, across.origin, 0.0, down.step, down.origin)
    return (None if transform == Affine.identity() else transform), (down, across)


def _turned(array: xr.DataArray, written: Affine, y: Hashable, x: Hashable) -> Affine:
    """Transform of a rotated or sheared grid, perhaps a part of the one that is written down."""
    if not {*TURNED} <= {*array.coords}:
        return written
    ends = [
        ~written @ tuple(float(array[name].isel({y: i, x: i})) for name in TURNED) for i in (0, -1)
    ]
    left, top = (round(value - 0.5) for value in ends[0])
    right, bottom = left + array.sizes[x], top + array.sizes[y]
    expected = [(left + 0.5, top + 0.5), (right - 0.5, bottom - 0.5)]
    if not np.abs(np.subtract(ends, expected)).max() <= SLACK:
        raise UsageError(
            "coordinates 'xc' and 'yc' do not lie on the grid of GeoTransform: is it that of "
            "another array? write it down with da.rio.write_transform(transform)"
        )
    if left == top == 0:
        return written
    a, b, _, d, e, _ = tuple(written)[:6]
    c, f = written @ (left, top)
    return Affine(a, b, c, d, e, f)


def writable_limits(array: xr.DataArray) -> tuple[float, float] | None:
    """Lowest and highest value that an array of decoded integers can be encoded to; None: any.

    Writers cast to the type of the encoding by wrapping, and what is encoded as the fill value
    does not come back: where that is the first or last value of the type, it is left out.
    """
    coding = array.encoding
    stored = np.dtype(coding.get("dtype") or array.dtype)
    if array.dtype.kind != "f" or stored.kind not in "iu" or "scales" in coding:
        return None
    low, high = float(np.iinfo(stored).min), float(np.iinfo(stored).max)
    fill = coding.get("_FillValue")
    low, high = low + (fill == low), high - (fill == high)
    factor, offset = float(coding.get("scale_factor", 1)), float(coding.get("add_offset", 0))
    ends = sorted((low * factor + offset, high * factor + offset))
    return ends[0], ends[1]
