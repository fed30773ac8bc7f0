"""Define the layout and creation options of an output before its first pixel is computed."""

from __future__ import annotations

import logging
import math
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.rpc import RPC

from georsr.errors import GeorsrError, UsageError
from georsr.io.gdal_env import gdal_env, root_cause, shorten, suppress_rasterio_warnings
from georsr.io.metadata import (
    SUPPORTED_DTYPES,
    BandInfo,
    RasterInfo,
    crs_name,
    scale_gcps,
    scale_rpcs,
    scale_transform,
)
from georsr.io.source_tags import scale_tags
from georsr.radiometry.nodata import can_represent
from georsr.window import AnyArray, Window

DEFLATE_LEVEL = "1"
"""Measured on 8192 x 8192 x 3 uint8 of enlarged aerial imagery, one core: 164 MB/s at level 1,
94 at 3, 25 at 6, 5 at 9; the file of level 6 is 11 % smaller than that of level 1."""

# Options that would break block-aligned, checked writing, each with what to do instead
_RESERVED = {
    "TILED": "outputs are always tiled",
    "BLOCKXSIZE": "set the block size instead",
    "BLOCKYSIZE": "set the block size instead",
    "BLOCKSIZE": "set the block size instead",
    "NBITS": "choose a data type instead",
    "APPEND_SUBDATASET": "outputs are new files",
    "PROFILE": "only the default, GDALGeoTIFF, holds georeferencing, names and scales of bands",
    "COPY_SRC_OVERVIEWS": "outputs have overviews with --cog",
    **dict.fromkeys(
        ("TILING_SCHEME", "TARGET_SRS", "RES", "EXTENT", "ALIGNED_LEVELS"),
        "it changes the grid; warp the output afterwards, with gdalwarp -of COG",
    ),
    **{
        option: "the output holds the coefficients itself; make the file afterwards, with "
        f"gdal_translate -co {option}=YES OUT COPY"
        for option in ("RPB", "RPCTXT")
    },
    "STREAMABLE_OUTPUT": "blocks are written in any order",
}


def checked_options(options: Mapping[str, str], *, cog: bool) -> dict[str, str]:
    """Return the options with names in capitals; refuse those that would endanger the file."""
    given = {name.upper(): str(value) for name, value in options.items()}
    for name in given:
        if name in _RESERVED:
            raise UsageError(f"creation option {name} cannot be set: {_RESERVED[name]}")
    if "TFW" in given and cog:
        raise UsageError(
            "creation option TFW cannot be set with --cog or --parts, whose driver has none: make "
            "the world file afterwards, with gdal_translate -co TFW=YES OUT COPY"
        )
    if "NUM_THREADS" in given and not cog:
        raise UsageError(
            "creation option NUM_THREADS cannot be set: compressing in threads, GDAL loses "
            "write errors such as a full disk"
        )
    return given


def complete_options(options: dict[str, str], dtype: str) -> dict[str, str]:
    """Add predictor and level, which depend on the compression."""
    codec = options["COMPRESS"].upper()
    if codec in ("DEFLATE", "LZW", "ZSTD"):
        kind = np.dtype(dtype)
        options = {"PREDICTOR": "3" if kind.kind == "f" else "2"} | options
    if codec == "DEFLATE":
        options = {"ZLEVEL": DEFLATE_LEVEL} | options
    return options


def cog_options(options: dict[str, str], blocksize: int) -> dict[str, str]:
    """Return the options of the COG driver, which names predictor and level differently."""
    codec = options["COMPRESS"].upper()
    extra = {"BLOCKSIZE": str(blocksize)}
    if codec in ("DEFLATE", "LZW", "ZSTD"):
        extra["PREDICTOR"] = "YES"
    if codec == "DEFLATE":
        extra["LEVEL"] = DEFLATE_LEVEL
    return extra | options


