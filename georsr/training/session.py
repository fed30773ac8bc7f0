"""A whole training session: recipe and folder in, weights file out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from georsr.device import cpu_threads, place
from georsr.errors import OutputError, UsageError
from georsr.training.data.degrade import make_pair
from georsr.training.data.images import open_folder, read_image
from georsr.training.export import export_checkpoint
from georsr.training.loop import Training
from georsr.training.recipe import load_recipe
from georsr.training.sampler import CropSampler


def train(
    recipe_name: str,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    steps: int | None = None,
    device: str = "auto",
    jobs: int | None = None,
) -> Path:
    """Train by a recipe; returns the exported weights file.

    Parameters
    ----------
    recipe_name
        Built-in recipe or YAML file.
    data
        Folder with ``train/<class>/<image>`` and ``val/<class>/<image>``.
    out
        Folder for ``last.pt``, ``best.pt``, ``log.csv``, ``recipe.yaml`` and the weights.
    resume
        Continue from ``last.pt``.
    steps, device, jobs
        Override the recipe's length; where to train; CPU threads.
    """
    recipe = load_recipe(recipe_name)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    last = out / "last.pt"
    if last.exists() and not resume:
        raise UsageError(f"{out} holds a run already; use --resume, or another --out")
    if resume and not last.exists():
        raise UsageError(f"{last} does not exist: nothing to resume")
    train_part, val_part = open_folder(data, "train"), open_folder(data, "val")
    placement = place(device)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error})") from error
    sampler = CropSampler.from_folder(
        train_part, scale=recipe.scale, patch=recipe.patch, batch=recipe.batch, seed=recipe.seed
    )
    validation = [make_pair(read_image(image.path), recipe.scale) for image in val_part]
    with cpu_threads(jobs):
        training = Training(
            recipe, sampler, validation, len(train_part.classes), out, placement.device
        )
        if resume:
            training.resume(last)
        elif recipe.init:
            training.initialise(Path(recipe.init))
        else:
            training.pretrain()
        score = training.run()
    weights = out / f"{recipe.name}.safetensors"
    export_checkpoint(
        out / "best.pt",
        weights,
        trained_on=f"{len(train_part)} images, {training.step} steps of {recipe.batch} crops of "
        f"{recipe.patch} LR pixels, {recipe.scale}x bicubic degradation",
        quality={"val-psnr-y": round(score, 3)},
    )
    return weights
