"""Read several rasters on one grid as a mosaic, through a VRT in memory.

GDAL opens the files when they are needed and closes others. Where rasters overlap, the last one
that is valid is read. Pixels outside all rasters are invalid.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from affine import Affine
from rasterio.io import MemoryFile

from georsr.errors import BandWarning, UsageError
from georsr.io.gdal_env import absolute_path, find_safe_metadata, gdal_env, gdal_path
from georsr.io.metadata import BandInfo, RasterInfo, SourceNodata, describe, format_pixel_size
from georsr.io.reader import RasterReader, open_source
from georsr.io.sidecars import can_list_sidecars
from georsr.io.vrt import (
    GDAL_TYPES,
    add_band,
    add_tags,
    add_vrt_source,
    hidden_windows,
    union_area,
    vrt_root,
)
from georsr.radiometry.normalization import sample_windows_in
from georsr.window import MAX_SIDE, AnyArray, PixelBlock, Window


def mosaic_vrt(mosaic: Mosaic) -> str:
    """Return the text of a VRT that reads the rasters of a mosaic."""
    first = mosaic.sources[0].info
    root = vrt_root(mosaic.width, mosaic.height, first.crs, mosaic.transform)
    _add_common_tags(root, mosaic)
    if first.min_is_white:
        add_tags(root, {"MINISWHITE": "YES"}, "IMAGE_STRUCTURE")
    if mosaic.stacked:
        _add_stacked_bands(root, mosaic)
        return tostring(root, encoding="unicode")
    for number in range(1, first.count + 1 + (first.alpha_band is not None)):
        band = next((band for band in first.bands if band.number == number), None)
        if band is None:
            _add_alpha(root, mosaic, number)
        else:
            _add_band(root, mosaic, band)
    if mosaic.masked:
        mask = SubElement(SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        for source in mosaic.sources:
            # an invalid pixel of a later raster shows the raster below it
            _add_source(mask, source, "mask,1", "uint8", NODATA="0")
    return tostring(root, encoding="unicode")


def _add_common_tags(root: Element, mosaic: Mosaic) -> None:
    """Add the tags that all rasters have in common, and AREA_OR_POINT of the first raster."""
    first = mosaic.sources[0].info
    for space in dict.fromkeys(("", *first.tags)):
        items = [set(source.info.tags.get(space, {}).items()) for source in mosaic.sources]
        own = {} if space else {"AREA_OR_POINT": first.area_or_point}
        if tags := own | dict(sorted(set.intersection(*items))):
            add_tags(root, tags, space)


def _add_band(root: Element, mosaic: Mosaic, band: BandInfo) -> None:
    nodata = band.nodata if mosaic.nodata is None else mosaic.nodata
    vrt_band = add_band(root, band.number, band.dtype, band, nodata)
    masked = mosaic.sources[0].info.alpha_band is not None
    for source in mosaic.sources:
        option = {} if nodata is None else {"NODATA": repr(nodata)}
        if masked or source.info.mask_kind == "mask":
            option = {"UseMaskBand": "true"}
        _add_source(vrt_band, source, str(band.number), band.dtype, **option)


def _add_stacked_bands(root: Element, mosaic: Mosaic) -> None:
    """Add the bands of all rasters, one after the other, named after their files."""
    bands = [(source, band) for source in mosaic.sources for band in source.info.bands]
    for number, (source, band) in enumerate(bands, 1):
        name = PurePath(source.info.path).stem
        if source.info.count > 1:
            name = f"{name} {band.description or band.number}"
        named = replace(band, description=band.description or name)
        if band.colorinterp == "gray":
            named = replace(named, colorinterp="undefined")
        nodata = band.nodata if mosaic.nodata is None else mosaic.nodata
        vrt_band = add_band(root, number, band.dtype, named, nodata)
        _add_source(vrt_band, source, str(band.number), band.dtype)


def _add_alpha(root: Element, mosaic: Mosaic, number: int) -> None:
    dtype = mosaic.sources[0].info.dtype
    vrt_band = SubElement(root, "VRTRasterBand", dataType=GDAL_TYPES[dtype], band=str(number))
    SubElement(vrt_band, "ColorInterp").text = "Alpha"
    for source in mosaic.sources:
        _add_source(vrt_band, source, str(number), dtype, NODATA="0")


def _add_source(
    element: Element, source: MosaicSource, band: str, dtype: str, **option: str
) -> None:
    """Add a raster of the mosaic as a source of a band, with an option of a ComplexSource."""
    path, blocks = absolute_path(source.info.address), source.info.block_shape
    kind = "ComplexSource" if option else "SimpleSource"
    added = add_vrt_source(element, kind, (path, False), band, dtype, blocks, source.window)
    for name, text in option.items():
        SubElement(added, name).text = text


_EACH = "; to super-resolve each by itself, use --out-dir"
"""Advice for rasters that do not fit together."""
MAX_MISALIGNMENT = 0.01
"""Largest distance in pixels of a raster's corners from the grid of the first raster."""


