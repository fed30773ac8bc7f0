"""The quality of one product as an HTML page that needs nothing but itself."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from string import Template

import numpy as np

from georsr.evaluation.chart import overlaid
from georsr.evaluation.exhibits import data_uri
from georsr.evaluation.html import STYLE, row, terms
from georsr.evaluation.quicklook import Tones, busiest_windows, enlarged, quicklook, tones_of
from georsr.evaluation.trust import TrustReport
from georsr.raster.reader import open_raster
from georsr.redact import redact_url
from georsr.types import AnyArray, Window

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


def take_pictures(report: TrustReport, layers: str | None = None) -> Pictures:
    """Read what the page shows.

    Parameters
    ----------
    report
        Of the product.
    layers
        Path of quality layers; None: none.
    """
    with open_raster(report.source, bidx=report.bidx) as lr, open_raster(report.product) as sr:
        tones = tones_of(lr)
        crops = []
        for window in busiest_windows(lr, CROP, CROPS):
            patch = lr.read(window)
            s = report.scale
            crops.append(
                Crop(
                    window,
                    tones.picture(patch).repeat(s, 1).repeat(s, 2),
                    tones.picture(enlarged(patch, s)),
                    tones.picture(sr.read(window.scaled(s))),
                )
            )
        looks = quicklook(lr, tones), quicklook(sr, tones)
    if layers is None:
        return Pictures(*looks, tuple(crops))
    with open_raster(layers, bidx=(1,)) as reader:
        sample = reader.sample()
        good = sample.values[sample.valid]
        top = float(np.percentile(good, 98)) if good.size else 1.0
        error = 255 - quicklook(reader, Tones((0, 0, 0), (0.0,) * 3, (top or 1.0,) * 3))
    return Pictures(*looks, tuple(crops), error, top)


def trust_page(report: TrustReport, pictures: Pictures) -> str:
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


def _summary(report: TrustReport) -> Iterable[tuple[str, str]]:
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


def _bands(report: TrustReport) -> str:
    head = ["band", "mean before", "after", "std. dev. before", "after", "consistency", "PSNR dB"]
    rows = [row(head, "th")]
    for number, each in enumerate(report.histograms):
        numbers = (*each.means, *each.deviations, report.consistency.mae[number])
        psnr = f"{report.consistency.psnr[number]:.2f}"
        rows.append(row([each.band, *(f"{value:.5g}" for value in numbers), psnr]))
    return f"<table>{''.join(rows)}</table>"


def _scene(report: TrustReport) -> str:
    if report.scene is None:
        return "<p>not measured: no part of the scene is large enough</p>"
    return f'<div class="wide"><pre>{html.escape(report.scene.describe())}</pre></div>'


def _made(report: TrustReport) -> Iterable[tuple[str, str]]:
    for name, text in sorted(report.tags.items()):
        try:
            told = json.loads(text) if text.startswith("{") else None
        except ValueError:
            told = None
        shown = text if told is None else ", ".join(f"{k}: {v}" for k, v in told.items())
        yield name.removeprefix("GEORSR_").lower().replace("_", " "), shown or "defaults"
