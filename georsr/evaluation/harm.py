"""Harm without truth: grains on flat ground, overshoot, and detail that the input does not fix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from georsr.config import SRConfig
from georsr.errors import GeorsrError, UsageError
from georsr.evaluation.edges import flat_blocks
from georsr.evaluation.reports.figures import bicubic_patch
from georsr.inference.array import predict_array
from georsr.inference.kernel_estimation import BLOCK, split_blocks
from georsr.io.reader import open_raster
from georsr.models.io import Model, open_model
from georsr.radiometry.degradation import bicubic_downsample
from georsr.radiometry.normalization import choose_normalization
from georsr.reports import read_output_tags
from georsr.window import AnyArray, PixelBlock, Window

if TYPE_CHECKING:
    from georsr.evaluation.no_reference import Sharpness

SIDE = 128
"""Height and width, in source pixels, of the part that the model is run on."""
NOISE = 1 / 255
"""Standard deviation of the noise that is added, of the range that the network sees."""
MARGIN = 8
"""Source pixels along the edges of that part that do not count: they differ because of the edge."""
ROUGH = 1.05
"""Roughness and noise gain up to here are as good as bicubic's."""


@dataclass(frozen=True)
class HarmReport:
    """What a product may have made worse than bicubic interpolation."""

    roughness: float
    """Variation on flat ground over that of bicubic; NaN where there is no flat ground."""
    overshoot: float
    """How far pixels go beyond the source pixels round them, percent of the range of these; NaN
    where they have none."""
    bicubic_overshoot: float
    """That of bicubic."""
    noise_gain: float
    """Change by noise added to the source, on flat ground, over that of bicubic; NaN if not
    measured."""
    unsteady: float
    """Percent of the energy finer than the source's pixels that turned, mirrored and moved copies
    of the source do not give back; NaN if not measured."""
    missing: str
    """Why the last two were not measured; empty if they were."""

    def describe(self) -> str:
        """A table for people."""
        rows = [
            ("roughness of flat ground", self.roughness, "x bicubic's", f"at most {ROUGH}"),
            (
                "overshoot beyond the source",
                self.overshoot,
                "% of contrast",
                f"bicubic's {self.bicubic_overshoot:.3f}; sharper products have more",
            ),
        ]
        if not self.missing:
            rows += [
                (
                    "gain of noise on flat ground",
                    self.noise_gain,
                    "x bicubic's",
                    f"at most {ROUGH}",
                ),
                ("unsteady fine detail", self.unsteady, "% of energy", "0; lower is better"),
            ]
        lines = [f"{'harm':<30}{'':>10}  {'unit':<15}good"]
        for name, value, unit, good in rows:
            shown = "-" if math.isnan(value) else f"{value:.3f}"
            lines.append(f"{name:<30}{shown:>10}  {unit:<15}{good}")
        if self.missing:
            lines.append(f"gain of noise, unsteady detail: not measured: {self.missing}")
        return "\n".join(lines)


def measure_harm(
    product: str,
    source: str,
    plain: Sharpness,
    ours: Sharpness,
    *,
    bidx: Sequence[int] | None = None,
    run: bool = True,
) -> HarmReport:
    """Measure what a product may have made worse than bicubic interpolation.

    Parameters
    ----------
    product, source
        Paths.
    plain, ours
        What was measured of bicubic interpolation of the source, and of the product.
    bidx
        Bands of the source, in the product's order; None: all.
    run
        Run the product's model on a part of the source, if the product says that a bundled one
        made it.
    """
    gain = unsteady = math.nan
    missing = "" if run else "not asked for"
    if run:
        try:
            gain, unsteady = _measure_model(product, source, bidx)
        except GeorsrError as error:
            missing = str(error)
    return HarmReport(ours.noise_ratio, ours.beyond, plain.beyond, gain, unsteady, missing)


