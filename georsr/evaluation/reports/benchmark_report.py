"""A benchmark as one HTML page that needs nothing but itself: no script, no other file.

Examples for a report: which images to show, which part of them, and as what pixels.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Template

import numpy as np

from georsr.evaluation.benchmark import (
    COLUMNS,
    BenchmarkReport,
    RunFacts,
    Sample,
    SuperResolver,
    gain_text,
    headline,
    protocol,
)
from georsr.evaluation.metrics import psnr_y
from georsr.evaluation.reports.figures import STYLE, histogram, row, terms
from georsr.window import AnyArray, Window

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
class Example:
    """One image of the data set, all its versions side by side."""

    reasons: tuple[str, ...]
    """Why it is shown: ``best gain``, ``median PSNR``..."""
    image: str
    label: str
    overview: AnyArray
    """(3, H, W) uint8, the truth with the part that is shown framed."""
    panels: tuple[Panel, ...]


def select_examples(report: BenchmarkReport) -> dict[int, tuple[str, ...]]:
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


def make_example(
    sample: Sample, reasons: Sequence[str], competitors: Mapping[str, SuperResolver]
) -> Example:
    """Run all competitors on one sample again and cut out the part where the first is worst."""
    images = {name: enlarge(sample) for name, enlarge in competitors.items()}
    scale = sample.hr.shape[1] // sample.lr.shape[1]
    part = max_error_crop(next(iter(images.values())), sample.hr, scale)
    coarse = sample.lr.repeat(scale, 1).repeat(scale, 2)

    def panel(name: str, image: AnyArray, scored: bool) -> Panel:
        whole = psnr_y(image, sample.hr, scale) if scored else math.nan
        cut, truth = image[:, *part.slices], sample.hr[:, *part.slices]
        return Panel(name, cut, whole, psnr_y(cut, truth, 0) if scored else math.nan)

    return Example(
        tuple(reasons),
        sample.name,
        sample.label,
        draw_box(sample.hr, part),
        (
            panel("LR (nearest)", coarse, False),
            *(panel(name, image, True) for name, image in images.items()),
            panel("truth", sample.hr, False),
        ),
    )


def max_error_crop(image: AnyArray, truth: AnyArray, step: int) -> Window:
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


def draw_box(image: AnyArray, part: Window) -> AnyArray:
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


PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<h1>$title</h1>
<p class="note">$protocol</p>
<h2>Summary</h2>
<div class="wide">$summary</div>
<dl class="figures">$meanings</dl>
<h2>PSNR Y by class, gain over $baseline</h2>
<div class="wide">$classes</div>
<h2>Distribution</h2>
$distribution
<h2>Examples</h2>
<p class="note">$examples_note</p>
$exhibits
<h2>Run</h2>
<dl>$run</dl>
</body>
</html>
""")


def html_page(report: BenchmarkReport, exhibits: Iterable[Example] = ()) -> str:
    """The whole page.

    Parameters
    ----------
    report
        What was measured.
    exhibits
        Examples to show, in order.
    """
    judged = report.names[min(1, len(report.names) - 1)]
    return PAGE.substitute(
        style=STYLE,
        title=html.escape(headline(report)),
        protocol=html.escape(protocol(report)),
        baseline=html.escape(report.baseline),
        summary=_summary(report),
        meanings=terms((figure.title, figure.meaning) for figure in COLUMNS),
        classes=_classes(report),
        distribution="".join(_distribution(report)),
        examples_note=html.escape(
            f"Best, median and worst image by the gain of {judged} over {report.baseline}, and by "
            f"its PSNR. Each shows the part where {report.baseline} differs most from the truth."
        ),
        exhibits="".join(map(exhibit_html, exhibits)),
        run=terms(_run_facts(report.run)) if report.run is not None else "",
    )


def _summary(report: BenchmarkReport) -> str:
    rows = [row(["", *(figure.title for figure in COLUMNS), "gain Y"], "th")]
    base = report.overall[report.baseline].psnr_y
    for name, scores in report.overall.items():
        values = [figure.text(getattr(scores, figure.key)) for figure in COLUMNS]
        gain = scores.psnr_y - base
        marks = [""] * (len(values) + 1) + [mark_of(gain)]
        rows.append(row([name, *values, gain_text(gain)], classes=marks))
    return f"<table>{''.join(rows)}</table>"


def _classes(report: BenchmarkReport) -> str:
    others = report.names[1:]
    header = ["class", "images", report.baseline]
    rows = [row([*header, *(c for name in others for c in (name, "gain"))], "th")]
    for label, scores in report.classes.items():
        base = scores[report.baseline]
        cells, marks = [label or "-", str(base.images), f"{base.psnr_y:.3f}"], [""] * 3
        for name in others:
            gain = scores[name].psnr_y - base.psnr_y
            cells += [f"{scores[name].psnr_y:.3f}", gain_text(gain)]
            marks += ["", mark_of(gain)]
        rows.append(row(cells, classes=marks))
    return f"<table>{''.join(rows)}</table>"


def mark_of(gain: float) -> str:
    """Class of a cell: ``good`` above 0, ``bad`` below."""
    if math.isnan(gain) or gain == 0:
        return ""
    return "good" if gain > 0 else "bad"


def _distribution(report: BenchmarkReport) -> Iterable[str]:
    others = report.names[1:]
    if not others:
        values = [row.scores.psnr_y for row in report.rows]
        yield histogram(values, f"PSNR Y of {report.baseline}, dB")
    for name in others:
        gains = report.gains(name)
        worse = sum(gain < 0 for gain in gains)
        yield f"<h3>{html.escape(name)}</h3>"
        yield histogram(gains, f"gain in PSNR Y over {report.baseline}, dB", mark=0.0)
        yield f'<p class="note">worse than {html.escape(report.baseline)} on {worse} of '
        yield f"{len(gains)} images</p>"


def exhibit_html(exhibit: Example) -> str:
    """One image, all its versions side by side."""
    title = f"{', '.join(exhibit.reasons)}: {exhibit.image}"
    overview = (
        f'<figure><img src="{data_uri(exhibit.overview)}" alt="whole image">'
        f"<figcaption><b>whole image</b>{_of_class(exhibit.label)}</figcaption></figure>"
    )
    panels = "".join(map(_panel, exhibit.panels))
    return f'<h3>{html.escape(title)}</h3><div class="panels">{overview}{panels}</div>'


def _of_class(label: str) -> str:
    return f", class {html.escape(label)}" if label else ""


def _panel(panel: Panel) -> str:
    name = html.escape(panel.name)
    psnr = ""
    if not math.isnan(panel.image_psnr):
        psnr = f"<br>{panel.image_psnr:.2f} dB, this part {panel.crop_psnr:.2f} dB"
    return (
        f'<figure><img src="{data_uri(panel.pixels)}" alt="{name}">'
        f"<figcaption><b>{name}</b>{psnr}</figcaption></figure>"
    )


def _run_facts(run: RunFacts) -> Iterable[tuple[str, str]]:
    if run.command:
        yield "command", run.command
    yield "georsr", run.version
    yield "device", f"{run.device}, {run.precision}"
    yield "degradation", run.degradation
    for model in run.models:
        source = "" if model.source == model.name else f" ({model.source})"
        yield model.name, f"sha256 {model.sha256}{source}"
