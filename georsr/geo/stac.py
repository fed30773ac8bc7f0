"""Write a STAC Item that describes an output, its source and its model, and where it lies.

The format is SpatioTemporal Asset Catalog 1.1 (https://stacspec.org) with the extensions
Projection 2, Raster 2, Processing 1.2 and, for the model, fields of Machine Learning Model 1.4.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio.warp
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import from_gcps
from shapely import affinity, box
from shapely.geometry import mapping, shape

from georsr._files import atomic_write_text, check_writable, remove_temp_files
from georsr.errors import UsageError
from georsr.io.gdal_env import gdal_env, wgs84
from georsr.io.metadata import BandInfo, RasterInfo
from georsr.io.reader import open_output
from georsr.models.spec import ModelSpec
from georsr.reports import RunReport

STEPS = 8
"""Number of points along each edge, which is not straight in longitude and latitude."""


@dataclass(frozen=True)
class Footprint:
    """Outline and projection of a raster.

    Attributes
    ----------
    geometry : dict or None
        Outline as GeoJSON in longitude and latitude, split at the antimeridian; None if the raster
        is not georeferenced.
    bbox : list of float or None
        West, south, east, north of the outline; west is larger than east across the antimeridian.
    projected : list of float or None
        Bounds in the raster's own CRS.
    code, wkt2 : str or None
        CRS as an authority's code, or as WKT 2 if it has none.
    gsd : float or None
        Ground sample distance: size of a pixel in metres, at the middle of the raster.
    """

    geometry: dict[str, Any] | None
    bbox: list[float] | None
    projected: list[float] | None
    code: str | None
    wkt2: str | None
    gsd: float | None


def compute_footprint(info: RasterInfo) -> Footprint:
    """Compute the footprint of a raster; approximately if it has only ground control points."""
    transform, crs = info.transform, info.crs
    if transform is None and info.gcps:
        transform, crs = from_gcps(info.gcps), info.gcps_crs
    if transform is None or crs is None:
        return Footprint(None, None, None, None, None, None)
    ring = [transform @ corner for corner in _edge(info.width, info.height)]
    xs, ys = [x for x, _ in ring], [y for _, y in ring]
    authority = crs.to_authority()
    code = None if authority is None else ":".join(authority)
    geometry, bbox = _to_geojson(crs, xs, ys)
    return Footprint(
        geometry=geometry,
        bbox=bbox,
        projected=[min(xs), min(ys), max(xs), max(ys)],
        code=code,
        wkt2=crs.to_wkt(version="WKT2_2019") if code is None else None,
        gsd=_gsd(transform, crs, ys),
    )


def _edge(width: int, height: int) -> Iterator[tuple[float, float]]:
    """Yield points (column, row) along the closed outer edge."""
    corners = [(0, 0), (0, height), (width, height), (width, 0), (0, 0)]
    for (x, y), (to_x, to_y) in pairwise(corners):
        for step in range(STEPS):
            yield x + (to_x - x) * step / STEPS, y + (to_y - y) * step / STEPS
    yield 0.0, 0.0


def _to_geojson(
    crs: CRS, xs: list[float], ys: list[float]
) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return the GeoJSON and the bounds of a ring of points."""
    ring = {"type": "Polygon", "coordinates": [list(zip(xs, ys, strict=True))]}
    try:
        with gdal_env():
            # GDAL splits polygons at the antimeridian
            geometry = rasterio.warp.transform_geom(
                crs, wgs84(), ring, antimeridian_cutting=True, precision=8
            )
    except Exception:  # GDAL's errors here are not those of rasterio
        return None, None
    if geometry["type"] == "Polygon":
        geometry = _split(geometry)
    outline = shape(geometry)
    if outline.is_empty or not np.isfinite(outline.bounds).all():
        return None, None  # nothing of it lies on Earth
    parts = (
        geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    )
    points = [[point for ring in part for point in ring] for part in parts]
    south = min(y for part in points for _, y in part)
    north = max(y for part in points for _, y in part)
    wests = [min(x for x, _ in part) for part in points]
    easts = [max(x for x, _ in part) for part in points]
    if len(points) > 1 and max(easts) >= 180 - 1e-6 and min(wests) <= -180 + 1e-6:
        west = min((w for w in wests if w > 0), default=-180.0)
        east = max((e for e in easts if e < 0), default=180.0)
    else:
        west, east = min(wests), max(easts)
    return geometry, [west, south, east, north]


