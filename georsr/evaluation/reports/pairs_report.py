"""What models gain on real pairs: pair by pair, in groups, and as text.

Gains on real pairs as one HTML page that needs nothing but itself.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from string import Template

import numpy as np

from georsr.evaluation.benchmark import ModelFacts
from georsr.evaluation.pairs import BEST_FILTER, FIXED, NOISES, ONE_FILTER, SIGMAS, Score
from georsr.evaluation.reports.benchmark_report import Example, exhibit_html, mark_of
from georsr.evaluation.reports.figures import STYLE, row, terms
from georsr.reports import georsr_version

DRAWS = 2000
"""Of the bootstrap."""
INTERVAL = (2.5, 97.5)
"""Percentiles of the means of the draws."""
WIDTH = 100
"""Columns of the table."""
MEANINGS = (
    ("PSNR", "gain over bicubic in dB, after the best gain and offset; more is better"),
    (
        "detail",
        "gain over bicubic in correlation with the fine raster, once a gaussian of as many fine "
        "pixels as the scale is taken from both; more is better",
    ),
    ("(..)", "95 % interval of the mean, by bootstrap over the pairs"),
    ("better", "pairs with a higher PSNR than bicubic's"),
    (
        ONE_FILTER,
        f"bicubic sharpened by one linear filter for all pairs (gaussian of {FIXED[0]} coarse "
        f"pixels, noise {FIXED[1]}); a model that gains less adds nothing real",
    ),
    (
        BEST_FILTER,
        f"of {len(SIGMAS) * len(NOISES)} such filters the one of highest PSNR, chosen pair by pair "
        "with the fine raster in view",
    ),
)
"""Terms of the table and what they mean."""


@dataclass(frozen=True)
class PairRow:
    """What was measured on one pair."""

    name: str
    scale: int
    kind: str
    """``rgb``: red, green and blue were enlarged together; ``grey``: a mixture of all bands was."""
    weights: tuple[float, ...]
    """Of the coarse bands in the mixture."""
    shift: tuple[float, float]
    """Of the fine raster, (down, right) in its pixels; taken away before it was compared."""
    bicubic: Score
    gains: dict[str, Score]
    """Over bicubic, of each model and filter."""
    best_filter: tuple[float, float]
    """Sigma in coarse pixels, and noise, of the best Wiener filter."""


@dataclass(frozen=True)
class Mean:
    """A mean over pairs, with its 95 % interval; None for one pair."""

    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class MethodSummary:
    """Gains of one model or filter over the pairs of a group."""

    name: str
    psnr: Mean
    """dB."""
    detail: Mean
    better: int
    """Pairs with a higher PSNR than bicubic's."""
    worst: float
    """Lowest gain in dB."""
    worst_pair: str


@dataclass(frozen=True)
class Group:
    """The pairs of one scale, as colour or as one band."""

    scale: int
    kind: str
    pairs: int
    methods: tuple[MethodSummary, ...]


@dataclass(frozen=True)
class PairsReport:
    """Gains of models on real pairs."""

    folder: str
    groups: tuple[Group, ...]
    rows: tuple[PairRow, ...]
    models: tuple[ModelFacts, ...]
    consistency: str
    device: str
    precision: str
    command: str = ""
    version: str = field(default_factory=georsr_version)

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def rows_of(self, group: Group) -> list[PairRow]:
        """The pairs of a group."""
        return [pair for pair in self.rows if (pair.scale, pair.kind) == (group.scale, group.kind)]

    def describe(self) -> str:
        """A table for people, of at most `WIDTH` columns."""
        lines = [f"{self.folder}: gain over bicubic on real pairs (consistency {self.consistency})"]
        for group in self.groups:
            lines += ["", *_summary_lines(group), *_pair_lines(self.rows_of(group))]
        return "\n".join(lines)


def summarise(rows: Sequence[PairRow]) -> tuple[Group, ...]:
    """Put pairs into groups by scale and kind, and take the means of each."""
    groups = []
    for scale, kind in sorted({(pair.scale, pair.kind) for pair in rows}):
        own = [pair for pair in rows if (pair.scale, pair.kind) == (scale, kind)]
        methods = tuple(_method(name, own) for name in own[0].gains)
        groups.append(Group(scale, kind, len(own), methods))
    return tuple(groups)


def _method(name: str, rows: Sequence[PairRow]) -> MethodSummary:
    psnr = [pair.gains[name].psnr for pair in rows]
    worst = int(np.argmin(psnr))
    return MethodSummary(
        name,
        mean_of(psnr),
        mean_of([pair.gains[name].detail for pair in rows]),
        sum(gain > 0 for gain in psnr),
        psnr[worst],
        rows[worst].name,
    )


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and the 95 % interval of it that resampling the values gives, always the same one."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return Mean(mean, None)
    picks = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.percentile(np.asarray(values)[picks].mean(1), INTERVAL)
    return Mean(mean, (float(low), float(high)))


def _summary_lines(group: Group) -> list[str]:
    title = f"x{group.scale} {group.kind}, {group.pairs} pair" + "s" * (group.pairs > 1)
    heads = f"{'PSNR dB (95 %)':<23}{'detail (95 %)':<24}"
    lines = [f"{title:<24}{heads}{'better':>6} worst"]
    for number, each in enumerate(group.methods, 1):
        name = _cut(f"[{number}] {each.name}", 23)
        lines.append(
            f"{name:<24}{mean_text(each.psnr, 2):<23}{mean_text(each.detail, 3):<24}"
            f"{f'{each.better}/{group.pairs}':>6} {each.worst:+.2f} {_cut(each.worst_pair, 15)}"
        )
    return lines


def mean_text(value: Mean, digits: int) -> str:
    """A mean and its interval, as printed."""
    text = f"{value.mean:+.{digits}f}"
    if value.interval is None:
        return text
    low, high = value.interval
    return f"{text} ({low:+.{digits}f}..{high:+.{digits}f})"


def _pair_lines(rows: Sequence[PairRow]) -> list[str]:
    """PSNR and detail of bicubic, and gain in PSNR of every method; wrapped at `WIDTH`."""
    names = list(rows[0].gains)
    lines = []
    step = (WIDTH - 50) // 8
    for first in range(0, len(names), step):
        part = names[first : first + step]
        heads = "".join(f"{f'[{first + i}]':>8}" for i in range(1, len(part) + 1))
        lines.append(f"{'':<34}{'bicubic':>8}{'detail':>8}{heads}")
        for pair in rows:
            gains = "".join(f"{pair.gains[name].psnr:>+8.2f}" for name in part)
            base = f"{pair.bicubic.psnr:8.2f}{pair.bicubic.detail:8.3f}"
            lines.append(f"{_cut(pair.name, 33):<34}{base}{gains}")
    return lines


def _cut(text: str, width: int) -> str:
    """Shorten a text in its middle: names often begin alike."""
    half = width // 2
    return text if len(text) <= width else f"{text[: width - half - 1]}…{text[-half:]}"


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


def pairs_page(report: PairsReport, exhibits: Sequence[tuple[PairRow, Example]]) -> str:
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


def _group(report: PairsReport, group: Group, exhibits: Sequence[tuple[PairRow, Example]]) -> str:
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
    rows: Sequence[PairRow], exhibits: Sequence[tuple[PairRow, Example]]
) -> Iterable[Example]:
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
