"""Measure the quality of one output against its source, and write it as one HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from georsr.errors import GeorsrError, UsageError, redact_url
from georsr.evaluation.harm import HarmReport, model_of_output, verdict
from georsr.evaluation.no_reference import NoReferenceReport, measure_no_reference
from georsr.evaluation.raster_comparison import (
    Consistency,
    measure_consistency,
    open_source_of,
    recorded_kernel,
    selected_bands,
)
from georsr.evaluation.reports.figures import (
    DisplayStretch,
    bicubic_block,
    detailed_windows,
    display_stretch,
    overlaid_histograms,
    quicklook,
)
from georsr.evaluation.reports.html import Cell, Table, render_page
from georsr.evaluation.seams import SeamReport, measure_seams
from georsr.geo.registration import phase_shift, scale_between
from georsr.io.metadata import RasterInfo
from georsr.io.reader import RasterReader, open_raster
from georsr.io.rgb_bands import COLORS, declared_rgb_bands
from georsr.quality.qgis_style import displayed_maximum
from georsr.window import AnyArray, Window

SHIFT_WINDOW = 256
"""Height and width, in source pixels, of the window whose shift is measured."""
MAX_BINS = 64
CROP_SIZE, CROPS = 48, 3
"""Height and width of a crop in source pixels, and how many are shown."""


@dataclass(frozen=True)
class BandHistogram:
    """Values of one band in the source and in the output."""

    band: str
    edges: tuple[float, ...]
    """n + 1 edges of the bins; empty if the sample of one of the two has no valid pixel."""
    before: tuple[float, ...]
    """Fraction of the valid pixels of the source in each bin."""
    after: tuple[float, ...]
    """Fraction of the valid pixels of the output in each bin."""
    means: tuple[float, float]
    """Mean of source and output."""
    deviations: tuple[float, float]
    """Standard deviation of source and output."""


@dataclass(frozen=True)
class OutputReport:
    """Quality of an output that can be measured without the truth."""

    source: str
    output: str
    bidx: tuple[int, ...]
    """Bands of the source."""
    scale: int
    tags: dict[str, str]
    """Tags of the output that say how it was made."""
    shift: tuple[float, float]
    """(down, right) in output pixels against the bicubic enlargement; NaN without contrast."""
    consistency: Consistency
    seams: SeamReport | None
    seams_missing: str
    """Reason why seams were not measured; empty if they were."""
    sharpness: NoReferenceReport | None
    """Edges, ringing, noise and harm, compared with bicubic; None where the scene is too small."""
    histograms: tuple[BandHistogram, ...]
    unit: str
    """Unit of the source's values; empty if it is not declared."""

    def to_json(self) -> str:
        """Return indented JSON."""
        paths = {"source": redact_url(self.source), "output": redact_url(self.output)}
        return json.dumps(asdict(self) | paths, indent=2)


def report_output(
    source: str, output: str, *, bidx: tuple[int, ...] | None = None, seams: bool = True
) -> OutputReport:
    """Measure an output against its source.

    ``bidx`` are the bands of the source; None reads them from the tags of the output. With
    ``seams``, the model is run again on a part of the source to measure seams, noise gain and
    unsteady detail.

    Raises
    ------
    UsageError
        Source and output do not belong together.
    """
    with open_raster(output) as sr:
        tags = dict(sr.info.tags.get("", {}))
        kernel = recorded_kernel(sr)
        with open_source_of(sr, source, bidx) as lr:
            bands, selected = lr.info.indexes, selected_bands(lr, bidx)
            scale = scale_between(sr.info, lr.info)
            consistency = measure_consistency(sr, lr, kernel)
            shift = shift_against_bicubic(sr, lr, scale)
            histograms = tuple(_histograms(lr, sr))
            unit = lr.info.bands[0].unit or ""
    measured, missing = (
        _measure_seams(source, output, tags, selected) if seams else (None, "not requested")
    )
    try:
        sharpness = measure_no_reference(output, source, bidx=bands, degradation=kernel, run=seams)
    except GeorsrError:
        sharpness = None
    return OutputReport(
        source,
        output,
        bands,
        scale,
        {name: text for name, text in tags.items() if name.startswith("GEORSR_")},
        shift,
        consistency,
        measured,
        missing,
        sharpness,
        histograms,
        unit,
    )


