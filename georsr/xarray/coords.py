"""Read the grid of an xarray.DataArray, and assign coordinates and attributes to its output.

The output keeps all coordinates, attributes and encodings of its source that are still valid.
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

from georsr.errors import UsageError, redact_url
from georsr.io.metadata import SUPPORTED_DTYPES, SourceNodata, scale_gcps, scale_transform
from georsr.radiometry.nodata import can_represent

COORD_TOLERANCE = 0.05
"""Largest deviation of coordinates from an even spacing, in pixels. They are often rounded."""


@dataclass(frozen=True)
class Axis:
    """Evenly spaced pixels along one axis."""

    origin: float
    """Outer edge of the first pixel."""
    step: float
    """Distance from one pixel to the next; negative if coordinates decrease."""
    length: int
    """Number of pixels."""
    pixel_ref: float = 0.5
    """Point of a pixel that its coordinate refers to: 0.5 is the centre, 0 the first edge."""

    def coords(self) -> npt.NDArray[np.float64]:
        """Return one coordinate for each pixel."""
        # rioxarray computes the coordinates of a file in this order of operations
        first = self.pixel_ref * self.step + self.origin
        return np.arange(self.length, dtype=np.float64) * self.step + first

    def refine(self, scale: int) -> Axis:
        """Return an axis with the same outer edges and ``scale`` times as many pixels."""
        return replace(self, step=self.step / scale, length=self.length * scale)


def axis_from_coords(
    name: str,
    labels: npt.NDArray[Any],
    declared: tuple[float, float] | None = None,
    *,
    corners: bool = False,
) -> Axis:
    """Return the axis that its coordinates describe.

    Parameters
    ----------
    name
        Name of the axis in errors.
    labels
        Coordinates of the axis, (n,) numbers.
    declared
        Origin and step from a transform. They are exact where the coordinates are rounded, and
        are used if the coordinates lie on that grid, or on a part of it.
    corners
        Coordinates may also refer to first edges, if they match ``declared`` that way.

    Raises
    ------
    UsageError
        The coordinates are not numbers, not evenly spaced, or too few to determine the step.
    """
    if labels.dtype.kind not in "iuf":
        raise UsageError(f"coordinate {name!r}: holds {labels.dtype}, expected numbers")
    rounding = 4 * np.finfo(labels.dtype).eps if labels.dtype.kind == "f" else 0.0
    values = labels.astype(np.float64)
    step = _step(name, values, declared)
    tolerance = COORD_TOLERANCE * abs(step) + rounding * float(np.abs(values).max())
    even = values[0] + np.arange(len(values)) * step
    if not step or not np.abs(values - even).max() <= tolerance:
        raise UsageError(_uneven_message(name, values))
    if declared is not None and abs(declared[1] - step) * len(values) <= tolerance:
        step = declared[1]
        for pixel_ref in (0.5, 0.0) if corners else (0.5,):
            shift = (values[0] - declared[0]) / step - pixel_ref
            if abs(shift - round(shift)) * abs(step) <= tolerance:
                return Axis(declared[0] + round(shift) * step, step, len(values), pixel_ref)
    return Axis(float(values[0]) - step / 2, step, len(values))


def _step(
    name: str, values: npt.NDArray[np.float64], declared: tuple[float, float] | None
) -> float:
    """Return the distance between neighbouring pixels."""
    if len(values) > 1:
        return float(values[-1] - values[0]) / (len(values) - 1)
    if declared is None:
        raise UsageError(
            f"coordinate {name!r}: the size of one pixel is unknown; "
            "write it down with da.rio.write_transform(transform)"
        )
    return declared[1]


def _uneven_message(name: str, values: npt.NDArray[np.float64]) -> str:
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
"""Encodings that describe how values are stored."""
ROTATED_COORDS = ("xc", "yc")
"""Names that rioxarray gives the two-dimensional coordinates of a rotated grid."""


@dataclass(frozen=True)
class GridInfo:
    """Dimensions, grid and nodata of a DataArray.

    Attributes
    ----------
    name : str
        Name of the array in messages.
    y, x : hashable
        Dimensions of rows and columns.
    band : hashable or None
        Dimension of the bands, if there is one.
    scenes : tuple of hashable
        All other dimensions.
    transform : Affine or None
        Transform from pixel corner (column, row) to CRS.
    axes : (Axis, Axis) or None
        Axes of rows and columns, if both have coordinates.
    nodata : float or None
        Value of invalid pixels in the output. NaN and infinity are always invalid.
    source_nodata : tuple of float
        All values of invalid pixels that the array declares, ``nodata`` first.
    source : str
        Name of the file the array was read from, or name of the array.
    missing_georeference : str or None
        What is missing for a complete georeference, for messages; None if nothing is.
    """

    name: str
    y: Hashable
    x: Hashable
    band: Hashable | None
    scenes: tuple[Hashable, ...]
    transform: Affine | None
    axes: tuple[Axis, Axis] | None
    nodata: float | None
    source_nodata: tuple[float, ...]
    source: str
    missing_georeference: str | None

    @property
    def order(self) -> tuple[Hashable, ...]:
        """Return the dimensions in the order scenes, bands, rows, columns."""
        band = () if self.band is None else (self.band,)
        return (*self.scenes, *band, self.y, self.x)


def grid_info(
    array: xr.DataArray, band: Hashable = "band", nodata: SourceNodata = None
) -> GridInfo:
    """Read dimensions, grid and nodata of a DataArray.

    Parameters
    ----------
    array
        Array with rows and columns, optionally bands and other dimensions.
    band
        Dimension of the bands, if the array has it.
    nodata
        Nodata value; None uses the one that the array declares.

    Raises
    ------
    UsageError
        The array has no rows and columns or no regular grid, or its data type or nodata value is
        not supported.
    """
    name = "array" if array.name is None else f"array {array.name!r}"
    y, x = grid_dims(array, name)
    if array.dtype.name not in SUPPORTED_DTYPES:
        raise UsageError(
            f"{name}: data type {array.dtype} is not supported; convert it with da.astype(...) to "
            f"one of {', '.join(SUPPORTED_DTYPES)}"
        )
    for dim, axis in ((y, "rows"), (x, "columns")):
        if not array.sizes[dim]:
            raise UsageError(
                f"{name}: has no {axis}: the selection is empty; coordinates of rows usually "
                "fall, so select with da.sel(y=slice(north, south), x=slice(west, east))"
            )
    transform, axes = _grid(array, y, x)
    source_nodata = _nodata(array, name, nodata)
    try:
        crs = array.rio.crs
    except (ValueError, RuntimeError) as error:  # from rasterio, from pyproj
        raise UsageError(
            f"{name}: its coordinate reference system cannot be read ({error}); "
            "write it again with da.rio.write_crs(...)"
        ) from error
    missing = None
    if crs is None:
        missing = "coordinate reference system"
    elif transform is None and not array.rio.get_gcps():
        missing = "geotransform"
    return GridInfo(
        name=name,
        y=y,
        x=x,
        band=band if band in array.dims else None,
        scenes=tuple(dim for dim in array.dims if dim not in (y, x, band)),
        transform=transform,
        axes=axes,
        nodata=source_nodata[0] if source_nodata else None,
        source_nodata=source_nodata,
        source=PurePath(redact_url(str(array.encoding.get("source", array.name or "array")))).name,
        missing_georeference=missing,
    )


def grid_dims(labelled: xr.DataArray | xr.Dataset, name: str) -> tuple[Hashable, Hashable]:
    """Return the dimensions of rows and columns.

    Raises
    ------
    UsageError
        They cannot be determined; the message calls the array or dataset ``name``.
    """
    try:
        return labelled.rio.y_dim, labelled.rio.x_dim
    except MissingSpatialDimensionError as error:
        dims = ", ".join(map(repr, labelled.dims)) or "none"
        raise UsageError(
            f"{name} of dimensions {dims}: which are rows and columns? name them with "
            "rio.set_spatial_dims(x_dim=..., y_dim=...)"
        ) from error


def _nodata(array: xr.DataArray, name: str, requested: SourceNodata) -> tuple[float, ...]:
    """Return the requested nodata value, or all those that the array declares."""
    dtype = array.dtype.name
    if requested == "none":
        return ()
    if requested is not None:
        if not can_represent(dtype, requested):
            raise UsageError(f"{name}: nodata {requested:g} cannot occur in data of type {dtype}")
        return (float(requested),)
    if len({*map(str, array.attrs.get("nodatavals", ()))}) > 1:
        raise UsageError(
            f"{name}: nodata {array.attrs['nodatavals']} differs between bands; replace it by one "
            "value, or NaN, and declare that with da.rio.write_nodata"
        )
    try:
        # integers are not decoded: their pixels contain the fill value of the encoding
        stored = None if array.dtype.kind == "f" else array.rio.encoded_nodata
        first = array.rio.nodata if stored is None else stored
    except (OverflowError, ValueError, TypeError):
        first = None  # no pixel can have this value, or it is a list
    others = [value for key in NODATA_KEYS for value in np.ravel(array.attrs.get(key, ()))]
    known = [*np.ravel(first), *others]  # missing_value may be a list
    values = [float(value) for value in known if value is not None]
    return tuple({str(value): value for value in values if can_represent(dtype, value)}.values())


def _declared_transform(array: xr.DataArray) -> tuple[Affine | None, bool]:
    """Return the declared transform, and whether it is declared as stackstac does."""
    mapping = array.coords.get(array.rio.grid_mapping)
    text = None if mapping is None else mapping.attrs.get("GeoTransform")
    if text is not None:
        return Affine.from_gdal(*map(float, text.split())), False
    numbers = array.attrs.get("transform")
    return (None, False) if numbers is None else (Affine(*tuple(numbers)[:6]), True)


def _grid(
    array: xr.DataArray, y: Hashable, x: Hashable
) -> tuple[Affine | None, tuple[Axis, Axis] | None]:
    """Return the transform of an array, and its axes if rows and columns have coordinates."""
    declared, corners = _declared_transform(array)
    if declared is not None and (declared.b or declared.d):
        return _rotated_transform(array, declared, y, x), None
    if y not in array.coords or x not in array.coords:
        return (None if declared == Affine.identity() else declared), None
    known = None if declared is None else ((declared.f, declared.e), (declared.c, declared.a))
    down, across = (
        axis_from_coords(str(dim), array[dim].values, known and known[i], corners=corners)
        for i, dim in enumerate((y, x))
    )
    transform = Affine(across.step, 0.0, across.origin, 0.0, down.step, down.origin)
    return (None if transform == Affine.identity() else transform), (down, across)


def _rotated_transform(array: xr.DataArray, declared: Affine, y: Hashable, x: Hashable) -> Affine:
    """Return the transform of a rotated or sheared grid, which may be part of the declared one."""
    if not {*ROTATED_COORDS} <= {*array.coords}:
        return declared
    ends = [
        ~declared @ tuple(float(array[name].isel({y: i, x: i})) for name in ROTATED_COORDS)
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
        return declared
    a, b, _, d, e, _ = tuple(declared)[:6]
    c, f = declared @ (left, top)
    return Affine(a, b, c, d, e, f)


def encodable_range(array: xr.DataArray) -> tuple[float, float] | None:
    """Return the lowest and highest value that an array of decoded integers can encode; None: any.

    Writers cast to the data type of the encoding, which wraps around, and a value encoded as the
    fill value is read back as invalid: if that is the first or last value of the type, it is
    excluded.
    """
    encoding = array.encoding
    stored = np.dtype(encoding.get("dtype") or array.dtype)
    if array.dtype.kind != "f" or stored.kind not in "iu" or "scales" in encoding:
        return None
    low, high = float(np.iinfo(stored).min), float(np.iinfo(stored).max)
    fill = encoding.get("_FillValue")
    low, high = low + (fill == low), high - (fill == high)
    factor = float(encoding.get("scale_factor", 1))
    offset = float(encoding.get("add_offset", 0))
    ends = sorted((low * factor + offset, high * factor + offset))
    return ends[0], ends[1]


_GRID_ATTRS = ("transform", "res", "resolution", "spec")
"""Attributes in which other packages describe the grid; wrong for another grid."""
_FILE_ATTRS = ("OVR_RESAMPLING_ALG", "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")


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
    """Return an output with the coordinates, attributes and encodings of its source.

    Parameters
    ----------
    data
        Output pixels, dimensions as in ``info.order``.
    array, info
        Source, and its grid.
    scale
        Output pixels per source pixel, along each axis.
    nodata
        Nodata value of the output.
    recoded
        True if ``nodata`` or the data type differ from those of the source: nodata attributes and
        encodings of the source are then omitted.
    tags
        Tags to add to the attributes.
    """
    spatial = [name for name, c in array.coords.items() if {info.y, info.x} & {*c.dims}]
    omitted = [*_GRID_ATTRS, *_FILE_ATTRS, *(NODATA_KEYS if recoded else ())]
    attrs = {k: v for k, v in array.attrs.items() if k not in omitted}
    attrs = {k: v for k, v in attrs.items() if not str(k).startswith("STATISTICS_")}
    if (names := band_names(array, info)) is not None:
        attrs["long_name"] = names
    elif isinstance(attrs.get("long_name"), tuple | list):
        del attrs["long_name"]  # names of other bands, which rioxarray refuses to write
    output = xr.DataArray(
        data,
        dims=info.order,
        coords=array.drop_vars(spatial).coords,
        attrs=attrs | dict(tags),
    ).assign_coords(_grid_coordinates(data, array, info, scale))
    kept = ("grid_mapping",) if recoded else ("grid_mapping", *NODATA_KEYS, *ENCODING_KEYS)
    output.name = array.name  # as an argument, None would be replaced by the name of the Dask array
    output.encoding = {k: v for k, v in array.encoding.items() if k in kept}
    if recoded and nodata is not None:
        output.attrs["_FillValue"] = output.dtype.type(nodata)
    if "transform" in array.attrs and info.transform is not None:
        output.attrs["transform"] = scale_transform(info.transform, scale)
    output = output.transpose(*array.dims)
    output.rio.set_spatial_dims(x_dim=info.x, y_dim=info.y)
    if gcps := array.rio.get_gcps():
        output.rio.write_gcps(scale_gcps(gcps, scale), array.rio.crs, inplace=True)
    return output


def band_names(array: xr.DataArray, info: GridInfo) -> tuple[str, ...] | None:
    """Return a name for each band: labels of the coordinate, or names that rioxarray read.

    rioxarray numbers bands from 1, and keeps the names of all of them in the attribute
    ``long_name`` when some are selected.
    """
    coordinate = None if info.band is None else array.coords.get(info.band)
    names = array.attrs.get("long_name")
    labels = [] if coordinate is None else np.atleast_1d(coordinate.values).tolist()
    if labels and all(isinstance(label, str) for label in labels):
        return tuple(labels)
    if not isinstance(names, tuple | list) or info.band is None:
        return None
    if len(names) == array.sizes[info.band]:
        return tuple(names)
    if all(isinstance(label, int) and 1 <= label <= len(names) for label in labels or [0]):
        return tuple(names[label - 1] for label in labels)
    return None


def _grid_coordinates(
    data: Any, array: xr.DataArray, info: GridInfo, scale: int
) -> dict[Hashable, Any]:
    """Return the coordinates of the output's rows and columns, and its transform."""
    coords = dict[Hashable, Any]()
    for dim, axis in zip((info.y, info.x), info.axes or (), strict=False):
        coords[dim] = (dim, axis.refine(scale).coords(), array[dim].attrs)
    if info.transform is None:
        return coords
    transform = scale_transform(info.transform, scale)
    mapping = array.coords.get(array.rio.grid_mapping)
    # without a declared one, that of the whole array would misplace slices written to netCDF
    if mapping is not None and _declared_transform(array)[0] is not None:
        text = " ".join(map(str, transform.to_gdal()))
        coords[mapping.name] = ((), mapping.values, {**mapping.attrs, "GeoTransform": text})
    if info.axes is None and {*ROTATED_COORDS} <= {*array.coords}:
        coords |= _rotated_coordinates(data, array, info, transform)
    return coords


def _rotated_coordinates(
    data: Any, array: xr.DataArray, info: GridInfo, transform: Affine
) -> dict[Hashable, Any]:
    """Return the coordinates of every pixel of a rotated grid, lazy if the pixels are."""
    columns = np.arange(data.shape[-1], dtype=np.float64)
    rows = np.arange(data.shape[-2], dtype=np.float64)
    if isinstance(data, da.Array):
        from_array: Any = da.from_array  # untyped
        columns = from_array(columns, chunks=(data.chunks[-1],))
        rows = from_array(rows, chunks=(data.chunks[-2],))
    a, b, c, d, e, f = tuple(transform @ Affine.translation(0.5, 0.5))[:6]
    x = columns * a + rows[:, None] * b + c
    y = columns * d + rows[:, None] * e + f
    return {
        name: ((info.y, info.x), values, array[name].attrs)
        for name, values in zip(ROTATED_COORDS, (x, y), strict=True)
    }