def _split(geometry: dict[str, Any]) -> dict[str, Any]:
    """Split a polygon with longitudes beyond 180 degrees at the antimeridian."""
    outline = shape(geometry)
    west, _, east, _ = outline.bounds
    if west >= -180 and east <= 180:
        return geometry
    parts = []
    for offset in (-360, 0, 360):
        part = affinity.translate(outline, offset).intersection(box(-180, -90, 180, 90))
        if part.area > 0:
            parts.append(part)
    if len(parts) == 1:
        return dict(mapping(parts[0]))
    return {"type": "MultiPolygon", "coordinates": [mapping(p)["coordinates"] for p in parts]}


def _gsd(transform: Affine, crs: CRS, ys: list[float]) -> float | None:
    """Return the geometric mean of the width and height of a pixel in metres."""
    a, b, _, d, e, _ = tuple(transform)[:6]
    size = math.sqrt(abs(a * e - b * d))
    if crs.is_geographic:
        latitude = math.radians((min(ys) + max(ys)) / 2)
        return size * 111_320.0 * math.sqrt(max(math.cos(latitude), 0.0))
    try:
        return size * float(crs.linear_units_factor[1])
    except RasterioError:
        return None


if TYPE_CHECKING:
    from pystac import Item

SCHEMA = "https://stac-extensions.github.io/{}/v{}/schema.json"
EXTENSIONS = tuple(
    SCHEMA.format(*extension)
    for extension in (("projection", "2.0.0"), ("raster", "2.0.0"), ("processing", "1.2.0"))
)
DATES = (
    "ACQUISITIONDATETIME",
    "ACQUISITION_DATE",
    "DATE_ACQUIRED",
    "PRODUCT_START_TIME",
    "TIFFTAG_DATETIME",
)
"""Tags that hold the acquisition date of a raster, the most specific first."""
DATE_FORMATS = ("%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d", "%Y:%m:%d %H:%M:%S")