def _measure_model(product: str, source: str, bidx: Sequence[int] | None) -> tuple[float, float]:
    """Noise gain and unsteady detail of the model that made a product, with its options."""
    with open_raster(product) as made:
        origin = read_output_tags(made.info.path, made.info.tags.get("", {}))
    config = origin.config(aoi="")
    model = open_model(origin.shipped_model())
    origin.check(model.sha256)
    with open_raster(source, indexes=bidx) as reader:
        height, width = (min(SIDE, n) for n in (reader.info.height, reader.info.width))
        top, left = (reader.info.height - height) // 2, (reader.info.width - width) // 2
        patch = reader.read(Window(top, left, height, width))
        stretch = choose_normalization(reader, config.stretch)
    if min(height, width) < 4 * BLOCK or not patch.valid.all():
        raise UsageError(f"{source}: its middle has invalid pixels, or less than {4 * BLOCK} rows")
    # a constant band has no range of its own to give
    limits = [(a, b if b > a else a + 1) for a, b in zip(stretch.lo, stretch.hi, strict=True)]
    told = ";".join(f"{a},{b}" for a, b in limits)
    fixed = origin.config(aoi="", stretch=told, dtype="float32")
    values = patch.values.astype(np.float32)
    spans = np.array([high - low for low, high in limits], np.float32)[:, None, None]
    return noise_gain(values, spans, model, fixed), unsteady_detail(values, model, fixed)


def noise_gain(values: AnyArray, spans: AnyArray, model: Model, config: SRConfig) -> float:
    """How much noise a model passes on, on flat ground, against bicubic interpolation.

    White noise of `NOISE` is added to the source, and what that changes in the product is compared
    with what it changes in bicubic interpolation: unlike the variation of a product this tells
    noise from texture.

    Parameters
    ----------
    values
        (C, h, w) float32, all valid.
    spans
        (C, 1, 1), the range that the network sees as 0..1.
    model, config
        What is run, and how.

    Returns
    -------
    float
        Standard deviation of the one change over that of the other; NaN without flat ground.
    """
    drawn = np.random.default_rng(0).normal(0, NOISE, values.shape).astype(np.float32)
    noisy = values + drawn * spans
    s = model.spec.scale
    plain, plain_noisy = (_bicubic(each, s) for each in (values, noisy))
    change = (
        predict_array(noisy, None, model, config) - predict_array(values, None, model, config)
    ) / spans
    flat = flat_blocks((plain / spans).mean(0), np.ones(plain.shape[1:], bool), s)
    if not flat.any():
        return math.nan
    ours, theirs = (
        np.square([split_blocks(band, BLOCK * s)[flat] for band in each]).mean()
        for each in (change, (plain_noisy - plain) / spans)
    )
    return float(np.sqrt(ours / theirs))


def unsteady_detail(values: AnyArray, model: Model, config: SRConfig) -> float:
    """Percent of the finest energy that depends on how the source lies to the network.

    The model is asked for the source as it is, turned by 180 degrees, mirrored at its diagonal and
    moved by one pixel; the answers are turned back. What ground has, all of them show; what a
    network makes up of noise differs. Any fixed symmetric filter has 0, answers without anything
    in common 100.

    Parameters
    ----------
    values
        (C, h, w) float32, all valid.
    model, config
        What is run, and how.

    Returns
    -------
    float
        Variance of the answers over their energy, beyond what the source's pixels can carry, in
        percent; NaN where there is none.
    """
    s = model.spec.scale

    def run(source: AnyArray) -> AnyArray:
        return predict_array(np.ascontiguousarray(source), None, model, config)

    moved = np.roll(values, (1, 1), (1, 2))
    answers = [
        run(values),
        run(values[:, ::-1, ::-1])[:, ::-1, ::-1],
        run(values.swapaxes(1, 2)).swapaxes(1, 2),
        np.roll(run(moved), (-s, -s), (1, 2)),
    ]
    inside = (slice(None), *(slice(MARGIN * s, -MARGIN * s),) * 2)
    fine = np.stack([_finest(np.ascontiguousarray(each), s)[inside] for each in answers])
    energy = np.square(fine, dtype=np.float64).mean()
    variance = np.var(fine, axis=0, ddof=1, dtype=np.float64).mean()
    level = float(np.abs(values).max())
    return float(100 * variance / energy) if energy > (1e-5 * level) ** 2 else math.nan


def _finest(image: AnyArray, scale: int) -> AnyArray:
    """What enlarging the shrunk image does not give back."""
    return np.asarray(image - _bicubic(bicubic_downsample(image, scale), scale))


def _bicubic(values: AnyArray, scale: int) -> AnyArray:
    return bicubic_patch(PixelBlock(values, np.ones(values.shape, bool), None), scale).values