def is_lossless(options: Mapping[str, str]) -> bool:
    """Return whether reading gives back exactly what was written with these options."""

    def value(name: str, default: str) -> str:
        return options.get(name, default).upper()

    codec = value("COMPRESS", "DEFLATE")
    if codec == "JXL":
        return value("JXL_LOSSLESS", "YES") == "YES"
    if codec == "WEBP":
        return (
            value("WEBP_LOSSLESS", "NO") in ("YES", "TRUE", "ON") or value("QUALITY", "") == "100"
        )
    if codec.startswith("LERC"):
        return value("MAX_Z_ERROR", "0") == "0"
    return codec != "JPEG" and "DISCARD_LSB" not in options


def check_layout(layout: OutputLayout) -> OutputLayout:
    """Write a tiny file in memory and read it back, to know now what GDAL refuses or loses.

    Returns
    -------
    OutputLayout
        Layout that lists in ``left_out`` and ``crs_note`` what GeoTIFF does not keep.

    Raises
    ------
    UsageError
        GDAL refuses a creation option, or GeoTIFF cannot hold the georeferencing.
    """
    stem = f"/vsimem/georsr-{secrets.token_hex(8)}"
    paths = [f"{stem}.tif", f"{stem}.cog.tif"]
    tiny = replace(layout, width=16, height=16)
    with gdal_env(writing=True), suppress_rasterio_warnings(), _gdal_warnings() as messages:
        try:
            with rasterio.open(paths[0], "w", **tiny.profile()) as dataset:
                tiny.describe(dataset)
                dataset.write(np.zeros((tiny.count, 16, 16), tiny.dtype))
            if tiny.cog_options is not None:
                rasterio.shutil.copy(paths[0], paths[1], driver="COG", **tiny.cog_options)
            if messages:  # of unknown options and values, GDAL only warns
                raise _refused(messages[0])
            with rasterio.open(paths[tiny.cog_options is not None]) as dataset:
                note = _crs_note(dataset, tiny)
                for difference in header_differences(dataset, replace(tiny, crs_note=note)):
                    raise _cannot_hold(difference, layout)
                lost = tuple(_lost_metadata(dataset, tiny))
        except GeorsrError:
            raise
        except Exception as err:
            known = isinstance(err, (RasterioError, OSError, ValueError, TypeError))
            if not known and not type(err).__name__.startswith("CPLE_"):
                raise
            raise _refused(root_cause(err)) from err
        finally:
            for path in paths:
                if rasterio.shutil.exists(path):
                    rasterio.shutil.delete(path)
    return replace(layout, left_out=(*layout.left_out, *lost), crs_note=note)


def _cannot_hold(difference: str, layout: OutputLayout) -> UsageError:
    if difference.startswith("CRS"):
        name = crs_name(layout.crs or layout.gcps_crs)
        return UsageError(
            f"GeoTIFF cannot hold the CRS of the source, {name}: give a copy of it another one, "
            "for example the horizontal part of it (gdal_translate -a_srs EPSG:32632 IN COPY), or "
            "warp it (gdalwarp -t_srs)"
        )
    return UsageError(
        f"GeoTIFF does not hold the output's header with these creation options: {difference}; "
        "leave out those that change it"
    )


def header_differences(dataset: Any, layout: OutputLayout) -> Iterator[str]:
    """Yield how the header of a written dataset differs from a layout, such as another size."""
    properties = {
        "width": (dataset.width, layout.width),
        "height": (dataset.height, layout.height),
        "number of bands": (dataset.count, layout.count),
        "data types": (set(dataset.dtypes), {layout.dtype}),
        "GCPs": (
            _gcp_points(dataset.gcps[0]),
            () if layout.transform else _gcp_points(layout.gcps),
        ),
        "RPCs": (dataset.rpcs is not None, layout.rpcs is not None),
        "AREA_OR_POINT": (dataset.tags().get("AREA_OR_POINT", "Area"), layout.area_or_point),
        "colours": (tuple(item.name for item in dataset.colorinterp)[-1:], layout.colorinterp[-1:])
        if layout.alpha
        else ((), ()),
    }
    for name, (got, expected) in properties.items():
        if got != expected:
            yield f"{name} read back as {got}, expected {expected}"
    if not same_nodata(dataset.nodata, layout.nodata):
        yield f"nodata read back as {dataset.nodata}, expected {layout.nodata}"
    transform = layout.transform or Affine.identity()
    if not same_corners(dataset.transform, transform, layout.width, layout.height):
        yield (
            f"transform read back as {tuple(dataset.transform)[:6]}, "
            f"expected {tuple(transform)[:6]}"
        )
    got, expected = _systems(dataset, layout)
    if (not got) != (not expected) or (not layout.crs_note and _crs_note(dataset, layout)):
        yield f"CRS read back as {crs_name(got)}, expected {crs_name(expected)}"


