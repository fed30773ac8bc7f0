"""A benchmark as text for a terminal, and as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
import math

from georsr.evaluation.benchmark import BenchmarkReport
from georsr.evaluation.figures import FIGURES


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
    lines.append(" " * width + "".join(f"{figure.title:>12}" for figure in FIGURES))
    for name, scores in report.overall.items():
        values = (figure.text(getattr(scores, figure.key)) for figure in FIGURES)
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
    writer.writerow(["image", "class", "model", *(figure.key for figure in FIGURES)])
    for row in report.rows:
        values = (getattr(row.scores, figure.key) for figure in FIGURES)
        cells = ("" if math.isnan(value) else f"{value:.6g}" for value in values)
        writer.writerow([row.image, row.label, row.model, *cells])
    return text.getvalue()
