"""Gains on real pairs as one HTML page that needs nothing but itself."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import replace
from string import Template

from georsr.evaluation.exhibits import Exhibit
from georsr.evaluation.html import STYLE, row, terms
from georsr.evaluation.page import exhibit_html, mark_of
from georsr.evaluation.pairs_report import MEANINGS, Group, PairRow, PairsReport, mean_text

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
<dl class="figures">$meanings</dl>
$groups
<h2>Run</h2>
<dl>$run</dl>
</body>
</html>
""")


def pairs_page(report: PairsReport, exhibits: Sequence[tuple[PairRow, Exhibit]]) -> str:
    """The whole page.

    Parameters
    ----------
    report
        What was measured.
    exhibits
        Pictures of every pair; those of the best, the median and the worst pair of each group, by
        the gain of its first model, are shown.
    """
    return PAGE.substitute(
        style=STYLE,
        title=html.escape(f"Gain over bicubic on the real pairs of {report.folder}"),
        meanings=terms(MEANINGS),
        groups="".join(_group(report, group, exhibits) for group in report.groups),
        run=terms(_run_facts(report)),
    )


def _group(report: PairsReport, group: Group, exhibits: Sequence[tuple[PairRow, Exhibit]]) -> str:
    rows = report.rows_of(group)
    shown = "".join(map(exhibit_html, _chosen(rows, exhibits)))
    return (
        f"<h2>x{group.scale} {group.kind}, {group.pairs} pairs</h2>"
        f'<div class="wide">{_summary(group)}</div>'
        f'<h3>Pair by pair</h3><div class="wide">{_pairs(rows)}</div>{shown}'
    )


def _summary(group: Group) -> str:
    rows = [row(["", "PSNR dB", "detail", "better", "worst", "pair"], "th")]
    for each in group.methods:
        cells = [
            each.name,
            mean_text(each.psnr, 3),
            mean_text(each.detail, 4),
            f"{each.better} of {group.pairs}",
            f"{each.worst:+.2f}",
            each.worst_pair,
        ]
        marks = ["", mark_of(each.psnr.mean), mark_of(each.detail.mean), "", mark_of(each.worst)]
        rows.append(row(cells, classes=[*marks, ""]))
    return f"<table>{''.join(rows)}</table>"


def _pairs(pairs: Sequence[PairRow]) -> str:
    names = list(pairs[0].gains)
    head = ["pair", "shift down", "right", "bicubic dB", "detail"]
    rows = [row([*head, *(cell for name in names for cell in (name, "detail"))], "th")]
    for pair in pairs:
        cells = [pair.name, *(f"{value:+.2f}" for value in pair.shift)]
        cells += [f"{pair.bicubic.psnr:.2f}", f"{pair.bicubic.detail:.3f}"]
        marks = [""] * len(cells)
        for name in names:
            gain = pair.gains[name]
            cells += [f"{gain.psnr:+.2f}", f"{gain.detail:+.3f}"]
            marks += [mark_of(gain.psnr), mark_of(gain.detail)]
        rows.append(row(cells, classes=marks))
    return f"<table>{''.join(rows)}</table>"


def _chosen(
    rows: Sequence[PairRow], exhibits: Sequence[tuple[PairRow, Exhibit]]
) -> Iterable[Exhibit]:
    ranked = sorted(rows, key=lambda each: -next(iter(each.gains.values())).psnr)
    places = {0: "best", len(ranked) // 2: "median", len(ranked) - 1: "worst"}
    for place, reason in sorted(places.items()):
        for other, exhibit in exhibits:
            if other is ranked[place]:
                yield replace(exhibit, reasons=(*exhibit.reasons, f"{reason} gain"))


def _run_facts(report: PairsReport) -> Iterable[tuple[str, str]]:
    if report.command:
        yield "command", report.command
    yield "georsr", report.version
    yield "device", f"{report.device}, {report.precision}"
    yield "consistency", report.consistency
    for model in report.models:
        source = "" if model.source == model.name else f" ({model.source})"
        yield model.name, f"sha256 {model.sha256}{source}"
