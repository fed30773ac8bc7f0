"""Measure an output without truth: sharpness, ringing and noise, compared with bicubic."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from georsr.errors import GeorsrError, InputError, UsageError, join_lines
from georsr.evaluation.edges import find_edges, flat_blocks, measure_edges, plane_residual
from georsr.evaluation.harm import HarmReport, bicubic, measure_model
from georsr.evaluation.metrics import radial_power
from georsr.evaluation.raster_comparison import (
    Consistency,
    declared_scale,
    measure_consistency,
    open_source_of,
    recorded_kernel,
    selected_bands,
)
from georsr.geo.registration import scale_between
from georsr.inference.blur_and_noise import BLOCK
from georsr.io.reader import RasterReader, open_raster
from georsr.radiometry.degradation import Degradation
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.nodata import erode_mask
from georsr.tiling.grid import spread_windows
from georsr.window import AnyArray, BoolArray, PixelBlock, Window

WINDOW = 256
"""Height and width of the windows that are measured, in source pixels."""
MAX_WINDOWS = 5
"""Most windows along each axis, spread over the raster."""
SPECTRUM_SIZE = 128
"""Height and width, in source pixels, of the part of a window whose spectrum is taken."""
RINGS = 32


@dataclass(frozen=True)
class Sharpness:
    """Medians over a scene; lengths in source pixels, noise in the raster's units."""

    name: str
    """Path of the raster, or ``bicubic of`` that of the source."""
    edge_width: float
    """10-90 % rise distance across straight edges."""
    edge_width_quartiles: tuple[float, float]
    edge_ratio: float
    """Width over that of the same edge in bicubic; NaN without a source."""
    overshoot: float
    """Ringing at those edges, percent of their step."""
    noise: float
    """Standard deviation on flat ground, about a fitted plane."""
    noise_ratio: float
    """Noise over that of bicubic on the same blocks; NaN without a source."""
    beyond: float
    """How far pixels go beyond the extremes of the 3 x 3 source pixels around them, percent of the
    range between these, means over all pixels; NaN without a source."""
    power: tuple[float, ...]
    """Radially averaged power spectral density."""