@dataclass(frozen=True)
class MosaicSource:
    """One raster of a mosaic."""

    info: RasterInfo
    """Metadata with all bands."""
    window: Window
    """Position in the mosaic, in pixels."""


@dataclass(frozen=True)
class Mosaic:
    """Rasters on one grid; later ones cover earlier ones.

    Attributes
    ----------
    sources : tuple of MosaicSource
        Rasters, the lowest first.
    height, width : int
        Size in pixels.
    transform : Affine
        Transform from pixel corners (column, row) to the CRS.
    nodata : float or None
        Nodata value that overrides those of the files.
    stacked : bool
        Whether each raster has bands of its own of one scene, instead of its own place.
    """

    sources: tuple[MosaicSource, ...]
    height: int
    width: int
    transform: Affine
    nodata: float | None = None
    stacked: bool = False

    @property
    def name(self) -> str:
        """Return a short name for messages and tags."""
        return f"{self.sources[0].info.path} + {len(self.sources) - 1} more"

    @property
    def files(self) -> tuple[str, ...]:
        """Return the files that are read."""
        return tuple(dict.fromkeys(name for source in self.sources for name in source.info.files))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return the metadata of the rasters that the mosaic does not have, in words."""
        infos = [source.info for source in self.sources]
        texts = dict.fromkeys(text for info in infos for text in info.left_out)
        if any(info.tags != infos[0].tags for info in infos):
            texts["tags that differ between its rasters"] = None
        if not self.stacked and any(_differ(info, infos[0]) for info in infos):
            texts["names, units and tags of bands that differ between its rasters"] = None
        return tuple(texts)

    @property
    def masked(self) -> bool:
        """Return whether the VRT needs a mask band.

        It does if a raster has a mask, or if there are gaps between rasters without alpha and
        nodata. With alpha or nodata, gaps are 0 in alpha or filled with nodata.
        """
        first = self.sources[0].info
        if any(source.info.mask_kind == "mask" for source in self.sources):
            return True
        if first.alpha_band is not None or self.nodata is not None or None not in first.nodata:
            return False
        return union_area(self.windows) < self.height * self.width

    def with_absolute_paths(self) -> Mosaic:
        """Return the mosaic with absolute paths, for processes in other folders."""
        sources = []
        for source in self.sources:
            files = tuple(map(absolute_path, source.info.files))
            info = replace(source.info, address=absolute_path(source.info.address), files=files)
            sources.append(replace(source, info=info))
        return replace(self, sources=tuple(sources))

    @property
    def windows(self) -> list[Window]:
        """Return the positions of the rasters in the mosaic."""
        return [source.window for source in self.sources]


def _differ(a: RasterInfo, b: RasterInfo) -> bool:
    """Return whether bands of two rasters differ in name, unit or tags."""
    return any(
        (x.description, x.unit, x.tags) != (y.description, y.unit, y.tags)
        for x, y in zip(a.bands, b.bands, strict=True)
    )


def build_mosaic(infos: Sequence[RasterInfo], nodata: float | None = None) -> Mosaic:
    """Arrange rasters on one grid.

    Raises
    ------
    UsageError
        Two rasters differ in a property that must be the same, or in their grid.
    """
    first = infos[0]
    for other in infos:
        _compare(first, other)
    corners = [_offset(first, info) for info in infos]
    top, left = min(y for _, y in corners), min(x for x, _ in corners)
    sources = tuple(
        MosaicSource(info, Window(y - top, x - left, info.height, info.width))
        for info, (x, y) in zip(infos, corners, strict=True)
    )
    height, width = max(s.window.bottom for s in sources), max(s.window.right for s in sources)
    if max(height, width) > MAX_SIDE:
        raise UsageError(
            f"{first.path} and the other rasters lie too far apart: a mosaic of them would have "
            f"{height} rows and {width} columns, expected at most {MAX_SIDE}{_EACH}"
        )
    assert first.transform is not None
    transform = first.transform @ Affine.translation(left, top)
    return Mosaic(sources, height, width, transform, nodata)


def build_stack(infos: Sequence[RasterInfo], nodata: float | None = None) -> Mosaic:
    """Arrange the bands of several rasters as one raster, in the order given.

    Raises
    ------
    UsageError
        Two rasters differ in their grid, or one has a mask.
    """
    first = infos[0]
    for info in infos:
        _compare_grid(first, info)
        same = (info.height, info.width) == (first.height, first.width)
        if not same or _offset(first, info) != (0, 0):
            raise UsageError(
                f"{info.path}: has {info.width} x {info.height} pixels, expected the extent of "
                f"{first.path}, {first.width} x {first.height}; cut it to this extent first, with "
                "gdalwarp -te"
            )
        if info.mask_kind in ("mask", "alpha"):
            raise UsageError(
                f"{info.path}: has a mask or alpha band, which --stack does not read; give it a "
                "nodata value first, with gdalwarp -dstnodata"
            )
    window = Window(0, 0, first.height, first.width)
    assert first.transform is not None
    sources = tuple(MosaicSource(info, window) for info in infos)
    return Mosaic(sources, first.height, first.width, first.transform, nodata, stacked=True)


def check_hidden(mosaic: Mosaic) -> None:
    """Refuse a mosaic of the bands of one scene; warn about rasters that later ones cover.

    Raises
    ------
    UsageError
        Every raster has one band and the same extent, so that only the last one would be read.
    """
    paths = [source.info.path for source in mosaic.sources]
    if len(set(mosaic.windows)) == 1 and mosaic.sources[0].info.count == 1:
        raise UsageError(
            f"{paths[0]} and {len(paths) - 1} more: have one band each and the same extent, so "
            "that the last would hide the others; use --stack if they are the bands of one scene, "
            "name one of them, or super-resolve each with --out-dir"
        )
    hidden = hidden_windows(mosaic.windows)
    if hidden:
        warnings.warn(
            f"{paths[hidden[0]]}: is covered by rasters that come later in the list"
            f"{f', as are {len(hidden) - 1} others' if len(hidden) > 1 else ''}: only what is "
            f"invalid in those can be seen of it{_EACH}",
            BandWarning,
            stacklevel=4,
        )
    else:
        _warn_overlap(mosaic)


def _compare(first: RasterInfo, other: RasterInfo) -> None:
    _compare_grid(first, other)
    for name, a, b in (
        ("number of bands", first.count, other.count),
        ("data types", *([band.dtype for band in info.bands] for info in (first, other))),
        ("nodata", *([str(band.nodata) for band in info.bands] for info in (first, other))),
        ("colours", *([band.colorinterp for band in info.bands] for info in (first, other))),
        ("alpha band", first.alpha_band, other.alpha_band),
        ("white as 0 (MINISWHITE)", first.min_is_white, other.min_is_white),
        ("scales and offsets", *([(b.scale, b.offset) for b in i.bands] for i in (first, other))),
    ):
        if a != b:
            raise UsageError(
                f"{other.path}: does not fit {first.path}: its {name} {_format(b)}, "
                f"expected {_format(a)}; it must be the same in all rasters of a mosaic{_EACH}"
            )


def _compare_grid(first: RasterInfo, other: RasterInfo) -> None:
    if first.crs != other.crs:
        raise UsageError(
            f"{other.path}: does not fit {first.path}: its CRS {_format(other.crs)}, expected "
            f"{_format(first.crs)}; it must be the same in all rasters of a mosaic{_EACH}"
        )
    for info in (first, other):
        if info.transform is None:
            raise UsageError(
                f"{info.path}: has no affine georeferencing, so it cannot be part of a "
                f"mosaic{_EACH}"
            )


def _format(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _offset(first: RasterInfo, info: RasterInfo) -> tuple[int, int]:
    """Return (column, row) of a raster's corner on the grid of the first raster."""
    assert first.transform is not None
    assert info.transform is not None
    x, y = ~first.transform @ (info.transform.c, info.transform.f)
    column, row = round(x), round(y)
    for right, down in ((0, 0), (info.width, 0), (0, info.height), (info.width, info.height)):
        x, y = ~first.transform @ (info.transform @ (right, down))
        distance = max(abs(x - column - right), abs(y - row - down))
        if distance > MAX_MISALIGNMENT:
            raise UsageError(
                f"{info.path}: does not lie on the grid of {first.path}: a corner is off by "
                f"{distance:.3g} pixels (pixels are {format_pixel_size(info)}, "
                f"expected {format_pixel_size(first)}); warp it first, for example with "
                "gdalwarp -tap -tr, or super-resolve each by itself with --out-dir"
            )
    return column, row


