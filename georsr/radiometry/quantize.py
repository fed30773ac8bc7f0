"""Convert float predictions to the output data type: round, clip and restore nodata.

Planes of a constant value, which are most of a sparse mosaic, are passed on as a broadcast view of
one pixel: it takes no memory, and its strides show that it is constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from georsr.radiometry.nodata import nodata_tolerance
from georsr.window import AnyArray, BoolArray, FloatArray


def is_constant(planes: AnyArray) -> bool:
    """Return whether each plane of (..., h, w) has one value, bit for bit; NaN equals NaN."""
    if is_broadcast(planes):
        return True
    bits = planes.view(f"u{planes.dtype.itemsize}")
    corner = bits[..., :1, :1]
    if (bits[..., -1:, -1:] != corner).any() or (bits[..., :1, :] != corner).any():
        return False  # cheaper than comparing all pixels
    return bool((bits == corner).all())


def is_broadcast(planes: AnyArray) -> bool:
    """Return whether (..., h, w) is a view of one pixel, as `broadcast_pixel` returns it."""
    return planes.strides[-2:] == (0, 0)


def broadcast_pixel(planes: AnyArray, height: int, width: int) -> AnyArray:
    """Repeat the first pixel of each plane to (..., height, width), as a read-only view."""
    corner = planes[..., :1, :1]
    return np.broadcast_to(corner, (*corner.shape[:-2], height, width))


def replicate(array: AnyArray, scale: int) -> AnyArray:
    """Upsample (..., h, w) to (..., scale * h, scale * w) by nearest neighbour.

    Constant planes are returned as a read-only view of one pixel.
    """
    if is_constant(array):
        return broadcast_pixel(array, array.shape[-2] * scale, array.shape[-1] * scale)
    return array.repeat(scale, axis=-1).repeat(scale, axis=-2)


def quantize(
    values: FloatArray,
    valid: BoolArray | None,
    source_fill: AnyArray | None,
    dtype: str,
    nodata: float | Sequence[float | None] | None,
    *,
    masked: bool = False,
) -> AnyArray:
    """Round values to the output data type and restore invalid pixels.

    Valid pixels are rounded to the nearest integer (ties to even) and clipped to the range of
    ``dtype``; they never wrap. A valid pixel that would then be read as nodata moves to the nearest
    other value: up if it was at or above nodata before rounding, down if it was below, and inward
    at the ends of the range. For floats the step is the tolerance of GDAL's comparison with nodata.

    Invalid pixels keep the source value where it is still read as invalid: NaN and infinity in a
    float output, any value if ``dtype`` is that of the source and the output has a mask or no
    nodata. Otherwise they become nodata. NaN becomes 0 in an integer output with a mask and no
    nodata.

    Parameters
    ----------
    values : float32 (C, H, W)
        Predicted values in stored units. Values at invalid pixels have no influence.
    valid : bool (C, H, W) or None
        Whether a pixel is valid; None if all are.
    source_fill : (C, H, W), source data type, or None
        Source values, replicated to the output grid; needed only if a pixel is invalid.
    dtype : str
        Output data type.
    nodata : float or None, or a sequence of them
        Nodata value of the output, or one for each band.
    masked : bool
        Whether the output has a mask band or alpha equal to ``valid``.

    Returns
    -------
    array (C, H, W)
        Pixels of type ``dtype``.
    """
    result = np.empty(values.shape, dtype=dtype)
    band_nodata = nodata if isinstance(nodata, Sequence) else (nodata,) * len(values)
    for i, value in enumerate(band_nodata):
        _round(values[i], result[i])
        if value is not None:
            _avoid_nodata(values[i], result[i], value)
        if valid is not None and not valid[i].all():
            if source_fill is None:
                raise ValueError("source_fill is needed to restore the invalid pixels")
            invalid = ~valid[i]
            result[i][invalid] = invalid_pixels(
                source_fill[i][invalid], dtype, value, masked=masked
            )
    return result


def invalid_pixels(
    source: AnyArray, dtype: str, nodata: float | None, *, masked: bool = False
) -> AnyArray:
    """Convert pixels of any shape, of which none is valid, as `quantize` does.

    ``nodata`` is a single value. The result is ``source`` itself if its pixels do not change.
    """
    if source.dtype == dtype and (masked or nodata is None):
        return source
    result = np.full(source.shape, 0 if nodata is None else nodata, dtype)
    if source.dtype.kind == "f" and result.dtype.kind == "f":
        not_finite = ~np.isfinite(source)
        result[not_finite] = source[not_finite]
    return result


def quantize_alpha(alpha: AnyArray, dtype: str) -> AnyArray:
    """Convert alpha (h, w) to another data type; the largest value is opaque, 0 is transparent.

    Values are scaled from the range of one type to that of the other. Values other than 0 stay
    other than 0.
    """
    if alpha.dtype == dtype:
        return alpha
    opaque_in, opaque_out = (
        1.0 if np.dtype(d).kind == "f" else float(np.iinfo(d).max) for d in (alpha.dtype, dtype)
    )
    scaled = np.clip(alpha.astype(np.float64) * (opaque_out / opaque_in), 0.0, opaque_out)
    if np.dtype(dtype).kind != "f":
        scaled = np.where(alpha != 0, np.maximum(np.rint(scaled), 1.0), 0.0)
    return scaled.astype(dtype)


def _round(values: FloatArray, out: AnyArray) -> None:
    """Copy ``values`` (h, w) to ``out``, rounded and clipped if its type is an integer."""
    with np.errstate(over="ignore", invalid="ignore"):
        if out.dtype.kind == "f":
            np.copyto(out, values, casting="same_kind")
            return
        limits = np.iinfo(out.dtype)
        # float32 has no 2**31 - 1: clipping at its neighbour 2**31 would wrap on the cast
        exact = values.astype(np.float64) if out.dtype.itemsize > 2 else values
        clipped = np.clip(exact, limits.min, limits.max)
        # NaN, which no integer represents, occurs only at invalid pixels, which are restored later
        np.rint(clipped, out=out, casting="unsafe")


def _avoid_nodata(values: FloatArray, out: AnyArray, nodata: float) -> None:
    """Move the pixels of ``out`` that would be read as nodata away from it."""
    if not math.isfinite(nodata):
        return  # a valid pixel is finite
    kind, is_float = out.dtype.type, out.dtype.kind == "f"
    limits: Any = np.finfo(kind) if is_float else np.iinfo(kind)
    target: Any = kind(nodata) if is_float else int(nodata)
    with np.errstate(over="ignore", invalid="ignore"):
        if is_float:
            # if nodata is 0, a subnormal step might be flushed to 0
            step = kind(nodata_tolerance(out.dtype.name, nodata)) or limits.tiny
            collides = np.abs(out - target) < step
            at_bottom, at_top = target < limits.min / 2, target > limits.max / 2
        else:
            step, collides = 1, out == target
            at_bottom, at_top = target == limits.min, target == limits.max
        if collides.any():
            upwards = at_bottom | (values[collides] >= target) & (not at_top)
            out[collides] = np.where(upwards, target + step, target - step)
