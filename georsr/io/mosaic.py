"""Mosaic: several rasters of one grid, read as one without copying a pixel.

GDAL's virtual format does the reading; it opens files when they are needed, and closes others.
Where rasters overlap, the later one wins where it is valid; where there is none, nothing is valid.

The VRT document of a mosaic.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from affine import Affine
from rasterio.io import MemoryFile

from georsr.errors import BandWarning, InputError, UsageError
from georsr.io.drivers import gdal_path
from georsr.io.gdal_env import absolute_path, gdal_env
from georsr.io.metadata import BandInfo, RasterInfo, describe, format_pixel_size
from georsr.io.reader import RasterReader, open_raster, open_source
from georsr.io.sampling import sample_windows_in
from georsr.io.sentinel2 import find_safe_metadata
from georsr.io.sidecars import has_sidecars
from georsr.io.vrt import (
    GDAL_TYPES,
    add_band,
    add_tags,
    add_vrt_source,
    union_area,
    vrt_root,
)
from georsr.window import AnyArray, PixelBlock, Window


def mosaic_vrt(mosaic: Mosaic) -> str:
    """XML text of a VRT that reads a mosaic's rasters where they are."""
    first = mosaic.pieces[0].info
    root = vrt_root(mosaic.width, mosaic.height, first.crs, mosaic.transform)
    for space, tags in _common_tags(mosaic):
        add_tags(root, tags, space)
    for number in range(1, first.count + 1 + (first.alpha_band is not None)):
        band = next((band for band in first.bands if band.number == number), None)
        if band is None:
            _alpha(root, mosaic, number)
        else:
            _band(root, mosaic, band)
    if mosaic.masked:
        mask = SubElement(SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        for piece in mosaic.pieces:
            # a later raster's hole shows the earlier one
            source = _source(mask, piece, "mask,1", "uint8", "ComplexSource")
            SubElement(source, "NODATA").text = "0"
    return tostring(root, encoding="unicode")


def _common_tags(mosaic: Mosaic) -> Iterator[tuple[str, dict[str, str]]]:
    """Tags that all rasters have alike; and how they are registered, as the first one."""
    first = mosaic.pieces[0].info
    yield "", {"AREA_OR_POINT": first.area_or_point} | _alike(mosaic, "")
    for space in first.tags:
        if space and (tags := _alike(mosaic, space)):
            yield space, tags


def _alike(mosaic: Mosaic, space: str) -> dict[str, str]:
    items = [set(piece.info.tags.get(space, {}).items()) for piece in mosaic.pieces]
    return dict(sorted(set.intersection(*items)))


def _band(root: Element, mosaic: Mosaic, band: BandInfo) -> None:
    nodata = band.nodata if mosaic.nodata is None else mosaic.nodata
    element = add_band(root, band.number, band.dtype, band, nodata)
    masked = mosaic.pieces[0].info.alpha_band is not None
    for piece in mosaic.pieces:
        if masked or piece.info.mask_kind == "mask":
            source = _source(element, piece, str(band.number), band.dtype, "ComplexSource")
            SubElement(source, "UseMaskBand").text = "true"
        elif nodata is not None:
            source = _source(element, piece, str(band.number), band.dtype, "ComplexSource")
            SubElement(source, "NODATA").text = repr(nodata)
        else:
            _source(element, piece, str(band.number), band.dtype, "SimpleSource")


def _alpha(root: Element, mosaic: Mosaic, number: int) -> None:
    dtype = mosaic.pieces[0].info.dtype
    element = SubElement(root, "VRTRasterBand", dataType=GDAL_TYPES[dtype], band=str(number))
    SubElement(element, "ColorInterp").text = "Alpha"
    for piece in mosaic.pieces:
        source = _source(element, piece, str(number), dtype, "ComplexSource")
        SubElement(source, "NODATA").text = "0"


def _source(element: Element, piece: MosaicSource, band: str, dtype: str, kind: str) -> Element:
    """One raster's part in a band."""
    path, blocks = absolute_path(piece.info.address), piece.info.block_shape
    return add_vrt_source(element, kind, (path, False), band, dtype, blocks, piece.place)


MAX_MISALIGNMENT = 0.01
"""Pixels by which the corners of a raster may miss the grid of the first one."""
SUFFIXES = (".tif", ".tiff", ".jp2", ".j2k", ".img", ".ntf", ".vrt")
"""What counts as a raster in a folder."""


@dataclass(frozen=True)
class MosaicSource:
    """One raster of a mosaic.

    Attributes
    ----------
    info : RasterInfo
        Of all its bands.
    place : Window
        Where its pixels lie in the mosaic.
    """

    info: RasterInfo
    place: Window


@dataclass(frozen=True)
class Mosaic:
    """Rasters in the order in which they cover each other.

    Attributes
    ----------
    pieces : tuple of MosaicSource
    height, width : int
    transform : Affine
    nodata : float or None
        Overrides what the files say.
    """

    pieces: tuple[MosaicSource, ...]
    height: int
    width: int
    transform: Affine
    nodata: float | None = None

    @property
    def name(self) -> str:
        """For messages and tags."""
        return f"{self.pieces[0].info.path} + {len(self.pieces) - 1} more"

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is read."""
        return tuple(dict.fromkeys(name for piece in self.pieces for name in piece.info.files))

    @property
    def masked(self) -> bool:
        """Whether validity needs a mask: a raster has one, or gaps could not be told from pixels.

        Alpha is 0 in gaps, and a nodata value is what they are filled with.
        """
        first = self.pieces[0].info
        if any(piece.info.mask_kind == "mask" for piece in self.pieces):
            return True
        if first.alpha_band is not None or self.nodata is not None or None not in first.nodata:
            return False
        return union_area(self.windows) < self.height * self.width

    def with_absolute_paths(self) -> Mosaic:
        """The same one, with names of files that hold in other folders too."""
        pieces = []
        for piece in self.pieces:
            files = tuple(map(absolute_path, piece.info.files))
            info = replace(piece.info, address=absolute_path(piece.info.address), files=files)
            pieces.append(replace(piece, info=info))
        return replace(self, pieces=tuple(pieces))

    @property
    def windows(self) -> list[Window]:
        """Where the pieces lie."""
        return [piece.place for piece in self.pieces]


def build_mosaic(infos: Sequence[RasterInfo], nodata: float | None = None) -> Mosaic:
    """Lay rasters onto one grid.

    Raises
    ------
    UsageError
        Two of them do not fit: which, and in what.
    """
    first = infos[0]
    for other in infos:
        _compare(first, other)
    corners = [_offset(first, info) for info in infos]
    top, left = min(y for _, y in corners), min(x for x, _ in corners)
    pieces = tuple(
        MosaicSource(info, Window(y - top, x - left, info.height, info.width))
        for info, (x, y) in zip(infos, corners, strict=True)
    )
    height, width = max(p.place.bottom for p in pieces), max(p.place.right for p in pieces)
    assert first.transform is not None
    transform = first.transform @ Affine.translation(left, top)
    return Mosaic(pieces, height, width, transform, nodata)


def _compare(first: RasterInfo, other: RasterInfo) -> None:
    for what, a, b in (
        ("CRS", first.crs, other.crs),
        ("number of bands", first.count, other.count),
        ("data types", *([band.dtype for band in info.bands] for info in (first, other))),
        ("nodata", *([str(band.nodata) for band in info.bands] for info in (first, other))),
        ("colours", *([band.colorinterp for band in info.bands] for info in (first, other))),
        ("alpha band", first.alpha_band, other.alpha_band),
        ("scales and offsets", *([(b.scale, b.offset) for b in i.bands] for i in (first, other))),
    ):
        if a != b:
            raise UsageError(
                f"{other.path}: does not fit {first.path}: its {what} {_text(b)}, "
                f"expected {_text(a)}; rasters of a mosaic must agree in that"
            )
    for info in (first, other):
        if info.transform is None:
            raise UsageError(
                f"{info.path}: has no affine georeferencing, so that it has no place in a mosaic"
            )


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _offset(first: RasterInfo, info: RasterInfo) -> tuple[int, int]:
    """(column, row) of a raster's corner on the grid of the first."""
    assert first.transform is not None
    assert info.transform is not None
    x, y = ~first.transform @ (info.transform.c, info.transform.f)
    column, row = round(x), round(y)
    for right, down in ((0, 0), (info.width, 0), (0, info.height), (info.width, info.height)):
        x, y = ~first.transform @ (info.transform @ (right, down))
        miss = max(abs(x - column - right), abs(y - row - down))
        if miss > MAX_MISALIGNMENT:
            raise UsageError(
                f"{info.path}: does not lie on the grid of {first.path}: a corner misses it by "
                f"{miss:.3g} pixels (pixels are {format_pixel_size(info)}, "
                f"expected {format_pixel_size(first)}); warp it first, for example with "
                "gdalwarp -tap -tr"
            )
    return column, row


class MosaicReader(RasterReader):
    """Reads a mosaic like one raster; made by `open_sources`."""

    def __init__(
        self, mosaic: Mosaic, indexes: tuple[int, ...] | None, nodata: float | None
    ) -> None:
        self.mosaic = mosaic
        places = np.array([[p.top, p.left, p.bottom, p.right] for p in mosaic.windows])
        self._corners: AnyArray = places
        self._memory: Any = None
        super().__init__(mosaic.name, indexes, nodata, alpha="mask")  # checked already
        self._remote = not all(
            has_sidecars(gdal_path(piece.info.address)) for piece in mosaic.pieces
        )

    def with_bands(self, indexes: tuple[int, ...]) -> MosaicReader:
        """Another reader of the same mosaic, of other bands."""
        other = MosaicReader(self.mosaic, indexes, self._options[2])
        other.info = replace(other.info, notes=self.info.notes)
        return other

    def _open_dataset(self) -> Any:
        document = mosaic_vrt(self.mosaic)
        self._memory = MemoryFile(document.encode(), ext=".vrt")
        return self._memory.open(driver="VRT")

    def _describe(self, dataset: Any) -> RasterInfo:
        info = super()._describe(dataset)
        return replace(info, driver="mosaic", files=self.mosaic.files)

    def _read(self, window: Window, shape: tuple[int, int]) -> PixelBlock:
        top, left, bottom, right = self._corners.T
        there = (top < window.bottom) & (bottom > window.top)
        if (there & (left < window.right) & (right > window.left)).any():
            return super()._read(window, shape)
        values = np.zeros((self.info.count, *shape), self.info.dtype)
        alpha = np.zeros(shape, self.info.dtype) if self.info.alpha_band else None
        return PixelBlock(values, np.zeros(values.shape, bool), alpha)

    def _sample_windows(self, max_pixels: int) -> list[Window]:
        return sample_windows_in(self.mosaic.windows, max_pixels)

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        super().close()
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {
            "_memory": None,
            "mosaic": self.mosaic.with_absolute_paths(),
        }


def open_sources(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    indexes: Sequence[int] | None = None,
    nodata: float | None = None,
    allow_drivers: Sequence[str] | None = None,
    force: bool = False,
    alpha: str = "auto",
) -> RasterReader:
    """Open one raster, or several as a mosaic.

    Parameters
    ----------
    sources : path or sequence of paths
        Rasters, folders of rasters, or ``@FILE`` for a text file that names one on each line.
    indexes, nodata, allow_drivers, force, alpha
        As for `open_raster`.

    Raises
    ------
    UsageError
        A file is missing, or rasters do not fit each other.
    InputError
        Not a raster, or damaged.
    """
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    paths = [path for source in given for path in _expanded(os.fspath(source))]
    if not paths:
        raise UsageError("no source is given")
    if len(paths) == 1:
        return open_raster(
            paths[0],
            indexes=indexes,
            nodata=nodata,
            allow_drivers=allow_drivers,
            force=force,
            alpha=alpha,
        )
    infos = _described(paths, nodata, allow_drivers, alpha)
    assumed = [note for info in infos for note in info.notes]
    if assumed:  # what one of them is, all are
        warnings.warn(assumed[0], BandWarning, stacklevel=2)
        infos = _described(paths, nodata, allow_drivers, "data")
    mosaic = build_mosaic(infos, nodata)
    reader = MosaicReader(mosaic, None if indexes is None else tuple(indexes), nodata)
    reader.info = replace(reader.info, notes=tuple(assumed[:1]))
    return reader


def _described(
    paths: Sequence[str], nodata: float | None, allow_drivers: Sequence[str] | None, alpha: str
) -> list[RasterInfo]:
    infos = []
    for path in paths:
        if find_safe_metadata(path) is not None:
            raise UsageError(
                f"{path}: products of Sentinel-2 are taken one at a time, expected rasters that "
                "are files; super-resolve each of them, and lay the results together"
            )
        env = gdal_env(remote=not has_sidecars(gdal_path(path)))
        with env, open_source(path, allow_drivers) as dataset:
            infos.append(describe(dataset, path, None, nodata, alpha=alpha))
    return infos


def _expanded(source: str) -> list[str]:
    """The rasters that one source stands for."""
    if source.startswith("@"):
        try:
            lines = Path(source[1:]).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError as error:
            raise UsageError(f"{source[1:]}: no such file") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{source[1:]}: cannot be read as a list of files: {error}") from error
        names = [line.strip() for line in lines]
        return [name for name in names if name and not name.startswith("#")]
    if not Path(source).is_dir():
        return [source]
    inside = sorted(
        path
        for path in Path(source).iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    return [str(path) for path in inside] or [source]
