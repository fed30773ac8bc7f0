"""Benchmark: models against truth, image by image, beside bicubic in the same run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from georsr.evaluation.figures import Scores, mean_scores
from georsr.evaluation.frequency import detail_ratio
from georsr.evaluation.metrics import crop_border, luma, psnr, psnr_rgb, ssim
from georsr.evaluation.shift import phase_shift
from georsr.evaluation.spectral import ergas, spectral_angle
from georsr.progress import Progress, Silent
from georsr.types import AnyArray


@dataclass(frozen=True)
class Sample:
    """One image: its class, truth and degraded version, (3, H, W) and (3, h, w) uint8."""

    label: str
    hr: AnyArray
    lr: AnyArray
    name: str = ""
    degrade: Callable[[AnyArray], AnyArray] | None = None
    """What made ``lr`` of ``hr``, noise included: (3, H, W) -> (3, h, w), uint8."""
    partner: AnyArray | None = None
    """LR image of another class, of the same size, for ablations."""


Enlarge = Callable[[Sample], AnyArray]
"""A competitor: from a sample's ``lr`` to (3, s * h, s * w) uint8."""


@dataclass(frozen=True)
class ImageRow:
    """What one competitor scored on one image."""

    image: str
    label: str
    model: str
    scores: Scores


@dataclass(frozen=True)
class ModelFacts:
    """Which weights a competitor ran with."""

    name: str
    source: str
    """Name or path it was opened by."""
    sha256: str


@dataclass(frozen=True)
class RunFacts:
    """How a benchmark was run."""

    version: str
    """Of georsr."""
    device: str
    precision: str
    degradation: str
    available: int
    """Images in the data set, of which the report may use fewer."""
    models: tuple[ModelFacts, ...]
    command: str = ""
    consistency: str = "off"
    """Whether products were made to give their sources back."""


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured, overall, by class and by image, for each competitor."""

    dataset: str
    scale: int
    overall: dict[str, Scores]
    """The first is what gains are quoted over."""
    classes: dict[str, dict[str, Scores]] = field(default_factory=dict)
    rows: tuple[ImageRow, ...] = ()
    """Image by image; of one image, the competitors in the order of ``overall``."""
    run: RunFacts | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The competitors."""
        return tuple(self.overall)

    @property
    def baseline(self) -> str:
        """What gains are quoted over."""
        return self.names[0]

    @property
    def images(self) -> int:
        """Number of images measured."""
        return self.overall[self.baseline].images

    def gains(self, name: str) -> list[float]:
        """PSNR Y over the baseline's, dB, image by image; NaN where both are infinite."""
        ours = [row.scores.psnr_y for row in self.rows if row.model == name]
        base = [row.scores.psnr_y for row in self.rows if row.model == self.baseline]
        return [
            math.nan if math.isinf(a) and math.isinf(b) else a - b
            for a, b in zip(ours, base, strict=True)
        ]

    def to_json(self) -> str:
        """Indented JSON, without the rows."""
        return json.dumps(asdict(replace(self, rows=())) | {"rows": len(self.rows)}, indent=2)


def measure(sr: AnyArray, sample: Sample, scale: int) -> Scores:
    """All figures of one (3, H, W) uint8 image; a border of ``scale`` pixels is cropped.

    Consistency alone is measured on the whole image.
    """
    ours, theirs = crop_border(sr, scale), crop_border(sample.hr, scale)
    y, truth = luma(ours), luma(theirs)
    down, right = phase_shift(y, truth, scale)
    difference, again = _consistency(sr, sample)
    return Scores(
        images=1,
        psnr_y=psnr(y, truth),
        ssim_y=ssim(y, truth),
        psnr_rgb=psnr_rgb(ours, theirs, 0),
        sam=spectral_angle(ours, theirs),
        ergas=ergas(ours, theirs, scale),
        consistency=difference,
        consistency_psnr=again,
        shift_y=down,
        shift_x=right,
        detail=detail_ratio(y, truth, scale),
    )


def _consistency(sr: AnyArray, sample: Sample) -> tuple[float, float]:
    """(mean absolute difference in grey levels, PSNR) of the degraded product and its source."""
    if sample.degrade is None:
        return math.nan, math.nan
    again = sample.degrade(sr)
    difference = again.astype(float) - sample.lr
    return float(abs(difference).mean()), psnr(again, sample.lr)


def benchmark(
    dataset: str,
    samples: Iterable[Sample],
    scale: int,
    competitors: Mapping[str, Enlarge],
    progress: Progress | None = None,
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
        Name -> function; the first is what gains are quoted over.
    progress
        Advanced by one for each image.
    """
    progress = progress or Silent()
    rows: list[ImageRow] = []
    for sample in samples:
        for name, enlarge in competitors.items():
            scores = measure(enlarge(sample), sample, scale)
            rows.append(ImageRow(sample.name, sample.label, name, scores))
        progress.advance()
    labels = dict.fromkeys(row.label for row in rows)
    return BenchmarkReport(
        dataset,
        scale,
        {name: _mean(rows, name) for name in competitors},
        {label: {n: _mean(rows, n, label) for n in competitors} for label in sorted(labels)},
        tuple(rows),
    )


def _mean(rows: Iterable[ImageRow], name: str, label: str | None = None) -> Scores:
    return mean_scores(
        [r.scores for r in rows if r.model == name and (label is None or r.label == label)]
    )