def _gcp_points(gcps: Iterable[GroundControlPoint]) -> tuple[tuple[float, ...], ...]:
    """Return (row, column, x, y) of ground control points, rounded."""
    return tuple(tuple(round(float(v), 6) for v in (g.row, g.col, g.x, g.y)) for g in gcps)


def same_nodata(a: float | None, b: float | None) -> bool:
    """Return whether two nodata values are equal, as NaN or after rounding to float32."""
    if a is None or b is None:
        return a is b
    return a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-6)


def same_corners(a: Affine, b: Affine, width: int, height: int) -> bool:
    """Return whether two transforms have the same outer corners, to 1e-9 of the extent."""
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    points = [
        [(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f) for x, y in corners] for t in (a, b)
    ]
    size = max(abs(value) for point in points[1] for value in point) or 1.0
    differences = (
        abs(p - q) for pa, pb in zip(*points, strict=True) for p, q in zip(pa, pb, strict=True)
    )
    return all(difference <= 1e-9 * size for difference in differences)


def _systems(dataset: Any, layout: OutputLayout) -> tuple[CRS | None, CRS | None]:
    """Return the CRS of a written dataset and of its layout."""
    if layout.gcps and layout.transform is None:
        return dataset.gcps[1], layout.gcps_crs
    return dataset.crs, layout.crs


def _crs_note(dataset: Any, layout: OutputLayout) -> str:
    """Return one line on a CRS that GeoTIFF keys do not hold exactly; empty if they do."""
    got, expected = _systems(dataset, layout)
    if not (got and expected) or got == expected or got.to_dict() == expected.to_dict():
        return ""
    names = crs_name(expected), crs_name(got)
    if names[0] == names[1]:
        texts = expected.to_wkt(), got.to_wkt()
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
        start = max(0, same - 30)
        names = shorten(f"...{texts[0][start:]}"), shorten(f"...{texts[1][start:]}")
    return (
        f"GeoTIFF stores its CRS {names[0]} as {names[1]}; if the difference matters, assign a CRS "
        "with a code to a copy of the source (gdal_translate -a_srs)"
    )


def _lost_metadata(dataset: Any, layout: OutputLayout) -> Iterator[str]:
    """Yield the metadata of a layout that are not in a written dataset."""
    for space, tags in layout.tags.items():
        if lost := _lost_tags(tags, dataset.tags(ns=space or None)):
            yield " ".join([space or "tags", *lost])
    for i, band in enumerate(layout.bands):
        for space, tags in band.tags.items():
            if lost := _lost_tags(tags, dataset.tags(i + 1, ns=space or None)):
                yield " ".join([f"{space or 'tags'} of band {band.number}", *lost])
        colors = band.colorinterp, dataset.colorinterp[i].name
        for name, kept, text in (
            (
                "scale and offset",
                (band.scale, band.offset),
                (dataset.scales[i], dataset.offsets[i]),
            ),
            ("name", band.description or None, dataset.descriptions[i]),
            ("unit", band.unit or None, dataset.units[i] or None),
            (
                "colour interpretation",
                *(colors if colors[0] not in ("undefined", "gray") else ("", "")),
            ),
        ):
            if kept != text:
                yield f"{name} of band {band.number}"


def _lost_tags(tags: Mapping[str, str], got: Mapping[str, str]) -> list[str]:
    def same(a: str, b: str | None) -> bool:
        try:
            # GDAL adds quotation marks to texts of the domain IMD
            return a.strip("\"'") == (b or "").strip("\"'") or (
                b is not None and math.isclose(float(a), float(b), rel_tol=1e-6)
            )
        except ValueError:
            return False

    return [name for name, value in tags.items() if value and not same(value, got.get(name))]


