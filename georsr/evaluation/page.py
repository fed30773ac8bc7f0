"""A benchmark as one HTML page that needs nothing but itself: no script, no other file."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from string import Template

from georsr.evaluation.benchmark import BenchmarkReport, RunFacts
from georsr.evaluation.chart import histogram
from georsr.evaluation.exhibits import Exhibit, Panel, data_uri
from georsr.evaluation.figures import FIGURES
from georsr.evaluation.html import STYLE, row, terms
from georsr.evaluation.tables import gain_text, headline, protocol

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


def html_page(report: BenchmarkReport, exhibits: Iterable[Exhibit] = ()) -> str:
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
        meanings=terms((figure.title, figure.meaning) for figure in FIGURES),
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
    rows = [row(["", *(figure.title for figure in FIGURES), "gain Y"], "th")]
    base = report.overall[report.baseline].psnr_y
    for name, scores in report.overall.items():
        values = [figure.text(getattr(scores, figure.key)) for figure in FIGURES]
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


def exhibit_html(exhibit: Exhibit) -> str:
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
