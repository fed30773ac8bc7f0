"""How two rasters lie to each other: which pixels of one are which of the other."""

from __future__ import annotations

from collections.abc import Iterator

from affine import Affine

from georsr.errors import InputError, UsageError
from georsr.raster.georef import pixel_size
from georsr.raster.info import RasterInfo
from georsr.types import Window

TOLERANCE = 0.01
"""Of a pixel: how far grids may lie apart."""


def offset_between(sr: RasterInfo, hr: RasterInfo) -> tuple[int, int]:
    """(rows, columns) of the SR raster's corner inside the HR raster's grid.

    Raises
    ------
    UsageError
        They differ in CRS or grid; or in size where there is nothing to align them by.
    """
    if sr.crs != hr.crs:
        raise UsageError(f"{sr.path} and {hr.path} differ in CRS: {sr.crs} and {hr.crs}")
    if sr.transform is None or hr.transform is None:
        if (sr.height, sr.width) != (hr.height, hr.width):
            raise UsageError(
                f"{sr.path} ({sr.width} x {sr.height}) and {hr.path} ({hr.width} x {hr.height}) "
                "differ in size and have no geotransform to align them by"
            )
        return 0, 0
    to_hr = ~hr.transform @ sr.transform
    if _skew(to_hr, sr) > TOLERANCE:
        raise UsageError(
            f"{sr.path} has pixels of {pixel_size(sr)}, {hr.path} of {pixel_size(hr)}: the truth "
            "needs those of the product; resample it first, or, if it is what the product was made "
            "from, name it with --lr"
        )
    shift = max(abs(to_hr.f - round(to_hr.f)), abs(to_hr.c - round(to_hr.c)))
    if shift > TOLERANCE:
        raise UsageError(
            f"{sr.path} and {hr.path} are not on one pixel grid (off by {shift:.3g} pixels); "
            "resample one of them first"
        )
    return round(to_hr.f), round(to_hr.c)


def _skew(relative: Affine, info: RasterInfo) -> float:
    """Pixels by which equal steps have grown apart at the far corner."""
    return max(
        abs(relative.a - 1) * info.width,
        abs(relative.b) * info.height,
        abs(relative.e - 1) * info.height,
        abs(relative.d) * info.width,
    )


def common_windows(sr: RasterInfo, hr: RasterInfo) -> tuple[Window, Window]:
    """The area both rasters cover, as a window of each.

    Raises
    ------
    UsageError
        As for :func:`offset_between`.
    InputError
        They do not overlap.
    """
    row, column = offset_between(sr, hr)
    area = Window(row, column, sr.height, sr.width).intersection(Window(0, 0, hr.height, hr.width))
    if area is None:
        raise InputError(f"{sr.path} and {hr.path} do not overlap")
    return area.relative_to(Window(row, column, sr.height, sr.width)), area


def scale_between(sr: RasterInfo, lr: RasterInfo) -> int:
    """How many times finer a product is than its source.

    Raises
    ------
    UsageError
        The product's size is not 1 to 8 times the source's, or their corners lie apart.
    """
    scale, rest = divmod(sr.width, lr.width)
    if rest or sr.height != scale * lr.height or not 1 <= scale <= 8:
        raise UsageError(
            f"{sr.path} ({sr.width} x {sr.height}) is not {lr.path} "
            f"({lr.width} x {lr.height}) enlarged 1 to 8 times"
        )
    if sr.transform is not None and lr.transform is not None:
        relative = ~lr.transform @ sr.transform @ Affine.scale(scale)
        apart = max(abs(relative.c), abs(relative.f), _skew(relative, lr))
        if apart > TOLERANCE:
            raise UsageError(
                f"{sr.path} and {lr.path} do not cover the same ground "
                f"(off by {apart:.3g} pixels of the latter)"
            )
    return scale


def spread_windows(height: int, width: int, side: int, most: int) -> Iterator[Window]:
    """Windows of a grid of ``side`` pixels, at most ``most`` along each axis, evenly spread."""
    for top in _starts(height, side, most):
        for left in _starts(width, side, most):
            yield Window(top, left, min(side, height - top), min(side, width - left))


def _starts(length: int, side: int, most: int) -> list[int]:
    count = -(-length // side)
    if count <= most:
        return [i * side for i in range(count)]
    return sorted({round(i * (count - 1) / (most - 1)) * side for i in range(most)})
