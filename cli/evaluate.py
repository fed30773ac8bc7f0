"""``georsr eval``: how good is it?"""

from __future__ import annotations

from pathlib import Path

import click

from .options import compute_options, model_options, verbosity_options


@click.command("eval", short_help="Measure super-resolution quality.")
@click.argument("rasters", nargs=-1, metavar="[SR HR]")
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    help="Folder of <class>/<image>, degraded here and restored by the model.",
)
@click.option("--lr", help="The raster SR was made from: its bicubic enlargement beside SR.")
@click.option("--split", help="Part of the data set: a folder of this name inside it.")
@model_options
@compute_options
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@verbosity_options
def command(
    rasters: tuple[str, ...],
    dataset: Path | None,
    lr: str | None,
    split: str | None,
    model: str | None,
    scale: int | None,
    device: str,
    precision: str,
    batch: int | None,  # one image is one call
    jobs: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure PSNR and SSIM of a model on a folder of images, or of one raster against another.

    \b
    georsr eval --dataset ucmerced --split val --model segsr-lite-x4
    georsr eval out.tif truth.tif --lr scene.tif
    """
    if bool(rasters) == bool(dataset):
        raise click.UsageError("give either two rasters, or --dataset FOLDER")
    if dataset is not None:
        from georsr.evaluation.dataset import evaluate_folder

        report = evaluate_folder(
            dataset, split, model, scale, device=device, precision=precision, jobs=jobs
        )
        click.echo(report.to_json() if as_json else report.table())
        return
    if len(rasters) != 2:
        raise click.UsageError(f"expected two rasters (SR and HR), got {len(rasters)}")
    from georsr.evaluation.pair import bicubic_of, compare_rasters

    pairs = [compare_rasters(rasters[0], rasters[1])]
    if lr is not None:
        pairs.append(bicubic_of(lr, rasters[0], rasters[1]))
    if as_json:
        texts = [pair.to_json() for pair in pairs]
        click.echo(texts[0] if lr is None else f"[{', '.join(texts)}]")
    else:
        click.echo("\n".join(pair.describe() for pair in pairs))
