"""Trust: everything that can be said of a product and its source without knowing the truth.

The quality of one product as an HTML page that needs nothing but itself.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from string import Template

import numpy as np

from georsr.errors import GeorsrError, UsageError
from georsr.evaluation.full_reference import Consistency, measure_consistency
from georsr.evaluation.no_reference import NoReferenceReport, measure_no_reference
from georsr.evaluation.registration import phase_shift, scale_between
from georsr.evaluation.reports.benchmark_report import data_uri
from georsr.evaluation.reports.figures import (
    STYLE,
    DisplayStretch,
    bicubic_patch,
    display_stretch,
    high_contrast_windows,
    overlaid,
    quicklook,
    row,
    terms,
)
from georsr.evaluation.seams import SeamReport, measure_seams
from georsr.io.band_roles import detect_rgb_bands
from georsr.io.reader import RasterReader, open_raster
from georsr.models.io import open_model
from georsr.radiometry.kernels import Kernel, parse_kernel
from georsr.redact import redact_url
from georsr.reports import read_output_tags
from georsr.window import AnyArray, Window

SAMPLE_PIXELS = 256
"""Height and width, in source pixels, of the windows whose shift is measured."""
BINS = 64


@dataclass(frozen=True)
class BandHistogram:
    """Values of one band before and after."""

    band: str
    edges: tuple[float, ...]
    before: tuple[float, ...]
    """Share of the source's valid pixels in each bin."""
    after: tuple[float, ...]
    """Share of the product's."""
    means: tuple[float, float]
    deviations: tuple[float, float]


@dataclass(frozen=True)
class OutputReport:
    """What was measured; lengths in product pixels unless said otherwise."""

    source: str
    product: str
    bidx: tuple[int, ...] | None
    """Bands of the source."""
    scale: int
    tags: dict[str, str]
    """What the product says of how it was made."""
    shift: tuple[float, float]
    """Down and right, against the bicubic enlargement; NaN where there is nothing to see."""
    consistency: Consistency
    seams: SeamReport | None
    seams_missing: str
    """Why there is no figure of seams."""
    scene: NoReferenceReport | None
    """Edges, ringing, noise and harm, beside bicubic."""
    histograms: tuple[BandHistogram, ...]

    def to_json(self) -> str:
        """Indented JSON."""
        told = asdict(self) | {n: redact_url(getattr(self, n)) for n in ("source", "product")}
        return json.dumps(told, indent=2)


def report_output(
    source: str, product: str, *, bidx: tuple[int, ...] | None = None, seams: bool = True
) -> OutputReport:
    """Measure a product against its source.

    Parameters
    ----------
    source, product
        Paths.
    bidx
        Bands of the source; None takes those that the product's tags tell.
    seams
        Run the model again on a part of the source, to see what depends on its tiles and on how
        the source lies, and what it makes of noise.

    Raises
    ------
    UsageError
        They do not belong together.
    """
    with open_raster(product) as sr:
        tags = dict(sr.info.tags.get("", {}))
        bands = bidx or _bands_of(source, sr, tags)
        with open_raster(source, indexes=bands) as lr:
            scale = scale_between(sr.info, lr.info)
            consistency = measure_consistency(sr, lr, _kernel(tags))
            shift = measure_shift(sr, lr, scale)
            histograms = tuple(_histograms(lr, sr))
    found, missing = _seams(source, product, tags, bands) if seams else (None, "not asked for")
    try:
        scene = measure_no_reference(
            product, source, bidx=bands, degradation=_kernel(tags), run=seams
        )
    except GeorsrError:
        scene = None
    ours = {name: text for name, text in tags.items() if name.startswith("GEORSR_")}
    return OutputReport(
        source, product, bands, scale, ours, shift, consistency, found, missing, scene, histograms
    )


