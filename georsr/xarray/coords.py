"""Axes: from the labels of a grid's rows or columns to where its pixels lie, and back.

What an xarray.DataArray says about itself, read once, and the labels of its product.

Labels of a product: everything that its source DataArray says and that still holds.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import rioxarray  # noqa: F401  (registers the accessor `rio`)
import xarray as xr
from affine import Affine
from rioxarray.exceptions import MissingSpatialDimensionError

from georsr.errors import UsageError
from georsr.geo.georeference import scale_gcps, scale_transform
from georsr.io.metadata import SUPPORTED_DTYPES
from georsr.radiometry.nodata import can_represent
from georsr.redact import redact_url

COORD_TOLERANCE = 0.05
"""Pixels by which labels may miss where they should be: they are often rounded."""


@dataclass(frozen=True)
class Axis:
    """Evenly spaced pixels along one axis.

    Attributes
    ----------
    origin : float
        Outer edge of the first pixel.
    step : float
        From one pixel to the next; its sign is that of the axis.
    length : int
        Pixels.
    anchor : float
        What of a pixel its label names: 0.5 the centre, 0 the first edge.
    """

    origin: float
    step: float
    length: int
    pixel_ref: float = 0.5

    def coords(self) -> npt.NDArray[np.float64]:
        """One label for each pixel."""
        # the order of operations in which rioxarray makes the coordinates of a file
        first = self.pixel_ref * self.step + self.origin
        return np.arange(self.length, dtype=np.float64) * self.step + first

    def refine(self, scale: int) -> Axis:
        """The same edges, ``scale`` pixels for each."""
        return replace(self, step=self.step / scale, length=self.length * scale)


def axis_from_coords(
    name: str,
    labels: npt.NDArray[Any],
    written: tuple[float, float] | None = None,
    *,
    corners: bool = False,
) -> Axis:
    """What the labels of an axis say.

    Parameters
    ----------
    name
        What to call the axis in errors.
    labels
        (n,) numbers.
    written
        Origin and step as written down elsewhere. They are exact where labels are rounded, and
        count as long as the labels agree: perhaps of a part of that grid only.
    corners
        Labels may name first edges instead of centres, if that is what makes them agree.

    Raises
    ------
    UsageError
        Labels that are not numbers, not evenly spaced, or too few to tell the step.
    """
    if labels.dtype.kind not in "iuf":
        raise UsageError(f"coordinate {name!r}: holds {labels.dtype}, expected numbers")
    rounding = 4 * np.finfo(labels.dtype).eps if labels.dtype.kind == "f" else 0.0
    values = labels.astype(np.float64)
    step = _step(name, values, written)
    slack = COORD_TOLERANCE * abs(step) + rounding * float(np.abs(values).max())
    even = values[0] + np.arange(len(values)) * step
    if not step or not np.abs(values - even).max() <= slack:
        raise UsageError(_uneven(name, values))
    if written is not None and abs(written[1] - step) * len(values) <= slack:
        step = written[1]
        for anchor in (0.5, 0.0) if corners else (0.5,):
            shift = (values[0] - written[0]) / step - anchor
            if abs(shift - round(shift)) * abs(step) <= slack:
                return Axis(written[0] + round(shift) * step, step, len(values), anchor)
    return Axis(float(values[0]) - step / 2, step, len(values))


def _step(name: str, values: npt.NDArray[np.float64], written: tuple[float, float] | None) -> float:
    if len(values) > 1:
        return float(values[-1] - values[0]) / (len(values) - 1)
    if written is None:
        raise UsageError(
            f"coordinate {name!r}: one pixel does not tell its size; "
            "write it down with da.rio.write_transform(transform)"
        )
    return written[1]


def _uneven(name: str, values: npt.NDArray[np.float64]) -> str:
    steps = np.diff(values)
    return (
        f"coordinate {name!r}: is not evenly spaced, its steps go from {steps.min():g} to "
        f"{steps.max():g}; resample it to a regular grid first, for example with da.interp"
    )


NODATA_KEYS = ("_FillValue", "missing_value", "fill_value", "nodata", "nodatavals")
"""Attributes and encodings that declare nodata."""
ENCODING_KEYS = (
    "dtype",
    "rasterio_dtype",
    "scale_factor",
    "add_offset",
    "scales",
    "offsets",
    "_Unsigned",
)
"""Encodings that say how values are stored."""
ROTATED_COORDS = ("xc", "yc")
"""Coordinates of every pixel, as rioxarray names them where the grid is rotated."""


@dataclass(frozen=True)
class GridInfo:
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


def grid_info(
    array: xr.DataArray, band: Hashable = "band", nodata: float | None = None
) -> GridInfo:
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
    if array.dtype.name not in SUPPORTED_DTYPES:
        raise UsageError(
            f"{name}: data type {array.dtype} is not supported; convert it with da.astype(...) to "
            f"one of {', '.join(SUPPORTED_DTYPES)}"
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
    return GridInfo(
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
        if not can_represent(dtype, wanted):
            raise UsageError(f"{name}: nodata {wanted:g} cannot occur in data of type {dtype}")
        return float(wanted)
    try:
        # integers are not decoded: what the encoding calls fill value is in the pixels
        stored = None if array.dtype.kind == "f" else array.rio.encoded_nodata
        value = array.rio.nodata if stored is None else stored
    except (OverflowError, ValueError):
        return None  # no pixel can have it
    return float(value) if value is not None and can_represent(dtype, float(value)) else None


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
        axis_from_coords(str(dim), array[dim].values, known and known[i], corners=corners)
        for i, dim in enumerate((y, x))
    )
    transform = Affine(across.step, 0.0, across.origin, 0.0, down.step, down.origin)
    return (None if transform == Affine.identity() else transform), (down, across)


def _turned(array: xr.DataArray, written: Affine, y: Hashable, x: Hashable) -> Affine:
    """Transform of a rotated or sheared grid, perhaps a part of the one that is written down."""
    if not {*ROTATED_COORDS} <= {*array.coords}:
        return written
    ends = [
        ~written @ tuple(float(array[name].isel({y: i, x: i})) for name in ROTATED_COORDS)
        for i in (0, -1)
    ]
    left, top = (round(value - 0.5) for value in ends[0])
    right, bottom = left + array.sizes[x], top + array.sizes[y]
    expected = [(left + 0.5, top + 0.5), (right - 0.5, bottom - 0.5)]
    if not np.abs(np.subtract(ends, expected)).max() <= COORD_TOLERANCE:
        raise UsageError(
            "coordinates 'xc' and 'yc' do not lie on the grid of GeoTransform: is it that of "
            "another array? write it down with da.rio.write_transform(transform)"
        )
    if left == top == 0:
        return written
    a, b, _, d, e, _ = tuple(written)[:6]
    c, f = written @ (left, top)
    return Affine(a, b, c, d, e, f)


def encodable_range(array: xr.DataArray) -> tuple[float, float] | None:
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


_OF_THE_GRID = ("transform", "res", "resolution", "spec")
"""Attributes by which other packages describe the grid: wrong for any other."""
_OF_THE_FILE = ("OVR_RESAMPLING_ALG", "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")


def assign_output_coords(
    data: Any,
    array: xr.DataArray,
    info: GridInfo,
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
    left_out = [*_OF_THE_GRID, *_OF_THE_FILE, *(NODATA_KEYS if recoded else ())]
    attrs = {k: v for k, v in array.attrs.items() if k not in left_out}
    attrs = {k: v for k, v in attrs.items() if not str(k).startswith("STATISTICS_")}
    attrs = _band_names(array, info) | attrs
    product = xr.DataArray(
        data,
        dims=info.order,
        coords=array.drop_vars(over_grid).coords,
        attrs=attrs | dict(tags),
    ).assign_coords(_grid_coordinates(data, array, info, scale))
    kept = ("grid_mapping",) if recoded else ("grid_mapping", *NODATA_KEYS, *ENCODING_KEYS)
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


def _band_names(array: xr.DataArray, info: GridInfo) -> dict[Hashable, Any]:
    """Names that a coordinate gives the bands, as rioxarray writes them into files."""
    labels = None if info.band is None else array.coords.get(info.band)
    if labels is None or not all(isinstance(label, str) for label in labels.values.tolist()):
        return {}
    return {"long_name": tuple(labels.values.tolist())}


def _grid_coordinates(
    data: Any, array: xr.DataArray, info: GridInfo, scale: int
) -> dict[Hashable, Any]:
    """Labels of the product's rows and columns, and its transform."""
    made = dict[Hashable, Any]()
    for dim, axis in zip((info.y, info.x), info.axes or (), strict=False):
        made[dim] = (dim, axis.refine(scale).coords(), array[dim].attrs)
    if info.transform is None:
        return made
    fine = scale_transform(info.transform, scale)
    mapping = array.coords.get(array.rio.grid_mapping)
    if mapping is not None:
        text = " ".join(map(str, fine.to_gdal()))
        made[mapping.name] = ((), mapping.values, {**mapping.attrs, "GeoTransform": text})
    if info.axes is None and {*ROTATED_COORDS} <= {*array.coords}:
        made |= _turned_coordinates(data, array, info, fine)
    return made


def _turned_coordinates(
    data: Any, array: xr.DataArray, info: GridInfo, fine: Affine
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
        for name, values in zip(ROTATED_COORDS, (x, y), strict=True)
    }
