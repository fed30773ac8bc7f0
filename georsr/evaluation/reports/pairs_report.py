"""Summarize the gains of models on real pairs, as text and as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from georsr.errors import join_lines
from georsr.evaluation.benchmark import ModelFacts
from georsr.evaluation.pair_gains import (
    BEST_FILTER,
    FIXED_FILTER,
    ONE_FILTER,
    WIENER_NOISES,
    WIENER_SIGMAS,
    Score,
)
from georsr.evaluation.reports.figures import Example
from georsr.evaluation.reports.html import Cell, GainCell, Table, render_page, run_terms
from georsr.reports import georsr_version

BOOTSTRAP_DRAWS = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of the means of the draws."""
TEXT_WIDTH = 100
"""Columns of the text table."""
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
        f"bicubic sharpened by one linear filter for all pairs (gaussian of {FIXED_FILTER[0]} "
        f"coarse pixels, noise {FIXED_FILTER[1]}); a model that gains less adds nothing real",
    ),
    (
        BEST_FILTER,
        f"of {len(WIENER_SIGMAS) * len(WIENER_NOISES)} such filters the one of highest PSNR, "
        "chosen pair by pair with the fine raster in view",
    ),
)
"""Terms of the table and what they mean."""


@dataclass(frozen=True)
class PairRow:
    """Result of one pair."""

    name: str
    scale: int
    kind: str
    """``rgb``: red, green and blue were enlarged together; ``grey``: a mixture of all bands was."""
    weights: tuple[float, ...]
    """Weights of the coarse bands in the mixture."""
    shift: tuple[float, float]
    """(float, float): Shift of the fine raster, (down, right) in its pixels, which was undone."""
    bicubic: Score
    gains: dict[str, Score]
    """Gain over bicubic of each model and filter."""
    best_filter: tuple[float, float]
    """(float, float): Sigma in coarse pixels, and noise, of the best Wiener filter."""


@dataclass(frozen=True)
class Mean:
    """A mean over pairs with its 95 % interval, which is None for a single pair."""

    mean: float
    interval: tuple[float, float] | None

    def text(self, digits: int) -> str:
        """Format the mean and its interval."""
        text = f"{self.mean:+.{digits}f}"
        if self.interval is None:
            return text
        low, high = self.interval
        return f"{text} ({low:+.{digits}f}..{high:+.{digits}f})"


@dataclass(frozen=True)
class MethodSummary:
    """Gains of one model or filter over the pairs of a group."""

    name: str
    psnr: Mean
    """Gain in dB."""
    detail: Mean
    """Gain in correlation."""
    better: int
    """Number of pairs with a higher PSNR than bicubic's."""
    worst: float
    """Lowest gain in dB."""
    worst_pair: str


@dataclass(frozen=True)
class Group:
    """Pairs of one scale, enlarged in colour (``rgb``) or as one band (``grey``)."""

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
        """Return indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def rows_of(self, group: Group) -> list[PairRow]:
        """Return the pairs of a group."""
        return [row for row in self.rows if (row.scale, row.kind) == (group.scale, group.kind)]

    def describe(self) -> str:
        """Return a text table of at most `TEXT_WIDTH` columns."""
        lines = [f"{self.folder}: gain over bicubic on real pairs (consistency {self.consistency})"]
        for group in self.groups:
            lines += ["", *_summary_lines(group), *_pair_lines(self.rows_of(group))]
        return join_lines(lines)


def summarize(rows: Sequence[PairRow]) -> tuple[Group, ...]:
    """Group pairs by scale and kind, and average each group."""
    groups = []
    for scale, kind in sorted({(row.scale, row.kind) for row in rows}):
        members = [row for row in rows if (row.scale, row.kind) == (scale, kind)]
        methods = tuple(_summarize_method(name, members) for name in members[0].gains)
        groups.append(Group(scale, kind, len(members), methods))
    return tuple(groups)


def _summarize_method(name: str, rows: Sequence[PairRow]) -> MethodSummary:
    psnr = [row.gains[name].psnr for row in rows]
    worst = int(np.argmin(psnr))
    return MethodSummary(
        name,
        bootstrap_mean(psnr),
        bootstrap_mean([row.gains[name].detail for row in rows]),
        sum(gain > 0 for gain in psnr),
        psnr[worst],
        rows[worst].name,
    )


def bootstrap_mean(values: Sequence[float]) -> Mean:
    """Compute a mean and its 95 % interval by resampling, with a fixed seed."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return Mean(mean, None)
    picks = np.random.default_rng(0).integers(0, len(values), (BOOTSTRAP_DRAWS, len(values)))
    low, high = np.percentile(np.asarray(values)[picks].mean(1), INTERVAL)
    return Mean(mean, (float(low), float(high)))


