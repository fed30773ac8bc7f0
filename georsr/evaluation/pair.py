"""Comparing a super-resolved raster with the truth, both georeferenced."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from georsr.api import super_resolve
from georsr.errors import InputError, UsageError
from georsr.evaluation.alignment import common_windows, scale_between, spread_windows
from georsr.evaluation.consistency import Consistency, measure_consistency
from georsr.evaluation.metrics import SSIM_WINDOW
from georsr.evaluation.peak import peak_of
from georsr.evaluation.running import PairSums
from georsr.evaluation.shift import phase_shift
from georsr.raster.reader import RasterReader, open_raster
from georsr.redact import redact_url
from georsr.training.data.degrade import Bicubic, Degradation
from georsr.types import Window

BLOCK = 512
"""Rows and columns compared at a time: memory does not grow with the rasters."""
SHIFT_WINDOW = 256
SHIFT_WINDOWS = 4
"""Shift is the median over this many windows of that many pixels along each axis."""
SCALE_TAG = "GEORSR_SCALE"


@dataclass(frozen=True)
class PairReport:
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


def compare_rasters(sr_path: str, hr_path: str, *, scale: float | None = None) -> PairReport:
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
    return PairReport(
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


def _sums(sr: RasterReader, hr: RasterReader, ours: Window, theirs: Window) -> PairSums:
    sums = PairSums(sr.info.count, peak_of(hr))
    new = (slice(None), slice(0, BLOCK), slice(0, BLOCK))
    more = SSIM_WINDOW - 1  # than the step: each window of SSIM then lies in one block
    for top in range(0, ours.height, BLOCK):
        for left in range(0, ours.width, BLOCK):
            rows = min(BLOCK + more, ours.height - top)
            block = Window(top, left, rows, min(BLOCK + more, ours.width - left))
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


def bicubic_of(
    lr_path: str,
    sr_path: str,
    hr_path: str,
    *,
    bidx: Sequence[int] | None = None,
    degradation: Degradation | None = None,
) -> PairReport:
    """What bicubic enlargement of the source would have scored in place of ``sr_path``.

    Parameters
    ----------
    lr_path
        The raster that ``sr_path`` was made from.
    sr_path, hr_path
        As for :func:`compare_rasters`; the first gives the scale.
    bidx, degradation
        As for :func:`compare_with_source`.

    Raises
    ------
    UsageError
        The SR raster's size is not a multiple of the source's.
    """
    with open_raster(sr_path) as sr, open_raster(lr_path, bidx=bidx) as lr:
        scale = scale_between(sr.info, lr.info)
    with tempfile.TemporaryDirectory() as folder:
        product = str(Path(folder) / "bicubic.tif")
        super_resolve(lr_path, product, "bicubic", scale, bidx=tuple(bidx) if bidx else None)
        report = compare_with_source(product, hr_path, lr_path, bidx=bidx, degradation=degradation)
    return replace(report, sr=redact_url(f"bicubic of {lr_path}"))


def compare_with_source(
    sr_path: str,
    hr_path: str,
    lr_path: str,
    *,
    bidx: Sequence[int] | None = None,
    degradation: Degradation | None = None,
) -> PairReport:
    """As :func:`compare_rasters`, and measure consistency with the raster SR was made from.

    Parameters
    ----------
    sr_path, hr_path
        As for :func:`compare_rasters`.
    lr_path
        The source of ``sr_path``; it gives the scale.
    bidx
        Bands of the source, in the product's order; None: all.
    degradation
        From the truth to the source; None: bicubic.

    Raises
    ------
    UsageError, InputError
        As for :func:`compare_rasters`, and where source and product do not belong together.
    """
    with open_raster(sr_path) as sr, open_raster(lr_path, bidx=bidx) as lr:
        scale = scale_between(sr.info, lr.info)
        consistency = measure_consistency(sr, lr, degradation or Bicubic())
    return replace(compare_rasters(sr_path, hr_path, scale=scale), consistency=consistency)