def shift_against_bicubic(sr: RasterReader, lr: RasterReader, scale: int) -> tuple[float, float]:
    """Measure how far an output is shifted against the bicubic enlargement of its source.

    Returns (down, right) in output pixels, of the mean of the bands in the middle of the raster;
    NaN where that is too small or has no valid pixel.
    """
    height, width = lr.info.height, lr.info.width
    h, w = min(SHIFT_WINDOW, height), min(SHIFT_WINDOW, width)
    window = Window((height - h) // 2, (width - w) // 2, h, w)
    blocks = sr.read(window.scaled(scale)), bicubic_block(lr.read(window), scale)
    valid = blocks[0].valid & blocks[1].valid
    if min(h, w) * scale < 16 or not valid.any():
        return math.nan, math.nan
    images = [np.where(valid, block.values, 0).mean(0, dtype=np.float64) for block in blocks]
    return phase_shift(images[0], images[1], scale)


def _measure_seams(
    source: str, output: str, tags: Mapping[str, str], bidx: tuple[int, ...] | None
) -> tuple[SeamReport | None, str]:
    """Return a report, or the reason why there is none."""
    try:
        model, made = model_of_output(output, tags, bidx)
        report = measure_seams(
            source,
            model,
            indexes=made.indexes,
            output_bands=made.output_bands,
            other_bands=made.other_bands,
        )
        return report, ""
    except UsageError as error:
        return None, str(error)


def _labels_with_roles(info: RasterInfo) -> list[str]:
    """Return number, name and, where it is declared, the colour of each band."""
    roles = dict(zip(declared_rgb_bands(info.bands) or (), COLORS, strict=False))
    labels = zip(info.bands, info.band_labels(), strict=True)
    return [
        f"{label}, {roles[band.number]}"
        if band.number in roles and roles[band.number] not in label.lower()
        else label
        for band, label in labels
    ]


def _histograms(lr: RasterReader, sr: RasterReader) -> Iterator[BandHistogram]:
    samples = [reader.sample() for reader in (lr, sr)]
    for number, label in enumerate(_labels_with_roles(lr.info)):
        values = [s.values[number][s.valid[number]].astype(np.float64) for s in samples]
        if not all(v.size for v in values):
            yield BandHistogram(label, (), (), (), (math.nan, math.nan), (math.nan, math.nan))
            continue
        edges = _bin_edges(values, lr.info.dtype)
        before, after = (np.histogram(v, edges)[0] / v.size for v in values)
        yield BandHistogram(
            label,
            tuple(map(float, edges)),
            tuple(map(float, before)),
            tuple(map(float, after)),
            (float(values[0].mean()), float(values[1].mean())),
            (float(values[0].std()), float(values[1].std())),
        )


def _bin_edges(values: Sequence[AnyArray], dtype: str) -> AnyArray:
    """Return bins for 99.8 % of both sets of values, each with as many whole numbers."""
    limits = np.array([np.percentile(v, (0.1, 99.9)) for v in values])
    low, high = float(limits[:, 0].min()), float(limits[:, 1].max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    if np.dtype(dtype).kind == "f":
        return np.linspace(low, high, MAX_BINS + 1)
    step = max(1, math.ceil((high - low + 1) / MAX_BINS))
    return np.arange(math.floor(low) - 0.5, math.ceil(high) + step, step)


@dataclass(frozen=True)
class Crop:
    """One part of the scene in the source, in bicubic and in the output: (3, n, n) uint8."""

    window: Window
    """Source pixels."""
    source: AnyArray
    bicubic: AnyArray
    output: AnyArray


@dataclass(frozen=True)
class Images:
    """Pictures of the page: (3, h, w) uint8."""

    source: AnyArray
    output: AnyArray
    crops: tuple[Crop, ...]
    error: AnyArray | None = None
    """Expected error, if there are quality layers."""
    error_top: float = 0.0
    """Expected error that is shown as black, in the source's units."""


def collect_images(report: OutputReport, layers: str | None = None) -> Images:
    """Read the pictures of the page; ``layers`` is the path of the quality layers, if any."""
    with (
        open_raster(report.output) as sr,
        open_source_of(sr, report.source, report.bidx) as lr,
    ):
        stretch, scale = display_stretch(lr), report.scale
        crops = []
        for window in detailed_windows(lr, CROP_SIZE, CROPS):
            block = lr.read(window)
            crops.append(
                Crop(
                    window,
                    stretch.to_rgb(block).repeat(scale, 1).repeat(scale, 2),
                    stretch.to_rgb(bicubic_block(block, scale)),
                    stretch.to_rgb(sr.read(window.scaled(scale))),
                )
            )
        quicklooks = quicklook(lr, stretch), quicklook(sr, stretch)
    if layers is None:
        return Images(*quicklooks, tuple(crops))
    with open_raster(layers, indexes=(1,)) as reader:
        top = displayed_maximum(reader)
        error = 255 - quicklook(reader, DisplayStretch((0, 0, 0), (0.0,) * 3, (top,) * 3))
    return Images(*quicklooks, tuple(crops), error, top)


def render_html(report: OutputReport, images: Images) -> str:
    """Render the page of an output."""
    return render_page(
        "output.html.j2",
        title=redact_url(f"Quality of {report.output}"),
        subtitle=redact_url(f"{report.scale} times the resolution of {report.source}"),
        summary=_summary(report),
        images=images,
        crop_size=CROP_SIZE,
        histograms=[
            (
                each.band,
                overlaid_histograms(each.edges, each.before, each.after, f"values of {each.band}"),
            )
            for each in report.histograms
            if each.edges
        ],
        bands=_bands_table(report),
        sharpness=None if report.sharpness is None else report.sharpness.describe(),
        provenance=_provenance(report),
    )


@dataclass(frozen=True)
class Figure:
    """A line of the summary: what was measured, in words, and whether it is good."""

    name: str
    text: str
    verdict: str = ""
    """What the figure means; empty if it was not measured."""
    css: str = ""
    """``good``, ``fair`` or ``poor``."""


def _judged(
    name: str, text: str, value: float, limits: tuple[float, float], subject: str
) -> Figure:
    """Return a figure that is good up to the first limit, and fair up to the second."""
    judgement = verdict(value, limits) or "poor"
    meaning = {
        "good": f"{subject} is negligible",
        "fair": f"{subject} is small but measurable",
        "poor": f"{subject} is large, look at the crops",
    }
    return Figure(name, text, f"{judgement}: {meaning[judgement]}", judgement)


SHIFT_LIMITS = 0.25, 1.0
"""Pixels of the output up to which a shift is good, and fair."""
CONSISTENCY_LIMITS = 0.005, 0.02
"""Fractions of the range of the source's values, likewise."""
SEAM_LIMITS = 0.001, 0.005
"""Fractions of the range of the source's values, likewise."""


def _summary(report: OutputReport) -> Iterator[Figure]:
    down, right = report.shift
    name = "shift against bicubic"
    if math.isnan(down):
        yield Figure(name, "not measurable: no contrast in the middle of the raster")
    else:
        text = f"{down:+.3f} down, {right:+.3f} right, in output pixels (phase correlation)"
        yield _judged(name, text, math.hypot(down, right), SHIFT_LIMITS, "the shift")
    consistency, seams = report.consistency, report.seams
    unit = report.unit or "in the source's values"
    ranges = (each.edges[-1] - each.edges[0] for each in report.histograms if each.edges)
    extent = max(ranges, default=math.inf)
    yield _judged(
        "consistency with the source",
        f"|source - output shrunk ({consistency.degradation})| is {consistency.mean:.4g} on "
        f"average ({unit}; {consistency.mean / extent:.2%} of their range), over "
        f"{consistency.pixels} source pixels",
        consistency.mean / extent,
        CONSISTENCY_LIMITS,
        "the difference",
    )
    if seams is None:
        yield Figure("seams", f"not measured: {report.seams_missing}")
    else:
        yield _seam_figure(seams, unit)
    if report.sharpness is not None and report.sharpness.harm is not None:
        yield from _harm_figures(report.sharpness.harm)


def _seam_figure(seams: SeamReport, unit: str) -> Figure:
    return _judged(
        "seams",
        f"moving the grid of tiles by half its spacing changes the output by {seams.mean:.4g} on "
        f"average, 99.9 % below {seams.p999:.4g}, at most {seams.maximum:.4g} ({unit})",
        seams.relative_mean,
        SEAM_LIMITS,
        "the change at the edges of tiles",
    )


def _harm_figures(harm: HarmReport) -> Iterator[Figure]:
    for each in harm.figures():
        if math.isnan(each.value):
            yield Figure(each.name, "not measurable: no flat ground or no contrast")
            continue
        text = f"{each.value:.3g} {each.unit} (bicubic: {each.bicubic:.3g})"
        yield _judged(each.name, text, each.value, each.limits, each.excess)
    if harm.missing:
        yield Figure("gain of noise, unsteady detail", f"not measured: {harm.missing}")


def _bands_table(report: OutputReport) -> Table:
    rows: list[list[Cell]] = []
    consistency = report.consistency
    for each, mae, psnr in zip(report.histograms, consistency.mae, consistency.psnr, strict=True):
        values = (*each.means, *each.deviations, mae)
        rows.append([each.band, *(f"{value:.5g}" for value in values), f"{psnr:.2f}"])
    header = ["band", "mean before", "after", "std. dev. before", "after", "consistency", "PSNR dB"]
    return header, rows


def _provenance(report: OutputReport) -> Iterator[tuple[str, str]]:
    for name, text in sorted(report.tags.items()):
        try:
            options = json.loads(text) if text.startswith("{") else None
        except ValueError:
            options = None
        shown = text if options is None else ", ".join(f"{k}: {v}" for k, v in options.items())
        yield name.removeprefix("GEORSR_").lower().replace("_", " "), shown or "defaults"
