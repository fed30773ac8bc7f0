"""Real pairs: a coarse and a fine raster of the same ground, listed, opened and aligned."""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine

from georsr.errors import GeoreferenceWarning, InputError, UsageError
from georsr.raster.georef import pixel_size
from georsr.raster.info import RasterInfo
from georsr.raster.reader import RasterReader, open_raster
from georsr.types import AnyArray, Window

LIST = "pairs.tsv"
COLUMNS = ("name", "scale", "rgb")
"""Columns that the list must have; others are for people."""
SCALES = range(2, 9)
SIDE = 160
"""Most coarse pixels along each axis that are measured, from the corner that both share."""
SMALLEST = 24
"""Fewest coarse pixels along each axis."""
TOLERANCE = 0.01
"""How far the ratio of pixel sizes may be from the scale, as a share of it, and sin(rotation)."""


@dataclass(frozen=True)
class Pair:
    """One line of the list."""

    name: str
    scale: int
    rgb: tuple[int, ...]
    """Bands of the coarse raster, from 1, that are red, green and blue; empty: it has no colour."""
    coarse: str
    """Path."""
    fine: str


@dataclass(frozen=True)
class Ground:
    """Pixels of a pair, on grids that share their top left corner.

    Attributes
    ----------
    coarse : float64 (C, h, w)
        All bands of the coarse raster.
    fine : float64 (scale * h, scale * w)
        First band of the fine one.
    rgb : tuple of int
        Positions of red, green and blue in ``coarse``; empty: there are none.
    """

    coarse: AnyArray
    fine: AnyArray
    rgb: tuple[int, ...]


def read_pairs(folder: Path) -> list[Pair]:
    """Read the list of a folder of pairs.

    Parameters
    ----------
    folder
        Holds ``pairs.tsv``, and ``NAME_lr.tif`` and ``NAME_hr.tif`` for each line of it.

    Raises
    ------
    InputError
        The list or a raster is not there, or a line of the list is not as it should be.
    """
    path = folder / LIST
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            pairs = list(_rows(folder, csv.DictReader(file, delimiter="\t")))
    except OSError as error:
        raise (
            error
            if isinstance(error, InputError)
            else InputError(
                f"{path}: cannot be read ({error.strerror}); expected a list of pairs with the "
                f"columns {', '.join(COLUMNS)}"
            )
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not tab-separated text in UTF-8 ({error})") from error
    if not pairs:
        raise InputError(f"{path}: lists no pair")
    return pairs


def _rows(folder: Path, reader: csv.DictReader[str]) -> Iterator[Pair]:
    path, seen = folder / LIST, set()
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f"{path}: has no column {missing[0]}; expected {', '.join(COLUMNS)}, separated by tabs"
        )
    for row in reader:
        name, scale, rgb = ((row[column] or "").strip() for column in COLUMNS)
        where = f"{path}, line {reader.line_num}"
        if not name or name in seen:
            raise InputError(f"{where}: name {name!r}, expected one that no other line has")
        if not re.fullmatch("[1-9]", scale) or int(scale) not in SCALES:
            raise InputError(f"{where}: scale {scale!r}, expected a whole number from 2 to 8")
        if not re.fullmatch("-|[1-9][0-9]*(,[1-9][0-9]*){2}", rgb):
            raise InputError(
                f"{where}: rgb {rgb!r}, expected three band numbers such as 3,2,1, or -"
            )
        seen.add(name)
        files = [folder / f"{name}_{end}.tif" for end in ("lr", "hr")]
        for file in files:
            if not file.is_file():
                raise InputError(f"{where}: {file} does not exist")
        bands = () if rgb == "-" else tuple(int(number) for number in rgb.split(","))
        yield Pair(name, int(scale), bands, str(files[0]), str(files[1]))


