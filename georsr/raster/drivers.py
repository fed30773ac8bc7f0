"""List the GDAL drivers that may read a source: formats that refer to no other file and write none.

GDAL has about 150 drivers. Some read whatever file or address a document names, some write while
they read (MRF fills a cache, GDAL_WMS too). A picture from somebody else must not reach those, so
this is a list of what is allowed; the user may add to it, a picture may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import rasterio
from rasterio.env import ensure_env_with_credentials
from rasterio.io import DatasetReader

from georsr.errors import UsageError

IMAGE_DRIVERS = (
    "GTiff",
    "LIBERTIFF",
    "JP2OpenJPEG",
    "JP2ECW",
    "JP2KAK",
    "JP2MrSID",
    "JP2Lura",
    "PNG",
    "JPEG",
    "JPEGXL",
    "WEBP",
    "GIF",
    "BIGGIF",
    "BMP",
    "HEIF",
    "AVIF",
    "ECW",
    "MrSID",
    "HFA",
    "NITF",
    "netCDF",
    "HDF5",
    "HDF5Image",
    "BAG",
    "GRIB",
    "GPKG",
    "MBTiles",
    "ENVI",
    "EHdr",
    "AAIGrid",
    "AIG",
    "GSAG",
    "GSBG",
    "GS7BG",
    "SAGA",
    "RST",
    "BT",
    "DTED",
    "SRTMHGT",
    "USGSDEM",
    "XYZ",
)
"""Drivers that read a source without being asked, as far as this GDAL has them.

Besides these, VRT reads files called ``.vrt`` once `georsr.raster.vrt_sources` has checked them;
SENTINEL2 reads products of Sentinel-2. For people: docs/reference/formats.md.
"""
NETWORK_DRIVERS = (
    "GTiff",
    "JP2OpenJPEG",
    "JP2ECW",
    "JP2KAK",
    "JP2MrSID",
    "JP2Lura",
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BIGGIF",
    "NITF",
    "GRIB",
    "MBTiles",
)
"""Those that look for no masks and overviews beside a file when they are told so (measured).

Only they read what lies on a network, or in an archive that georsr cannot list: the files beside it
could not be checked.
"""


@cache
def registered_drivers() -> frozenset[str]:
    """Return the short names of the drivers of this GDAL."""
    with rasterio.Env() as env:
        return frozenset(env.drivers())


def image_drivers(extra: Sequence[str] = ()) -> list[str]:
    """Return the drivers that may read a source: `IMAGE_DRIVERS` and those that the user allows.

    Parameters
    ----------
    extra : sequence of str
        Short names of further GDAL drivers.

    Raises
    ------
    UsageError
        GDAL has no driver of that name.
    """
    known = registered_drivers()
    for name in extra:
        if name not in known:
            raise UsageError(
                f"--allow-driver {name}: this GDAL has no such driver; expected a short name such "
                "as VRT or Zarr, as `rio env --formats` lists them"
            )
    return [name for name in dict.fromkeys((*IMAGE_DRIVERS, *extra)) if name in known]


def network_drivers() -> list[str]:
    """Return those of `NETWORK_DRIVERS` that this GDAL has."""
    return [name for name in NETWORK_DRIVERS if name in registered_drivers()]


@ensure_env_with_credentials  # type: ignore[untyped-decorator]
def open_with(path: str, drivers: Sequence[str]) -> DatasetReader:
    """Open a raster for reading with one of several drivers, which `rasterio.open` does not offer.

    Parameters
    ----------
    path : str
    drivers : sequence of str
        Short names; no other driver of GDAL sees the file.

    Raises
    ------
    rasterio.errors.RasterioIOError
        None of them reads it.
    """
    return DatasetReader(path, driver=list(drivers))


@dataclass
class Trust:
    """What the user allows, and which files have been looked at already.

    Attributes
    ----------
    extra : sequence of str
        GDAL drivers beyond `IMAGE_DRIVERS`. ``VRT`` among them: VRTs may have any name, and refer
        to files anywhere on this machine.
    seen : set of str
        Names of files that have been looked at.
    folders : dict of str
        Folders without links, by their names.
    """

    extra: Sequence[str] = ()
    seen: set[str] = field(default_factory=set)
    folders: dict[str, str] = field(default_factory=dict)

    @property
    def vrt(self) -> bool:
        """Whether VRTs are trusted."""
        return "VRT" in self.extra