def _refused(reason: str) -> UsageError:
    return UsageError(f"GDAL rejects the output profile: {reason}; check the creation options")


@contextmanager
def _gdal_warnings() -> Iterator[list[str]]:
    """Collect GDAL's warnings about creation options on this thread; rasterio only logs them."""
    messages: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.thread == thread and ("NotSupported" in text or "IllegalArg" in text):
                messages.append(text)

    logger = logging.getLogger("rasterio._env")
    collector, level = Collector(logging.WARNING), logger.level
    logger.addHandler(collector)
    if not logger.isEnabledFor(logging.WARNING):
        logger.setLevel(logging.WARNING)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)


@dataclass(frozen=True)
class OutputLayout:
    """Grid, data type, georeferencing, bands and encoding of an output.

    Attributes
    ----------
    width, height, scale : int
        Size in output pixels, and output pixels per source pixel along each axis.
    dtype : str
        Data type of all bands.
    nodata : float or None
        Nodata value of all bands: GeoTIFF supports only one.
    mask : bool
        Whether the output has an internal mask, which every write must include.
    alpha : bool
        Whether the last band is alpha, which every write must include.
    bands : tuple of BandInfo
        Bands of the source without alpha: descriptions, colours, scales, offsets, units, tags.
    blocksize : int
        Height and width of a block in pixels.
    options : mapping of str to str
        Creation options of the file that is written block by block.
    cog_options : mapping of str to str, or None
        Creation options of the COG that is created from this file; None for a plain GeoTIFF.
    lossless : bool
        Whether decoding returns the pixels that were written, so that they can be verified.
    world_file : bool
        Whether a world file is written next to the output.
    left_out : tuple of str
        Metadata of the source that the output does not have, in words.
    crs_note : str
        One line on a CRS that GeoTIFF does not hold exactly; empty if it does.
    """

    width: int
    height: int
    scale: int
    dtype: str
    nodata: float | None
    mask: bool
    alpha: bool
    bands: tuple[BandInfo, ...]
    blocksize: int
    crs: CRS | None
    transform: Affine | None
    gcps: tuple[GroundControlPoint, ...]
    gcps_crs: CRS | None
    rpcs: RPC | None
    area_or_point: str
    tags: Mapping[str, Mapping[str, str]]
    photometric: str
    options: Mapping[str, str]
    cog_options: Mapping[str, str] | None
    lossless: bool
    world_file: bool = False
    left_out: tuple[str, ...] = ()
    crs_note: str = ""

    @property
    def count(self) -> int:
        """Number of bands of the file, with alpha."""
        return len(self.bands) + self.alpha

    @property
    def colorinterp(self) -> tuple[str, ...]:
        """Colour interpretation of every band of the file."""
        colors = tuple(band.colorinterp for band in self.bands)
        return (*colors, "alpha") if self.alpha else colors

    @property
    def world_file_text(self) -> str | None:
        """Text of the world file: the transform of pixel centres; None if there is none."""
        if not self.world_file or self.transform is None:
            return None
        t = self.transform
        x, y = t @ (0.5, 0.5)
        return "".join(f"{value:.15g}\n" for value in (t.a, t.d, t.b, t.e, x, y))

    @property
    def planes(self) -> int:
        """Number of planes of a block: bands, then alpha, then mask."""
        return self.count + self.mask

    def split(self, planes: AnyArray) -> tuple[AnyArray, AnyArray | None, AnyArray | None]:
        """Split (planes, h, w) into (values, mask, alpha), as `RasterWriter.write` takes them."""
        bands = len(self.bands)
        return (
            planes[:bands],
            planes[-1] if self.mask else None,
            planes[bands] if self.alpha else None,
        )

    @property
    def blocks_shape(self) -> tuple[int, int]:
        """Number of block rows and block columns."""
        return -(-self.height // self.blocksize), -(-self.width // self.blocksize)

    @property
    def raw_bytes(self) -> int:
        """Size of the pixels without compression."""
        return self.height * self.width * self.planes * np.dtype(self.dtype).itemsize

    @property
    def blocks_count(self) -> int:
        """Number of blocks."""
        rows, columns = self.blocks_shape
        return rows * columns

    def blocks(self, window: Window | None = None) -> Iterator[tuple[int, int, Window]]:
        """Yield (block row, block column, window) of the blocks in an aligned window, row-major."""
        area = window or Window(0, 0, self.height, self.width)
        size = self.blocksize
        for top in range(area.top, area.bottom, size):
            for left in range(area.left, area.right, size):
                height, width = min(size, self.height - top), min(size, self.width - left)
                yield top // size, left // size, Window(top, left, height, width)

    def profile(self) -> dict[str, Any]:
        """Return the keyword arguments of ``rasterio.open(path, "w", ...)``."""
        return {
            "driver": "GTiff",
            "width": self.width,
            "height": self.height,
            "count": self.count,
            "dtype": self.dtype,
            "nodata": self.nodata,
            "crs": self.crs,
            "transform": self.transform,
            "tiled": True,
            "blockxsize": self.blocksize,
            "blockysize": self.blocksize,
            "photometric": self.photometric,
            **({"alpha": "YES"} if self.alpha else {}),
            **self.options,
        }

    def describe(self, dataset: Any) -> None:
        """Write the metadata to an empty dataset."""
        if self.gcps and self.transform is None:
            dataset.gcps = (list(self.gcps), self.gcps_crs or CRS())
        if self.rpcs is not None:
            dataset.rpcs = self.rpcs
        dataset.update_tags(AREA_OR_POINT=self.area_or_point)
        for domain, tags in self.tags.items():
            dataset.update_tags(**({"ns": domain} if domain else {}), **tags)
        dataset.colorinterp = tuple(ColorInterp[name] for name in self.colorinterp)
        if any((band.scale, band.offset) != (1.0, 0.0) for band in self.bands):
            dataset.scales = tuple(b.scale for b in self.bands) + (1.0,) * self.alpha
            dataset.offsets = tuple(b.offset for b in self.bands) + (0.0,) * self.alpha
        for number, band in enumerate(self.bands, 1):
            if band.description:
                dataset.set_band_description(number, band.description)
            if band.unit:
                dataset.set_band_unit(number, band.unit)
            for domain, tags in band.tags.items():
                dataset.update_tags(number, **({"ns": domain} if domain else {}), **tags)


def output_layout(
    info: RasterInfo,
    scale: int,
    *,
    dtype: str | None = None,
    nodata: float | str | None = None,
    blocksize: int = 256,
    creation_options: Mapping[str, str] | None = None,
    cog: bool = False,
    tags: Mapping[str, str] | None = None,
    partial: bool = False,
) -> OutputLayout:
    """Return the layout of the output of a source.

    Parameters
    ----------
    info : RasterInfo
        Metadata of the source.
    scale : int
        Output pixels per source pixel along each axis, at least 1.
    dtype : str, optional
        Data type; default is that of the source.
    nodata : float or "none", optional
        Nodata value; default is that of the first selected band of the source that has one. With
        "none", validity is stored in an internal mask.
    blocksize : int
        Height and width of the blocks in pixels, a multiple of 16.
    creation_options : mapping of str to str, optional
        GDAL creation options of the GTiff driver, or of the COG driver if ``cog``; names in any
        letter case. They override the defaults.
    cog : bool
        Create a cloud-optimised GeoTIFF with overviews.
    tags : mapping of str to str, optional
        Tags to add to those of the source.
    partial : bool
        Whether pixels that are valid in the source may be invalid in the output.

    Raises
    ------
    UsageError
        Data type, nodata, block size or creation options are invalid.
    """
    if not isinstance(scale, int) or scale < 1:
        raise UsageError(f"scale must be a whole number from 1, got {scale!r}")
    if blocksize < 16 or blocksize % 16:
        raise UsageError(f"block size must be a positive multiple of 16, got {blocksize}")
    out_dtype = dtype or info.dtype
    if out_dtype not in SUPPORTED_DTYPES:
        raise UsageError(f"data type {out_dtype} is not one of {', '.join(SUPPORTED_DTYPES)}")
    source = next((value for value in info.nodata if value is not None), None)
    value = output_nodata(source, out_dtype, nodata)
    given = checked_options(creation_options or {}, cog=cog)
    defaults = {"COMPRESS": "DEFLATE", "BIGTIFF": "IF_SAFER"}
    plain = complete_options(defaults | ({} if cog else given), out_dtype)
    photometric = plain.pop("PHOTOMETRIC", _photometric(info, out_dtype))
    world_file = plain.pop("TFW", "NO").upper() in ("YES", "TRUE", "ON", "1")
    if world_file and info.transform is None:
        raise UsageError(f"{info.path}: has no transform, so that TFW=YES has nothing to write")
    domains = scale_tags(info.tags, scale)
    domains.setdefault("", {}).update(tags or {})
    layout = OutputLayout(
        width=info.width * scale,
        height=info.height * scale,
        scale=scale,
        dtype=out_dtype,
        nodata=value,
        mask=_needs_mask(info, out_dtype, value, partial),
        alpha=info.keep_alpha and info.alpha_band is not None,
        bands=info.bands,
        blocksize=blocksize,
        crs=info.crs,
        transform=info.transform and scale_transform(info.transform, scale),
        gcps=scale_gcps(info.gcps, scale),
        gcps_crs=info.gcps_crs,
        rpcs=info.rpcs and scale_rpcs(info.rpcs, scale),
        # GDAL 3.10 moves the GCPs of a Point raster by a pixel between writing and reading; it
        # counts them from the pixel corner either way, so that Area marks the same ground
        area_or_point="Area" if info.gcps and info.transform is None else info.area_or_point,
        tags={name: items for name, items in domains.items() if items},
        photometric=photometric,
        options=plain,
        cog_options=cog_options(defaults | given, blocksize) if cog else None,
        lossless=is_lossless(given),
        world_file=world_file,
        left_out=info.left_out,
    )
    return check_layout(layout)


def output_nodata(
    source: float | None, dtype: str, requested: float | str | None = None
) -> float | None:
    """Return the nodata value of an output, None if it has none.

    Parameters
    ----------
    source : float or None
        The source's nodata value.
    dtype : str
        Data type of the output.
    requested : float, str or None
        A number, also as text, or "none"; None uses the value of the source.

    Raises
    ------
    UsageError
        The value is not a number, or ``dtype`` cannot represent it.
    """
    if isinstance(requested, str):
        if requested.lower() == "none":
            return None
        try:
            requested = float(requested)
        except ValueError as err:
            raise UsageError(f"nodata must be a number, nan or none, got {requested!r}") from err
    value = source if requested is None else float(requested)
    if value is not None and not can_represent(dtype, value):
        whose = "of the source " if requested is None else ""
        raise UsageError(
            f"nodata {value:g} {whose}does not fit data type {dtype}; "
            "give a nodata value that does, or none to use a mask"
        )
    return value


def _needs_mask(info: RasterInfo, dtype: str, nodata: float | None, partial: bool) -> bool:
    """Return whether validity would be lost without an internal mask."""
    if info.keep_alpha and info.alpha_band is not None:
        return False
    if info.mask_kind in ("mask", "alpha"):
        return nodata is None or info.mask_kind == "mask"
    if nodata is not None:
        return False
    rounded = np.dtype(info.dtype).kind == "f" and np.dtype(dtype).kind != "f"
    finite = any(value is not None and not math.isnan(value) for value in info.nodata)
    return finite or rounded or partial


def _photometric(info: RasterInfo, dtype: str) -> str:
    """Return the photometric interpretation: RGB, MINISBLACK, or MINISWHITE or CMYK of the source.

    GDAL decodes 8-bit CMYK to RGB when it is read.
    """
    colors = [band.colorinterp for band in info.bands[:4]]
    if info.min_is_white:
        return "MINISWHITE"
    if colors == ["cyan", "magenta", "yellow", "black"] and dtype == "uint16":
        return "CMYK"
    rgb = colors[:3] == ["red", "green", "blue"] and dtype in ("uint8", "uint16")
    return "RGB" if rgb else "MINISBLACK"
