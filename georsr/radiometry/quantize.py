"""From the network's real numbers back to the pixels of a file: pure functions.

Planes of one value each: most of a sparse mosaic, and not worth a byte for every pixel.

Such planes are handed on as a view of one pixel that repeats in both directions: it takes no
memory, and whoever gets it can tell at a glance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from georsr.radiometry.nodata import nodata_tolerance
from georsr.window import AnyArray, BoolArray, FloatArray


def is_constant(planes: AnyArray) -> bool:
    """Whether each plane of (..., h, w) has one value, bit for bit: NaN, too, equals itself."""
    if is_broadcast(planes):
        return True
    bits = planes.view(f"u{planes.dtype.itemsize}")
    corner = bits[..., :1, :1]
    if (bits[..., -1:, -1:] != corner).any() or (bits[..., :1, :] != corner).any():
        return False  # without a look at all the others
    return bool((bits == corner).all())


def is_broadcast(planes: AnyArray) -> bool:
    """Whether (..., h, w) is a view of one pixel, as `repeated` gives it."""
    return planes.strides[-2:] == (0, 0)


def broadcast_pixel(planes: AnyArray, height: int, width: int) -> AnyArray:
    """The first pixel of each plane, (..., height, width) times: a view that cannot be written."""
    corner = planes[..., :1, :1]
    return np.broadcast_to(corner, (*corner.shape[:-2], height, width))


def replicate(array: AnyArray, scale: int) -> AnyArray:
    """Nearest neighbour by an integer factor: (..., h, w) to (..., scale * h, scale * w).

    Planes of one value each come as a view that cannot be written (`georsr.radiometry.quantize`).
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
    """Round to the product's data type, and put back what invalid pixels were.

    Valid pixels are rounded to the nearest integer (ties to even) and clipped to the range of
    ``dtype``; they never wrap. One that would then read as nodata moves to the nearest other
    value on its own side: up if it was at or above nodata before rounding, down if below, and
    inward at the ends of the range; for floats the step is as wide as GDAL's comparison with
    nodata is tolerant.

    Invalid pixels keep the source's own value where that still reads as invalid: NaN and
    infinity in a float product always, anything else if ``dtype`` is unchanged and the product
    carries a mask or has no nodata. Otherwise they become the nodata value; NaN in an integer
    product without nodata becomes 0 under its mask.

    Parameters
    ----------
    values : float32 (C, H, W)
        In the unit of the file. Values at invalid pixels do not matter.
    valid : bool (C, H, W) or None
        None: everything is valid.
    source_fill : (C, H, W), source data type, or None
        Source values replicated to the fine grid; needed only where something is invalid.
    dtype : str
        Of the product.
    nodata : float or None, or a sequence of them
        Of the product, or one per band.
    masked : bool
        The product has a mask band or alpha that says the same as ``valid``.

    Returns
    -------
    (C, H, W) array of ``dtype``
    """
    result = np.empty(values.shape, dtype=dtype)
    each = nodata if isinstance(nodata, Sequence) else (nodata,) * len(values)
    for i, value in enumerate(each):
        _round(values[i], result[i])
        if value is not None:
            _avoid_nodata(values[i], result[i], value)
        if valid is not None and not valid[i].all():
            if source_fill is None:
                raise ValueError("invalid pixels need source_fill, to be put back")
            bad = ~valid[i]
            result[i][bad] = invalid_pixels(source_fill[i][bad], dtype, value, masked=masked)
    return result


def invalid_pixels(
    source: AnyArray, dtype: str, nodata: float | None, *, masked: bool = False
) -> AnyArray:
    """What `quantise` makes of pixels of which none is valid.

    Parameters
    ----------
    source : of any shape, source data type
    dtype, nodata, masked
        As for `quantise`, but one nodata value.

    Returns
    -------
    array of ``dtype`` and the same shape; ``source`` itself where its pixels stay as they are
    """
    if source.dtype == dtype and (masked or nodata is None):
        return source
    result = np.full(source.shape, 0 if nodata is None else nodata, dtype)
    if source.dtype.kind == "f" and result.dtype.kind == "f":
        lost = ~np.isfinite(source)
        result[lost] = source[lost]
    return result


def quantize_alpha(alpha: AnyArray, dtype: str) -> AnyArray:
    """Alpha (h, w) in another data type: opaque stays opaque, transparent stays transparent.

    Between integer types the whole range maps to the whole range; what is not zero stays so.
    """
    if alpha.dtype == dtype:
        return alpha
    tops = [
        1.0 if np.dtype(d).kind == "f" else float(np.iinfo(d).max) for d in (alpha.dtype, dtype)
    ]
    scaled = np.clip(alpha.astype(np.float64) * (tops[1] / tops[0]), 0.0, tops[1])
    if np.dtype(dtype).kind != "f":
        scaled = np.where(alpha != 0, np.maximum(np.rint(scaled), 1.0), 0.0)
    return scaled.astype(dtype)


def _round(values: FloatArray, out: AnyArray) -> None:
    """``values`` (h, w) to the type of ``out``: rounded and clipped if that is an integer."""
    with np.errstate(over="ignore", invalid="ignore"):
        if out.dtype.kind == "f":
            np.copyto(out, values, casting="same_kind")
            return
        limits = np.iinfo(out.dtype)
        # float32 has no 2**31 - 1: clipping at its neighbour 2**31 would wrap on the cast
        work = values.astype(np.float64) if out.dtype.itemsize > 2 else values
        within = np.clip(work, limits.min, limits.max)
        # NaN, which has no integer, is only at invalid pixels, which are restored
        np.rint(within, out=out, casting="unsafe")


def _avoid_nodata(values: FloatArray, out: AnyArray, nodata: float) -> None:
    if not math.isfinite(nodata):
        return  # a valid pixel is finite
    if out.dtype.kind == "f":
        reach = out.dtype.type(nodata_tolerance(out.dtype.name, nodata))
        target = out.dtype.type(nodata)
        if reach == 0:
            reach = np.finfo(out.dtype).tiny  # nodata 0; a subnormal might be flushed to 0
        with np.errstate(over="ignore", invalid="ignore"):
            hit = np.abs(out - target) < reach
        outermost = abs(target) > np.finfo(out.dtype).max / 2
        lower = None if outermost and target < 0 else target - reach
        upper = None if outermost and target > 0 else target + reach
        _replace_around(out, hit, values >= target, lower, upper)
        return
    limits = np.iinfo(out.dtype)
    value = int(nodata)
    _replace_around(
        out,
        out == value,
        values >= value,
        value - 1 if value > limits.min else None,
        value + 1 if value < limits.max else None,
    )


def _replace_around(
    out: AnyArray, hit: BoolArray, above: BoolArray, lower: object, upper: object
) -> None:
    """Replace ``hit`` pixels by ``upper`` where ``above``, else by ``lower``; None: not there."""
    if not hit.any():
        return
    if lower is None or upper is None:
        out[hit] = upper if lower is None else lower
        return
    out[hit & above] = upper
    out[hit & ~above] = lower
