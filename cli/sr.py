"""``georsr sr``: super-resolve a raster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from georsr.config import OPTIONS
from georsr.errors import (
    GeorsrError,
    InterruptedRunError,
    ResourceError,
    UsageError,
)

from .exit_codes import print_line, show_error
from .main import catch_signals, collect_warnings, importing, interrupt_at_signal
from .options import (
    FileName,
    SectionedCommand,
    cluster_of,
    cluster_options,
    make_progress,
    model_options,
    progress_option,
    sr_options,
    verbosity_options,
)

if TYPE_CHECKING:
    from georsr.batch import BatchReport

SECTIONS: dict[str, tuple[str, ...]] = {
    "Model and bands": ("model", "scale"),
    "Input": (),
    "Area": (),
    "Pixel values": (),
    "Output": ("out-dir", "quality", "stac"),
    "Device": (),
    "Dask": ("workers", "scheduler", "parts", "tls-ca", "tls-cert", "tls-key"),
    "Tiles": (),
    "Safety": ("dry-run",),
    "Messages": ("json", "progress", "quiet", "verbose", "log"),
}
"""Headings of the help, and the options under them that are no fields of SRConfig."""


@click.command("sr", cls=SectionedCommand, sections=SECTIONS, short_help="Super-resolve a raster.")
@click.argument("paths", nargs=-1, metavar="IN... OUT", type=FileName())
@model_options()
@sr_options(*OPTIONS)
@cluster_options
@click.option(
    "--out-dir",
    type=FileName(),
    metavar="FOLDER",
    help="Write each IN to a file of its own in FOLDER, instead of one mosaic to OUT. Finished "
    "ones are skipped.",
)
@click.option(
    "--quality",
    type=FileName(),
    help="Also write quality layers: expected error, disagreement between predictions, "
    "inconsistency with IN, synthesized detail, guidance. This takes 8 times longer in addition. "
    "Both files are written, or neither.",
)
@click.option(
    "--stac",
    type=FileName(),
    help="Also write a STAC Item of OUT, a JSON file.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print tiles, memory, disk space and time, write nothing, and fail where the run would.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report of the run on stdout.")
@progress_option
@verbosity_options
def command(paths: tuple[str, ...], out_dir: str | None, **options: Any) -> int:
    """Write OUT: the raster IN at 2x or 4x its resolution.

    Several INs on the same grid are read as one mosaic; later ones cover earlier ones. IN may also
    be a folder of rasters, or @FILE: a text file with one raster per line. With --out-dir, each
    raster gets an output of its own.

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
    georsr sr scenes/ --out-dir products         # each scene by itself
    """
    _check_paths(paths, out_dir, options)
    if out_dir is not None:
        return _run_batch(paths, out_dir, options)
    *sources, destination = paths
    if options.pop("dry_run"):
        return _estimate(sources, destination, options)
    return _run(sources, destination, options)


def _check_paths(paths: tuple[str, ...], out_dir: str | None, options: dict[str, Any]) -> None:
    """Refuse missing paths, and band numbers among them."""
    numbers = [path for path in paths if path.isdecimal() and not Path(path).exists()]
    if options["indexes"] and numbers:
        bands = ",".join([*map(str, options["indexes"]), *numbers])
        raise UsageError(f"--bidx takes one list, with commas: --bidx {bands}")
    command = click.get_current_context().command_path  # georsr sr, or rio superres
    if not paths:
        raise UsageError(f"IN and OUT are missing, expected: {command} IN OUT")
    if out_dir is None and len(paths) < 2:
        raise UsageError(f"OUT is missing, expected: {command} {paths[0]} OUT; or --out-dir FOLDER")
    if out_dir is None and paths[-1].endswith(("/", os.sep)):
        raise UsageError(
            f"{paths[-1]}: is a folder; name a file in it, or write each IN into it with "
            f"--out-dir {paths[-1]}"
        )
    for name in ("quality", "stac", "parts"):
        if out_dir is not None and options[name] is not None:
            raise UsageError(f"--{name} names the files of one output; leave out --out-dir")
    if out_dir is not None and options["dry_run"]:
        raise UsageError("--dry-run describes one output; leave out --out-dir")


def _run_batch(sources: tuple[str, ...], out_dir: str, options: dict[str, Any]) -> int:
    """Super-resolve each raster by itself; return 1 if one failed."""
    with importing():
        from georsr.batch import BatchReport, super_resolve_many

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    kind = options.pop("progress")
    machines = cluster_of(options)
    for name in ("dry_run", "quality", "stac"):
        options.pop(name)
    machines.pop("parts")
    with (
        collect_warnings() as warnings,
        make_progress(kind, quiet) as progress,
        catch_signals() as signals,
    ):
        try:
            report = super_resolve_many(
                sources,
                out_dir,
                progress=progress,
                should_stop=signals.any,
                **machines,
                **options,
            )
        except GeorsrError as error:
            _print_warnings(BatchReport(()), warnings, quiet)
            if not isinstance(error, InterruptedRunError):
                raise
            show_error(error)
            return signals.exit_code()
    if as_json:
        click.echo(report.to_json())
    elif not quiet:
        click.echo(report.describe(), err=True)
    _print_warnings(report, warnings, quiet)
    for item in report.failed:
        show_error(GeorsrError(item.error))
    return 1 if report.failed else 0


def _print_warnings(report: BatchReport, texts: list[str], quiet: bool) -> None:
    """Print one line for each kind of warning."""
    for line in report.describe_warnings(() if quiet else texts):
        print_line(f"Warning: {line}")


def _estimate(sources: list[str], destination: str, options: dict[str, Any]) -> int:
    """Print what a run would need; raise if it would fail."""
    with importing():
        from georsr.api import estimate

    as_json, stac = options.pop("as_json"), options.pop("stac")
    for name in ("quiet", "progress"):
        options.pop(name)
    machines = cluster_of(options)
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


def _run(sources: list[str], destination: str, options: dict[str, Any]) -> int:
    """Super-resolve a raster, and report on it."""
    with importing():
        from georsr.api import super_resolve

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    kind, stac = options.pop("progress"), options.pop("stac")
    machines = cluster_of(options)
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
        arithmetic = "" if result.precision == "fp32" else f" in {result.precision}"
        resumed = f", {result.blocks_resumed} of {result.blocks} blocks from an earlier run"
        print_line(
            f"{destination}: {result.width} x {result.height} pixels, {result.bands} x "
            f"{result.dtype}, {result.model}{arithmetic}, {result.seconds['total']:.1f} s"
            f"{resumed if result.blocks_resumed else ''}"
        )
    return 0
