"""Compare a super-resolved raster with the truth, and with its source, block by block."""

from __future__ import annotations

import json
import math
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from georsr.api import super_resolve
from georsr.errors import BandWarning, InputError, UsageError, join_lines, redact_url, worded
from georsr.evaluation.metrics import SSIM_WINDOW, MetricAccumulator, psnr_of_mse
from georsr.geo.registration import (
    common_windows,
    phase_shift,
    scale_between,
    window_of_output,
)
from georsr.io.metadata import RasterInfo
from georsr.io.reader import RasterReader, open_raster
from georsr.io.rgb_bands import COLORS, detect_rgb_bands
from georsr.radiometry.degradation import (
    BicubicDegradation,
    Degradation,
    SensorDegradation,
    bicubic_downsample,
    blur_and_sample,
    sharpened,
)
from georsr.radiometry.kernels import Kernel, parse_kernel, psf_sigma
from georsr.radiometry.nodata import erode_mask
from georsr.reports import read_output_tags
from georsr.tiling.grid import spread_windows
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window


def open_source_of(
    sr: RasterReader, path: str, bidx: Sequence[int] | None = None, *, force: bool = False
) -> RasterReader:
    """Open the part of a source that an output covers, with the bands that the output has.

    ``bidx`` are the bands of the source, in the output's order. None takes those that the tags of
    the output name, else finds red, green and blue if the output has three bands of more. ``force``
    is as for `georsr.io.reader.open_raster`.
    """
    reader = open_raster(path, indexes=bidx or _recorded_bands(sr), force=force)
    numbers = None
    if reader.info.count > sr.info.count == len(COLORS):
        with suppress(UsageError):
            rgb_bands = detect_rgb_bands(reader.info)
            numbers = rgb_bands.numbers
            if rgb_bands.note:
                warnings.warn(rgb_bands.note, BandWarning, stacklevel=2)
    window = window_of_output(sr.info, reader.info)
    whole = Window(0, 0, reader.info.height, reader.info.width)
    if numbers is None and window in (None, whole):
        return reader
    with reader:
        part = reader if numbers is None else reader.with_bands(numbers)
        if window in (None, whole):
            return part
        with part:
            return part.cropped(window)


def selected_bands(
    source: RasterReader, bidx: Sequence[int] | None = None
) -> tuple[int, ...] | None:
    """Return the bands of a source that `open_source_of` selected; None if it has no others."""
    indexes = source.info.indexes
    every_band = bidx is None and len(indexes) == len(source.info.selectable_bands)
    return None if every_band else indexes


def _recorded_bands(sr: RasterReader) -> tuple[int, ...] | None:
    """Return the bands of its source that the tags of an output name; None if they name none."""
    tags = sr.info.tags.get("", {})
    if "GEORSR_OPTIONS" not in tags:
        return None
    options = read_output_tags(sr.info.path, tags).config(aoi="")  # the area is not needed
    return None if options.output_bands == "all" else options.indexes


def recorded_kernel(sr: RasterReader) -> Degradation | Kernel:
    """Return the kernel by which an output was made consistent, from its tags.

    It is bicubic if the output was not made consistent, or is a lazy array, whose tags were made
    before the kernel was known.
    """
    recorded = sr.info.tags.get("", {}).get("GEORSR_CONSISTENCY", "off")
    if recorded.startswith("off") or recorded in ("scene", "bicubic"):
        return BicubicDegradation()
    return parse_kernel(recorded)


def data_range(reader: RasterReader) -> float:
    """Return the peak of PSNR and SSIM: 255 for uint8, else the range of a sample of the raster."""
    if reader.info.dtype == "uint8":
        return 255.0
    sample = reader.sample()
    values = sample.values[sample.valid]
    return (float(values.max()) - float(values.min()) if values.size else 0.0) or 1.0


CONSISTENCY_BLOCK = 128
"""Source rows and columns compared at a time."""