def measure_shift(sr: RasterReader, lr: RasterReader, scale: int) -> tuple[float, float]:
    """How far a product lies below and right of its source: product pixels, by phase correlation.

    On the mean of the bands, against the bicubic enlargement, in the middle of the raster.
    """
    height, width = lr.info.height, lr.info.width
    h, w = min(SAMPLE_PIXELS, height), min(SAMPLE_PIXELS, width)
    window = Window((height - h) // 2, (width - w) // 2, h, w)
    ours, theirs = sr.read(window.scaled(scale)), bicubic_patch(lr.read(window), scale)
    both = ours.valid & theirs.valid
    if min(h, w) * scale < 16 or not both.any():
        return math.nan, math.nan
    pictures = [np.where(both, each.values, 0).mean(0, dtype=np.float64) for each in (ours, theirs)]
    return phase_shift(pictures[0], pictures[1], scale)


def _bands_of(
    source: str, product: RasterReader, tags: Mapping[str, str]
) -> tuple[int, ...] | None:
    """Bands of the source that became the product's, in their order; None: all of them."""
    if "GEORSR_OPTIONS" in tags:
        told = read_output_tags(product.info.path, tags).config(aoi="")
        if told.indexes is not None and told.output_bands != "all":
            return told.indexes
    with open_raster(source) as reader:
        if reader.info.count == product.info.count:
            return None
        return detect_rgb_bands(reader.info).numbers


def _kernel(tags: Mapping[str, str]) -> Kernel:
    """What the product was held to; bicubic where that was nothing."""
    told = tags.get("GEORSR_CONSISTENCY", "off")
    return Kernel("bicubic") if told.startswith("off") else parse_kernel(told)


def _seams(
    source: str, product: str, tags: Mapping[str, str], bidx: tuple[int, ...] | None
) -> tuple[SeamReport | None, str]:
    try:
        origin = read_output_tags(product, tags)
        model = open_model(origin.shipped_model())
        origin.check(model.sha256)
        return measure_seams(source, model, indexes=bidx), ""
    except UsageError as error:
        return None, str(error)


def _histograms(lr: RasterReader, sr: RasterReader) -> list[BandHistogram]:
    samples = [reader.sample() for reader in (lr, sr)]
    found = []
    for number, label in enumerate(lr.info.band_labels()):
        values = [s.values[number][s.valid[number]].astype(np.float64) for s in samples]
        if not all(v.size for v in values):
            continue
        edges = _edges(values, lr.info.dtype)
        shares = [np.histogram(v, edges)[0] / v.size for v in values]
        found.append(
            BandHistogram(
                label,
                tuple(map(float, edges)),
                tuple(map(float, shares[0])),
                tuple(map(float, shares[1])),
                (float(values[0].mean()), float(values[1].mean())),
                (float(values[0].std()), float(values[1].std())),
            )
        )
    return found


def _edges(values: Sequence[AnyArray], dtype: str) -> AnyArray:
    """Bins over nearly all of both sets of values; of whole numbers each holds equally many."""
    limits = np.array([np.percentile(v, (0.1, 99.9)) for v in values])
    low, high = float(limits[:, 0].min()), float(limits[:, 1].max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    if np.dtype(dtype).kind == "f":
        return np.linspace(low, high, BINS + 1)
    step = max(1, math.ceil((high - low + 1) / BINS))
    return np.arange(math.floor(low) - 0.5, math.ceil(high) + step, step)


CROP, CROPS = 48, 3
"""Side of a crop in source pixels, and how many are shown."""
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$style
.looks figure { width: auto; max-width: 480px; } .looks img { width: 480px; max-width: 100%; }
.swipe { position: relative; width: 432px; max-width: 100%; aspect-ratio: 1; overflow: hidden;
         background: #eee; --cut: 50%; }
.swipe img { position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: pixelated; }
.swipe img.over { clip-path: inset(0 calc(100% - var(--cut)) 0 0); }
.swipe::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut);
                width: 2px; margin-left: -1px; background: #fff; box-shadow: 0 0 3px #000; }
.swipe input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
               cursor: ew-resize; z-index: 1; }
.swipe input:focus-visible { opacity: .4; }
figure.swiped { width: 432px; max-width: 100%; }
svg path.before { stroke: #c46a1b; stroke-width: 1.5; } svg path.after { stroke: #2a5da8;
  stroke-width: 1.5; } .before { color: #a4540f; } .after { color: #2a5da8; }
p.warn { background: #fff6e0; border-left: 4px solid #e0a200; padding: .5rem .8rem; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="note">$subtitle</p>
<p class="warn">The product contains synthesised detail that was not measured: it is plausible, not
observed.</p>
<h2>Summary</h2>
<dl>$summary</dl>
<h2>Quick-looks</h2>
<div class="panels looks">$looks</div>
<h2>Crops</h2>
<p class="note">Drag, or use the arrow keys: left of the line the first picture, right of it the
product.</p>
<div class="panels">$crops</div>
<h2>Histograms</h2>
<p class="note"><span class="before">before (source)</span>,
<span class="after">after (product)</span>: share of the valid pixels.</p>
$histograms
<div class="wide">$bands</div>
<h2>Sharpness, ringing and noise</h2>
$scene
<h2>How it was made</h2>
<dl>$made</dl>
</body>
</html>
""")


@dataclass(frozen=True)
class Crop:
    """One part of the scene, three times: (3, n, n) uint8."""

    window: Window
    """In source pixels."""
    source: AnyArray
    bicubic: AnyArray
    product: AnyArray


@dataclass(frozen=True)
class Pictures:
    """What is shown of a product."""

    source: AnyArray
    product: AnyArray
    crops: tuple[Crop, ...]
    error: AnyArray | None = None
    """Expected error, where there are layers."""
    error_top: float = 0.0
    """What is darkest in it, in the source's units."""


def collect_images(report: OutputReport, layers: str | None = None) -> Pictures:
    """Read what the page shows.

    Parameters
    ----------
    report
        Of the product.
    layers
        Path of quality layers; None: none.
    """
    with open_raster(report.source, indexes=report.bidx) as lr, open_raster(report.product) as sr:
        tones = display_stretch(lr)
        crops = []
        for window in high_contrast_windows(lr, CROP, CROPS):
            patch = lr.read(window)
            s = report.scale
            crops.append(
                Crop(
                    window,
                    tones.picture(patch).repeat(s, 1).repeat(s, 2),
                    tones.picture(bicubic_patch(patch, s)),
                    tones.picture(sr.read(window.scaled(s))),
                )
            )
        looks = quicklook(lr, tones), quicklook(sr, tones)
    if layers is None:
        return Pictures(*looks, tuple(crops))
    with open_raster(layers, indexes=(1,)) as reader:
        sample = reader.sample()
        good = sample.values[sample.valid]
        top = float(np.percentile(good, 98)) if good.size else 1.0
        error = 255 - quicklook(reader, DisplayStretch((0, 0, 0), (0.0,) * 3, (top or 1.0,) * 3))
    return Pictures(*looks, tuple(crops), error, top)


def render_html(report: OutputReport, pictures: Pictures) -> str:
    """The whole page."""
    return PAGE.substitute(
        style=STYLE,
        title=html.escape(redact_url(f"Quality of {report.product}")),
        subtitle=html.escape(redact_url(f"{report.scale} times the resolution of {report.source}")),
        summary=terms(_summary(report)),
        looks="".join(_looks(pictures)),
        crops="".join(_crop(crop, CROP) for crop in pictures.crops)
        or "<p>no part without invalid pixels</p>",
        histograms="".join(
            f"<h3>{html.escape(each.band)}</h3>"
            + overlaid(each.edges, each.before, each.after, f"values of {each.band}")
            for each in report.histograms
        ),
        bands=_bands(report),
        scene=_scene(report),
        made=terms(_made(report)),
    )


def _summary(report: OutputReport) -> Iterable[tuple[str, str]]:
    down, right = report.shift
    moved = "not measurable: nothing to see in the middle of the raster"
    if not math.isnan(down):
        moved = f"{down:+.3f} down, {right:+.3f} right, in product pixels (phase correlation)"
    yield "shift against bicubic", moved
    consistency = report.consistency
    yield (
        "consistency with the source",
        f"|source - product shrunk ({consistency.degradation})| is {consistency.mean:.4g} on "
        f"average, over {consistency.pixels} source pixels",
    )
    if report.seams is None:
        yield "seams", f"not measured: {report.seams_missing}"
    else:
        seams = report.seams
        yield (
            "seams",
            f"moving the grid of tiles by half a tile changes the output by {seams.mean:.4g} on "
            f"average, 99.9 % below {seams.p999:.4g}, at most {seams.maximum:.4g}",
        )


def _looks(pictures: Pictures) -> Iterable[str]:
    yield _figure(pictures.source, "source")
    yield _figure(pictures.product, "product")
    if pictures.error is not None:
        caption = f"expected error: white 0, black {pictures.error_top:.3g} and more"
        yield _figure(pictures.error, caption)


def _figure(image: AnyArray, caption: str) -> str:
    text = html.escape(caption)
    return (
        f'<figure><img src="{data_uri(image)}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _crop(crop: Crop, side: int) -> str:
    place = f"rows {crop.window.top}, columns {crop.window.left} of the source, {side} pixels"
    pairs = (("source, pixels repeated", crop.source), ("bicubic", crop.bicubic))
    return "".join(_swipe(name, image, crop.product, place) for name, image in pairs)


def _swipe(name: str, left: AnyArray, right: AnyArray, place: str) -> str:
    label = html.escape(f"{name} | product")
    return (
        '<figure class="swiped"><div class="swipe">'
        f'<img src="{data_uri(right)}" alt="product">'
        f'<img class="over" src="{data_uri(left)}" alt="{html.escape(name)}">'
        f'<input type="range" min="0" max="100" value="50" aria-label="{label}" '
        "oninput=\"this.parentNode.style.setProperty('--cut', this.value + '%')\"></div>"
        f"<figcaption><b>{label}</b><br>{html.escape(place)}</figcaption></figure>"
    )


def _bands(report: OutputReport) -> str:
    head = ["band", "mean before", "after", "std. dev. before", "after", "consistency", "PSNR dB"]
    rows = [row(head, "th")]
    for number, each in enumerate(report.histograms):
        numbers = (*each.means, *each.deviations, report.consistency.mae[number])
        psnr = f"{report.consistency.psnr[number]:.2f}"
        rows.append(row([each.band, *(f"{value:.5g}" for value in numbers), psnr]))
    return f"<table>{''.join(rows)}</table>"


def _scene(report: OutputReport) -> str:
    if report.scene is None:
        return "<p>not measured: no part of the scene is large enough</p>"
    return f'<div class="wide"><pre>{html.escape(report.scene.describe())}</pre></div>'


def _made(report: OutputReport) -> Iterable[tuple[str, str]]:
    for name, text in sorted(report.tags.items()):
        try:
            told = json.loads(text) if text.startswith("{") else None
        except ValueError:
            told = None
        shown = text if told is None else ", ".join(f"{k}: {v}" for k, v in told.items())
        yield name.removeprefix("GEORSR_").lower().replace("_", " "), shown or "defaults"
