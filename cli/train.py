"""``georsr train``: train a network."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from georsr.errors import UsageError

from .exit_codes import print_line
from .main import importing
from .options import BandList, FileName, ModelName, make_progress, verbosity_options


class RecipeName(FileName):
    """Name of a built-in recipe, or a YAML file; the shell completes both."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin with ``incomplete``; files if there are none."""
        from georsr.training.recipe import builtin_recipes

        names = [name for name in builtin_recipes() if name.startswith(incomplete)]
        return [*map(CompletionItem, names)] or super().shell_complete(ctx, param, incomplete)


@click.command("train", short_help="Train or fine-tune a network on your images.")
@click.argument("recipe", metavar="RECIPE", type=RecipeName())
@click.option(
    "--data",
    multiple=True,
    type=FileName(),
    metavar="PATH",
    help="Images, scenes or HR rasters; repeatable. Overrides the recipe.",
)
@click.option(
    "--lr-data",
    multiple=True,
    type=FileName(),
    metavar="PATH",
    help="LR rasters that go with --data, for recipes of LR/HR pairs.",
)
@click.option(
    "--near-infrared",
    multiple=True,
    type=FileName(),
    metavar="PATH",
    help="Folders of gray images, the near infrared of the images of the same names.",
)
@click.option(
    "-b", "--bidx", type=BandList(), help="Bands of scenes, in the network's order: 4,3,2."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for checkpoints, the log and the exported weights [default: runs/NAME].",
)
@click.option(
    "--init",
    type=ModelName(),
    metavar="MODEL|FILE",
    help="Model, weights or checkpoint to start from.",
)
@click.option(
    "--resume", is_flag=True, help="Continue from OUT/last.ckpt; with --steps also a finished run."
)
@click.option("--show", is_flag=True, help="Print the recipe with these options, and do not train.")
@click.option("--name", help="Name of the model that comes out, instead of the recipe's.")
@click.option("-s", "--scale", type=click.IntRange(1, 8), help="Override the recipe's factor.")
@click.option("--steps", type=click.IntRange(1), help="Override the recipe's length.")
@click.option("--seed", type=click.IntRange(0), help="Override the recipe's seed.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]|mps",
    help="Where to train.",
)
@click.option(
    "--devices",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="GPUs of a machine; on a CPU processes.",
)
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Machines.")
@click.option("--workers", type=click.IntRange(0), help="Processes that prepare batches.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="CPU threads.")
@verbosity_options
def command(
    recipe: str, out: Path | None, resume: bool, show: bool, quiet: bool, **options: Any
) -> int:
    """Train by RECIPE: a built-in one or a YAML file.

    Built in: segsr-lite-x4, segsr-lite-x2 and their -sensor forms, segsr-base-x4,
    segsr-ucmerced-x4, segsr-aid-x4, finetune-sensor. Stop it with Ctrl-C or SIGTERM at any time:
    --resume continues with the same weights as an uninterrupted run.

    \b
    georsr train --show finetune-sensor
    georsr train segsr-lite-x4 --data ucmerced --out runs/x4
    georsr train finetune-sensor --data my_scenes --init segsr-lite-x4
    """
    _check_packages()
    from georsr.training.recipe import load_recipe, with_overrides

    from .main import catch_signals

    if not quiet:  # a run of hours reports its progress
        logger = logging.getLogger("georsr")
        for level in (logger, logger.handlers[0]):
            level.setLevel(min(level.level, logging.INFO))
    machine = {key: options.pop(key) for key in ("device", "devices", "nodes", "workers", "jobs")}
    chosen = with_overrides(load_recipe(recipe), options)
    if show:
        click.echo(chosen.to_yaml(), nl=False)
        return 0
    if not chosen.data.root:
        raise UsageError(f"recipe {chosen.name} names no data to train on: add --data PATH")
    folder = out or Path("runs") / chosen.name
    with importing():
        from georsr.training.callbacks import StoppedError
        from georsr.training.train import Machine, is_main_process, train

    with catch_signals() as signals, make_progress("auto", quiet) as progress:
        try:
            weights = train(
                chosen,
                folder,
                resume=resume,
                machine=Machine(**machine),
                progress=progress,
                should_stop=signals.any,
            )
        except StoppedError as stopped:
            last = folder / "last.ckpt"
            print_line(
                f"stopped after step {stopped.step} of {chosen.steps}; "
                + (
                    f"the same command with --resume continues (checkpoint: {last})"
                    if last.exists()
                    else f"there is no checkpoint to continue from: remove {folder} and start again"
                )
            )
            return signals.exit_code()
    if is_main_process():
        print_line(f"{weights}: use it with georsr sr IN OUT --model {weights}")
    return 0


def _check_packages() -> None:
    """Raise unless the packages for training are installed."""
    missing = [name for name in ("lightning", "yaml", "PIL") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"georsr train needs the packages {', '.join(missing)}: run pip install '.[train]' in "
            "the folder of the copy of georsr"
        )
