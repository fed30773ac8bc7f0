"""Comparing a super-resolved raster with the truth, both georeferenced.

Consistency: does the product, degraded again, give its source back?

Masks: how far from invalid pixels a pixel lies.

The value range that PSNR and SSIM refer to.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from georsr.api import super_resolve
from georsr.errors import InputError, UsageError
from georsr.evaluation.accumulators import MetricAccumulator
from georsr.evaluation.metrics import SSIM_WINDOW
from georsr.evaluation.registration import (
    common_windows,
    phase_shift,
    scale_between,
    spread_windows,
)
from georsr.io.metadata import RasterInfo
from georsr.io.reader import RasterReader, open_raster
from georsr.radiometry.degradation import (
    BicubicDegradation,
    Degradation,
    SensorDegradation,
    bicubic_downsample,
    blur_and_sample,
    sharpened,
)
from georsr.radiometry.kernels import Kernel, psf_sigma
from georsr.redact import redact_url
from georsr.window import AnyArray, BoolArray, FloatArray, Window


def erode_mask(valid: BoolArray, reach: int, *, border: bool = True) -> BoolArray:
    """Pixels without an invalid one in the square of ``reach`` pixels round them.

    Parameters
    ----------
    valid
        (..., h, w).
    reach
        Pixels to each side.
    border
        Whether what lies beyond the image counts as valid.
    """
    frame = [(0, 0)] * (valid.ndim - 2) + [(reach, reach)] * 2
    grown = np.pad(valid, frame, constant_values=border)
    for axis in (-2, -1):
        windows = np.lib.stride_tricks.sliding_window_view(grown, 2 * reach + 1, axis=axis)
        grown = np.asarray(windows.all(-1))
    return grown


def data_range(reader: RasterReader) -> float:
    """255 for uint8, else highest minus lowest value of a sample of the raster."""
    if reader.info.dtype == "uint8":
        return 255.0
    sample = reader.sample()
    values = sample.values[sample.valid]
    return (float(values.max()) - float(values.min()) if values.size else 0.0) or 1.0


CONSISTENCY_BLOCK = 128
"""Source rows and columns compared at a time."""


@dataclass(frozen=True)
class Consistency:
    """Difference of the degraded product from the source, in the rasters' units."""

    degradation: str
    pixels: int
    """Source pixels compared, in the band that has most."""
    mae: tuple[float, ...]
    """Per band, mean absolute difference."""
    psnr: tuple[float, ...]
    """Per band, dB."""

    @property
    def mean(self) -> float:
        """Mean absolute difference over all bands."""
        return float(np.mean(self.mae))

    def describe(self) -> str:
        """A line for people."""
        return (
            f"consistency with the source ({self.degradation}): mean absolute difference "
            f"{self.mean:.4g}, PSNR {np.mean(self.psnr):.2f} dB"
        )


@dataclass(frozen=True)
class LinearDegradation:
    """The deterministic, linear part of a degradation, for values in any units."""

    name: str
    apply: Callable[[AnyArray, int], AnyArray]
    """(C, H, W), scale -> (C, H / scale, W / scale)."""
    margin: int
    """Source pixels beyond a block that it depends on."""


