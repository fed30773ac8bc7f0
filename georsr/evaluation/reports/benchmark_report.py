"""Write a benchmark as one HTML page, with the best, median and worst images as examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from georsr.evaluation.benchmark import (
    COLUMNS,
    BenchmarkReport,
    Sample,
    SuperResolver,
    gain_text,
    headline,
    protocol,
)
from georsr.evaluation.metrics import psnr_y
from georsr.evaluation.reports.figures import Example, Panel, draw_box, histogram, max_error_crop
from georsr.evaluation.reports.html import Cell, GainCell, Table, render_page, run_terms
from georsr.window import AnyArray


def judged_model(report: BenchmarkReport) -> str:
    """Return the first model after the baseline, or the baseline if there is no other."""
    return report.names[min(1, len(report.names) - 1)]


def select_examples(report: BenchmarkReport) -> dict[int, tuple[str, ...]]:
    """Choose the best, median and worst images by gain and by PSNR Y of the judged model.

    Returns index of a sample -> the reasons why it is shown.
    """
    name = judged_model(report)
    orders = {"PSNR Y": [row.scores.psnr_y for row in report.rows if row.model == name]}
    if name != report.baseline:
        orders = {"gain": report.gains(name), **orders}
    reasons: dict[int, list[str]] = {}
    for title, values in orders.items():
        ranked = sorted(
            (i for i, value in enumerate(values) if not math.isnan(value)),
            key=lambda i: (-values[i], i),
        )
        if ranked:
            for rank, at in (("best", 0), ("median", len(ranked) // 2), ("worst", -1)):
                reasons.setdefault(ranked[at], []).append(f"{rank} {title}")
    return {number: tuple(texts) for number, texts in reasons.items()}


def make_example(
    sample: Sample, reasons: Sequence[str], candidates: Mapping[str, SuperResolver]
) -> Example:
    """Run all candidates on one sample and cut out the part where the first one is worst."""
    images = {name: super_resolve(sample) for name, super_resolve in candidates.items()}
    scale = sample.hr.shape[1] // sample.lr.shape[1]
    window = max_error_crop(next(iter(images.values())), sample.hr, scale)

    def crop(image: AnyArray) -> AnyArray:
        return image[:, *window.slices]

    truth = crop(sample.hr)
    panels = [
        Panel(name, crop(image), psnr_y(image, sample.hr, scale), psnr_y(crop(image), truth, 0))
        for name, image in images.items()
    ]
    coarse = crop(sample.lr.repeat(scale, 1).repeat(scale, 2))
    return Example(
        tuple(reasons),
        sample.name,
        sample.label,
        draw_box(sample.hr, window),
        (Panel("LR (nearest)", coarse), *panels, Panel("truth", truth)),
    )


def html_page(report: BenchmarkReport, examples: Iterable[Example] = ()) -> str:
    """Render the page of a benchmark, with examples in the order given."""
    run = report.run
    return render_page(
        "benchmark.html.j2",
        title=headline(report),
        protocol=protocol(report),
        baseline=report.baseline,
        judged=judged_model(report),
        summary=_summary(report),
        meanings=[(column.title, column.meaning) for column in COLUMNS],
        classes=_classes(report),
        charts=list(_charts(report)),
        examples=examples,
        run=()
        if run is None
        else run_terms(
            run.command,
            run.version,
            f"{run.device}, {run.precision}",
            run.models,
            degradation=run.degradation,
        ),
    )


def _summary(report: BenchmarkReport) -> Table:
    rows: list[list[Cell]] = []
    for name, scores in report.overall.items():
        gain = scores.psnr_y - report.overall[report.baseline].psnr_y
        values = [column.text(getattr(scores, column.key)) for column in COLUMNS]
        rows.append([name, *values, GainCell(gain, gain_text(gain))])
    return ["", *(column.title for column in COLUMNS), "gain Y"], rows


def _classes(report: BenchmarkReport) -> Table:
    others = report.names[1:]
    rows: list[list[Cell]] = []
    for label, scores in report.classes.items():
        base = scores[report.baseline]
        row: list[Cell] = [label or "-", str(base.images), f"{base.psnr_y:.3f}"]
        for name in others:
            gain = scores[name].psnr_y - base.psnr_y
            row += [f"{scores[name].psnr_y:.3f}", GainCell(gain, gain_text(gain))]
        rows.append(row)
    header = [cell for name in others for cell in (name, "gain")]
    return ["class", "images", report.baseline, *header], rows


def _charts(report: BenchmarkReport) -> Iterator[dict[str, str]]:
    baseline, others = report.baseline, report.names[1:]
    if not others:
        values = [row.scores.psnr_y for row in report.rows]
        svg = histogram(values, f"PSNR Y of {baseline}, dB")
        yield {"name": "", "svg": svg, "note": ""}
    for name in others:
        gains = report.gains(name)
        worse = sum(gain < 0 for gain in gains)
        svg = histogram(gains, f"gain in PSNR Y over {baseline}, dB", mark=0.0)
        note = f"worse than {baseline} on {worse} of {len(gains)} images"
        yield {"name": name, "svg": svg, "note": note}