class MosaicReader(RasterReader):
    """Reader of a mosaic, which `open_mosaic` returns."""

    def __init__(
        self, mosaic: Mosaic, indexes: tuple[int, ...] | None, nodata: SourceNodata
    ) -> None:
        self.mosaic = mosaic
        corners = [[w.top, w.left, w.bottom, w.right] for w in mosaic.windows]
        self._corners: AnyArray = np.array(corners)
        self._memory: Any = None
        super().__init__(mosaic.name, indexes, nodata, alpha="mask")  # alpha was examined before
        self._remote = not all(
            can_list_sidecars(gdal_path(source.info.address)) for source in mosaic.sources
        )

    @property
    def rasters(self) -> tuple[RasterInfo, ...]:
        """Metadata of each raster in the mosaic."""
        return tuple(source.info for source in self.mosaic.sources)

    def with_bands(self, indexes: tuple[int, ...]) -> MosaicReader:
        """Return another reader of the mosaic, with other bands."""
        other = MosaicReader(self.mosaic, indexes, self._options[2])
        other.info = replace(other.info, notes=self.info.notes)
        return other

    def _open_dataset(self) -> Any:
        document = mosaic_vrt(self.mosaic)
        self._memory = MemoryFile(document.encode(), ext=".vrt")
        return self._memory.open(driver="VRT")

    def _describe(self, dataset: Any) -> RasterInfo:
        info = super()._describe(dataset)
        return replace(
            info, driver="mosaic", files=self.mosaic.files, left_out=self.mosaic.left_out
        )

    def _read(self, window: Window, shape: tuple[int, int]) -> PixelBlock:
        top, left, bottom, right = self._corners.T
        in_rows = (top < window.bottom) & (bottom > window.top)
        if (in_rows & (left < window.right) & (right > window.left)).any():
            return super()._read(window, shape)
        return self.invalid_block(*shape)

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


