"""Comparing a super-resolved raster with the truth, both georeferenced."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from georsr.api import super_resolve
from georsr.errors import InputError, UsageError
from georsr.evaluation.metrics import SSIM_WINDOW, gaussian_filter, ssim_map
from georsr.raster.info import RasterInfo
from georsr.raster.reader import RasterReader, open_raster
from georsr.types import AnyArray, BoolArray, Window

STRIP = 256
"""Rows compared at a time: memory does not grow with the height."""
TOLERANCE = 0.01
"""Of a pixel: how far grids may lie apart."""


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
        return "\n".join([*lines, f"{'mean':<6}{self.mean_psnr:10.3f}"])


class _Sums:
    """Running sums over strips, per band."""

    def __init__(self, bands: int) -> None:
        self.squares, self.differences, self.structure = np.zeros((3, bands))
        self.pixels, self.windows = np.zeros((2, bands), np.int64)

    def add_pixels(self, difference: AnyArray, both: BoolArray) -> None:
        """Add (C, h, w) differences where ``both`` are valid."""
        kept = np.where(both, difference, 0.0)
        self.squares += np.square(kept).sum((1, 2))
        self.differences += kept.sum((1, 2))
        self.pixels += both.sum((1, 2))

    def add_windows(self, ours: AnyArray, theirs: AnyArray, both: BoolArray, peak: float) -> None:
        """Add the SSIM of every window of (C, h, w) without an invalid pixel."""
        if min(ours.shape[1:]) < SSIM_WINDOW:
            return
        similar = ssim_map(np.where(both, ours, 0.0), np.where(both, theirs, 0.0), peak)
        whole = gaussian_filter(both.astype(np.float64)) > 1 - 1e-9
        self.structure += np.where(whole, similar, 0.0).sum((1, 2))
        self.windows += whole.sum((1, 2))


def _offset(sr: RasterInfo, hr: RasterInfo) -> tuple[int, int]:
    """(rows, columns) of the SR raster's corner inside the HR raster's grid."""
    if sr.crs != hr.crs:
        raise UsageError(f"{sr.path} and {hr.path} differ in CRS: {sr.crs} and {hr.crs}")
    if sr.transform is None or hr.transform is None:
        if (sr.height, sr.width) != (hr.height, hr.width):
            raise UsageError(
                f"{sr.path} ({sr.width} x {sr.height}) and {hr.path} ({hr.width} x {hr.height}) "
                "differ in size and have no geotransform to align them by"
            )
        return 0, 0
    to_hr = ~hr.transform @ sr.transform
    column, row = to_hr.c, to_hr.f
    skew = max(abs(to_hr.a - 1) * sr.width, abs(to_hr.b) * sr.height)
    skew = max(skew, abs(to_hr.e - 1) * sr.height, abs(to_hr.d) * sr.width)
    shift = max(abs(column - round(column)), abs(row - round(row)))
    if skew > TOLERANCE or shift > TOLERANCE:
        raise UsageError(
            f"{sr.path} and {hr.path} are not on one pixel grid "
            f"(off by {max(skew, shift):.3g} pixels); resample one of them first"
        )
    return round(row), round(column)


def _peak(info: RasterInfo, reader: RasterReader) -> float:
    if info.dtype == "uint8":
        return 255.0
    sample = reader.sample()
    values = sample.values[sample.valid]
    return float(values.max()) - float(values.min()) if values.size else 1.0


def compare_rasters(sr_path: str, hr_path: str) -> PairReport:
    """Measure PSNR, SSIM, RMSE and bias of two rasters on one grid, where both are valid.

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
        row, column = _offset(sr.info, hr.info)
        area = Window(row, column, sr.info.height, sr.info.width).intersection(
            Window(0, 0, hr.info.height, hr.info.width)
        )
        if area is None:
            raise InputError(f"{sr_path} and {hr_path} do not overlap")
        peak = _peak(hr.info, hr)
        sums = _Sums(sr.info.count)
        for top in range(area.top, area.bottom, STRIP):
            # ten rows more than the step: each window of SSIM then lies in one strip
            height = min(STRIP + SSIM_WINDOW - 1, area.bottom - top)
            theirs = hr.read(Window(top, area.left, height, area.width))
            ours = sr.read(Window(top - row, area.left - column, height, area.width))
            both = ours.valid & theirs.valid
            new = slice(0, STRIP)
            difference = ours.values[:, new].astype(float) - theirs.values[:, new]
            sums.add_pixels(difference, both[:, new])
            sums.add_windows(ours.values, theirs.values, both, peak)
        if not sums.pixels.all():
            raise InputError(f"{sr_path} and {hr_path} share no valid pixel in some band")
    mse = sums.squares / sums.pixels
    psnr = tuple(10 * math.log10(peak**2 / m) if m > 0 else math.inf for m in mse)
    similarity = np.where(sums.windows > 0, sums.structure / np.maximum(sums.windows, 1), np.nan)
    return PairReport(
        sr=sr_path,
        hr=hr_path,
        pixels=int(sums.pixels.max()),
        peak=peak,
        psnr=psnr,
        mean_psnr=float(np.mean(psnr)),
        ssim=tuple(float(v) for v in similarity),
        rmse=tuple(float(v) for v in np.sqrt(mse)),
        bias=tuple(float(v) for v in sums.differences / sums.pixels),
    )


def bicubic_of(lr_path: str, sr_path: str, hr_path: str) -> PairReport:
    """What bicubic enlargement of the source would have scored in place of ``sr_path``.

    Parameters
    ----------
    lr_path
        The raster that ``sr_path`` was made from.
    sr_path, hr_path
        As for :func:`compare_rasters`; the first gives the scale.

    Raises
    ------
    UsageError
        The SR raster's size is not a multiple of the source's.
    """
    with open_raster(sr_path) as sr, open_raster(lr_path) as lr:
        scale, rest = divmod(sr.info.width, lr.info.width)
        if rest or sr.info.height != scale * lr.info.height or not 1 <= scale <= 4:
            raise UsageError(
                f"{sr_path} ({sr.info.width} x {sr.info.height}) is not {lr_path} "
                f"({lr.info.width} x {lr.info.height}) enlarged 1 to 4 times"
            )
    with tempfile.TemporaryDirectory() as folder:
        product = str(Path(folder) / "bicubic.tif")
        super_resolve(lr_path, product, "bicubic", scale)
        return replace(compare_rasters(product, hr_path), sr=f"bicubic of {lr_path}")
