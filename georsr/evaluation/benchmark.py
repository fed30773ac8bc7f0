"""Benchmark models against truth, image by image, compared with bicubic in the same run."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np

from georsr.errors import join_lines, redact_url
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
from georsr.geo.registration import phase_shift
from georsr.models.io import Model
from georsr.progress import NullProgress, Progress
from georsr.window import AnyArray


@dataclass(frozen=True)
class MetricColumn:
    """One figure of a table."""

    key: str
    """Field of :class:`ImageMetrics`."""
    title: str
    digits: int
    """Digits after the point."""
    best: str
    """``high``, ``low``, ``zero`` (either sign) or ``one``."""
    meaning: str

    def text(self, value: float) -> str:
        """Format a value; ``-`` where it is not defined."""
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
"""Columns of the tables, in order."""


@dataclass(frozen=True)
class ImageMetrics:
    """Figures of an image, or their means over a set; :data:`COLUMNS` has their units."""

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
    """Average figures over images; images for which a figure is not defined are left out of it."""
    means = {}
    for key in (f.name for f in fields(ImageMetrics) if f.name != "images"):
        values = [v for v in (getattr(row, key) for row in rows) if not math.isnan(v)]
        means[key] = float(np.mean(values)) if values else math.nan
    return ImageMetrics(images=sum(row.images for row in rows), **means)


@dataclass(frozen=True)
class Sample:
    """One image of a data set."""

    label: str
    """Scene class."""
    hr: AnyArray
    lr: AnyArray
    """The truth and its degraded version: (3, H, W) and (3, h, w) uint8."""
    name: str = ""
    degrade: Callable[[AnyArray], AnyArray] | None = None
    """Degradation from ``hr`` to ``lr``, noise included: (3, H, W) -> (3, h, w), uint8."""
    partner: AnyArray | None = None
    """LR image of another class, (3, h, w) uint8, for ablations."""


SuperResolver = Callable[[Sample], AnyArray]
"""Enlarges the ``lr`` of a sample to (3, s * h, s * w) uint8."""


@dataclass(frozen=True)
class ImageRow:
    """Figures of one model on one image."""

    image: str
    label: str
    model: str
    scores: ImageMetrics


@dataclass(frozen=True)
class ModelFacts:
    """Name of a model in a report, name or path that it was opened by, SHA-256 of its weights."""

    name: str
    source: str
    sha256: str

    @classmethod
    def of(cls, name: str, model: Model) -> ModelFacts:
        """Describe a model under the name of a report."""
        return cls(name, redact_url(model.source), model.sha256)


def unique_models(models: Iterable[Model]) -> dict[str, Model]:
    """Return models under distinct names, those with the same weights only once.

    Two trainings of one recipe have one name: the second is called ``NAME #2``.
    """
    named: dict[str, Model] = {}
    for model in {model.sha256: model for model in models}.values():
        name, number = model.spec.name, 1
        while name in named:
            number += 1
            name = f"{model.spec.name} #{number}"
        named[name] = model
    return named


@dataclass(frozen=True)
class RunFacts:
    """How a benchmark was run."""

    version: str
    device: str
    precision: str
    degradation: str
    available: int
    """Images in the data set, of which the report may use fewer."""
    models: tuple[ModelFacts, ...]
    command: str = ""
    consistency: str = "off"


@dataclass(frozen=True)
class BenchmarkReport:
    """Figures of every model: overall, by class and by image."""

    dataset: str
    scale: int
    overall: dict[str, ImageMetrics]
    """Name of a model -> means over all images; the first model is the baseline of gains."""
    classes: dict[str, dict[str, ImageMetrics]] = field(default_factory=dict)
    """Scene class -> name of a model -> means."""
    rows: tuple[ImageRow, ...] = ()
    """Image by image; of one image, the models in the order of ``overall``."""
    run: RunFacts | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(self.overall)

    @property
    def baseline(self) -> str:
        """Name of the model over which gains are computed."""
        return self.names[0]

    @property
    def images(self) -> int:
        """Number of images measured."""
        return self.overall[self.baseline].images

    def gains(self, name: str) -> list[float]:
        """Return the gain in PSNR Y of each image, dB; NaN where both values are infinite."""
        values = [row.scores.psnr_y for row in self.rows if row.model == name]
        base = [row.scores.psnr_y for row in self.rows if row.model == self.baseline]
        return [
            math.nan if math.isinf(a) and math.isinf(b) else a - b
            for a, b in zip(values, base, strict=True)
        ]

    def to_json(self) -> str:
        """Return indented JSON, without the rows."""
        return json.dumps(asdict(replace(self, rows=())) | {"rows": len(self.rows)}, indent=2)


def measure(sr: AnyArray, sample: Sample, scale: int) -> ImageMetrics:
    """Compute all figures of one (3, H, W) uint8 image; a border of ``scale`` pixels is cropped.

    Consistency is measured on the full image.
    """
    cropped, truth = crop_border(sr, scale), crop_border(sample.hr, scale)
    y, true_y = luma(cropped), luma(truth)
    down, right = phase_shift(y, true_y, scale)
    consistency, consistency_psnr = _consistency(sr, sample)
    return ImageMetrics(
        images=1,
        psnr_y=psnr(y, true_y),
        ssim_y=ssim(y, true_y),
        psnr_rgb=psnr_rgb(cropped, truth, 0),
        sam=spectral_angle(cropped, truth),
        ergas=ergas(cropped, truth, scale),
        consistency=consistency,
        consistency_psnr=consistency_psnr,
        shift_y=down,
        shift_x=right,
        detail=detail_ratio(y, true_y, scale),
    )


def _consistency(sr: AnyArray, sample: Sample) -> tuple[float, float]:
    """Return mean absolute difference in grey levels, and PSNR, of degraded SR against LR."""
    if sample.degrade is None:
        return math.nan, math.nan
    degraded = sample.degrade(sr)
    difference = degraded.astype(float) - sample.lr
    return float(abs(difference).mean()), psnr(degraded, sample.lr)


def benchmark(
    dataset: str,
    samples: Iterable[Sample],
    scale: int,
    candidates: Mapping[str, SuperResolver],
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Run every candidate on every sample.

    Parameters
    ----------
    dataset
        Name for the report.
    samples
        Images with their truth; read once, one at a time.
    scale
        Scale of all candidates, and pixels of the border that is cropped.
    candidates
        Name -> function; the first is the baseline of gains.
    progress
        Object that is advanced once per image.
    """
    progress = progress or NullProgress()
    rows: list[ImageRow] = []
    for sample in samples:
        for name, super_resolve in candidates.items():
            scores = measure(super_resolve(sample), sample, scale)
            rows.append(ImageRow(sample.name, sample.label, name, scores))
        progress.advance()
    labels = dict.fromkeys(row.label for row in rows)
    return BenchmarkReport(
        dataset,
        scale,
        {name: _mean(rows, name) for name in candidates},
        {label: {n: _mean(rows, n, label) for n in candidates} for label in sorted(labels)},
        tuple(rows),
    )


