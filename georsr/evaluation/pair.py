"""Comparing a super-resolved raster with the truth, both georeferenced."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.raster.info import RasterInfo
from georsr.raster.reader import RasterReader, open_raster
from georsr.types import Window

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
    """Value range the PSNR refers to."""
    psnr: tuple[float, ...]
    """Per band, dB."""
    mean_psnr: float
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
            f"{'band':<6}{'PSNR dB':>10}{'RMSE':>12}{'bias':>12}",
        ]
        rows = zip(self.psnr, self.rmse, self.bias, strict=True)
        lines += [f"{i:<6}{p:10.3f}{r:12.4g}{b:12.3g}" for i, (p, r, b) in enumerate(rows, 1)]
        return "\n".join([*lines, f"{'mean':<6}{self.mean_psnr:10.3f}"])


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
    """Measure PSNR, RMSE and bias of two rasters on one grid, where both are valid.

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
        squares = np.zeros(sr.info.count)
        sums = np.zeros(sr.info.count)
        counts = np.zeros(sr.info.count, np.int64)
        for top in range(area.top, area.bottom, STRIP):
            strip = Window(top, area.left, min(STRIP, area.bottom - top), area.width)
            theirs = hr.read(strip)
            ours = sr.read(Window(top - row, area.left - column, strip.height, strip.width))
            both = ours.valid & theirs.valid
            difference = np.where(both, ours.values.astype(float) - theirs.values, 0.0)
            squares += np.square(difference).sum((1, 2))
            sums += difference.sum((1, 2))
            counts += both.sum((1, 2))
        if not counts.all():
            raise InputError(f"{sr_path} and {hr_path} share no valid pixel in some band")
        peak = _peak(hr.info, hr)
    mse = squares / counts
    psnr = tuple(10 * math.log10(peak**2 / m) if m > 0 else math.inf for m in mse)
    return PairReport(
        sr=sr_path,
        hr=hr_path,
        pixels=int(counts.max()),
        peak=peak,
        psnr=psnr,
        mean_psnr=float(np.mean(psnr)),
        rmse=tuple(float(v) for v in np.sqrt(mse)),
        bias=tuple(float(v) for v in sums / counts),
    )