@dataclass(frozen=True)
class NoReferenceReport:
    """Quality of an output that has no truth."""

    sr: str
    lr: str | None
    """Paths of output and source; ``lr`` is None without a source."""
    scale: int
    edges: int
    flat_blocks: int
    """Numbers of places that were measured, the same in every image."""
    frequency: tuple[float, ...]
    """Frequencies of the power spectra in cycles per source pixel; 0.5 is the source's Nyquist
    frequency."""
    images: tuple[Sharpness, ...]
    """Bicubic, if there is a source, then the output."""
    consistency: Consistency | None
    harm: HarmReport | None
    """None without a source."""

    def to_json(self) -> str:
        """Return indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def describe(self) -> str:
        """Return a text table."""
        width = max(len(image.name) for image in self.images) + 2
        lines = [
            f"{self.sr}: x{self.scale}, no truth; {self.edges} straight edges, "
            f"{self.flat_blocks} flat blocks (lengths in source pixels)",
            f"{'':<{width}}{'10-90 % width':>14}{'quartiles':>16}{'/ bicubic':>11}"
            f"{'overshoot %':>13}{'noise':>10}{'/ bicubic':>11}",
        ]
        for image in self.images:
            low, high = image.edge_width_quartiles
            lines.append(
                f"{image.name:<{width}}{image.edge_width:14.3f}{f'{low:.2f} .. {high:.2f}':>16}"
                f"{image.edge_ratio:11.3f}{image.overshoot:13.2f}{image.noise:10.4g}"
                f"{image.noise_ratio:11.3f}"
            )
        if self.consistency is not None:
            lines.append(self.consistency.describe())
        if self.harm is not None:
            lines += ["", *self.harm.describe().splitlines()]
        return join_lines(lines)


@dataclass
class _Results:
    """Measurements of one image, window by window."""

    edges: list[AnyArray] = field(default_factory=list)
    """(n, 2) width and overshoot."""
    noise: list[AnyArray] = field(default_factory=list)
    """(n,) standard deviation of each flat block."""
    beyond: list[AnyArray] = field(default_factory=list)
    """(2,) sum of the excess, and of the range of the source."""
    power: list[AnyArray] = field(default_factory=list)

    def all_edges(self) -> AnyArray:
        return np.concatenate([np.empty((0, 2)), *self.edges])

    def all_noise(self) -> AnyArray:
        return np.concatenate([np.empty(0), *self.noise])

    def percent_beyond(self) -> float:
        excess, contrast = np.sum([np.zeros(2), *self.beyond], axis=0)
        return float(100 * excess / contrast) if contrast > 0 else math.nan


@dataclass(frozen=True)
class _Window:
    """One window: the mean of the bands of the source and of every image."""

    source: AnyArray
    """(h, w)."""
    images: list[AnyArray]
    """(s * h, s * w): bicubic, if there is a source, then the output."""
    valid: BoolArray
    """(h, w), True where all bands of source and output are valid."""


def measure_no_reference(
    sr_path: str,
    lr_path: str | None = None,
    *,
    scale: int | None = None,
    bidx: Sequence[int] | None = None,
    degradation: Degradation | Kernel | None = None,
    run: bool = False,
) -> NoReferenceReport:
    """Measure the sharpness, ringing and noise of an output that has no truth.

    Straight edges are found in the source. Their widths are measured at the same places in the
    output and in the bicubic enlargement of the source: an output that resolves more has the
    smaller width; one that only exaggerates contrast has the larger overshoot; one that turns
    noise into detail has a noise ratio above one. Where a scene has no flat ground, its flattest
    blocks hold texture, and the ratio includes it. All are measured on the mean of the bands;
    bands that are shifted against each other widen the edges of every image alike.

    Parameters
    ----------
    sr_path
        The output.
    lr_path
        The source of the output. Without it, edges are found in the output averaged down, and
        there is no bicubic to compare with.
    scale
        Scale of an output without source; None reads the tag that georsr writes.
    bidx
        Bands of the source, in the output's order; None: all.
    degradation
        Degradation or kernel for consistency with the source; None: that of the tags of
        the output, or bicubic.
    run
        Run the output's model on a part of the source, for the figures of harm that need it.

    Raises
    ------
    UsageError
        Source and output do not belong together, or the scale is not known.
    InputError
        There is no valid pixel.
    """
    with open_raster(sr_path) as sr:
        if lr_path is None:
            factor = scale or int(declared_scale(sr) or 0)
            if not factor:
                raise UsageError(
                    f"{sr_path}: its scale is not known; give its source (--lr) or --scale"
                )
            return _report(sr, None, factor, None)
        with open_source_of(sr, lr_path, bidx) as lr:
            bands = selected_bands(lr, bidx)
            consistency = measure_consistency(sr, lr, degradation or recorded_kernel(sr))
            report = _report(sr, lr, scale_between(sr.info, lr.info), consistency)
    baseline, output = report.images
    gain, unsteady, missing = math.nan, math.nan, "" if run else "not requested"
    if run:
        try:
            gain, unsteady = measure_model(sr_path, lr_path, bands)
        except GeorsrError as error:
            missing = str(error)
    harm = HarmReport(output.noise_ratio, output.beyond, baseline.beyond, gain, unsteady, missing)
    return replace(report, harm=harm)


def _report(
    sr: RasterReader, lr: RasterReader | None, scale: int, consistency: Consistency | None
) -> NoReferenceReport:
    names = [sr.info.path] if lr is None else [f"bicubic of {lr.info.path}", sr.info.path]
    results = [_Results() for _ in names]
    for window in _windows(sr, lr, scale):
        _measure(window, results, scale)
    if not any(result.noise or result.edges for result in results):
        raise InputError(f"{sr.info.path}: no window with valid pixels to measure")
    reference = results[0]
    frequency, _ = radial_power(np.zeros((8, 8)), RINGS)
    return NoReferenceReport(
        sr=sr.info.path,
        lr=None if lr is None else lr.info.path,
        scale=scale,
        edges=len(reference.all_edges()),
        flat_blocks=len(reference.all_noise()),
        frequency=tuple(float(f * scale) for f in frequency),
        images=tuple(
            _summarize(name, result, None if lr is None else reference)
            for name, result in zip(names, results, strict=True)
        ),
        consistency=consistency,
        harm=None,
    )


def _windows(sr: RasterReader, lr: RasterReader | None, scale: int) -> Iterator[_Window]:
    height, width = sr.info.height // scale, sr.info.width // scale
    for window in spread_windows(height, width, WINDOW, MAX_WINDOWS):
        image, valid = _grey(sr.read(window.scaled(scale)))
        cells = image.reshape(window.height, scale, window.width, scale)
        valid = np.asarray(valid.reshape(cells.shape).all((1, 3)))
        if lr is None:
            yield _Window(cells.mean((1, 3)), [image], valid)
            continue
        source, known = _grey(lr.read(window))
        enlarged = bicubic(source[None], scale)[0].astype(np.float64)
        yield _Window(source, [enlarged, image], valid & known)


def _grey(block: PixelBlock) -> tuple[AnyArray, BoolArray]:
    """Return the mean of the bands, zero where any is invalid, and where all are valid."""
    valid = np.asarray(block.valid.all(0))
    values = np.where(block.valid, block.values, 0).astype(np.float64)
    return np.where(valid, values.mean(0), 0.0), valid


def _measure(window: _Window, results: Sequence[_Results], scale: int) -> None:
    """Measure one window in every image."""
    edges = find_edges(window.source, window.valid)
    measured = [measure_edges(image, edges, scale) for image in window.images]
    in_all = np.isfinite(measured).all((0, 2))
    unaffected = erode_mask(window.valid, 2)  # the bicubic kernel reads no invalid pixel there
    fine = unaffected.repeat(scale, 0).repeat(scale, 1)
    flat = flat_blocks(window.images[0], fine, scale)
    middle = _middle(window.valid, scale)
    inner = erode_mask(window.valid, 2, border=False)  # bicubic extrapolates at a window's edge
    for result, image, widths in zip(results, window.images, measured, strict=True):
        if len(edges):
            result.edges.append(widths[in_all])
        if flat.any():
            result.noise.append(plane_residual(image, BLOCK * scale)[flat])
        result.beyond.append(_beyond(image, window.source, scale, inner))
        if middle is not None:
            result.power.append(radial_power(image[middle], RINGS)[1])


def _beyond(image: AnyArray, source: AnyArray, scale: int, counted: BoolArray) -> AnyArray:
    """Sum over a window what exceeds the 3 x 3 source pixels round, and their range: (2,)."""
    padded = np.pad(source, 1, mode="edge")
    neighbours = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    low, high, fine = (
        values.repeat(scale, 0).repeat(scale, 1)
        for values in (neighbours.min((2, 3)), neighbours.max((2, 3)), counted)
    )
    excess = np.maximum(np.maximum(image - high, low - image), 0)
    return np.array([excess[fine].sum(), (high - low)[fine].sum()])


def _middle(valid: BoolArray, scale: int) -> tuple[slice, slice] | None:
    """Return the output pixels whose spectrum is taken; None if some are invalid or missing."""
    height, width = valid.shape
    size = SPECTRUM_SIZE
    middle = Window((height - size) // 2, (width - size) // 2, size, size)
    if min(height, width) < size or not valid[middle.slices].all():
        return None
    return middle.scaled(scale).slices


def _summarize(name: str, result: _Results, reference: _Results | None) -> Sharpness:
    edges, noise = result.all_edges(), result.all_noise()
    quartiles = np.percentile(edges[:, 0], (25, 75)) if len(edges) else (math.nan, math.nan)
    edge_ratio = noise_ratio = beyond = math.nan
    if reference is not None:
        edge_ratio = _median(edges[:, 0] / reference.all_edges()[:, 0])
        noise_ratio = _median(noise / reference.all_noise())
        beyond = result.percent_beyond()
    return Sharpness(
        name=name,
        edge_width=_median(edges[:, 0]),
        edge_width_quartiles=(float(quartiles[0]), float(quartiles[1])),
        edge_ratio=edge_ratio,
        overshoot=_median(edges[:, 1]),
        noise=_median(noise),
        noise_ratio=noise_ratio,
        beyond=beyond,
        power=tuple(float(p) for p in np.mean(result.power, axis=0)) if result.power else (),
    )


def _median(values: AnyArray) -> float:
    return float(np.median(values)) if values.size else math.nan
