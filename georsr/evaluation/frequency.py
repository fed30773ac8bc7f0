"""Energy by spatial frequency: how much detail there is, and in which band."""

from __future__ import annotations

import math

import numpy as np

from georsr.types import AnyArray


def _power(image: AnyArray) -> tuple[AnyArray, AnyArray]:
    """(radial frequency in cycles per pixel, power) of each coefficient of a Hann window."""
    height, width = image.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    level = (image * window).sum() / window.sum()
    spectrum = np.fft.fft2((image - level) * window)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    return np.hypot(fy, fx), np.abs(spectrum) ** 2 / np.square(window).sum()


def radial_power(image: AnyArray, bins: int = 32) -> tuple[AnyArray, AnyArray]:
    """Radially averaged power spectral density.

    Parameters
    ----------
    image
        (H, W), at least 8 x 8.
    bins
        Rings between 0 and 0.5 cycles per pixel.

    Returns
    -------
    frequency, power
        (bins,) centre of each ring in cycles per pixel, and mean power in it in squared units of
        the image: white noise of standard deviation s has s^2 in every ring. NaN in rings without
        a coefficient.
    """
    radius, power = _power(image.astype(np.float64))
    ring = np.floor(radius * 2 * bins).astype(int)
    inside = (ring < bins) & (radius > 0)
    counts = np.bincount(ring[inside], minlength=bins)
    sums = np.bincount(ring[inside], power[inside], minlength=bins)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return (np.arange(bins) + 0.5) / (2 * bins), means


def detail_ratio(sr: AnyArray, hr: AnyArray, scale: int) -> float:
    """Energy of SR over energy of the truth, at frequencies the source could not hold.

    These are 1 / (2 scale) to 0.5 cycles per pixel. 1 is as much fine detail as the truth has,
    right or wrong; 0 is none. NaN at scale 1, or where the truth has none.

    Parameters
    ----------
    sr, hr
        (H, W) in one unit.
    scale
        Factor of super-resolution.
    """
    radius, ours = _power(sr.astype(np.float64))
    theirs = _power(hr.astype(np.float64))[1]
    fine = (radius >= 1 / (2 * scale)) & (radius < 0.5)
    truth = float(theirs[fine].sum())
    return float(ours[fine].sum()) / truth if truth > 0 else math.nan
