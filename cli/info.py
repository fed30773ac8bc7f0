"""``georsr info``: describe a raster, a model, or what a run of both would need."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from georsr.errors import escape_control_characters

from .main import import_without_gc
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


@click.command("info", short_help="Describe a raster, a model, or what a run would need.")
@click.argument("rasters", nargs=-1, metavar="[RASTER|MODEL]...", type=FileName())
@model_options
@sr_options("indexes", "src_nodata", "alpha", "allow_drivers", "max_pixels", *AREA_OPTIONS)
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
        with import_without_gc():
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
    with import_without_gc():
        from georsr.models.io import open_model
        from georsr.tiling.grid import ceil_to

    opened = open_model(model, scale)
    spec = opened.spec
    facts = asdict(spec)
    # ONNX Runtime does not tell what it computes
    if find_spec("torch") and not opened.is_exported:
        from georsr.models.complexity import complexity

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
    ) as reader:
        info = reader.info
        area = resolve_aoi(
            info,
            bbox=options["bounds"],
            bbox_crs=options["bounds_crs"],
            aoi=options["aoi"],
            masked=options["aoi_mask"],
        )
    facts: dict[str, Any] = {
        "path": info.path,
        "driver": info.driver,
        "files": len(info.files),
        "width": info.width,
        "height": info.height,
        "dtype": info.dtype,
        "crs": str(info.crs),
        "transform": list(info.transform)[:6] if info.transform else None,
        "gcps": len(info.gcps),
        "rpcs": info.rpcs is not None,
        "registration": info.area_or_point,
        "mask": info.mask_kind,
        "blocks": list(info.block_shape),
    }
    if area is not None:
        facts["part"] = str(area.window)
    for band in info.bands:
        facts[f"band {band.number}"] = (
            f"{band.description or band.colorinterp}, nodata {band.nodata}, "
            f"scale {band.scale:g}, offset {band.offset:g}"
        )
    if info.alpha_band:
        facts["alpha band"] = info.alpha_band
    if info.notes:
        facts["assumed"] = "; ".join(info.notes)
    _echo(facts, as_json)