def _mean(rows: Iterable[ImageRow], name: str, label: str | None = None) -> ImageMetrics:
    return mean_scores(
        [r.scores for r in rows if r.model == name and (label is None or r.label == label)]
    )


def headline(report: BenchmarkReport) -> str:
    """Return one line: data set, scale, number of images, degradation."""
    run = report.run
    of = f" of {run.available}" if run is not None and run.available > report.images else ""
    degradation = f", degraded by {run.degradation}" if run is not None else ""
    consistent = ", consistent" if run is not None and run.consistency != "off" else ""
    images = f"{report.images}{of} images"
    return f"{report.dataset}, x{report.scale}, {images}{degradation}{consistent}"


def protocol(report: BenchmarkReport) -> str:
    """Return one line on how the figures were computed."""
    return (
        f"8-bit images, border of {report.scale} pixels cropped; Y and RGB figures are two "
        "protocols: never compare across"
    )


def text_table(report: BenchmarkReport) -> str:
    """Return all figures of the models, then PSNR Y by class with the gain over the baseline."""
    lines = [headline(report), protocol(report), ""]
    columns = [
        [column.title, *(column.text(getattr(s, column.key)) for s in report.overall.values())]
        for column in COLUMNS
    ]
    lines += _wrapped_table(["", *report.overall], columns)
    if len(report.classes) > 1:
        lines += ["", *_class_lines(report)]
    return join_lines(lines)


MAX_WIDTH = 100
"""Characters of a line of a table; a wider one is continued below."""


def _wrapped_table(labels: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: columns beyond `MAX_WIDTH` follow below, labelled again."""
    first = max(map(len, labels)) + 2
    blocks: list[list[str]] = []
    for column in columns:
        width = max(map(len, column)) + 2
        if not blocks or len(blocks[-1][0]) + width > MAX_WIDTH:
            blocks.append([label.ljust(first) for label in labels])
        blocks[-1] = [
            line + cell.rjust(width) for line, cell in zip(blocks[-1], column, strict=True)
        ]
    return [line for block in blocks for line in ("", *block)][1:]


def _class_lines(report: BenchmarkReport) -> list[str]:
    base = [scores[report.baseline] for scores in report.classes.values()]
    columns = [["images", *(str(scores.images) for scores in base)]]
    for name in report.names:
        values = [scores[name].psnr_y for scores in report.classes.values()]
        columns.append([name, *(f"{value:.3f}" for value in values)])
        if name != report.baseline:
            gains = (value - b.psnr_y for value, b in zip(values, base, strict=True))
            columns.append(["gain", *map(gain_text, gains)])
    return _wrapped_table(["PSNR Y by class", *(label or "-" for label in report.classes)], columns)


def gain_text(gain: float) -> str:
    """Format a gain in dB with its sign; ``-`` where both values are infinite."""
    return "-" if math.isnan(gain) else f"{gain:+.3f}"


def csv_table(report: BenchmarkReport) -> str:
    """Return CSV, one row for each image and model; figures that are not defined are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "model", *(column.key for column in COLUMNS)])
    for row in report.rows:
        values = (getattr(row.scores, column.key) for column in COLUMNS)
        cells = ("" if math.isnan(value) else f"{value:.6g}" for value in values)
        writer.writerow([row.image, row.label, row.model, *cells])
    return text.getvalue()
