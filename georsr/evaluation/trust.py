"""Trust: everything that can be said of a product and its source without knowing the truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from georsr.errors import GeorsrError, UsageError
from georsr.evaluation.alignment import scale_between
from georsr.evaluation.consistency import Consistency, measure_consistency
from georsr.evaluation.quicklook import enlarged
from georsr.evaluation.scene import SceneReport, measure_scene
from georsr.evaluation.seams import SeamReport, measure_seams
from georsr.evaluation.shift import phase_shift
from georsr.kernels import Kernel, parse_kernel
from georsr.models.load import open_model
from georsr.provenance import origin_of
from georsr.raster.guide import find_guide
from georsr.raster.reader import RasterReader, open_raster
from georsr.redact import redact_url
from georsr.types import AnyArray, Window

LOOK = 256
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
class TrustReport:
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
    scene: SceneReport | None
    """Edges, ringing, noise and harm, beside bicubic."""
    histograms: tuple[BandHistogram, ...]

    def to_json(self) -> str:
        """Indented JSON."""
        told = asdict(self) | {n: redact_url(getattr(self, n)) for n in ("source", "product")}
        return json.dumps(told, indent=2)


def measure_trust(
    source: str, product: str, *, bidx: tuple[int, ...] | None = None, seams: bool = True
) -> TrustReport:
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
        with open_raster(source, bidx=bands) as lr:
            scale = scale_between(sr.info, lr.info)
            consistency = measure_consistency(sr, lr, _kernel(tags))
            shift = measure_shift(sr, lr, scale)
            histograms = tuple(_histograms(lr, sr))
    found, missing = _seams(source, product, tags, bands) if seams else (None, "not asked for")
    try:
        scene = measure_scene(product, source, bidx=bands, degradation=_kernel(tags), run=seams)
    except GeorsrError:
        scene = None
    ours = {name: text for name, text in tags.items() if name.startswith("GEORSR_")}
    return TrustReport(
        source, product, bands, scale, ours, shift, consistency, found, missing, scene, histograms
    )


def measure_shift(sr: RasterReader, lr: RasterReader, scale: int) -> tuple[float, float]:
    """How far a product lies below and right of its source: product pixels, by phase correlation.

    On the mean of the bands, against the bicubic enlargement, in the middle of the raster.
    """
    height, width = lr.info.height, lr.info.width
    h, w = min(LOOK, height), min(LOOK, width)
    window = Window((height - h) // 2, (width - w) // 2, h, w)
    ours, theirs = sr.read(window.scaled(scale)), enlarged(lr.read(window), scale)
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
        told = origin_of(product.info.path, tags).config(aoi="")
        if told.bidx is not None and told.bands != "all":
            return told.bidx
    with open_raster(source) as reader:
        if reader.info.count == product.info.count:
            return None
        return find_guide(reader.info).numbers


def _kernel(tags: Mapping[str, str]) -> Kernel:
    """What the product was held to; bicubic where that was nothing."""
    told = tags.get("GEORSR_CONSISTENCY", "off")
    return Kernel("bicubic") if told.startswith("off") else parse_kernel(told)


def _seams(
    source: str, product: str, tags: Mapping[str, str], bidx: tuple[int, ...] | None
) -> tuple[SeamReport | None, str]:
    try:
        origin = origin_of(product, tags)
        model = open_model(origin.shipped_model())
        origin.check(model.sha256)
        return measure_seams(source, model, bidx=bidx), ""
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
