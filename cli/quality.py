"""``georsr quality``: what a product can be trusted with."""

from __future__ import annotations

from typing import Any

import click

from .options import (
    BandList,
    compile_option,
    compute_options,
    model_options,
    tile_options,
    verbosity_options,
)


@click.group("quality", short_help="Measure what a product can be trusted with.")
def command() -> None:
    """Measure what a product can be trusted with."""


@command.command("seams")
@click.argument("raster")
@model_options
@click.option("-b", "--bidx", type=BandList(), help="Bands to use, in the model's order.")
@tile_options
@compute_options
@compile_option
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
    from georsr.evaluation.seams import measure_seams
    from georsr.models.load import open_model

    report = measure_seams(raster, open_model(model, scale), bidx=bidx, **options)
    click.echo(report.to_json() if as_json else report.describe())
