"""``georsr quality``: measure the reliability of an output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from georsr.errors import InterruptedRunError

from .exit_codes import print_line, show_error
from .main import catch_signals, importing
from .options import (
    DEVICE_OPTIONS,
    TILE_OPTIONS,
    BandList,
    FileName,
    ModelName,
    make_progress,
    model_options,
    progress_option,
    sr_options,
    verbosity_options,
)


@click.group("quality", short_help="Measure the reliability of an output.")
def command() -> None:
    """Measure the reliability of an output."""


@command.command("seams")
@click.argument("raster", type=FileName())
@model_options()
@click.option("-b", "--bidx", type=BandList(), help="Bands to use, in the model's order.")
@sr_options(*TILE_OPTIONS, *DEVICE_OPTIONS, "compile")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@verbosity_options
def seams(
    raster: str,
    model: str | None,
    scale: int | None,
    bidx: tuple[int, ...] | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Print how much the output changes when the tile grid moves by half its spacing.

    The result of a network that uses the context of a full tile (SeG-SR, segsr-lite) depends
    slightly on the position of the tiles. This measures how much, in the centre of RASTER.
    RASTER is the source, not the output; give the model and scale of your run.
    """
    with importing():
        from georsr.evaluation.seams import measure_seams
        from georsr.models.io import open_model

    report = measure_seams(raster, open_model(model, scale), indexes=bidx, **options)
    click.echo(report.to_json() if as_json else report.describe())


@command.command("report")
@click.argument("source", metavar="IN", type=FileName())
@click.argument("product", metavar="OUT", type=FileName())
@click.option("--html", type=click.Path(path_type=Path), help="Page to write.")
@click.option(
    "--layers",
    type=FileName(),
    help="Quality layers of OUT, to show the expected error.",
)
@click.option(
    "-b",
    "--bidx",
    type=BandList(),
    help="Bands of IN; by default those that OUT was made from: recorded in its tags, or found.",
)
@click.option(
    "--seams/--no-seams",
    default=True,
    show_default=True,
    help="Run the model on a part of IN to measure seams and artefacts.",
)
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@click.option("--json", "as_json", is_flag=True, help="The figures on stdout.")
@verbosity_options
def report(
    source: str,
    product: str,
    html: Path | None,
    layers: str | None,
    bidx: tuple[int, ...] | None,
    seams: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare OUT, written by 'georsr sr IN OUT', with IN, and write an HTML page.

    The page shows quick-looks, crops of source, bicubic and output to swipe, histograms before and
    after, shift against the source, consistency with it, seams, sharpness, artefacts, and the
    options of the run. It needs no other file and no network.
    """
    if html is None and not as_json:
        raise click.UsageError("give --html FILE, --json, or both")
    with importing():
        from georsr._files import atomic_write_text, check_writable
        from georsr.evaluation.reports.output_report import report_output
        from georsr.io.reader import open_output
        from georsr.writer.paths import check_outputs

    if html is not None:
        with open_output(product) as output:
            model = output.info.tags.get("", {}).get("GEORSR_MODEL")
        inputs = {"source": [source], "product": [product], "model": [model] if model else []}
        check_outputs({"--html": [html]}, inputs | {"layers": [layers] if layers else []})
        check_writable(html, overwrite=overwrite)
    measured = report_output(source, product, bidx=bidx, seams=seams)
    if html is not None:
        from georsr.evaluation.reports.output_report import collect_images, render_html

        atomic_write_text(html, render_html(measured, collect_images(measured, layers)))
    if as_json:
        click.echo(measured.to_json())


@command.command("layers")
@click.argument("sources", nargs=-1, required=True, metavar="IN...", type=FileName())
@click.argument("product", metavar="OUT", type=FileName())
@click.argument("destination", metavar="LAYERS", type=FileName())
@click.option(
    "-m",
    "--model",
    type=ModelName(),
    metavar="NAME|FILE",
    help="Model that computed OUT; by default that in its tags.",
)
@click.option("--aoi", type=FileName(), help="Polygons to which OUT was cut, if any.")
@sr_options("allow_drivers", *DEVICE_OPTIONS)
@click.option("--overwrite", is_flag=True, help="Replace LAYERS if it exists.")
@sr_options("resume")
@progress_option
@click.option("--json", "as_json", is_flag=True, help="Print a report on stdout.")
@verbosity_options
def layers(
    sources: tuple[str, ...],
    product: str,
    destination: str,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Write LAYERS: per-pixel estimates of the reliability of OUT, written by 'georsr sr IN OUT'.

    Bands of LAYERS: the expected absolute error, the disagreement between predictions for eight
    rotations and flips and for overlapping tiles, the inconsistency with IN, the detail that IN
    does not support, and the guidance maps of the network. 'georsr sr IN OUT --quality LAYERS'
    writes the same layers. If the command is interrupted, repeat it to continue.
    """
    with importing():
        from georsr.api import quality_layers

    kind = options.pop("progress")
    chosen = {name: value for name, value in options.items() if value is not None}
    with make_progress(kind, quiet) as progress, catch_signals() as signals:
        try:
            report = quality_layers(
                sources, product, destination, progress=progress, should_stop=signals.any, **chosen
            )
        except InterruptedRunError as error:
            show_error(error)
            return signals.exit_code()
    if as_json:
        click.echo(report.to_json())
    elif not quiet:
        print_line(f"{destination}: {', '.join(report.layers)}; {report.uncertainty}")
    return 0
