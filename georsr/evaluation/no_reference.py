"""A product without truth: how sharp, how ringing and how noisy it is, beside bicubic."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from georsr.errors import InputError, UsageError
from georsr.evaluation.edges import find_edges, flat_blocks, measure_edges, plane_residual
from georsr.evaluation.full_reference import (
    Consistency,
    declared_scale,
    erode_mask,
    measure_consistency,
)
from georsr.evaluation.harm import HarmReport, measure_harm
from georsr.evaluation.metrics import radial_power
from georsr.evaluation.registration import scale_between, spread_windows
from georsr.inference.kernel_estimation import BLOCK
from georsr.io.reader import RasterReader, open_raster
from georsr.models.interpolation import Bicubic
from georsr.radiometry.degradation import BicubicDegradation, Degradation
from georsr.radiometry.kernels import Kernel
from georsr.window import AnyArray, BoolArray, PixelBlock

WINDOW = 256
"""Height and width of what is looked at at a time, in source pixels."""
WINDOWS = 5
"""Most windows along each axis, spread over the raster."""
SPECTRUM = 128
"""Height and width, in source pixels, of the part of a window whose spectrum is taken."""
RINGS = 32


@dataclass(frozen=True)
class Sharpness:
    """Medians over a scene; lengths in source pixels, noise in the raster's units."""

    product: str
    edge_width: float
    """10-90 % rise distance across straight edges."""
    edge_width_quartiles: tuple[float, float]
    edge_ratio: float
    """Width over that of the same edge in bicubic; NaN without a source."""
    overshoot: float
    """Ringing at those edges, percent of their step."""
    noise: float
    """Standard deviation on flat ground, after a plane is taken away."""
    noise_ratio: float
    """To that of bicubic on the same blocks; NaN without a source."""
    beyond: float
    """How far pixels go beyond the extremes of the 3 x 3 source pixels round them, percent of the
    range between these, means over all pixels; NaN without a source."""
    power: tuple[float, ...]
    """Radially averaged power spectral density."""


@dataclass(frozen=True)
class NoReferenceReport:
    """What can be said of a product without truth."""

    sr: str
    lr: str | None
    scale: int
    edges: int
    """Measured in every product alike."""
    flat_blocks: int
    frequency: tuple[float, ...]
    """Of the power spectra, cycles per source pixel: 0.5 is the source's Nyquist frequency."""
    products: tuple[Sharpness, ...]
    consistency: Consistency | None
    harm: HarmReport | None
    """None without a source."""

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def describe(self) -> str:
        """A table for people."""
        width = max(len(each.product) for each in self.products) + 2
        lines = [
            f"{self.sr}: x{self.scale}, no truth; {self.edges} straight edges, "
            f"{self.flat_blocks} flat blocks (lengths in source pixels)",
            f"{'':<{width}}{'10-90 % width':>14}{'quartiles':>16}{'/ bicubic':>11}"
            f"{'overshoot %':>13}{'noise':>10}{'/ bicubic':>11}",
        ]
        for each in self.products:
            low, high = each.edge_width_quartiles
            lines.append(
                f"{each.product:<{width}}{each.edge_width:14.3f}{f'{low:.2f} .. {high:.2f}':>16}"
                f"{each.edge_ratio:11.3f}{each.overshoot:13.2f}{each.noise:10.4g}"
                f"{each.noise_ratio:11.3f}"
            )
        if self.consistency is not None:
            lines.append(self.consistency.describe())
        if self.harm is not None:
            lines += ["", self.harm.describe()]
        return "\n".join(lines)


@dataclass
class _Results:
    """What the windows of one product add up to."""

    edges: list[AnyArray] = field(default_factory=list)
    noise: list[AnyArray] = field(default_factory=list)
    beyond: list[AnyArray] = field(default_factory=list)
    power: list[AnyArray] = field(default_factory=list)

    def all_edges(self) -> AnyArray:
        """(n, 2) width and overshoot."""
        return np.concatenate([np.empty((0, 2)), *self.edges])

    def all_noise(self) -> AnyArray:
        """(n,) standard deviation of each flat block."""
        return np.concatenate([np.empty(0), *self.noise])

    def share_beyond(self) -> float:
        """Percent of the range; NaN where there is none."""
        excess, contrast = np.sum([np.zeros(2), *self.beyond], axis=0)
        return float(100 * excess / contrast) if contrast > 0 else math.nan


