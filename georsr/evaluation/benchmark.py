"""Benchmark: a model against truth, image by image, beside bicubic in the same run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from georsr.evaluation.metrics import psnr_rgb, psnr_y, ssim_y
from georsr.types import AnyArray

Enlarge = Callable[[AnyArray], AnyArray]
"""(3, h, w) uint8 -> (3, s * h, s * w) uint8."""


@dataclass(frozen=True)
class Scores:
    """Means over a set of images; PSNR in dB."""

    images: int
    psnr_y: float
    ssim_y: float
    psnr_rgb: float


@dataclass(frozen=True)
class Sample:
    """One image: its class, truth and degraded version, (3, H, W) and (3, h, w) uint8."""

    label: str
    hr: AnyArray
    lr: AnyArray


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured, overall and by class, for each competitor."""

    dataset: str
    scale: int
    overall: dict[str, Scores]
    classes: dict[str, dict[str, Scores]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def table(self) -> str:
        """Text table: competitors, then the PSNR of each by class."""
        names = list(self.overall)
        lines = [
            f"{self.dataset}, x{self.scale}, {self.overall[names[0]].images} images "
            "(Y: BT.601 luma; border of the scale cropped; 8-bit)",
            f"{'':<22}{'PSNR Y':>9}{'SSIM Y':>9}{'PSNR RGB':>10}",
        ]
        lines += [
            f"{name:<22}{s.psnr_y:9.3f}{s.ssim_y:9.4f}{s.psnr_rgb:10.3f}"
            for name, s in self.overall.items()
        ]
        if self.classes:
            lines += ["", f"{'PSNR Y by class':<22}" + "".join(f"{n[:16]:>18}" for n in names)]
            lines += [
                f"{label:<22}" + "".join(f"{scores[n].psnr_y:18.3f}" for n in names)
                for label, scores in sorted(self.classes.items())
            ]
        return "\n".join(lines)


def measure(sr: AnyArray, hr: AnyArray, border: int) -> tuple[float, float, float]:
    """(PSNR Y, SSIM Y, PSNR RGB) of one (3, H, W) uint8 image."""
    return psnr_y(sr, hr, border), ssim_y(sr, hr, border), psnr_rgb(sr, hr, border)


def _mean(rows: Sequence[tuple[float, float, float]]) -> Scores:
    y, structure, rgb = np.mean(rows, axis=0)
    return Scores(len(rows), float(y), float(structure), float(rgb))


def benchmark(
    dataset: str, samples: Iterable[Sample], scale: int, competitors: dict[str, Enlarge]
) -> BenchmarkReport:
    """Run every competitor over every sample.

    Parameters
    ----------
    dataset
        Name for the report.
    samples
        Images with their truth; consumed once, held one at a time.
    scale
        Of all competitors; also the border that is cropped.
    competitors
        Name -> function.
    """
    rows: dict[str, dict[str, list[tuple[float, float, float]]]] = {n: {} for n in competitors}
    for sample in samples:
        for name, enlarge in competitors.items():
            scores = measure(enlarge(sample.lr), sample.hr, scale)
            rows[name].setdefault(sample.label, []).append(scores)
    overall = {n: _mean([r for rs in by.values() for r in rs]) for n, by in rows.items()}
    labels = next(iter(rows.values())).keys()
    classes = {label: {n: _mean(rows[n][label]) for n in rows} for label in labels}
    return BenchmarkReport(dataset, scale, overall, classes)
