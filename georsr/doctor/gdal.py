"""GDAL and PROJ: versions, formats, and whether PROJ finds its database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from georsr.doctor.finding import Finding, State

NEEDED = ("GTiff", "COG", "MEM")
READ = {
    "VRT": "virtual mosaics",
    "JP2OpenJPEG": "JPEG 2000: Sentinel-2 as it is distributed",
    "netCDF": "netCDF",
    "HDF5": "HDF5",
}
"""Formats to read that not every build of GDAL has."""
MISLEADING = ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH")
"""Variables by which another program's GDAL or PROJ gets in the way."""


def findings() -> Iterator[Finding]:
    """Versions, formats, PROJ's database, misleading variables."""
    import rasterio

    yield Finding(
        "GDAL", State.OK, f"{rasterio.__gdal_version__}, PROJ {rasterio.__proj_version__}"
    )
    with rasterio.Env() as env:
        drivers = set(env.drivers())
    yield from _drivers(drivers)
    yield database(os.environ)


def _drivers(drivers: set[str]) -> Iterator[Finding]:
    missing = [name for name in NEEDED if name not in drivers]
    if missing:
        remedy = "pip install --force-reinstall rasterio"
        text = f"GDAL lacks {', '.join(missing)}"
        yield Finding("formats", State.PROBLEM, text, remedy)
    else:
        there = [*NEEDED, *(name for name in READ if name in drivers)]
        yield Finding("formats", State.OK, ", ".join(there))
    for name, what in READ.items():
        if name not in drivers:
            remedy = "only if you need it: conda-forge's rasterio and libgdal plugins have it"
            yield Finding(name, State.NOTE, f"this GDAL does not read {what}", remedy)


def database(environ: Mapping[str, str]) -> Finding:
    """Whether coordinates can be transformed."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    misleading = [name for name in MISLEADING if environ.get(name)]
    set_here = ", ".join(f"{name}={environ[name]}" for name in misleading)
    try:
        east, north = transform(CRS.from_epsg(4326), CRS.from_epsg(32632), [9.0], [0.0])
        right = abs(east[0] - 500000) < 1e-3 and abs(north[0]) < 1e-3
        why = "" if right else f"9 E, 0 N in UTM 32 comes out as {east[0]:.1f}, {north[0]:.1f}"
    except CRSError as error:
        why = str(error)
    if why:
        remedy = "pip install --force-reinstall rasterio"
        if set_here:
            remedy = f"unset {' '.join(misleading)} ({set_here}: of another installation)"
        return Finding("PROJ database", State.PROBLEM, why, remedy)
    if set_here:
        text = f"works, although {set_here} is set"
        remedy = f"unset {' '.join(misleading)} if coordinates or formats are amiss"
        return Finding("PROJ database", State.WARNING, text, remedy)
    return Finding("PROJ database", State.OK, "found")
