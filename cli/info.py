"""``georsr info``: describe a raster, a model, or what a run of both would need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from georsr.errors import escape_control_characters

from .main import importing
from .options import (
    AREA_OPTIONS,
    DEVICE_OPTIONS,
    TILE_OPTIONS,
    FileName,
    cluster_of,
    cluster_options,
    model_options,
    sr_options,
    verbosity_options,
)

if TYPE_CHECKING:
    from georsr.geo.aoi import AreaOfInterest
    from georsr.io.metadata import RasterInfo
    from georsr.io.reader import RasterReader


@click.command("info", short_help="Describe a raster, a model, or what a run would need.")
@click.argument("rasters", nargs=-1, metavar="[RASTER|MODEL]...", type=FileName())
@model_options()
@sr_options("indexes", "src_nodata", "alpha", "stack", "allow_drivers", "max_pixels", *AREA_OPTIONS)
@sr_options(*TILE_OPTIONS, *DEVICE_OPTIONS, "backend", "tta")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@verbosity_options
def command(
    rasters: tuple[str, ...],
    model: str | None,
    scale: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Describe RASTER, a model, or a run of both: tiles, memory, disk space, time.

    Several RASTERs on the same grid, a folder of them, or @FILE that lists them are one mosaic.

    \b
    georsr info scene.tif
    georsr info segsr-lite-x4
    georsr info scene.tif --model segsr-lite-x4
    """
    options.pop("quiet")
    if model is None and len(rasters) == 1 and _is_model(rasters[0]):
        model, rasters = rasters[0], ()
    if not rasters and model is None:
        raise click.UsageError("give a raster, a --model, or both")
    if not rasters:
        _show_model(model, scale, as_json)
    elif model is None and scale is None:
        _show_raster(rasters, options, as_json)
    else:
        with importing():
            from georsr.api import estimate

        machines = cluster_of(options)
        report = estimate(rasters, model, scale, **machines, **options)
        click.echo(report.to_json() if as_json else report.describe())


def _is_model(name: str) -> bool:
    """Return whether a name is that of a model, not of a raster."""
    from georsr.models.registry import COMPUTED, bundled_weights, resolve_name

    if Path(name).suffix.lower() in (".safetensors", ".pth", ".pt", ".onnx"):
        return True
    known = COMPUTED.keys() | bundled_weights().keys()
    return not Path(name).exists() and (
        name.startswith("hf://") or resolve_name(name, None) in known
    )


def _echo(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts)) + 2
    for key, value in facts.items():
        click.echo(escape_control_characters(f"{key:<{width}}{value}"))


def _show_model(model: str | None, scale: int | None, as_json: bool) -> None:
    with importing():
        from georsr.models.io import open_model
        from georsr.tiling.grid import ceil_to

    opened = open_model(model, scale)
    spec = opened.spec
    facts = asdict(spec)
    # ONNX Runtime does not report what it computes
    if find_spec("torch") and not opened.is_exported:
        from georsr.run_estimate import complexity

        sizes = (spec.tile, ceil_to(64, spec.multiple_of))
        costs = {size: complexity(opened.network, spec.bands, size) for size in sizes}
        facts["learned parameters"] = costs[spec.tile].parameters
        facts |= {f"GMAC per tile of {s}": round(cost.gmacs, 3) for s, cost in costs.items()}
    facts["sha256"] = opened.sha256
    _echo(facts, as_json)


def _show_raster(rasters: tuple[str, ...], options: dict[str, Any], as_json: bool) -> None:
    from georsr.geo.aoi import resolve_aoi
    from georsr.io import open_sources

    with open_sources(
        rasters,
        indexes=options["indexes"],
        nodata=options["src_nodata"],
        allow_drivers=options["allow_drivers"] or None,
        alpha=options["alpha"],
        stack=options["stack"],
    ) as reader:
        info = reader.info
        area = resolve_aoi(
            info,
            bounds=options["bounds"],
            bounds_crs=options["bounds_crs"],
            aoi=options["aoi"],
            masked=options["aoi_mask"],
        )
        ranges = _value_ranges(reader)
    if as_json:
        click.echo(json.dumps(_raster_facts(info, area, ranges), indent=2, default=str))
        return
    for key, value in _raster_lines(info, area, ranges):
        click.echo(escape_control_characters(f"{key:<18}{value}"))


def _value_ranges(reader: RasterReader) -> list[tuple[float, float] | None]:
    """Return the smallest and largest value of a sample of each band; None without any."""
    sample = reader.sample()
    bands = zip(sample.values, sample.valid, strict=True)
    valid_values = [values[valid] for values, valid in bands]
    return [(float(v.min()), float(v.max())) if v.size else None for v in valid_values]