def open_mosaic(
    paths: Sequence[str],
    indexes: Sequence[int] | None,
    nodata: SourceNodata,
    allow_drivers: Sequence[str] | None,
    alpha: str,
    stack: bool = False,
) -> RasterReader:
    """Open several rasters as a mosaic; parameters and errors as for `georsr.io.open_sources`."""
    infos = _read_infos(paths, nodata, allow_drivers, alpha)
    notes = [note for info in infos for note in info.notes]
    if notes:  # the assumption about one raster holds for all
        warnings.warn(notes[0], BandWarning, stacklevel=2)
        infos = _read_infos(paths, nodata, allow_drivers, "data")
    value = None if nodata == "none" else nodata
    mosaic = build_stack(infos, value) if stack else build_mosaic(infos, value)
    if not stack:
        check_hidden(mosaic)
    reader = MosaicReader(mosaic, None if indexes is None else tuple(indexes), nodata)
    reader.info = replace(reader.info, notes=tuple(notes[:1]))
    return reader


MAX_OVERLAP = 0.5
"""Fraction of the smaller of two rasters up to which an overlap is usual for a mosaic."""


def _warn_overlap(mosaic: Mosaic) -> None:
    """Warn if a raster lies largely on an earlier one, as those of two dates do."""
    corners = np.array([[w.top, w.left, w.bottom, w.right] for w in mosaic.windows])
    for number in range(1, len(corners)):
        low = np.maximum(corners[:number, :2], corners[number, :2])
        high = np.minimum(corners[:number, 2:], corners[number, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        sizes = np.prod(corners[: number + 1, 2:] - corners[: number + 1, :2], axis=1)
        fractions = shared / np.minimum(sizes[:-1], sizes[-1])
        first = int(fractions.argmax())
        if fractions[first] > MAX_OVERLAP:
            lower, upper = (mosaic.sources[i].info.path for i in (first, number))
            warnings.warn(
                f"{upper} covers {fractions[first]:.0%} of {lower}: later rasters of a mosaic hide "
                f"earlier ones{_EACH}",
                BandWarning,
                stacklevel=4,
            )
            return


def _read_infos(
    paths: Sequence[str], nodata: SourceNodata, allow_drivers: Sequence[str] | None, alpha: str
) -> list[RasterInfo]:
    infos = []
    for path in paths:
        if find_safe_metadata(path) is not None:
            raise UsageError(
                f"{path}: a Sentinel-2 product cannot be part of a mosaic{_EACH}, and combine the "
                "outputs"
            )
        env = gdal_env(remote=not can_list_sidecars(gdal_path(path)))
        with env, open_source(path, allow_drivers) as dataset:
            infos.append(describe(dataset, path, None, nodata, alpha=alpha))
    return infos
