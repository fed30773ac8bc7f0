"""Benchmark: models against truth, image by image, beside bicubic in the same run.

Which figures are measured of an image, what they are called and how they are printed.

A benchmark as text for a terminal, and as CSV for a spreadsheet.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np

from georsr.evaluation.metrics import (
    crop_border,
    detail_ratio,
    ergas,
    luma,
    psnr,
    psnr_rgb,
    spectral_angle,
    ssim,
)
from georsr.evaluation.registration import phase_shift
from georsr.progress import NullProgress, Progress
from georsr.window import AnyArray


@dataclass(frozen=True)
class MetricColumn:
    """One figure: a field of :class:`ImageMetrics` and how people meet it."""

    key: str
    title: str
    digits: int
    best: str
    """``high``, ``low``, ``zero`` (either sign) or ``one``."""
    meaning: str

    def text(self, value: float) -> str:
        """The value as printed; ``-`` where it is not defined."""
        if math.isnan(value):
            return "-"
        sign = "+" if self.best == "zero" else ""
        return f"{value:{sign}.{self.digits}f}"


COLUMNS = (
    MetricColumn("psnr_y", "PSNR Y", 3, "high", "dB, on BT.601 luma, not rounded"),
    MetricColumn("ssim_y", "SSIM Y", 4, "high", "on the same luma, gaussian window 11, sigma 1.5"),
    MetricColumn("psnr_rgb", "PSNR RGB", 3, "high", "dB, mean of the bands' PSNRs"),
    MetricColumn("sam", "SAM", 3, "low", "mean spectral angle, degrees"),
    MetricColumn("ergas", "ERGAS", 3, "low", "relative global error, with h/l = 1/scale"),
    MetricColumn("consistency", "consist.", 3, "low", "mean |degraded SR - LR| in grey levels"),
    MetricColumn("consistency_psnr", "cons. PSNR", 2, "high", "dB, degraded SR against LR"),
    MetricColumn("shift_y", "shift down", 3, "zero", "of SR against the truth, HR pixels"),
    MetricColumn("shift_x", "shift right", 3, "zero", "of SR against the truth, HR pixels"),
    MetricColumn(
        "detail", "detail", 3, "one", "energy beyond the source's Nyquist frequency / truth's"
    ),
)
"""In the order of the tables."""


@dataclass(frozen=True)
class ImageMetrics:
    """Figures of an image, or their means over a set; see :data:`COLUMNS` for units."""

    images: int
    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    sam: float
    ergas: float
    consistency: float
    consistency_psnr: float
    shift_y: float
    shift_x: float
    detail: float


def mean_scores(rows: Sequence[ImageMetrics]) -> ImageMetrics:
    """Means over images; a figure that is not defined for some is the mean over the others."""
    means = {}
    for key in (f.name for f in fields(ImageMetrics) if f.name != "images"):
        values = [v for v in (getattr(row, key) for row in rows) if not math.isnan(v)]
        means[key] = float(np.mean(values)) if values else math.nan
    return ImageMetrics(images=sum(row.images for row in rows), **means)


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


SuperResolver = Callable[[Sample], AnyArray]
"""A competitor: from a sample's ``lr`` to (3, s * h, s * w) uint8."""


@dataclass(frozen=True)
class ImageRow:
    """What one competitor scored on one image."""

    image: str
    label: str
    model: str
    scores: ImageMetrics


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
    overall: dict[str, ImageMetrics]
    """The first is what gains are quoted over."""
    classes: dict[str, dict[str, ImageMetrics]] = field(default_factory=dict)
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


def measure(sr: AnyArray, sample: Sample, scale: int) -> ImageMetrics:
    """All figures of one (3, H, W) uint8 image; a border of ``scale`` pixels is cropped.

    Consistency alone is measured on the whole image.
    """
    ours, theirs = crop_border(sr, scale), crop_border(sample.hr, scale)
    y, truth = luma(ours), luma(theirs)
    down, right = phase_shift(y, truth, scale)
    difference, again = _consistency(sr, sample)
    return ImageMetrics(
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
    competitors: Mapping[str, SuperResolver],
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
    progress = progress or NullProgress()
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


def _mean(rows: Iterable[ImageRow], name: str, label: str | None = None) -> ImageMetrics:
    return mean_scores(
        [r.scores for r in rows if r.model == name and (label is None or r.label == label)]
    )


def headline(report: BenchmarkReport) -> str:
    """What was measured on what, in one line."""
    run = report.run
    of = f" of {run.available}" if run is not None and run.available > report.images else ""
    degradation = f", degraded by {run.degradation}" if run is not None else ""
    consistent = ", consistent" if run is not None and run.consistency != "off" else ""
    images = f"{report.images}{of} images"
    return f"{report.dataset}, x{report.scale}, {images}{degradation}{consistent}"


def protocol(report: BenchmarkReport) -> str:
    """How the figures are to be read."""
    return (
        f"8-bit images, border of {report.scale} pixels cropped; Y and RGB figures are two "
        "protocols: never compare across"
    )


def text_table(report: BenchmarkReport) -> str:
    """Competitors with all figures, then PSNR Y by class with the gain over the baseline."""
    width = max(map(len, report.names)) + 2
    lines = [headline(report), protocol(report), ""]
    lines.append(" " * width + "".join(f"{figure.title:>12}" for figure in COLUMNS))
    for name, scores in report.overall.items():
        values = (figure.text(getattr(scores, figure.key)) for figure in COLUMNS)
        lines.append(f"{name:<{width}}" + "".join(f"{value:>12}" for value in values))
    if len(report.classes) > 1:
        lines += ["", *_class_lines(report)]
    return "\n".join(lines)


def _class_lines(report: BenchmarkReport) -> list[str]:
    others = report.names[1:]
    columns = [report.baseline, *(column for name in others for column in (name, "gain"))]
    widths = [max(len(column) + 2, 9) for column in columns]
    first = max(len("PSNR Y by class"), *map(len, report.classes)) + 2
    header = "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True))
    lines = [f"{'PSNR Y by class':<{first}}{'images':>7}{header}"]
    for label, scores in report.classes.items():
        base = scores[report.baseline].psnr_y
        values = [f"{base:.3f}"]
        for name in others:
            value = scores[name].psnr_y
            values += [f"{value:.3f}", gain_text(value - base)]
        cells = "".join(f"{v:>{w}}" for v, w in zip(values, widths, strict=True))
        lines.append(f"{label or '-':<{first}}{scores[report.baseline].images:>7}{cells}")
    return lines


def gain_text(gain: float) -> str:
    """A difference in dB with its sign; ``-`` where both sides are infinite."""
    return "-" if math.isnan(gain) else f"{gain:+.3f}"


def csv_table(report: BenchmarkReport) -> str:
    """One row for each image and model; empty cells where a figure is not defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "model", *(figure.key for figure in COLUMNS)])
    for row in report.rows:
        values = (getattr(row.scores, figure.key) for figure in COLUMNS)
        cells = ("" if math.isnan(value) else f"{value:.6g}" for value in values)
        writer.writerow([row.image, row.label, row.model, *cells])
    return text.getvalue()
