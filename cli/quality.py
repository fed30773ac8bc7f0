"""``georsr quality``: what a product can be trusted with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from georsr.errors import InterruptedRunError

from .main import import_without_gc, show_error
from .options import (
    DEVICE_OPTIONS,
    TILE_OPTIONS,
    BandList,
    make_progress,
    model_options,
    progress_option,
    sr_options,
    verbosity_options,
)
from .signals import catch_signals


@click.group("quality", short_help="Measure what a product can be trusted with.")
def command() -> None:
    """Measure what a product can be trusted with."""


@command.command("seams")
@click.argument("raster")
@model_options
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
    """Print how much the output changes when the tile grid moves by half a tile.

    A network that looks at a whole tile (SeG-SR, segsr-lite) depends a little on where tiles lie;
    this is how much, on the centre of RASTER.
    """
    with import_without_gc():
        from georsr.evaluation.seams import measure_seams
        from georsr.models.io import open_model

    report = measure_seams(raster, open_model(model, scale), indexes=bidx, **options)
    click.echo(report.to_json() if as_json else report.describe())


@command.command("report")
@click.argument("source", metavar="IN")
@click.argument("product", metavar="OUT")
@click.option("--html", type=click.Path(path_type=Path), help="Page to write.")
@click.option("--layers", metavar="FILE", help="Quality layers of OUT, to show the expected error.")
@click.option("-b", "--bidx", type=BandList(), help="Bands of IN; OUT's tags tell by default.")
@click.option(
    "--seams/--no-seams",
    default=True,
    show_default=True,
    help="Run the model on a part of IN, to see what depends on its tiles, and what harm it does.",
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
    """Measure OUT, which 'georsr sr IN OUT' made, against IN, and write one page of HTML.

    Quick-looks, crops of source, bicubic and product to swipe, histograms before and after, the
    shift against the source, consistency with it, seams, sharpness, harm, and how OUT was made. The
    page needs no other file and no network.
    """
    if html is None and not as_json:
        raise click.UsageError("give --html FILE, --json, or both")
    with import_without_gc():
        from georsr._files import atomic_write_text, check_writable
        from georsr.evaluation.reports.output_report import report_output
        from georsr.io.reader import open_output
        from georsr.writer.paths import check_outputs

    if html is not None:
        with open_output(product) as made:
            model = made.info.tags.get("", {}).get("GEORSR_MODEL")
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
@click.argument("sources", nargs=-1, required=True, metavar="IN...")
@click.argument("product", metavar="OUT")
@click.argument("destination", metavar="LAYERS")
@click.option("-m", "--model", metavar="NAME|FILE", help="What made OUT; its tags say by default.")
@click.option("--aoi", metavar="FILE", help="The polygons OUT was cut to, if it was.")
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
    """Write LAYERS: how far each pixel of OUT, which 'georsr sr IN OUT' made, can be trusted.

    Bands of LAYERS: the expected absolute error, the disagreement of the network's answers in
    eight orientations and in overlapping tiles, the inconsistency with IN, the detail that IN does
    not support, and the network's guidance maps. The same as 'georsr sr IN OUT --quality LAYERS'
    writes. Interrupted, it goes on when the same command is given again.
    """
    with import_without_gc():
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
        click.echo(f"{destination}: {', '.join(report.layers)}; {report.uncertainty}", err=True)
    return 0
