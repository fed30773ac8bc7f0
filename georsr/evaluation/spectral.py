"""Spectral fidelity over all bands at once: spectral angle and ERGAS."""

from __future__ import annotations

import math

import numpy as np

from georsr.types import AnyArray

FEWEST_BANDS = 3
"""With fewer bands an angle between spectra says next to nothing; both figures are NaN then."""


def spectral_angles(a: AnyArray, b: AnyArray) -> AnyArray:
    """Angle between the spectra of every pixel (SAM: Kruse et al., RSE 44, 1993).

    Parameters
    ----------
    a, b
        (C, ...) in any common unit.

    Returns
    -------
    ndarray
        (...) float64 in degrees, 0..180; NaN where either spectrum is all zero.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    length_a, length_b = np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit_a, unit_b = a / length_a, b / length_b
    # the arc cosine of a value near one keeps half of the digits; this form keeps them all
    apart = np.linalg.norm(unit_a - unit_b, axis=0)
    together = np.linalg.norm(unit_a + unit_b, axis=0)
    return np.asarray(np.degrees(2 * np.arctan2(apart, together)))


def spectral_angle(a: AnyArray, b: AnyArray) -> float:
    """Mean of :func:`spectral_angles` in degrees; NaN below three bands or without a spectrum."""
    if len(a) < FEWEST_BANDS:
        return math.nan
    angles = spectral_angles(a, b)
    kept = angles[np.isfinite(angles)]
    return float(kept.mean()) if kept.size else math.nan


def ergas_of(rmse: AnyArray, mean: AnyArray, scale: float) -> float:
    """ERGAS from per-band figures: 100 (h / l) sqrt(mean over bands of (rmse / mean)^2).

    L. Wald, "Quality of high resolution synthesised images: is there a simple criterion?",
    Fusion of Earth Data, 2000. Zero is best; below 3 counts as good.

    Parameters
    ----------
    rmse, mean
        (C,) root mean square error of each band, and the mean of each band of the truth.
    scale
        l / h: how many pixels of the product one pixel of its source became along each axis.

    Returns
    -------
    float
        NaN below three bands, or where a band of the truth has mean zero.
    """
    if len(rmse) < FEWEST_BANDS or not np.all(mean):
        return math.nan
    return float(100 / scale * np.sqrt(np.mean(np.square(rmse / mean))))


def ergas(sr: AnyArray, hr: AnyArray, scale: float) -> float:
    """ERGAS of two (C, H, W) images; see :func:`ergas_of`."""
    truth = hr.astype(np.float64)
    squares = np.square(sr.astype(np.float64) - truth).mean((1, 2))
    return ergas_of(np.sqrt(squares), truth.mean((1, 2)), scale)