@dataclass(frozen=True)
class _Window:
    """One window: the mean of the bands on the source's grid and in every product."""

    source: AnyArray
    products: dict[str, AnyArray]
    valid: BoolArray
    """On the source's grid: valid in all bands of everything."""


def measure_no_reference(
    sr_path: str,
    lr_path: str | None = None,
    *,
    scale: int | None = None,
    bidx: Sequence[int] | None = None,
    degradation: Degradation | Kernel | None = None,
    run: bool = False,
) -> NoReferenceReport:
    """Measure the sharpness, ringing and noise of a product that has no truth to compare with.

    Straight edges are found in the source and their widths measured, at the same places, in the
    product and in the bicubic enlargement of the source: a product that resolves more has the
    smaller width; one that only exaggerates contrast has the larger overshoot; one that takes
    noise for detail has a noise ratio above one. Where a scene has no flat ground, the flattest
    there is holds texture, and the ratio speaks of that too. All are measured on the mean of the
    bands; bands that lie apart widen the edges of every product alike.

    Parameters
    ----------
    sr_path
        The product.
    lr_path
        What it was made from. Without it, edges are found in the product averaged down, and there
        is no bicubic to compare with.
    scale
        Of a product without source; None reads the tag georsr leaves in its products.
    bidx
        Bands of the source, in the product's order; None: all.
    degradation
        For consistency with the source, a kernel will do; None: bicubic.
    run
        Run the product's model on a part of the source, for the figures of harm that need it.

    Raises
    ------
    UsageError
        Source and product do not belong together, or the scale is not known.
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
        with open_raster(lr_path, indexes=bidx) as lr:
            consistency = measure_consistency(sr, lr, degradation or BicubicDegradation())
            report = _report(sr, lr, scale_between(sr.info, lr.info), consistency)
    harm = measure_harm(sr_path, lr_path, *report.products, bidx=bidx, run=run)
    return replace(report, harm=harm)


def _report(
    sr: RasterReader, lr: RasterReader | None, scale: int, consistency: Consistency | None
) -> NoReferenceReport:
    names = [sr.info.path] if lr is None else [f"bicubic of {lr.info.path}", sr.info.path]
    findings = {name: _Results() for name in names}
    for view in _views(sr, lr, scale):
        _measure(view, findings, scale)
    if not any(each.noise or each.edges for each in findings.values()):
        raise InputError(f"{sr.info.path}: no window with valid pixels to look at")
    reference = findings[names[0]]
    products = tuple(
        _figures(name, findings[name], reference if lr is not None else None) for name in names
    )
    frequency, _ = radial_power(np.zeros((8, 8)), RINGS)
    return NoReferenceReport(
        sr=sr.info.path,
        lr=None if lr is None else lr.info.path,
        scale=scale,
        edges=len(reference.all_edges()),
        flat_blocks=len(reference.all_noise()),
        frequency=tuple(float(f * scale) for f in frequency),
        products=products,
        consistency=consistency,
        harm=None,
    )


def _views(sr: RasterReader, lr: RasterReader | None, scale: int) -> Iterator[_Window]:
    height, width = sr.info.height // scale, sr.info.width // scale
    for window in spread_windows(height, width, WINDOW, WINDOWS):
        product = sr.read(window.scaled(scale))
        image, good = _grey(product)
        cells = image.reshape(window.height, scale, window.width, scale)
        valid = np.asarray(good.reshape(cells.shape).all((1, 3)))
        if lr is None:
            yield _Window(cells.mean((1, 3)), {sr.info.path: image}, valid)
            continue
        source, known = _grey(lr.read(window))
        products = {
            f"bicubic of {lr.info.path}": _enlarged(source, scale),
            sr.info.path: image,
        }
        yield _Window(source, products, valid & known)


def _grey(patch: PixelBlock) -> tuple[AnyArray, BoolArray]:
    """Mean of the bands, zero where any of them is invalid, and where all are valid."""
    valid = np.asarray(patch.valid.all(0))
    values = np.where(patch.valid, patch.values, 0).astype(np.float64)
    return np.where(valid, values.mean(0), 0.0), valid


def _enlarged(source: AnyArray, scale: int) -> AnyArray:
    with torch.inference_mode():
        x = torch.from_numpy(source.astype(np.float32))[None, None]
        return np.asarray(Bicubic(scale)(x)[0, 0].double().numpy())


def _measure(view: _Window, findings: dict[str, _Results], scale: int) -> None:
    """Measure one window in every product."""
    edges = find_edges(view.source, view.valid)
    measured = {n: measure_edges(image, edges, scale) for n, image in view.products.items()}
    everywhere = np.all([np.isfinite(each).all(1) for each in measured.values()], axis=0)
    clear = erode_mask(view.valid, 2)  # where the bicubic kernel meets no invalid pixel
    fine = clear.repeat(scale, 0).repeat(scale, 1)
    flat = flat_blocks(next(iter(view.products.values())), fine, scale)
    middle = _middle(view.valid, scale)
    inner = erode_mask(view.valid, 2, border=False)  # bicubic continues a window's edge by itself
    for name, image in view.products.items():
        if len(edges):
            findings[name].edges.append(measured[name][everywhere])
        if flat.any():
            findings[name].noise.append(plane_residual(image, BLOCK * scale)[flat])
        findings[name].beyond.append(_beyond(image, view.source, scale, inner))
        if middle is not None:
            findings[name].power.append(radial_power(image[middle], RINGS)[1])


def _beyond(image: AnyArray, source: AnyArray, scale: int, counted: BoolArray) -> AnyArray:
    """Sums over a window: what goes beyond the 3 x 3 source pixels round, and their range, (2,)."""
    padded = np.pad(source, 1, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    low, high, fine = (
        each.repeat(scale, 0).repeat(scale, 1)
        for each in (around.min((2, 3)), around.max((2, 3)), counted)
    )
    excess = np.maximum(np.maximum(image - high, low - image), 0)
    return np.array([excess[fine].sum(), (high - low)[fine].sum()])


def _middle(valid: BoolArray, scale: int) -> tuple[slice, slice] | None:
    """The part of a window whose spectrum is taken: large enough and without invalid pixels."""
    height, width = valid.shape
    if min(height, width) < SPECTRUM:
        return None
    top, left = (height - SPECTRUM) // 2, (width - SPECTRUM) // 2
    rows, columns = slice(top, top + SPECTRUM), slice(left, left + SPECTRUM)
    if not valid[rows, columns].all():
        return None
    return (
        slice(rows.start * scale, rows.stop * scale),
        slice(columns.start * scale, columns.stop * scale),
    )


def _figures(name: str, found: _Results, bicubic: _Results | None) -> Sharpness:
    edges, noise = found.all_edges(), found.all_noise()
    quartiles = np.percentile(edges[:, 0], (25, 75)) if len(edges) else (math.nan, math.nan)
    edge_ratio = noise_ratio = math.nan
    if bicubic is not None:
        edge_ratio = _median(edges[:, 0] / bicubic.all_edges()[:, 0])
        noise_ratio = _median(noise / bicubic.all_noise())
    return Sharpness(
        product=name,
        edge_width=_median(edges[:, 0]),
        edge_width_quartiles=(float(quartiles[0]), float(quartiles[1])),
        edge_ratio=edge_ratio,
        overshoot=_median(edges[:, 1]),
        noise=_median(noise),
        noise_ratio=noise_ratio,
        beyond=math.nan if bicubic is None else found.share_beyond(),
        power=tuple(float(p) for p in np.mean(found.power, axis=0)) if found.power else (),
    )


def _median(values: AnyArray) -> float:
    return float(np.median(values)) if values.size else math.nan