def _network_bands(info: RasterInfo) -> tuple[tuple[int, ...], str]:
    """Return the bands that a network of three bands would take, and a remark."""
    from georsr.errors import UsageError
    from georsr.io.rgb_bands import detect_rgb_bands

    if info.count == 1:
        return info.indexes, "as grey"
    try:
        rgb_bands = detect_rgb_bands(info)
    except UsageError:
        return (), "not declared: choose them with --bidx"
    return rgb_bands.numbers, "red, green, blue" + (", assumed" if rgb_bands.note else "")


def _extent(info: RasterInfo) -> dict[str, float] | None:
    """Return the bounding box of a raster in its CRS."""
    if info.transform is None:
        return None
    corners = [(0, 0), (info.width, 0), (0, info.height), (info.width, info.height)]
    x, y = zip(*(info.transform @ corner for corner in corners), strict=True)
    return {"west": min(x), "south": min(y), "east": max(x), "north": max(y)}


def _output_facts(info: RasterInfo) -> dict[str, Any]:
    """Return what the tags of an output of georsr say."""
    tags = info.tags.get("", {})
    names = {name: name.removeprefix("GEORSR_").lower() for name in tags if name[:7] == "GEORSR_"}
    facts: dict[str, Any] = {}
    for name, key in names.items():
        try:
            facts[key] = json.loads(tags[name]) if tags[name].startswith("{") else tags[name]
        except ValueError:
            facts[key] = tags[name]
    return facts


def _raster_facts(
    info: RasterInfo, area: AreaOfInterest | None, ranges: list[tuple[float, float] | None]
) -> dict[str, Any]:
    from georsr.io.metadata import crs_unit

    numbers, remark = _network_bands(info)
    return {
        "path": info.path,
        "driver": info.driver,
        "files": len(info.files),
        "width": info.width,
        "height": info.height,
        "dtype": info.dtype,
        "crs": None if info.crs is None else str(info.crs),
        "transform": list(info.transform)[:6] if info.transform else None,
        "unit": crs_unit(info),
        "extent": _extent(info),
        "gcps": len(info.gcps),
        "rpcs": info.rpcs is not None,
        "registration": info.area_or_point,
        "mask": info.mask_kind,
        "blocks": list(info.block_shape),
        "overviews": list(info.overviews),
        "part": None if area is None else asdict(area.window),
        "bands": [
            {
                "number": band.number,
                "name": band.description,
                "color": band.colorinterp,
                "nodata": band.nodata,
                "scale": band.scale,
                "offset": band.offset,
                "unit": band.unit,
                "sampled_range": values,
            }
            for band, values in zip(info.bands, ranges, strict=True)
        ],
        "alpha_band": info.alpha_band,
        "network_bands": {"numbers": list(numbers), "remark": remark},
        "output_of_georsr": _output_facts(info) or None,
        "assumed": list(info.notes),
    }


def _raster_lines(
    info: RasterInfo, area: AreaOfInterest | None, ranges: list[tuple[float, float] | None]
) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each line."""
    from georsr.io.metadata import crs_unit, format_pixel_size

    count = len(info.files)
    yield "path", info.path
    yield "format", f"{info.driver}, {count} file{'s' if count != 1 else ''}"
    yield "size", f"{info.width} x {info.height} pixels, {info.count} bands of {info.dtype}"
    yield "crs", "none" if info.crs is None else str(info.crs)
    if info.transform is not None:
        yield "pixel size", f"{format_pixel_size(info)} {crs_unit(info) or ''}".rstrip()
        extent = _extent(info) or {}
        yield "extent", ", ".join(f"{side} {value:.10g}" for side, value in extent.items())
    if info.gcps or info.rpcs:
        yield "located by", f"{len(info.gcps)} GCPs" + (", RPCs" if info.rpcs else "")
    yield "registration", info.area_or_point
    yield "invalid by", "nothing declared" if info.mask_kind == "none" else info.mask_kind
    levels = ", ".join(map(str, info.overviews)) or "none"
    yield "blocks", f"{info.block_shape[1]} x {info.block_shape[0]} pixels; overviews: {levels}"
    if area is not None:
        yield "part", str(area.window)
    for band, values in zip(info.bands, ranges, strict=True):
        sampled = "no valid pixel" if values is None else f"{values[0]:g} to {values[1]:g}"
        scaling = (
            ""
            if (band.scale, band.offset) == (1, 0)
            else (f", scale {band.scale:g}, offset {band.offset:g}")
        )
        nodata = "" if band.nodata is None else f", nodata {band.nodata:g}"
        unit = f" {band.unit}" if band.unit else ""
        name = band.description or band.colorinterp
        yield f"band {band.number}", f"{name}, sampled {sampled}{unit}{nodata}{scaling}"
    if info.alpha_band:
        yield "alpha band", str(info.alpha_band)
    numbers, remark = _network_bands(info)
    yield "network sees", f"bands {','.join(map(str, numbers)) or 'unknown'} ({remark})"
    for key, value in _output_facts(info).items():
        yield f"tag {key}", json.dumps(value) if isinstance(value, dict) else str(value)
    if info.notes:
        yield "assumed", "; ".join(info.notes)
