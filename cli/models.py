"""``georsr models``: list, describe and convert models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from .exit_codes import print_line


@click.group("models", short_help="List, describe and convert models.")
def command() -> None:
    """List, describe and convert models."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Full contracts as JSON.")
def list_command(as_json: bool) -> None:
    """List the built-in models."""
    from georsr.models.registry import DEFAULT, list_models

    specs = list_models()
    if as_json:
        click.echo(json.dumps([asdict(spec) for spec in specs], indent=2))
        return
    for spec in specs:
        bands = ",".join(spec.band_names) or "any bands"
        default = spec.name == DEFAULT.format(scale=spec.scale)
        mark = f"; the default at x{spec.scale}" if default else ""
        click.echo(f"{spec.name:<21} x{spec.scale}  {bands:<15} {spec.notes}{mark}")


@command.command("convert")
@click.argument("source", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT.safetensors", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def convert(source: Path, destination: Path, overwrite: bool) -> None:
    """Turn a published SeG-SR checkpoint (.pth) into a self-describing safetensors file."""
    import torch

    from georsr._files import check_writable
    from georsr.errors import UsageError
    from georsr.models.io import open_model, save_model
    from georsr.models.registry import is_architecture
    from georsr.writer.paths import check_outputs

    if destination.suffix != ".safetensors":
        raise UsageError(f"{destination}: the name must end in .safetensors")
    check_outputs({"OUT": [destination]}, {"model": [str(source)]})
    check_writable(destination, overwrite=overwrite)
    model = open_model(str(source))
    if not is_architecture(model.spec.architecture):
        raise UsageError(
            f"{source}: {model.spec.notes.split(',')[0]} is used as it is; only SeG-SR is converted"
        )
    save_model(destination, model.spec, model.network, torch.float32)
    print_line(f"{destination}: {model.spec.name}, x{model.spec.scale}")