def open_pair(pair: Pair) -> Ground:
    """Read what both rasters of a pair show.

    Raises
    ------
    UsageError
        They do not belong together: other CRS, rotated, pixel sizes of another ratio, no common
        ground, or bands that are not there.
    InputError
        Pixels of the common ground are invalid, or one value fills it.
    """
    with (
        warnings.catch_warnings(action="ignore", category=GeoreferenceWarning),  # none is needed
        open_raster(pair.coarse) as lr,
        open_raster(pair.fine) as hr,
    ):
        try:
            rgb = tuple(lr.info.bidx.index(number) for number in pair.rgb)
        except ValueError:
            wanted = ",".join(map(str, pair.rgb))
            raise UsageError(
                f"{pair.coarse}: bands {wanted} are red, green and blue by the list; "
                f"available: {', '.join(lr.info.choices)}"
            ) from None
        ours, theirs = common_ground(lr.info, hr.info, pair.scale)
        return Ground(_valid(lr, ours), _valid(hr, theirs)[0], rgb)


def common_ground(lr: RasterInfo, hr: RasterInfo, scale: int) -> tuple[Window, Window]:
    """Find the ground that both rasters show, at most `SIDE` coarse pixels along each axis.

    Corners of the two windows lie at most half a fine pixel apart. Rasters without geotransform
    share their top left corner.

    Returns
    -------
    coarse, fine
        The window of each, the second ``scale`` times the size of the first.

    Raises
    ------
    UsageError
        As for :func:`open_pair`.
    """
    down, right = _corner(lr, hr, scale)
    top, left = max(0, math.ceil(-down / scale)), max(0, math.ceil(-right / scale))
    down, right = down + top * scale, right + left * scale
    height = min(SIDE, lr.height - top, (hr.height - down) // scale)
    width = min(SIDE, lr.width - left, (hr.width - right) // scale)
    if min(height, width) <= 0:
        raise UsageError(f"{lr.path} and {hr.path} do not overlap")
    if min(height, width) < SMALLEST:
        raise UsageError(
            f"{lr.path} and {hr.path} share {width} x {height} coarse pixels, expected at least "
            f"{SMALLEST} along each axis"
        )
    coarse = Window(top, left, height, width)
    return coarse, Window(down, right, height * scale, width * scale)


def _corner(lr: RasterInfo, hr: RasterInfo, scale: int) -> tuple[int, int]:
    """(rows, columns) of the coarse raster's corner in the fine one's grid."""
    if lr.transform is None or hr.transform is None:
        return 0, 0
    if lr.crs != hr.crs:
        raise UsageError(f"{lr.path} and {hr.path} differ in CRS: {lr.crs} and {hr.crs}")
    relative = ~hr.transform @ lr.transform @ Affine.scale(1 / scale)
    turned = math.hypot(relative.b, relative.d) / math.hypot(relative.a, relative.e, 1e-9)
    if turned > TOLERANCE:
        raise UsageError(
            f"{lr.path} and {hr.path} are rotated against each other by "
            f"{math.degrees(math.atan(turned)):.2g} degrees; warp one of them to the other's grid"
        )
    if max(abs(relative.a - 1), abs(relative.e - 1)) > TOLERANCE:
        raise UsageError(
            f"{lr.path} has pixels of {pixel_size(lr)}, {hr.path} of {pixel_size(hr)}: expected a "
            f"ratio of {scale}, the scale in the list"
        )
    return round(relative.f), round(relative.c)


def _valid(reader: RasterReader, window: Window) -> AnyArray:
    """Read a window in which every pixel must be valid, as float64."""
    patch = reader.read(window)
    invalid = int(np.count_nonzero(~patch.valid.all(0)))
    if invalid:
        raise InputError(
            f"{reader.info.path}: {invalid} of {window.height * window.width} pixels that are "
            "measured are nodata or not finite; cut the pair to ground without such"
        )
    values = patch.values.astype(np.float64)
    if not np.ptp(values, axis=(1, 2)).any():
        raise InputError(f"{reader.info.path}: all pixels that are measured have one value")
    return values
