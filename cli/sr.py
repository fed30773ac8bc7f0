"""``georsr sr``: the main job."""

from __future__ import annotations

from typing import Any

import click

from .main import import_without_gc
from .options import (
    CreationOption,
    SectionedCommand,
    area_options,
    backend_option,
    band_options,
    cluster_of,
    cluster_options,
    compile_option,
    compute_options,
    consistency_options,
    make_progress,
    model_options,
    other_band_options,
    progress_option,
    tile_options,
    tta_option,
    verbosity_options,
)
from .signals import catch_signals

SECTIONS = {
    "Network and bands": ("model", "scale", "bidx", "bands", "band-mode", "tta"),
    "Source": ("nodata", "alpha", "allow-driver", "max-pixels", "force"),
    "Part of the source": ("bbox", "bbox-crs", "aoi", "aoi-mask"),
    "Values": ("stretch", "consistency", "consistency-kernel", "sensor", "dtype", "dst-nodata"),
    "Output": ("overwrite", "cog", "co", "blocksize", "parts", "quality", "stac"),
    "Machine": ("device", "precision", "jobs", "backend", "compile"),
    "Dask": ("workers", "scheduler", "tls-ca", "tls-cert", "tls-key"),
    "Tiles": ("tile", "halo", "overlap", "blend", "batch", "flat-tiles"),
    "Safety": ("dry-run", "resume", "verify", "check-space"),
    "Messages": ("json", "progress", "quiet", "verbose"),
}
"""Where the help lists which option."""


@click.command("sr", cls=SectionedCommand, sections=SECTIONS, short_help="Super-resolve a raster.")
@click.argument("sources", nargs=-1, required=True, metavar="IN...")
@click.argument("destination", metavar="OUT")
@model_options
@band_options
@other_band_options
@area_options
@click.option("-t", "--dtype", help="Data type of the output; the source's by default.")
@click.option("--dst-nodata", help="Nodata value of the output, or 'none'.")
@click.option(
    "--stretch",
    default="auto",
    show_default=True,
    metavar="auto|dtype|LO,HI|percentile[:P,Q]|reflectance[:LO,HI]",
    help="Source values that the network sees as 0 and 1.",
)
@consistency_options
@click.option("--cog", is_flag=True, help="Write a Cloud Optimized GeoTIFF with overviews.")
@click.option(
    "--co",
    "creation_options",
    type=CreationOption(),
    multiple=True,
    help="GDAL creation option, repeatable: --co COMPRESS=ZSTD.",
)
@click.option("--blocksize", type=int, default=512, show_default=True, help="Blocks of the output.")
@tile_options
@compute_options
@backend_option
@compile_option
@cluster_options
@tta_option
@click.option(
    "--quality",
    metavar="FILE",
    help="Also write quality layers: expected error, disagreement, inconsistency with IN, "
    "synthesised detail, guidance. 8 times the cost more; both files appear, or neither.",
)
@click.option("--stac", metavar="FILE", help="Also write a STAC Item of OUT: a JSON file.")
@click.option(
    "--flat-tiles",
    is_flag=True,
    help="Leave tiles of one value in each band as they are, without the network: black gaps of a "
    "VRT, masked clouds, saturated ground.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Read OUT back and compare checksums before it gets its name.",
)
@click.option(
    "--check-space/--no-check-space",
    default=True,
    show_default=True,
    help="Refuse to start where the disk cannot hold OUT uncompressed, or memory the work.",
)
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Go on with an interrupted run, or fail; neither go on nor leave anything. By default a "
    "run that is interrupted leaves what is finished beside OUT, and the same command goes on.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Work on what does not look like an image, too: classes, palettes, elevations.",
)
@click.option("--max-pixels", type=int, help="Refuse sources that declare more pixels.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print tiles, memory, disk and time, write nothing, and fail where the run would.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the run's report on stdout.")
@progress_option
@verbosity_options
def command(sources: tuple[str, ...], destination: str, **options: Any) -> None:
    """Write OUT: the raster IN at 2x or 4x the resolution.

    Several INs of one grid are read as one mosaic, in which later ones cover earlier ones; IN may
    also be a folder of rasters, or @FILE for a text file that names one on each line.

    Georeferencing, data type, radiometry, nodata, masks and band metadata of IN are kept. OUT
    appears when it is complete and verified, and not before. A run that was interrupted, killed or
    ran out of disk goes on when the same command is given again.

    \b
    georsr sr scene.tif out.tif                  # segsr-lite-x4-sensor
    georsr sr scene.tif out.tif --scale 2
    georsr sr sentinel2.tif out.tif --bidx 4,3,2 --cog
    georsr sr dem.tif out.tif --model bicubic
    georsr sr scene.tif out.tif --workers 4      # as many processes
    georsr sr tiles/ out.tif --aoi district.geojson
    """
    with import_without_gc():
        from georsr.api import plan_report, super_resolve
    from georsr.errors import InterruptedRunError, ResourceError

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    kind, dry_run = options.pop("progress"), options.pop("dry_run")
    options["creation_options"] = dict(options["creation_options"])
    if options["max_pixels"] is None:
        del options["max_pixels"]
    machines = cluster_of(options)
    stac = options.pop("stac")
    if dry_run:
        report = plan_report(sources, destination=destination, stac=stac, **machines, **options)
        click.echo(report.to_json() if as_json else report.describe())
        if report.problems:
            raise ResourceError(report.problems[0])
        return
    with make_progress(kind, quiet) as progress, catch_signals() as noted:
        try:
            result = super_resolve(
                sources,
                destination,
                progress=progress,
                stop=noted.any,
                stac=stac,
                **machines,
                **options,
            )
        except InterruptedRunError as error:
            error.exit_code = noted.exit_code()
            raise
    if as_json:
        click.echo(result.to_json())
    elif not quiet:
        found = f", {result.blocks_found} of {result.blocks} blocks from an earlier run"
        click.echo(
            f"{destination}: {result.width} x {result.height} pixels, {result.bands} x "
            f"{result.dtype}, {result.model}, {result.seconds['total']:.1f} s"
            f"{found if result.blocks_found else ''}",
            err=True,
        )