@dataclass(frozen=True)
class Consistency:
    """Difference of the degraded output from its source, in the rasters' units."""

    degradation: str
    pixels: int
    """Source pixels compared, in the band that has most of them."""
    mae: tuple[float, ...]
    psnr: tuple[float, ...]
    """Mean absolute difference, and PSNR in dB, of each band."""

    @property
    def mean(self) -> float:
        """Mean absolute difference over all bands."""
        return float(np.mean(self.mae))

    def describe(self) -> str:
        """Return one line of text."""
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
    """Source pixels round a block on which its result depends."""


def linear_degradation(degradation: Degradation | Kernel, scale: int) -> LinearDegradation:
    """Return a degradation without noise, quantisation and coding.

    Raises
    ------
    UsageError
        The blur of the degradation is unknown, or drawn from a range.
    """
    if isinstance(degradation, Kernel):
        return LinearDegradation(
            f"kernel {degradation}", degradation.downsample, degradation.radius(scale)
        )
    if isinstance(degradation, BicubicDegradation):
        return LinearDegradation("bicubic", bicubic_downsample, degradation.margin(scale) // scale)
    if isinstance(degradation, SensorDegradation) and degradation.system_is_fixed:
        mtf, sharpen = degradation.mtf[0], degradation.sharpen[0]
        sigma = psf_sigma(mtf, scale, degradation.pixel)

        def apply(image: FloatArray, scale: int) -> FloatArray:
            return sharpened(blur_and_sample(image, scale, sigma, degradation.pixel), sharpen)

        suffix = f", sharpened by {sharpen:g}" if sharpen else ""
        name = f"sensor model, MTF {mtf:g} at Nyquist{suffix}"
        return LinearDegradation(name, apply, degradation.margin(scale) // scale)
    raise UsageError(
        f"degradation {degradation.describe()}: rasters need bicubic, or a sensor of one MTF "
        "(sensor,mtf=0.2)"
    )


def measure_consistency(
    sr: RasterReader, lr: RasterReader, degradation: Degradation | Kernel
) -> Consistency:
    """Degrade an output and compare it with its source, block by block.

    The degraded output is not rounded, as in the report of a run. A source pixel counts where it is
    valid and so are all output pixels under its kernel.

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
    linear = linear_degradation(degradation, scale)
    absolute, squares, pixels = np.zeros((3, lr.info.count))
    for block in _blocks(lr.info.height, lr.info.width, CONSISTENCY_BLOCK):
        source = lr.read(block)
        degraded, valid = _degraded(sr, block, linear, scale)
        valid &= source.valid
        difference = np.where(valid, degraded - np.where(valid, source.values, 0), 0.0)
        absolute += np.abs(difference).sum((1, 2))
        squares += np.square(difference).sum((1, 2))
        pixels += valid.sum((1, 2))
    if not pixels.all():
        raise InputError(f"{sr.info.path} and {lr.info.path} share no valid pixel in some band")
    peak = data_range(lr)
    mse = squares / pixels
    return Consistency(
        degradation=linear.name,
        pixels=int(pixels.max()),
        mae=tuple(float(v) for v in absolute / pixels),
        psnr=tuple(psnr_of_mse(m, peak) for m in mse),
    )


def _blocks(height: int, width: int, size: int, overlap: int = 0) -> Iterator[Window]:
    """Yield the blocks of a raster; each reaches ``overlap`` pixels into the next ones."""
    for top in range(0, height, size):
        for left in range(0, width, size):
            rows, columns = (min(size + overlap, n) for n in (height - top, width - left))
            yield Window(top, left, rows, columns)


def _degraded(
    sr: RasterReader, block: Window, linear: LinearDegradation, scale: int
) -> tuple[AnyArray, BoolArray]:
    """Degrade the output under a block of the source; True where it depends on valid pixels."""
    full = Window(0, 0, sr.info.height // scale, sr.info.width // scale)
    padded = block.grow(linear.margin).intersection(full) or block
    output = sr.read(padded.scaled(scale))
    degraded = linear.apply(np.where(output.valid, output.values, 0).astype(np.float32), scale)
    bands, rows, columns = degraded.shape
    cells = np.asarray(output.valid.reshape(bands, rows, scale, columns, scale).all((2, 4)))
    inside = (slice(None), *block.relative_to(padded).slices)
    return degraded[inside].astype(np.float64), erode_mask(cells, linear.margin)[inside]


METRICS_BLOCK = 512
"""Rows and columns compared at a time: memory does not grow with the rasters."""
SHIFT_WINDOW = 256
SHIFT_WINDOWS = 4
"""The shift is the median over this many windows of that many pixels along each axis."""


@dataclass(frozen=True)
class ComparisonReport:
    """Difference of one raster from another, over the pixels valid in both."""

    sr: str
    hr: str
    """Paths of the output and the truth."""
    pixels: int
    peak: float
    """Value range that PSNR and SSIM refer to."""
    psnr: tuple[float, ...]
    """dB, of each band."""
    mean_psnr: float
    ssim: tuple[float, ...]
    """Mean over the windows of a band without an invalid pixel; NaN without any."""
    rmse: tuple[float, ...]
    bias: tuple[float, ...]
    """Root mean square, and mean, of SR - HR in each band, in the rasters' units."""
    sam: float
    """Mean spectral angle in degrees; NaN below three bands."""
    ergas: float
    """NaN below three bands, or if the scale is not known."""
    scale: float | None
    """Scale that ERGAS and the shift were measured with."""
    shift: tuple[float, float]
    """Shift of SR against HR, (down, right) in pixels, of the mean of the bands; NaN if no window
    is valid."""
    consistency: Consistency | None = None
    """Consistency with the source, where one was given."""

    def to_json(self) -> str:
        """Return indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def describe(self) -> str:
        """Return a text table."""
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
            unknown = worded("; ERGAS needs --lr or --scale")
            ergas = unknown if self.scale is None else f", ERGAS {self.ergas:.4g} (x{self.scale:g})"
            lines.append(f"spectral angle {self.sam:.4g} degrees{ergas}")
        if not math.isnan(self.shift[0]):
            down, right = self.shift
            lines.append(f"shift {down:+.3f} pixels down, {right:+.3f} right")
        if self.consistency is not None:
            lines.append(self.consistency.describe())
        return join_lines(lines)


def compare(sr_path: str, hr_path: str, *, scale: float | None = None) -> ComparisonReport:
    """Measure a raster against another on the same grid, where both are valid.

    Parameters
    ----------
    sr_path, hr_path
        The output and the truth; either may cover more ground than the other.
    scale
        Ratio of the source's pixel size to the output's, for ERGAS and for the shift, which leaves
        out frequencies that the source cannot hold. None reads the tag that georsr writes.

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
        pair = _CommonPixels(sr, hr)
        sums = pair.accumulate()
        shift = pair.shift(scale or 1.0)
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
    """Return the scale in the tags of an output of georsr; None if there is none."""
    text = reader.info.tags.get("", {}).get("GEORSR_SCALE", "")
    return float(text) if re.fullmatch("[1-9][0-9]?", text) else None


class _CommonPixels:
    """The area that two rasters share."""

    def __init__(self, sr: RasterReader, hr: RasterReader) -> None:
        self.sr, self.hr = sr, hr
        self.sr_window, self.hr_window = common_windows(sr.info, hr.info)
        self.height, self.width = self.sr_window.height, self.sr_window.width

    def read(self, window: Window) -> tuple[PixelBlock, PixelBlock]:
        """Read a window of the common area from both rasters."""
        sr, hr = (window.moved(w.top, w.left) for w in (self.sr_window, self.hr_window))
        return self.sr.read(sr), self.hr.read(hr)

    def accumulate(self) -> MetricAccumulator:
        """Add up all blocks."""
        sums = MetricAccumulator(self.sr.info.count, data_range(self.hr))
        # every window of SSIM is complete in exactly one block; pixels of the overlap count once
        for block in _blocks(self.height, self.width, METRICS_BLOCK, SSIM_WINDOW - 1):
            sr, hr = self.read(block)
            valid = sr.valid & hr.valid
            once = (slice(None), slice(0, METRICS_BLOCK), slice(0, METRICS_BLOCK))
            sums.add_pixels(sr.values[once], hr.values[once], valid[once])
            sums.add_windows(sr.values, hr.values, valid)
        if not sums.pixels.all():
            paths = f"{self.sr.info.path} and {self.hr.info.path}"
            raise InputError(f"{paths} share no valid pixel in some band")
        return sums

    def shift(self, scale: float) -> tuple[float, float]:
        """Return the median shift over windows without an invalid pixel; NaN without any."""
        shifts = []
        for window in spread_windows(self.height, self.width, SHIFT_WINDOW, SHIFT_WINDOWS):
            if min(window.height, window.width) < 32:
                continue
            sr, hr = self.read(window)
            if sr.valid.all() and hr.valid.all():
                shifts.append(phase_shift(sr.values.mean(0), hr.values.mean(0), scale))
        shifts = [shift for shift in shifts if not math.isnan(shift[0])]
        if not shifts:
            return math.nan, math.nan
        down, right = np.median(shifts, axis=0)
        return float(down), float(right)


def compare_with_source(
    sr_path: str,
    hr_path: str,
    lr_path: str,
    *,
    bidx: Sequence[int] | None = None,
    degradation: Degradation | Kernel | None = None,
) -> ComparisonReport:
    """Compare as :func:`compare`, and measure consistency with the source of the output.

    Parameters
    ----------
    sr_path, hr_path
        As for :func:`compare`.
    lr_path
        Source of ``sr_path``; it gives the scale.
    bidx
        Bands of the source, in the output's order; None: all.
    degradation
        From the output to the source; None: the kernel that the output was made consistent by,
        according to its tags, or bicubic.

    Raises
    ------
    UsageError, InputError
        As for :func:`compare`, or source and output do not belong together.
    """
    with open_raster(sr_path) as sr, open_source_of(sr, lr_path, bidx) as lr:
        scale = scale_between(sr.info, lr.info)
        consistency = measure_consistency(sr, lr, degradation or recorded_kernel(sr))
    return replace(compare(sr_path, hr_path, scale=scale), consistency=consistency)


def _bounds(info: RasterInfo) -> tuple[float, float, float, float] | None:
    """Return west, south, east, north; None for a raster that is rotated."""
    assert info.transform is not None, "its part of another raster was found"
    if info.transform.b or info.transform.d:
        return None
    left, top = info.transform @ (0, 0)
    right, bottom = info.transform @ (info.width, info.height)
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def compare_bicubic(
    lr_path: str,
    sr_path: str,
    hr_path: str,
    *,
    bidx: Sequence[int] | None = None,
    degradation: Degradation | Kernel | None = None,
) -> ComparisonReport:
    """Measure the bicubic enlargement of the source as an output with the scale of ``sr_path``.

    Parameters are those of :func:`compare_with_source`.

    Raises
    ------
    UsageError
        The SR raster's size is not a multiple of the source's.
    """
    with open_raster(sr_path) as sr, open_source_of(sr, lr_path, bidx) as lr:
        scale, bands = scale_between(sr.info, lr.info), lr.info.indexes
        is_part = window_of_output(sr.info, lr.info) is not None
        degradation = degradation or recorded_kernel(sr)  # for both, or they do not compare
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "bicubic.tif")
        bounds = _bounds(lr.info) if is_part else None
        super_resolve(lr_path, output, "bicubic", scale, indexes=bands, bounds=bounds)
        report = compare_with_source(output, hr_path, lr_path, bidx=bands, degradation=degradation)
    return replace(report, sr=redact_url(f"bicubic of {lr_path}"))
