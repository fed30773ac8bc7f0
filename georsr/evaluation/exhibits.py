"""Examples for a report: which images to show, which part of them, and as what pixels."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from georsr.evaluation.benchmark import BenchmarkReport, Enlarge, Sample
from georsr.evaluation.metrics import psnr_y
from georsr.types import AnyArray, Window

CROP = 96
"""Height and width of the part that is shown, in HR pixels."""
FRAME = (255, 40, 40)


@dataclass(frozen=True)
class Panel:
    """One version of the part that is shown."""

    name: str
    pixels: AnyArray
    """(3, n, n) uint8; the LR panel is repeated to the size of the others."""
    image_psnr: float
    """PSNR Y of the whole image in dB; NaN for LR and truth."""
    crop_psnr: float
    """The same of the part."""


@dataclass(frozen=True)
class Exhibit:
    """One image of the data set, all its versions side by side."""

    reasons: tuple[str, ...]
    """Why it is shown: ``best gain``, ``median PSNR``..."""
    image: str
    label: str
    overview: AnyArray
    """(3, H, W) uint8, the truth with the part that is shown framed."""
    panels: tuple[Panel, ...]


def choose(report: BenchmarkReport) -> dict[int, tuple[str, ...]]:
    """Which samples to show and why: best, median and worst by gain and by PSNR Y.

    Of the first model after the baseline; of the baseline itself where there is no other. An
    image that is chosen twice is shown once.
    """
    name = report.names[min(1, len(report.names) - 1)]
    psnr = [row.scores.psnr_y for row in report.rows if row.model == name]
    orders = {"PSNR Y": psnr}
    if name != report.baseline:
        orders = {"gain": report.gains(name), **orders}
    reasons: dict[int, list[str]] = {}
    for what, values in orders.items():
        ranked = sorted(
            (i for i, value in enumerate(values) if not math.isnan(value)),
            key=lambda i: (-values[i], i),
        )
        if ranked:
            for how, at in (("best", 0), ("median", len(ranked) // 2), ("worst", -1)):
                reasons.setdefault(ranked[at], []).append(f"{how} {what}")
    return {number: tuple(texts) for number, texts in reasons.items()}


def exhibit(sample: Sample, reasons: Sequence[str], competitors: Mapping[str, Enlarge]) -> Exhibit:
    """Run all competitors on one sample again and cut out the part where the first is worst."""
    images = {name: enlarge(sample) for name, enlarge in competitors.items()}
    scale = sample.hr.shape[1] // sample.lr.shape[1]
    part = busiest_part(next(iter(images.values())), sample.hr, scale)
    coarse = sample.lr.repeat(scale, 1).repeat(scale, 2)

    def panel(name: str, image: AnyArray, scored: bool) -> Panel:
        whole = psnr_y(image, sample.hr, scale) if scored else math.nan
        cut, truth = image[:, *part.slices], sample.hr[:, *part.slices]
        return Panel(name, cut, whole, psnr_y(cut, truth, 0) if scored else math.nan)

    return Exhibit(
        tuple(reasons),
        sample.name,
        sample.label,
        framed(sample.hr, part),
        (
            panel("LR (nearest)", coarse, False),
            *(panel(name, image, True) for name, image in images.items()),
            panel("truth", sample.hr, False),
        ),
    )


def busiest_part(image: AnyArray, truth: AnyArray, step: int) -> Window:
    """The window of `CROP` pixels, on a grid of ``step``, where an image differs most from truth.

    (3, H, W) twice; smaller where the image is.
    """
    error = np.square(image.astype(np.float64) - truth).sum(0)
    height, width = (min(CROP, n) // step * step for n in error.shape)
    total = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = (
        total[height:, width:] - total[:-height, width:]
        - total[height:, :-width] + total[:-height, :-width]
    )[::step, ::step]  # fmt: skip
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    return Window(int(row) * step, int(column) * step, height, width)


def framed(image: AnyArray, part: Window) -> AnyArray:
    """A copy of (3, H, W) uint8 with a rectangle of two pixels round a window."""
    copy = image.copy()
    colour = np.array(FRAME, np.uint8)[:, None, None]
    inside = copy[:, *part.slices].copy()
    copy[:, *part.slices] = colour
    kept = slice(2, -2)
    copy[:, *part.slices][:, kept, kept] = inside[:, kept, kept]
    return copy


def data_uri(image: AnyArray) -> str:
    """(3, H, W) uint8 as a PNG inside a ``data:`` address."""
    from PIL import Image

    file = io.BytesIO()
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