def linear_degradation(degradation: Degradation | Kernel, scale: int) -> LinearDegradation:
    """What a degradation does without noise, quantisation and coding; or a kernel.

    Raises
    ------
    UsageError
        A degradation whose blur is not known, or is drawn from a range.
    """
    if isinstance(degradation, Kernel):
        return LinearDegradation(
            f"kernel {degradation}", degradation.shrink, degradation.radius(scale)
        )
    if isinstance(degradation, BicubicDegradation):
        return LinearDegradation("bicubic", bicubic_downsample, degradation.margin(scale) // scale)
    if isinstance(degradation, SensorDegradation) and degradation.system_is_fixed:
        mtf, sharpen = degradation.mtf[0], degradation.sharpen[0]
        sigma = psf_sigma(mtf, scale, degradation.pixel)

        def shrink(image: FloatArray, scale: int) -> FloatArray:
            return sharpened(blur_and_sample(image, scale, sigma, degradation.pixel), sharpen)

        name = f"sensor model, MTF {mtf:g} at Nyquist" + (
            f", sharpened by {sharpen:g}" if sharpen else ""
        )
        return LinearDegradation(name, shrink, degradation.margin(scale) // scale)
    raise UsageError(
        f"degradation {degradation.describe()}: rasters need bicubic, or a sensor of one MTF "
        "(sensor,mtf=0.2)"
    )


def measure_consistency(
    sr: RasterReader, lr: RasterReader, degradation: Degradation | Kernel
) -> Consistency:
    """Compare a product, degraded, with its source, block by block.

    Where the source holds whole numbers the degraded product is rounded like it, so that a
    product that explains its source exactly has the difference 0. A source pixel counts where
    it is valid and so is everything under its kernel.

    Raises
    ------
    UsageError
        Sizes, grids or bands do not belong together.
    InputError
        No source pixel can be compared in some band.
    """
    scale = scale_between(sr.info, lr.info)
    if sr.info.count != lr.info.count:
        raise UsageError(
            f"{sr.info.path} has {sr.info.count} bands, {lr.info.path} {lr.info.count}; "
            "choose the bands of the source with --bidx"
        )
    shrink = linear_degradation(degradation, scale)
    absolute, squares, pixels = np.zeros((3, lr.info.count))
    for block in _blocks(lr.info):
        source = lr.read(block)
        shrunk, good = _degraded(sr, block, shrink, scale)
        if lr.info.dtype.startswith(("int", "uint")):
            shrunk = np.rint(shrunk)
        good &= source.valid
        difference = np.where(good, shrunk - np.where(good, source.values, 0), 0.0)
        absolute += np.abs(difference).sum((1, 2))
        squares += np.square(difference).sum((1, 2))
        pixels += good.sum((1, 2))
    if not pixels.all():
        raise InputError(f"{sr.info.path} and {lr.info.path} share no valid pixel in some band")
    peak = data_range(lr)
    mse = squares / pixels
    return Consistency(
        degradation=shrink.name,
        pixels=int(pixels.max()),
        mae=tuple(float(v) for v in absolute / pixels),
        psnr=tuple(10 * math.log10(peak**2 / m) if m > 0 else math.inf for m in mse),
    )


def _blocks(info: RasterInfo) -> Iterator[Window]:
    for top in range(0, info.height, CONSISTENCY_BLOCK):
        for left in range(0, info.width, CONSISTENCY_BLOCK):
            rows, columns = (
                min(CONSISTENCY_BLOCK, info.height - top),
                min(CONSISTENCY_BLOCK, info.width - left),
            )
            yield Window(top, left, rows, columns)


def _degraded(
    sr: RasterReader, block: Window, shrink: LinearDegradation, scale: int
) -> tuple[AnyArray, BoolArray]:
    """The product degraded to a block of the source, and where all under the kernel is valid."""
    whole = Window(0, 0, sr.info.height // scale, sr.info.width // scale)
    around = block.grow(shrink.margin).intersection(whole) or block
    patch = sr.read(around.scaled(scale))
    shrunk = shrink.apply(np.where(patch.valid, patch.values, 0).astype(np.float32), scale)
    kept = (slice(None), *block.relative_to(around).slices)
    return shrunk[kept].astype(np.float64), _fully_valid(patch.valid, scale, shrink)[kept]


def _fully_valid(valid: BoolArray, scale: int, shrink: LinearDegradation) -> BoolArray:
    """Source pixels without an invalid product pixel within reach of the kernel."""
    bands, height, width = valid.shape
    cells = valid.reshape(bands, height // scale, scale, width // scale, scale)
    return erode_mask(np.asarray(cells.all((2, 4))), shrink.margin)


METRICS_BLOCK = 512
"""Rows and columns compared at a time: memory does not grow with the rasters."""
SHIFT_WINDOW = 256
SHIFT_WINDOWS = 4
"""Shift is the median over this many windows of that many pixels along each axis."""
SCALE_TAG = "GEORSR_SCALE"


@dataclass(frozen=True)
class ComparisonReport:
    """How far one raster is from another, over the pixels valid in both."""

    sr: str
    hr: str
    pixels: int
    peak: float
    """Value range that PSNR and SSIM refer to."""
    psnr: tuple[float, ...]
    """Per band, dB."""
    mean_psnr: float
    ssim: tuple[float, ...]
    """Per band, over windows without an invalid pixel; NaN where there is none."""
    rmse: tuple[float, ...]
    """Per band, in the rasters' units."""
    bias: tuple[float, ...]
    """Per band, mean of SR - HR."""
    sam: float
    """Mean spectral angle in degrees; NaN below three bands."""
    ergas: float
    """NaN below three bands, or where the scale is not known."""
    scale: float | None
    """That ERGAS and the shift were measured with."""
    shift: tuple[float, float]
    """Of SR against HR, (down, right) in pixels, mean of the bands; NaN if no window is valid."""
    consistency: Consistency | None = None
    """With the source, where one was given."""

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def describe(self) -> str:
        """A table for people."""
        lines = [
            f"{self.sr} against {self.hr}: {self.pixels} pixels, peak {self.peak:g}",
            f"{'band':<6}{'PSNR dB':>10}{'SSIM':>9}{'RMSE':>12}{'bias':>12}",
        ]
        rows = zip(self.psnr, self.ssim, self.rmse, self.bias, strict=True)
        lines += [
            f"{i:<6}{p:10.3f}{s:9.4f}{r:12.4g}{b:12.3g}" for i, (p, s, r, b) in enumerate(rows, 1)
        ]
        lines.append(f"{'mean':<6}{self.mean_psnr:10.3f}")
        if not math.isnan(self.sam):
            unknown = "; ERGAS needs --lr or --scale"
            ergas = unknown if self.scale is None else f", ERGAS {self.ergas:.4g} (x{self.scale:g})"
            lines.append(f"spectral angle {self.sam:.4g} degrees{ergas}")
        if not math.isnan(self.shift[0]):
            down, right = self.shift
            lines.append(f"shift {down:+.3f} pixels down, {right:+.3f} right")
        if self.consistency is not None:
            lines.append(self.consistency.describe())
        return "\n".join(lines)


def compare(sr_path: str, hr_path: str, *, scale: float | None = None) -> ComparisonReport:
    """Measure a raster against another on the same grid, where both are valid.

    Parameters
    ----------
    sr_path, hr_path
        The product and the truth; either may cover more ground than the other.
    scale
        How many times finer the product is than its source: for ERGAS, and to keep what the
        source could not hold out of the shift. None reads the tag georsr leaves in its products.

    Raises
    ------
    UsageError
        They differ in CRS, grid or number of bands.
    InputError
        They do not overlap or share no valid pixel.
    """
    with open_raster(sr_path) as sr, open_raster(hr_path) as hr:
        if sr.info.count != hr.info.count:
            raise UsageError(f"{sr_path} has {sr.info.count} bands, {hr_path} has {hr.info.count}")
        scale = scale or declared_scale(sr)
        ours, theirs = common_windows(sr.info, hr.info)
        sums = _sums(sr, hr, ours, theirs)
        shift = _shift(sr, hr, ours, theirs, scale or 1.0)
    psnr = sums.psnr()
    return ComparisonReport(
        sr=sr.info.path,
        hr=hr.info.path,
        pixels=int(sums.pixels.max()),
        peak=sums.peak,
        psnr=psnr,
        mean_psnr=float(np.mean(psnr)),
        ssim=tuple(float(v) for v in sums.ssim()),
        rmse=tuple(float(v) for v in sums.rmse()),
        bias=tuple(float(v) for v in sums.bias()),
        sam=sums.spectral_angle(),
        ergas=sums.ergas(scale),
        scale=scale,
        shift=shift,
    )


def declared_scale(reader: RasterReader) -> float | None:
    """The factor a product of georsr says it was enlarged by."""
    text = reader.info.tags.get("", {}).get(SCALE_TAG, "")
    return float(text) if re.fullmatch("[1-9][0-9]?", text) else None


def _sums(sr: RasterReader, hr: RasterReader, ours: Window, theirs: Window) -> MetricAccumulator:
    sums = MetricAccumulator(sr.info.count, data_range(hr))
    new = (slice(None), slice(0, METRICS_BLOCK), slice(0, METRICS_BLOCK))
    more = SSIM_WINDOW - 1  # than the step: each window of SSIM then lies in one block
    for top in range(0, ours.height, METRICS_BLOCK):
        for left in range(0, ours.width, METRICS_BLOCK):
            rows = min(METRICS_BLOCK + more, ours.height - top)
            block = Window(top, left, rows, min(METRICS_BLOCK + more, ours.width - left))
            a, b = sr.read(_inside(ours, block)), hr.read(_inside(theirs, block))
            both = a.valid & b.valid
            sums.add_pixels(a.values[new], b.values[new], both[new])
            sums.add_windows(a.values, b.values, both)
    if not sums.pixels.all():
        raise InputError(f"{sr.info.path} and {hr.info.path} share no valid pixel in some band")
    return sums


def _shift(
    sr: RasterReader, hr: RasterReader, ours: Window, theirs: Window, scale: float
) -> tuple[float, float]:
    """Median over windows without an invalid pixel."""
    found = []
    for part in spread_windows(ours.height, ours.width, SHIFT_WINDOW, SHIFT_WINDOWS):
        if min(part.height, part.width) < 32:
            continue
        a, b = sr.read(_inside(ours, part)), hr.read(_inside(theirs, part))
        if a.valid.all() and b.valid.all():
            found.append(phase_shift(a.values.mean(0), b.values.mean(0), scale))
    shifts = np.array([each for each in found if not math.isnan(each[0])])
    if not len(shifts):
        return math.nan, math.nan
    down, right = np.median(shifts, axis=0)
    return float(down), float(right)


def _inside(window: Window, part: Window) -> Window:
    return Window(window.top + part.top, window.left + part.left, part.height, part.width)


def compare_bicubic(
    lr_path: str,
    sr_path: str,
    hr_path: str,
    *,
    bidx: Sequence[int] | None = None,
    degradation: Degradation | None = None,
) -> ComparisonReport:
    """What bicubic enlargement of the source would have scored in place of ``sr_path``.

    Parameters
    ----------
    lr_path
        The raster that ``sr_path`` was made from.
    sr_path, hr_path
        As for :func:`compare`; the first gives the scale.
    bidx, degradation
        As for :func:`compare_with_source`.

    Raises
    ------
    UsageError
        The SR raster's size is not a multiple of the source's.
    """
    with open_raster(sr_path) as sr, open_raster(lr_path, indexes=bidx) as lr:
        scale = scale_between(sr.info, lr.info)
    with tempfile.TemporaryDirectory() as folder:
        product = str(Path(folder) / "bicubic.tif")
        super_resolve(lr_path, product, "bicubic", scale, indexes=tuple(bidx) if bidx else None)
        report = compare_with_source(product, hr_path, lr_path, bidx=bidx, degradation=degradation)
    return replace(report, sr=redact_url(f"bicubic of {lr_path}"))


def compare_with_source(
    sr_path: str,
    hr_path: str,
    lr_path: str,
    *,
    bidx: Sequence[int] | None = None,
    degradation: Degradation | None = None,
) -> ComparisonReport:
    """As :func:`compare`, and measure consistency with the raster SR was made from.

    Parameters
    ----------
    sr_path, hr_path
        As for :func:`compare`.
    lr_path
        The source of ``sr_path``; it gives the scale.
    bidx
        Bands of the source, in the product's order; None: all.
    degradation
        From the truth to the source; None: bicubic.

    Raises
    ------
    UsageError, InputError
        As for :func:`compare`, and where source and product do not belong together.
    """
    with open_raster(sr_path) as sr, open_raster(lr_path, indexes=bidx) as lr:
        scale = scale_between(sr.info, lr.info)
        consistency = measure_consistency(sr, lr, degradation or BicubicDegradation())
    return replace(compare(sr_path, hr_path, scale=scale), consistency=consistency)
