"""``georsr sr``: super-resolve a raster."""

from __future__ import annotations

from typing import Any

import click

from georsr.config import OPTIONS

from .main import catch_signals, import_without_gc, interrupt_at_signal, show_error
from .options import (
    SectionedCommand,
    cluster_of,
    cluster_options,
    make_progress,
    model_options,
    progress_option,
    sr_options,
    verbosity_options,
)

SECTIONS: dict[str, tuple[str, ...]] = {
    "Model and bands": ("model", "scale"),
    "Input": (),
    "Area": (),
    "Pixel values": (),
    "Output": ("quality", "stac"),
    "Device": (),
    "Dask": ("workers", "scheduler", "parts", "tls-ca", "tls-cert", "tls-key"),
    "Tiles": (),
    "Safety": ("dry-run",),
    "Messages": ("json", "progress", "quiet", "verbose"),
}
"""Headings of the help, and the options under them that are no fields of SRConfig."""


@click.command("sr", cls=SectionedCommand, sections=SECTIONS, short_help="Super-resolve a raster.")
@click.argument("sources", nargs=-1, required=True, metavar="IN...")
@click.argument("destination", metavar="OUT")
@model_options
@sr_options(*OPTIONS)
@cluster_options
@click.option(
    "--quality",
    metavar="FILE",
    help="Also write quality layers: expected error, disagreement between predictions, "
    "inconsistency with IN, synthesized detail, guidance. This takes 8 times longer in addition. "
    "Both files are written, or neither.",
)
@click.option("--stac", metavar="FILE", help="Also write a STAC Item of OUT, a JSON file.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print tiles, memory, disk space and time, write nothing, and fail where the run would.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report of the run on stdout.")
@progress_option
@verbosity_options
def command(sources: tuple[str, ...], destination: str, **options: Any) -> int:
    """Write OUT: the raster IN at 2x or 4x its resolution.

    Several INs on the same grid are read as one mosaic; later ones cover earlier ones. IN may also
    be a folder of rasters, or @FILE: a text file with one raster per line.

    OUT keeps the georeferencing, data type, radiometry, nodata, masks and band metadata of IN. It
    appears only when it is complete and verified. If a run was interrupted or killed, or the disk
    was full, repeat the same command to continue it.

    \b
    georsr sr scene.tif out.tif                  # segsr-lite-x4-sensor
    georsr sr scene.tif out.tif --scale 2
    georsr sr sentinel2.tif out.tif --bidx 4,3,2 --cog
    georsr sr dem.tif out.tif --model bicubic
    georsr sr scene.tif out.tif --workers 4      # four worker processes
    georsr sr tiles/ out.tif --aoi district.geojson
    """
    with import_without_gc():
        from georsr.api import estimate, super_resolve
    from georsr.errors import InterruptedRunError, ResourceError

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    kind, dry_run = options.pop("progress"), options.pop("dry_run")
    machines = cluster_of(options)
    stac = options.pop("stac")
    if dry_run:
        with interrupt_at_signal() as signals:
            report = estimate(
                sources,
                destination=destination,
                stac=stac,
                should_stop=signals.any,
                **machines,
                **options,
            )
        click.echo(report.to_json() if as_json else report.describe())
        if report.problems:
            raise ResourceError(report.problems[0])
        return 0
    with make_progress(kind, quiet) as progress, catch_signals() as signals:
        try:
            result = super_resolve(
                sources,
                destination,
                progress=progress,
                should_stop=signals.any,
                stac=stac,
                **machines,
                **options,
            )
        except InterruptedRunError as error:
            show_error(error)
            return signals.exit_code()
    if as_json:
        click.echo(result.to_json())
    elif not quiet:
        resumed = f", {result.blocks_resumed} of {result.blocks} blocks from an earlier run"
        click.echo(
            f"{destination}: {result.width} x {result.height} pixels, {result.bands} x "
            f"{result.dtype}, {result.model}, {result.seconds['total']:.1f} s"
            f"{resumed if result.blocks_resumed else ''}",
            err=True,
        )
    return 0
