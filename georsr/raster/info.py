"""What a raster says about itself, read once and carried as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

MaskKind = Literal["none", "nodata", "mask", "alpha"]


@dataclass(frozen=True)
class BandInfo:
    """One selected band.

    Attributes
    ----------
    number : int
        Position in the file, from 1.
    dtype : str
        Type stored in the file, as numpy names it.
    nodata : float or None
        Value that marks invalid pixels; None if there is none, or if ``dtype`` cannot hold it.
    scale, offset : float
        ``physical = stored * scale + offset``; carried, never applied.
    """

    number: int
    dtype: str
    description: str | None = None
    colorinterp: str = "undefined"
    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    nodata: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RasterInfo:
    """Frozen description of a source raster and of the bands selected from it.

    Attributes
    ----------
    path : str
        As it was given, without passwords and signatures: for people, products and reports.
    address : str
        As it was given: where it is opened.
    dtype : str
        Common type of the selected bands: what `RasterReader.read` returns.
    bands : tuple of BandInfo
        Selected bands in the order asked for, without the alpha band.
    alpha_band : int or None
        Number of the alpha band, which acts as mask whether or not it was selected.
    carries_alpha : bool
        The alpha band is part of the product; False if explicit bands left it out.
    mask_kind : {"none", "nodata", "mask", "alpha"}
        How the file says which pixels are valid. NaN and infinity are invalid besides.
    transform : Affine or None
        Pixel corner (column, row) to CRS; None where the file has none or the identity.
    gcps, gcps_crs, rpcs
        Ground control points with their CRS, rational polynomial coefficients; in source pixels.
    area_or_point : {"Area", "Point"}
        A label carried along; GDAL's ``transform`` refers to pixel corners in both cases.
    tags : mapping of namespace to tags
        Without those that describe the encoding or the pixel values of this very file.
    block_shape : (rows, columns)
        Of the first selected band.
    overviews : tuple of int
        Decimation factors of the overviews.
    files : tuple of str
        Every file GDAL reads for this raster (sidecars, sources of a VRT).
    notes : tuple of str
        What was assumed about it, a line each.
    choices : tuple of str
        Number and name of every band that can be selected, such as ``4 (nir)``, for messages.
    """

    path: str
    driver: str
    width: int
    height: int
    dtype: str
    bands: tuple[BandInfo, ...]
    alpha_band: int | None
    carries_alpha: bool
    mask_kind: MaskKind
    crs: CRS | None
    transform: Affine | None
    gcps: tuple[GroundControlPoint, ...]
    gcps_crs: CRS | None
    rpcs: RPC | None
    area_or_point: str
    tags: Mapping[str, Mapping[str, str]]
    color_space: str | None
    block_shape: tuple[int, int]
    overviews: tuple[int, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    address: str = field(default="", repr=False, compare=False)

    @property
    def count(self) -> int:
        """Number of selected bands, alpha not counted."""
        return len(self.bands)

    @property
    def bidx(self) -> tuple[int, ...]:
        """Numbers of the selected bands."""
        return tuple(band.number for band in self.bands)

    def band_labels(self) -> tuple[str, ...]:
        """Number and name of each selected band, as in ``choices``."""
        return tuple(band_label(b.number, b.description or b.colorinterp) for b in self.bands)

    @property
    def nodata(self) -> tuple[float | None, ...]:
        """Nodata value of each selected band."""
        return tuple(band.nodata for band in self.bands)


def band_label(number: int, name: str) -> str:
    """How messages name a band."""
    return f"{number} ({name})"
