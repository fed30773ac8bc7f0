"""Evaluation on image folders: degrade, restore, measure, beside bicubic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from georsr.device import cpu_threads, place
from georsr.engine.inference import Inference
from georsr.errors import UsageError
from georsr.evaluation.benchmark import BenchmarkReport, Enlarge, Sample, benchmark
from georsr.models.load import Model, open_model
from georsr.training.data.degrade import make_pair, to_uint8
from georsr.training.data.images import ImageFolder, open_folder, read_image
from georsr.types import AnyArray


def enlarger(inference: Inference) -> Enlarge:
    """A function from (3, h, w) uint8 to (3, s * h, s * w) uint8; the image is one tile."""

    def enlarge(lr: AnyArray) -> AnyArray:
        x = lr.astype(np.float32) / np.float32(255)
        return to_uint8(inference([x], ["the image"])[0] * 255)

    return enlarge


def samples(folder: ImageFolder, scale: int) -> Iterator[Sample]:
    """Every image with its bicubic degradation, rounded to 8 bits."""
    for image in folder:
        hr, lr = make_pair(read_image(image.path), scale)
        yield Sample(image.label, hr, lr)


def evaluate_folder(
    root: Path,
    split: str | None,
    model: str | Model | None,
    scale: int | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    jobs: int | None = None,
) -> BenchmarkReport:
    """Measure a model and bicubic on ``<root>[/<split>]/<class>/<image>``.

    Raises
    ------
    UsageError
        The folder does not exist, or the model does not take RGB.
    """
    folder = open_folder(root, split)
    opened = model if isinstance(model, Model) else open_model(model, scale)
    if opened.spec.bands not in (0, 3):
        raise UsageError(
            f"model {opened.spec.name} takes {opened.spec.bands} bands; image folders are RGB"
        )
    placement = place(device, precision)
    baseline = open_model("bicubic", opened.spec.scale)
    competitors = {
        each.spec.name: enlarger(Inference(each, placement, 1)) for each in (baseline, opened)
    }
    name = f"{root.name}/{split}" if split else root.name
    with cpu_threads(jobs):
        return benchmark(name, samples(folder, opened.spec.scale), opened.spec.scale, competitors)
