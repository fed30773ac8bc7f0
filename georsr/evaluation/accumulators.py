"""Accumulate image quality metrics over the blocks of a pair of rasters."""

from __future__ import annotations

import math

import numpy as np

from georsr.evaluation.metrics import (
    MIN_SPECTRAL_BANDS,
    SSIM_WINDOW,
    ergas_of,
    gaussian_filter,
    spectral_angles,
    ssim_map,
)
from georsr.window import AnyArray, BoolArray


class MetricAccumulator:
    """Sums over blocks of SR and HR, (C, h, w) each, band by band.

    Parameters
    ----------
    bands
        C.
    peak
        Value range that PSNR and SSIM refer to.
    """

    def __init__(self, bands: int, peak: float) -> None:
        self.peak = peak
        self._squares, self._differences, self._ssim, self._truth = np.zeros((4, bands))
        self.pixels, self._windows = np.zeros((2, bands), np.int64)
        self._angle, self._spectra = 0.0, 0

    def add_pixels(self, sr: AnyArray, hr: AnyArray, valid: BoolArray) -> None:
        """Add the pixels of a block where ``valid`` (C, h, w) is True."""
        sr, hr = np.where(valid, sr, 0.0), np.where(valid, hr, 0.0)
        difference = sr.astype(np.float64) - hr
        self._squares += np.square(difference).sum((1, 2))
        self._differences += difference.sum((1, 2))
        self._truth += hr.sum((1, 2))
        self.pixels += valid.sum((1, 2))
        if len(sr) < MIN_SPECTRAL_BANDS:
            return
        in_all = valid.all(0)
        angles = spectral_angles(sr[:, in_all], hr[:, in_all])
        defined = np.isfinite(angles)
        self._angle += float(angles[defined].sum())
        self._spectra += int(defined.sum())

    def add_windows(self, sr: AnyArray, hr: AnyArray, valid: BoolArray) -> None:
        """Add the SSIM of every window of a block that has no invalid pixel."""
        if min(sr.shape[1:]) < SSIM_WINDOW:
            return
        values = ssim_map(np.where(valid, sr, 0.0), np.where(valid, hr, 0.0), self.peak)
        complete = gaussian_filter(valid.astype(np.float64)) > 1 - 1e-9
        self._ssim += np.where(complete, values, 0.0).sum((1, 2))
        self._windows += complete.sum((1, 2))

    def rmse(self) -> AnyArray:
        """Return the root mean square error, (C,)."""
        return np.asarray(np.sqrt(self._squares / self.pixels))

    def psnr(self) -> tuple[float, ...]:
        """Return the PSNR of each band in dB; infinite for equal bands."""
        errors = self.rmse()
        return tuple(20 * math.log10(self.peak / e) if e > 0 else math.inf for e in errors)

    def bias(self) -> AnyArray:
        """Return the mean of SR - HR, (C,)."""
        return np.asarray(self._differences / self.pixels)

    def ssim(self) -> AnyArray:
        """Return the mean SSIM over windows, (C,); NaN without windows."""
        means = self._ssim / np.maximum(self._windows, 1)
        return np.where(self._windows > 0, means, np.nan)

    def spectral_angle(self) -> float:
        """Return the mean spectral angle in degrees; NaN below three bands."""
        return self._angle / self._spectra if self._spectra else math.nan

    def ergas(self, scale: float | None) -> float:
        """Return ERGAS; NaN if the scale is not known."""
        if scale is None:
            return math.nan
        return ergas_of(self.rmse(), self._truth / self.pixels, scale)
