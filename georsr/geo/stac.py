"""STAC: a catalogue entry for a product, with what it is, what made it and of what.

SpatioTemporal Asset Catalog 1.1 (https://stacspec.org) with the extensions Projection 2, Raster 2,
Processing 1.2 and, for the model, fields of Machine Learning Model 1.4.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from georsr._files import atomic_write_text, check_writable, remove_temp_files
from georsr.errors import UsageError
from georsr.geo.footprint import Footprint, compute_footprint
from georsr.io.metadata import BandInfo, RasterInfo
from georsr.io.reader import open_output
from georsr.models.spec import ModelSpec
from georsr.reports import RunReport

if TYPE_CHECKING:
    from pystac import Item

SCHEMA = "https://stac-extensions.github.io/{}/v{}/schema.json"
EXTENSIONS = tuple(
    SCHEMA.format(*each)
    for each in (("projection", "2.0.0"), ("raster", "2.0.0"), ("processing", "1.2.0"))
)
DATES = (
    "ACQUISITIONDATETIME",
    "ACQUISITION_DATE",
    "DATE_ACQUIRED",
    "PRODUCT_START_TIME",
    "TIFFTAG_DATETIME",
)
"""Tags in which sources say when they were taken, the most telling first."""
FORMATS = ("%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d", "%Y:%m:%d %H:%M:%S")


def check_item_path(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse what could not be written after the product, before there is one.

    Raises
    ------
    UsageError
        pystac is not installed, or the file exists.
    OutputError
        It cannot be written.
    """
    try:
        import pystac  # noqa: F401
    except ImportError as error:
        raise UsageError("a STAC Item needs pystac: pip install 'georsr[stac]'") from error
    check_writable(Path(path), overwrite=overwrite)


def item_describes(path: str | os.PathLike[str], product: str) -> bool:
    """Whether a file is a STAC Item that `write_stac_item` has written, of this product."""
    try:
        item = json.loads(Path(path).read_text(encoding="utf-8"))
        data, ours = item["assets"]["data"]["href"], "georsr:checksum" in item["properties"]
        return ours and (Path(path).parent / data).resolve() == Path(product).resolve()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def write_stac_item(
    path: str | os.PathLike[str], report: RunReport, spec: ModelSpec, *, overwrite: bool
) -> None:
    """Write the STAC Item of a product, whose run has its lock.

    Parameters
    ----------
    path
        JSON file; links in it are relative to its folder where they can be.
    report
        Of the run that made the product.
    spec
        Of its model.
    overwrite
        The file may be replaced.
    """
    check_item_path(path, overwrite=overwrite)
    place = Path(path)
    item = create_stac_item(report, spec, place)
    text = json.dumps(item.to_dict(transform_hrefs=False), indent=2, ensure_ascii=False)
    remove_temp_files(place)
    atomic_write_text(place, text + "\n")


def create_stac_item(report: RunReport, spec: ModelSpec, place: Path) -> Item:
    """The STAC Item of a product, as it will lie at ``place``."""
    import pystac

    with open_output(report.output, allow_drivers=("VRT",)) as reader:
        info = reader.info
    where = compute_footprint(info)
    taken = acquisition_date(info)
    item = pystac.Item(
        id=Path(report.output).name.rsplit(".", 1)[0],
        geometry=where.geometry,
        bbox=where.bbox,
        datetime=taken or datetime.now(UTC).replace(microsecond=0),
        properties=_properties(report, spec, info, where, dated=taken is not None),
        stac_extensions=[*EXTENSIONS],
    )
    asset = pystac.Asset(
        href=_href(report.output, place),
        media_type=pystac.MediaType.COG if report.cog else pystac.MediaType.GEOTIFF,
        roles=["data"],
        extra_fields=_grid(info, where) | {"bands": _bands(info, report)},
    )
    item.add_asset("data", asset)
    if report.quality is not None:
        layers = report.quality
        item.add_asset(
            "quality",
            pystac.Asset(
                href=_href(layers.output, place),
                title="Quality layers: " + ", ".join(layers.layers),
                media_type=pystac.MediaType.GEOTIFF,
                roles=["metadata"],
                extra_fields=_grid(info, where)
                | {
                    "data_type": "float32",
                    "nodata": "nan",
                    "bands": [{"name": name} for name in layers.layers],
                },
            ),
        )
    item.set_self_href(str(place.absolute()))
    item.add_link(pystac.Link("derived_from", _href(report.source, place), title="source"))
    return item


def acquisition_date(info: RasterInfo) -> datetime | None:
    """When a raster was taken, if its tags say so; UTC where they name no zone."""
    for space in info.tags.values():
        named = {name.upper(): value for name, value in space.items()}
        for tag in DATES:
            text = named.get(tag, "").strip().removesuffix("Z")
            for form in FORMATS:
                try:
                    return datetime.strptime(text, form).replace(tzinfo=UTC)
                except ValueError:
                    continue
    return None


def _properties(
    report: RunReport, spec: ModelSpec, info: RasterInfo, where: Footprint, *, dated: bool
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
        "proj:code": where.code,
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
        properties["proj:bbox"] = where.projected
    if where.wkt2 is not None:
        properties["proj:wkt2"] = where.wkt2
    if where.gsd is not None:
        properties["gsd"] = where.gsd
    return properties


def _grid(info: RasterInfo, where: Footprint) -> dict[str, Any]:
    """What the Raster extension says about all bands of a file."""
    resolution = {} if where.gsd is None else {"raster:spatial_resolution": where.gsd}
    return {"raster:sampling": info.area_or_point.lower()} | resolution


def _bands(info: RasterInfo, report: RunReport) -> list[dict[str, Any]]:
    bands = [_band(band, report.dtype) for band in info.bands]
    if report.consistency is not None:
        found = report.consistency
        for facts, mean, largest in zip(bands, found.band_mean, found.band_max, strict=True):
            facts |= {"georsr:residual_mean": mean, "georsr:residual_max": largest}
    return bands


def _band(band: BandInfo, dtype: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": band.description or f"band {band.number}",
        "data_type": dtype,
    }
    if band.nodata is not None:
        facts["nodata"] = band.nodata if band.nodata == band.nodata else "nan"
    if band.unit:
        facts["unit"] = band.unit
    if (band.scale, band.offset) != (1.0, 0.0):
        facts |= {"raster:scale": band.scale, "raster:offset": band.offset}
    return facts


def _href(target: str, place: Path) -> str:
    """An address or an absolute path as it is; a file beside or below the Item relative to it."""
    path = Path(target)
    if "://" in target or target.startswith("/vsi") or not path.exists():
        return target
    try:
        inside = path.resolve().relative_to(place.resolve().parent)
    except ValueError:
        return str(path.resolve())
    return f"./{inside.as_posix()}"