def check_item_path(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise if a STAC Item cannot be written to ``path``; called before the run.

    Raises
    ------
    UsageError
        pystac is not installed, or the file exists.
    OutputError
        The file cannot be written.
    """
    try:
        import pystac  # noqa: F401
    except ImportError as error:
        raise UsageError("a STAC Item needs pystac: pip install pystac") from error
    check_writable(Path(path), overwrite=overwrite)


def item_describes(path: str | os.PathLike[str], output: str) -> bool:
    """Return whether a file is a STAC Item of ``output``, written by `write_stac_item`."""
    try:
        item = json.loads(Path(path).read_text(encoding="utf-8"))
        target = Path(path).parent / item["assets"]["data"]["href"]
        return (
            "georsr:checksum" in item["properties"] and target.resolve() == Path(output).resolve()
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def write_stac_item(
    path: str | os.PathLike[str], report: RunReport, spec: ModelSpec, *, overwrite: bool
) -> None:
    """Write the STAC Item of an output while its run holds the lock.

    Parameters
    ----------
    path
        JSON file. Its links are relative to its folder if possible.
    report
        Report of the run that wrote the output.
    spec
        Specification of the model.
    overwrite
        Whether the file may be replaced.
    """
    check_item_path(path, overwrite=overwrite)
    target = Path(path)
    item = create_stac_item(report, spec, target)
    text = json.dumps(item.to_dict(transform_hrefs=False), indent=2, ensure_ascii=False)
    remove_temp_files(target)
    atomic_write_text(target, text + "\n")


def create_stac_item(report: RunReport, spec: ModelSpec, path: Path) -> Item:
    """Create the STAC Item of an output, to be written to ``path``."""
    import pystac

    with open_output(report.output, allow_drivers=("VRT",)) as reader:
        info = reader.info
    footprint = compute_footprint(info)
    acquired = acquisition_date(info)
    item = pystac.Item(
        id=Path(report.output).name.rsplit(".", 1)[0],
        geometry=footprint.geometry,
        bbox=footprint.bbox,
        datetime=acquired or datetime.now(UTC).replace(microsecond=0),
        properties=_properties(report, spec, info, footprint, dated=acquired is not None),
        stac_extensions=[*EXTENSIONS],
    )
    asset = pystac.Asset(
        href=_href(report.output, path),
        media_type=pystac.MediaType.COG if report.cog else pystac.MediaType.GEOTIFF,
        roles=["data"],
        extra_fields=_raster_fields(info, footprint) | {"bands": _bands(info, report)},
    )
    item.add_asset("data", asset)
    if report.quality is not None:
        layers = report.quality
        item.add_asset(
            "quality",
            pystac.Asset(
                href=_href(layers.output, path),
                title="Quality layers: " + ", ".join(layers.layers),
                media_type=pystac.MediaType.GEOTIFF,
                roles=["metadata"],
                extra_fields=_raster_fields(info, footprint)
                | {
                    "data_type": "float32",
                    "nodata": "nan",
                    "bands": [{"name": name} for name in layers.layers],
                },
            ),
        )
    item.set_self_href(str(path.absolute()))
    item.add_link(pystac.Link("derived_from", _href(report.source, path), title="source"))
    return item


def acquisition_date(info: RasterInfo) -> datetime | None:
    """Return the acquisition date in the tags of a raster, or None; without a zone it is UTC."""
    for space in info.tags.values():
        named = {name.upper(): value for name, value in space.items()}
        for tag in DATES:
            text = named.get(tag, "").strip().removesuffix("Z")
            for date_format in DATE_FORMATS:
                try:
                    return datetime.strptime(text, date_format).replace(tzinfo=UTC)
                except ValueError:
                    continue
    return None


def _properties(
    report: RunReport, spec: ModelSpec, info: RasterInfo, footprint: Footprint, *, dated: bool
) -> dict[str, Any]:
    described = (
        f"{report.source} super-resolved {report.scale} times: contains synthesised detail that "
        "was not measured"
    )
    properties: dict[str, Any] = {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "description": described
        + ("" if dated else "; datetime is that of processing, the source does not say its own"),
        "proj:shape": [info.height, info.width],
        "proj:code": footprint.code,
        "processing:level": "super-resolved",
        "processing:lineage": described,
        "processing:facility": "georsr",
        "processing:software": {"georsr": report.version},
        "mlm:name": spec.name,
        "mlm:architecture": spec.architecture,
        "mlm:tasks": ["super-resolution"],
        "mlm:framework": "pytorch",
        "georsr:model_sha256": report.model_sha256,
        "georsr:scale": report.scale,
        "georsr:stretch": asdict(report.stretch),
        "georsr:options": report.options,
        "georsr:precision": f"{report.precision} on {report.device}",
        "georsr:checksum": report.checksum,
        "georsr:synthesised_detail": True,
    }
    if report.consistency is not None:
        properties["georsr:consistency_kernel"] = report.consistency.kernel
    if info.transform is not None:
        properties["proj:transform"] = list(info.transform)
        properties["proj:bbox"] = footprint.projected
    if footprint.wkt2 is not None:
        properties["proj:wkt2"] = footprint.wkt2
    if footprint.gsd is not None:
        properties["gsd"] = footprint.gsd
    return properties


def _raster_fields(info: RasterInfo, footprint: Footprint) -> dict[str, Any]:
    """Return the fields of the Raster extension that all bands of a file share."""
    resolution = {} if footprint.gsd is None else {"raster:spatial_resolution": footprint.gsd}
    return {"raster:sampling": info.area_or_point.lower()} | resolution


def _bands(info: RasterInfo, report: RunReport) -> list[dict[str, Any]]:
    bands = [_band(band, report.dtype) for band in info.bands]
    if report.consistency is not None:
        consistency = report.consistency
        for fields, mean, largest in zip(
            bands, consistency.band_mean, consistency.band_max, strict=True
        ):
            fields |= {"georsr:residual_mean": mean, "georsr:residual_max": largest}
    return bands


def _band(band: BandInfo, dtype: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": band.description or f"band {band.number}",
        "data_type": dtype,
    }
    if band.nodata is not None:
        fields["nodata"] = band.nodata if band.nodata == band.nodata else "nan"
    if band.unit:
        fields["unit"] = band.unit
    if (band.scale, band.offset) != (1.0, 0.0):
        fields |= {"raster:scale": band.scale, "raster:offset": band.offset}
    return fields


def _href(target: str, item: Path) -> str:
    """Return a link to ``target``: relative if it is in or below the folder of the Item."""
    path = Path(target)
    if "://" in target or target.startswith("/vsi") or not path.exists():
        return target
    try:
        inside = path.resolve().relative_to(item.resolve().parent)
    except ValueError:
        return str(path.resolve())
    return f"./{inside.as_posix()}"
