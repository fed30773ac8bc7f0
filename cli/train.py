"""``georsr train``: from a folder of images to a weights file."""

from __future__ import annotations

from pathlib import Path

import click

from .options import verbosity_options


@click.command("train", short_help="Train a network on your images.")
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder with train/<class>/<image> and val/<class>/<image>.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for checkpoints, the log and the exported weights.",
)
@click.option("--resume", is_flag=True, help="Continue from OUT/last.pt.")
@click.option("--steps", type=click.IntRange(1), help="Override the recipe's length.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda[:N].")
@click.option("-j", "--jobs", type=click.IntRange(1), help="CPU threads.")
@verbosity_options
def command(
    recipe: str,
    data: Path,
    out: Path,
    resume: bool,
    steps: int | None,
    device: str,
    jobs: int | None,
    quiet: bool,
) -> None:
    """Train segsr-lite by RECIPE: a built-in one (segsr-lite-x4, segsr-lite-x2) or a YAML file.

    Stop it at any time; --resume goes on from the last checkpoint with the very weights an
    uninterrupted run would have.

    \b
    georsr train segsr-lite-x4 --data ucmerced --out runs/x4
    """
    from georsr.training.session import train

    weights = train(recipe, data, out, resume=resume, steps=steps, device=device, jobs=jobs)
    click.echo(f"{weights}: use it with georsr sr IN OUT --model {weights}", err=True)