def _summary_lines(group: Group) -> list[str]:
    title = f"x{group.scale} {group.kind}, {group.pairs} pair" + "s" * (group.pairs > 1)
    heads = f"{'PSNR dB (95 %)':<23}{'detail (95 %)':<24}"
    lines = [f"{title:<24}{heads}{'better':>6} worst"]
    for number, method in enumerate(group.methods, 1):
        name = _abbreviate(f"[{number}] {method.name}", 23)
        lines.append(
            f"{name:<24}{method.psnr.text(2):<23}{method.detail.text(3):<24}"
            f"{f'{method.better}/{group.pairs}':>6} {method.worst:+.2f} "
            f"{_abbreviate(method.worst_pair, 15)}"
        )
    return lines


def _pair_lines(rows: Sequence[PairRow]) -> list[str]:
    """Return PSNR and detail of bicubic and the PSNR gain of every method, wrapped."""
    names = list(rows[0].gains)
    lines = []
    step = (TEXT_WIDTH - 50) // 8
    for first in range(0, len(names), step):
        part = names[first : first + step]
        heads = "".join(f"{f'[{first + i}]':>8}" for i in range(1, len(part) + 1))
        lines.append(f"{'':<34}{'bicubic':>8}{'detail':>8}{heads}")
        for row in rows:
            gains = "".join(f"{row.gains[name].psnr:>+8.2f}" for name in part)
            base = f"{row.bicubic.psnr:8.2f}{row.bicubic.detail:8.3f}"
            lines.append(f"{_abbreviate(row.name, 33):<34}{base}{gains}")
    return lines


def _abbreviate(text: str, width: int) -> str:
    """Shorten a text in its middle: names often begin alike."""
    half = width // 2
    return text if len(text) <= width else f"{text[: width - half - 1]}…{text[-half:]}"


def pairs_page(report: PairsReport, examples: Sequence[tuple[PairRow, Example]]) -> str:
    """Render the page of a report.

    Of the pictures of every pair, those of the best, the median and the worst pair of each group,
    by the gain of its first model, are shown.
    """
    groups = [
        {
            "title": f"x{group.scale} {group.kind}, {group.pairs} pairs",
            "summary": _summary_table(group),
            "pairs": _pairs_table(report.rows_of(group)),
            "examples": list(_select_examples(report.rows_of(group), examples)),
        }
        for group in report.groups
    ]
    return render_page(
        "pairs.html.j2",
        title=f"Gain over bicubic on the real pairs of {report.folder}",
        meanings=MEANINGS,
        groups=groups,
        run=run_terms(
            report.command,
            report.version,
            f"{report.device}, {report.precision}",
            report.models,
            consistency=report.consistency,
        ),
    )


def _summary_table(group: Group) -> Table:
    rows: list[list[Cell]] = [
        [
            method.name,
            GainCell(method.psnr.mean, method.psnr.text(3)),
            GainCell(method.detail.mean, method.detail.text(4)),
            f"{method.better} of {group.pairs}",
            GainCell(method.worst, f"{method.worst:+.2f}"),
            method.worst_pair,
        ]
        for method in group.methods
    ]
    return ["", "PSNR dB", "detail", "better", "worst", "pair"], rows


def _pairs_table(pairs: Sequence[PairRow]) -> Table:
    names = list(pairs[0].gains)
    rows: list[list[Cell]] = []
    for pair in pairs:
        row: list[Cell] = [pair.name, *(f"{value:+.2f}" for value in pair.shift)]
        row += [f"{pair.bicubic.psnr:.2f}", f"{pair.bicubic.detail:.3f}"]
        for gain in pair.gains.values():
            row.append(GainCell(gain.psnr, f"{gain.psnr:+.2f}"))
            row.append(GainCell(gain.detail, f"{gain.detail:+.3f}"))
        rows.append(row)
    header = [cell for name in names for cell in (name, "detail")]
    return ["pair", "shift down", "right", "bicubic dB", "detail", *header], rows


def _select_examples(
    rows: Sequence[PairRow], examples: Sequence[tuple[PairRow, Example]]
) -> Iterator[Example]:
    """Yield the examples of the best, the median and the worst pair."""
    ranked = sorted(rows, key=lambda row: -next(iter(row.gains.values())).psnr)
    reasons = {0: "best", len(ranked) // 2: "median", len(ranked) - 1: "worst"}
    for rank, reason in sorted(reasons.items()):
        for row, example in examples:
            if row is ranked[rank]:
                yield replace(example, reasons=(*example.reasons, f"{reason} gain"))
