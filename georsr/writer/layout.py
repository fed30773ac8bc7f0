"""Lay out the output: decide everything about the file before its first pixel is computed.

Trying a layout out in memory before any work is done.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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

from georsr.errors import UsageError
from georsr.geo.georeference import scale_gcps, scale_rpcs, scale_transform
from georsr.io.gdal_env import gdal_env, root_cause, suppress_rasterio_warnings
from georsr.io.metadata import SUPPORTED_DTYPES, BandInfo, RasterInfo
from georsr.radiometry.nodata import can_represent
from georsr.window import AnyArray, Window
from georsr.writer.creation_options import (
    checked_options,
    cog_options,
    complete_options,
    is_lossless,
)


def check_creation_options(layout: OutputLayout) -> None:
    """Write a tiny file in memory, so that GDAL refuses invalid options now.

    GDAL only warns about unknown options and values and goes on without them.
    """
    stem = f"/vsimem/georsr-{secrets.token_hex(8)}"
    paths = [f"{stem}.tif", f"{stem}.cog.tif"]
    profile = layout.profile() | {"width": 16, "height": 16}
    with gdal_env(writing=True), suppress_rasterio_warnings(), _gdal_warnings() as said:
        try:
            with rasterio.open(paths[0], "w", **profile) as dataset:
                layout.describe(dataset)
                dataset.write(np.zeros((layout.count, 16, 16), layout.dtype))
            if layout.cog_options is not None:
                rasterio.shutil.copy(paths[0], paths[1], driver="COG", **layout.cog_options)
        except (RasterioError, OSError, ValueError, TypeError) as err:
            raise _refused(root_cause(err)) from err
        except Exception as err:
            if not type(err).__name__.startswith("CPLE_"):
                raise
            raise _refused(root_cause(err)) from err
        finally:
            for path in paths:
                if rasterio.shutil.exists(path):
                    rasterio.shutil.delete(path)
    if said:
        raise _refused(said[0])


def _refused(why: str) -> UsageError:
    return UsageError(f"GDAL rejects the output profile: {why}; check the creation options")


@contextmanager
def _gdal_warnings() -> Iterator[list[str]]:
    """Collect GDAL's warnings about creation options on this thread; rasterio only logs them."""
    said: list[str] = []
    me = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.thread == me and ("NotSupported" in text or "IllegalArg" in text):
                said.append(text)

    logger = logging.getLogger("rasterio._env")
    collector, level = Collector(logging.WARNING), logger.level
    logger.addHandler(collector)
    if not logger.isEnabledFor(logging.WARNING):
        logger.setLevel(logging.WARNING)
    try:
        yield said
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)


@dataclass(frozen=True)
class OutputLayout:
    """Grid, data type, georeferencing, bands and encoding of an output.

    Attributes
    ----------
    width, height, scale : int
        In output pixels; ``scale`` times the source's.
    dtype : str
    nodata : float or None
        One for all bands: GeoTIFF has no more.
    mask : bool
        The output has an internal mask; every write brings one.
    alpha : bool
        The last band is alpha; every write brings it.
    bands : tuple of BandInfo
        As in the source, alpha not counted: descriptions, colours, scales, offsets, units, tags.
    blocksize : int
        Side of a block.
    options : mapping of str to str
        Creation options of the file that is written block by block.
    cog_options : mapping of str to str, or None
        Creation options of the COG made from it; None for a plain GeoTIFF.
    lossless : bool
        The encoding gives back the pixels that were written, so verification compares them.
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
    def masked(self) -> bool:
        """Whether validity is stored in a mask or in alpha."""
        return self.mask or self.alpha

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
        """Write the metadata of an empty dataset."""
        if self.gcps and self.transform is None:
            dataset.gcps = (list(self.gcps), self.gcps_crs or CRS())
        if self.rpcs is not None:
            dataset.rpcs = self.rpcs
        dataset.update_tags(AREA_OR_POINT=self.area_or_point)
        for space, tags in self.tags.items():
            dataset.update_tags(**({"ns": space} if space else {}), **tags)
        dataset.colorinterp = tuple(ColorInterp[name] for name in self.colorinterp)
        if any((band.scale, band.offset) != (1.0, 0.0) for band in self.bands):
            dataset.scales = tuple(b.scale for b in self.bands) + (1.0,) * self.alpha
            dataset.offsets = tuple(b.offset for b in self.bands) + (0.0,) * self.alpha
        for number, band in enumerate(self.bands, 1):
            if band.description:
                dataset.set_band_description(number, band.description)
            if band.unit:
                dataset.set_band_unit(number, band.unit)
            if band.tags:
                dataset.update_tags(number, **band.tags)


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
    """Lay out the output of a source, or refuse the options.

    Parameters
    ----------
    info : RasterInfo
    scale : int
        At least 1.
    dtype : str, optional
        Default the source's.
    nodata : float or "none", optional
        Default the source's (of the first selected band that has one). With "none" the validity
        goes to an internal mask.
    blocksize : int
        Side of the square blocks, a multiple of 16.
    creation_options : mapping of str to str, optional
        GDAL creation options of the GTiff driver, or of the COG driver if ``cog``; names in any
        case, values as they are. They win over the defaults.
    cog : bool
        Make a cloud-optimised GeoTIFF with overviews.
    tags : mapping of str to str, optional
        Added to the source's own.
    partial : bool
        Pixels may be invalid that are valid in the source.

    Raises
    ------
    UsageError
        Data type, nodata, block size or creation options that cannot be.
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
    spaces: dict[str, dict[str, str]] = {space: dict(more) for space, more in info.tags.items()}
    spaces.setdefault("", {}).update(tags or {})
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
        # counts them from the pixel corner either way, so that Area says the same ground
        area_or_point="Area" if info.gcps and info.transform is None else info.area_or_point,
        tags={space: more for space, more in spaces.items() if more},
        photometric=photometric,
        options=plain,
        cog_options=cog_options(defaults | given, blocksize) if cog else None,
        lossless=is_lossless(given),
    )
    check_creation_options(layout)
    return layout


def output_nodata(
    source: float | None, dtype: str, wanted: float | str | None = None
) -> float | None:
    """Return the nodata value of an output, None if it has none.

    Parameters
    ----------
    source : float or None
        The source's nodata value.
    dtype : str
        Of the output.
    wanted : float, str or None
        A number, also as text, or "none"; None takes the source's.

    Raises
    ------
    UsageError
        Not a number, or not one that ``dtype`` can hold.
    """
    if isinstance(wanted, str):
        if wanted.lower() == "none":
            return None
        try:
            wanted = float(wanted)
        except ValueError as err:
            raise UsageError(f"nodata must be a number, nan or none, got {wanted!r}") from err
    value = source if wanted is None else float(wanted)
    if value is not None and not can_represent(dtype, value):
        whose = "of the source " if wanted is None else ""
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
    colors = [band.colorinterp for band in info.bands[:3]]
    rgb = colors == ["red", "green", "blue"] and dtype in ("uint8", "uint16")
    return "RGB" if rgb else "MINISBLACK"
