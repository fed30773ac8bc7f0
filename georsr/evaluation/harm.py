"""Measure harm without truth: rough flat ground, overshoot, and detail the source does not fix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from georsr.config import SRConfig
from georsr.errors import UsageError
from georsr.evaluation.edges import flat_blocks
from georsr.inference.array import predict_array
from georsr.inference.blur_and_noise import BLOCK, split_blocks
from georsr.inference.model_bands import open_for_model, with_bands_of_output
from georsr.io.reader import choose_normalization, open_raster
from georsr.models.arrays import enlarge_bicubic
from georsr.models.io import Model, open_model
from georsr.radiometry.degradation import bicubic_downsample
from georsr.reports import read_output_tags
from georsr.window import AnyArray, Window

RUN_SIZE = 128
"""Height and width, in source pixels, of the part that the model is run on."""
ADDED_NOISE = 1 / 255
"""Standard deviation of the noise that is added, as a fraction of the range the network sees."""
BORDER = 8
"""Source pixels along the edges of that part that do not count: tiles end there."""
RATIO_LIMITS = 1.05, 1.3
"""Roughness and noise gain up to which an output is good, and fair; bicubic has 1."""
OVERSHOOT_LIMITS = 3.0, 10.0
"""Percent of contrast, likewise; a true finer image of real scenes has 3 and more at scale 4."""
UNSTEADY_LIMITS = 5.0, 10.0
"""Percent of energy, likewise; bicubic has 0."""


def verdict(value: float, limits: tuple[float, float]) -> str:
    """Return ``good`` up to the first limit, ``fair`` up to the second, else ``poor``.

    A value that is NaN, which was not measured, has an empty verdict.
    """
    if math.isnan(value):
        return ""
    return "good" if value <= limits[0] else "fair" if value <= limits[1] else "poor"


@dataclass(frozen=True)
class HarmFigure:
    """One figure of harm, and what it is judged by."""

    name: str
    value: float
    """NaN if it could not be measured."""
    bicubic: float
    """The same figure of bicubic interpolation."""
    unit: str
    limits: tuple[float, float]
    """Largest good value, largest fair value."""
    excess: str
    """What a larger value has too much of."""


@dataclass(frozen=True)
class HarmReport:
    """What an output may have made worse than bicubic interpolation."""

    roughness: float
    """Variation on flat ground over that of bicubic; NaN without flat ground."""
    overshoot: float
    bicubic_overshoot: float
    """How far pixels of the output, and of bicubic, go beyond the source pixels around them, in
    percent of the range of these; NaN where they have no range."""
    noise_gain: float
    """Change on flat ground by noise added to the source, over the change of bicubic; NaN if not
    measured."""
    unsteady: float
    """Percent of the energy finer than the source's pixels that rotated, mirrored and shifted
    copies of the source do not reproduce; NaN if not measured."""
    missing: str
    """Reason why the last two were not measured; empty if they were."""

    def figures(self) -> list[HarmFigure]:
        """Return the figures that were asked for."""
        ratio = "x bicubic's", RATIO_LIMITS
        contrast = "% of contrast", OVERSHOOT_LIMITS
        energy = "% of energy", UNSTEADY_LIMITS
        bicubic = self.bicubic_overshoot
        figures = [
            HarmFigure(
                "roughness of flat ground", self.roughness, 1, *ratio, "the added roughness"
            ),
            HarmFigure(
                "overshoot beyond the source", self.overshoot, bicubic, *contrast, "the overshoot"
            ),
        ]
        if not self.missing:
            noise = "the amplification of noise"
            change = "the change of fine detail if the source is turned or shifted"
            figures += [
                HarmFigure("gain of noise on flat ground", self.noise_gain, 1, *ratio, noise),
                HarmFigure("unsteady fine detail", self.unsteady, 0, *energy, change),
            ]
        return figures

    def describe(self) -> str:
        """Return a text table."""
        heading = f"{'harm':<30}{'':>8}{'bicubic':>9}  {'unit':<15}"
        lines = [f"{heading}verdict  (good up to, fair up to)"]
        for each in self.figures():
            text = "-" if math.isnan(each.value) else f"{each.value:.3f}"
            good, fair = each.limits
            lines.append(
                f"{each.name:<30}{text:>8}{each.bicubic:9.3f}  {each.unit:<15}"
                f"{verdict(each.value, each.limits) or '-':<9}({good:g}, {fair:g})"
            )
        if self.missing:
            lines.append(f"gain of noise, unsteady detail: not measured: {self.missing}")
        return "\n".join(lines)


def measure_model(output: str, source: str, bidx: Sequence[int] | None) -> tuple[float, float]:
    """Return noise gain and unsteady detail of the bundled model of an output.

    It is run with the options of the output on a part of the source; ``bidx`` are the source's
    bands, in the output's order, None: all.

    Raises
    ------
    UsageError
        The model is not a bundled one, or the middle of the source is too small or not valid.
    """
    with open_raster(output) as reader:
        model, config = model_of_output(reader.info.path, reader.info.tags.get("", {}), bidx)
    with open_for_model(source, model, config) as (reader, model):
        height, width = (min(RUN_SIZE, n) for n in (reader.info.height, reader.info.width))
        top, left = (reader.info.height - height) // 2, (reader.info.width - width) // 2
        block = reader.read(Window(top, left, height, width))
        stretch = choose_normalization(reader, config.stretch)
    if min(height, width) < 4 * BLOCK or not block.valid.all():
        raise UsageError(f"{source}: its middle has invalid pixels, or less than {4 * BLOCK} rows")
    fixed = replace(config, stretch=stretch.to_stretch(), dtype="float32")
    values = block.values.astype(np.float32)
    ranges = stretch.scale_difference(np.ones((len(values), 1, 1), np.float32))
    return noise_gain(values, ranges, model, fixed), unsteady_detail(values, model, fixed)


def model_of_output(
    path: str, tags: Mapping[str, str], bidx: Sequence[int] | None
) -> tuple[Model, SRConfig]:
    """Open the bundled model that made an output; return it with the options of the output.

    ``path`` is for messages; ``bidx`` are the bands of the source that the output has, None: all.

    Raises
    ------
    UsageError
        The tags do not name a bundled model, or its weights were others.
    """
    recorded = read_output_tags(path, tags)
    config = recorded.config(aoi="")  # the area is not needed
    model = open_model(recorded.shipped_model())
    recorded.check(model.sha256)
    return model, with_bands_of_output(config, bidx)


def noise_gain(values: AnyArray, ranges: AnyArray, model: Model, config: SRConfig) -> float:
    """Measure how much noise a model passes on, on flat ground, against bicubic interpolation.

    White noise of `ADDED_NOISE` is added to the source. What that changes in the output is compared
    with what it changes in bicubic interpolation: unlike the variation of an output, this separates
    noise from texture.

    Parameters
    ----------
    values
        (C, h, w) float32, all valid.
    ranges
        (C, 1, 1), the range that the network sees as 0..1.
    model, config
        Model to run, and its options.

    Returns
    -------
    float
        Ratio of the standard deviations of the two changes; NaN without flat ground.
    """
    noise = np.random.default_rng(0).normal(0, ADDED_NOISE, values.shape).astype(np.float32)
    noisy = values + noise * ranges
    scale = model.spec.scale
    change = predict_array(noisy, None, model, config) - predict_array(values, None, model, config)
    baseline, noisy_baseline = bicubic(values, scale), bicubic(noisy, scale)
    everywhere = np.ones(baseline.shape[1:], bool)
    flat = flat_blocks((baseline / ranges).mean(0), everywhere, scale)
    if not flat.any():
        return math.nan
    energy, bicubic_energy = (
        np.square([split_blocks(band, BLOCK * scale)[flat] for band in difference / ranges]).mean()
        for difference in (change, noisy_baseline - baseline)
    )
    return float(np.sqrt(energy / bicubic_energy))


def unsteady_detail(values: AnyArray, model: Model, config: SRConfig) -> float:
    """Measure the percentage of the finest energy that depends on the source's orientation.

    The model is run on the source, (C, h, w) float32 and all valid, as it is, rotated by 180
    degrees, mirrored at its diagonal and shifted by one pixel; the results are transformed back.
    Detail of the ground appears in all of them, detail that a network makes of noise differs. A
    fixed symmetric filter has 0, results without anything in common have 100.

    Returns
    -------
    float
        Variance of the results over their energy, of what the source's pixels cannot hold, in
        percent; NaN without such energy.
    """
    scale = model.spec.scale

    def run(source: AnyArray) -> AnyArray:
        return predict_array(np.ascontiguousarray(source), None, model, config)

    shifted = np.roll(values, (1, 1), (1, 2))
    results = [
        run(values),
        run(values[:, ::-1, ::-1])[:, ::-1, ::-1],
        run(values.swapaxes(1, 2)).swapaxes(1, 2),
        np.roll(run(shifted), (-scale, -scale), (1, 2)),
    ]
    inside = (slice(None), *(slice(BORDER * scale, -BORDER * scale),) * 2)
    fine = np.stack([fine_detail(np.ascontiguousarray(each), scale)[inside] for each in results])
    energy = np.square(fine, dtype=np.float64).mean()
    variance = np.var(fine, axis=0, ddof=1, dtype=np.float64).mean()
    level = float(np.abs(values).max())
    return float(100 * variance / energy) if energy > (1e-5 * level) ** 2 else math.nan


def fine_detail(image: AnyArray, scale: int) -> AnyArray:
    """Return an image minus its downsampled version, enlarged again: (C, s * h, s * w)."""
    return np.asarray(image - bicubic(bicubic_downsample(image, scale), scale))


def bicubic(values: AnyArray, scale: int) -> AnyArray:
    """Enlarge (C, h, w) by bicubic interpolation: (C, s * h, s * w) float32."""
    enlarged: AnyArray = enlarge_bicubic(values.astype(np.float32)[None], scale)[0]
    return enlarged
