"""Running sums over the blocks of a pair of rasters, and the figures they add up to."""

from __future__ import annotations

import math

import numpy as np

from georsr.evaluation.metrics import (
    FEWEST_BANDS,
    SSIM_WINDOW,
    ergas_of,
    gaussian_filter,
    spectral_angles,
    ssim_map,
)
from georsr.window import AnyArray, BoolArray


class MetricAccumulator:
    """What blocks of SR and HR, (C, h, w) each, add to, band by band.

    Parameters
    ----------
    bands
        C.
    peak
        Value range that PSNR and SSIM refer to.
    """

    def __init__(self, bands: int, peak: float) -> None:
        self.peak = peak
        self.squares, self.differences, self.structure, self.truth = np.zeros((4, bands))
        self.pixels, self.windows = np.zeros((2, bands), np.int64)
        self.angle, self.spectra = 0.0, 0

    def add_pixels(self, ours: AnyArray, theirs: AnyArray, both: BoolArray) -> None:
        """Add pixels where ``both`` are valid."""
        ours, theirs = np.where(both, ours, 0.0), np.where(both, theirs, 0.0)
        difference = ours.astype(np.float64) - theirs
        self.squares += np.square(difference).sum((1, 2))
        self.differences += difference.sum((1, 2))
        self.truth += theirs.sum((1, 2))
        self.pixels += both.sum((1, 2))
        if len(ours) < FEWEST_BANDS:
            return
        whole = both.all(0)
        angles = spectral_angles(ours[:, whole], theirs[:, whole])
        defined = np.isfinite(angles)
        self.angle += float(angles[defined].sum())
        self.spectra += int(defined.sum())

    def add_windows(self, ours: AnyArray, theirs: AnyArray, both: BoolArray) -> None:
        """Add the SSIM of every window without an invalid pixel."""
        if min(ours.shape[1:]) < SSIM_WINDOW:
            return
        similar = ssim_map(np.where(both, ours, 0.0), np.where(both, theirs, 0.0), self.peak)
        whole = gaussian_filter(both.astype(np.float64)) > 1 - 1e-9
        self.structure += np.where(whole, similar, 0.0).sum((1, 2))
        self.windows += whole.sum((1, 2))

    def rmse(self) -> AnyArray:
        """(C,) root mean square error."""
        return np.asarray(np.sqrt(self.squares / self.pixels))

    def psnr(self) -> tuple[float, ...]:
        """Per band, dB; infinite for equal bands."""
        errors = self.rmse()
        return tuple(20 * math.log10(self.peak / e) if e > 0 else math.inf for e in errors)

    def bias(self) -> AnyArray:
        """(C,) mean of SR - HR."""
        return np.asarray(self.differences / self.pixels)

    def ssim(self) -> AnyArray:
        """(C,) mean over windows; NaN where there is none."""
        means = self.structure / np.maximum(self.windows, 1)
        return np.where(self.windows > 0, means, np.nan)

    def spectral_angle(self) -> float:
        """Mean angle in degrees; NaN below three bands."""
        return self.angle / self.spectra if self.spectra else math.nan

    def ergas(self, scale: float | None) -> float:
        """ERGAS; NaN where the scale is not known."""
        if scale is None:
            return math.nan
        return ergas_of(self.rmse(), self.truth / self.pixels, scale)
