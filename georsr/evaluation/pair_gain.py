"""How much real detail enlargements of a coarse image have: gain over bicubic against a fine one.

The two images differ in more than resolution: in sensor, bands, gain, offset and a part of a pixel.
All that is fitted alike for every enlargement, so that what is left tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import fourier_shift, gaussian_filter
from scipy.optimize import nnls

from georsr.errors import InputError
from georsr.evaluation.pairs import Ground
from georsr.evaluation.shift import phase_shift
from georsr.types import AnyArray

FRAME = 4
"""Coarse pixels that are left out along every edge."""
SIGMAS, NOISES = (0.3, 0.45, 0.6), (0.03, 0.1, 0.3)
"""Wiener filters: gaussian blur in coarse pixels, noise as a share of the signal's power."""
FIXED = (0.45, 0.1)
"""Sigma and noise of the one filter for all."""
RANGE = (1.0, 99.0)
"""Percentiles of the fine image between which PSNR takes its peak."""
LEAST_DETAIL = 0.15
"""Correlation of detail below which the two images do not show the same ground."""
BICUBIC = "bicubic"
ONE_FILTER, BEST_FILTER = "one Wiener filter", "best Wiener filter"

Enlarge = Callable[[AnyArray], AnyArray]
"""(C, h, w) uint16 -> (C, s * h, s * w)."""


@dataclass(frozen=True)
class Score:
    """How close one image comes to the fine one."""

    psnr: float
    """dB, after the best gain and offset; the peak is the range of the fine image."""
    detail: float
    """Correlation with the fine image, once a gaussian of ``scale`` pixels is taken from both."""

    def __sub__(self, other: Score) -> Score:
        return Score(self.psnr - other.psnr, self.detail - other.detail)


@dataclass(frozen=True)
class Gains:
    """What was measured on one pair."""

    weights: tuple[float, ...]
    """Of the coarse bands, whose sum is 1; they fit the fine image."""
    shift: tuple[float, float]
    """Of the fine image against bicubic, (down, right) in fine pixels; it was taken away."""
    bicubic: Score
    gains: dict[str, Score]
    """Over bicubic: of each model, then of the Wiener filters."""
    best_filter: tuple[float, float]
    """Sigma and noise of the best one."""
    images: dict[str, AnyArray] = field(repr=False)
    """Bicubic, then as ``gains``: (s * h, s * w), registered, gain and offset fitted."""


def measure_gains(
    ground: Ground, scale: int, bicubic: Enlarge, models: Mapping[str, Enlarge], *, colour: bool
) -> Gains:
    """Measure enlargements of the coarse image against the fine one.

    Parameters
    ----------
    ground
        The two.
    scale
        Fine pixels per coarse pixel.
    bicubic
        Baseline; it also tells how far the fine image is shifted.
    models
        What is judged.
    colour
        Enlarge red, green and blue and mix the results as the fine image has them; otherwise mix
        all bands and enlarge the mixture.

    Raises
    ------
    InputError
        The two images do not show the same ground, or there is nothing to see.
    """
    bands = ground.coarse[list(ground.rgb)] if colour else ground.coarse
    weights = band_weights(bands, ground.fine, scale)
    given = _as_uint16(bands if colour else _mixed(bands, weights)[None])

    def enlarged(enlarge: Enlarge) -> AnyArray:
        out = enlarge(given).astype(np.float64)
        return _mixed(out, weights) if colour else out[0]

    plain = enlarged(bicubic)
    shift = phase_shift(ground.fine, plain, scale)
    if not max(map(abs, shift)) < FRAME * scale:  # NaN: nothing to see
        raise InputError(
            f"the rasters cannot be registered: shift {shift[0]:.1f} pixels down, {shift[1]:.1f} "
            f"right, expected less than {FRAME * scale}; do both show the same ground?"
        )
    judge = _Judge(ground.fine, scale)
    plain = moved(plain, shift, FRAME * scale)
    base = judge.score(plain)
    if not base.detail >= LEAST_DETAIL:
        raise InputError(
            f"the rasters do not show the same ground: correlation of detail {base.detail:.2f}, "
            f"expected at least {LEAST_DETAIL}"
        )
    images = {
        name: moved(enlarged(enlarge), shift, FRAME * scale) for name, enlarge in models.items()
    }
    filtered = {
        (sigma, noise): wiener(plain, sigma * scale, noise) for sigma in SIGMAS for noise in NOISES
    }
    best = max(filtered, key=lambda key: judge.score(filtered[key]).psnr)
    images |= {ONE_FILTER: filtered[FIXED], BEST_FILTER: filtered[best]}
    return Gains(
        tuple(map(float, weights)),
        shift,
        base,
        {name: judge.score(image) - base for name, image in images.items()},
        best,
        {name: judge.fitted(image) for name, image in {BICUBIC: plain, **images}.items()},
    )


def band_weights(bands: AnyArray, fine: AnyArray, scale: int) -> AnyArray:
    """Fit weights, none negative and 1 in sum, that mix coarse bands to what the fine one shows.

    Parameters
    ----------
    bands
        (C, h, w).
    fine
        (scale * h, scale * w).

    Raises
    ------
    InputError
        No mixture follows it.
    """
    count, height, width = bands.shape
    shrunk = gaussian_filter(fine, scale / 2).reshape(height, scale, width, scale).mean((1, 3))
    ones = np.ones(height * width)
    basis = np.stack([*bands.reshape(count, -1), ones, -ones], axis=1)
    weights = np.asarray(nnls(basis, shrunk.ravel())[0][:count])
    if not weights.sum() > 0:
        raise InputError(
            "the rasters do not show the same ground: no mixture of the coarse bands follows the "
            "fine one"
        )
    return np.asarray(weights / weights.sum())


def _mixed(bands: AnyArray, weights: AnyArray) -> AnyArray:
    return np.asarray(np.tensordot(weights, bands, 1))


def _as_uint16(bands: AnyArray) -> AnyArray:
    """All bands on one scale, so that they can still be mixed."""
    ends = np.array([np.percentile(band, (0.1, 99.9)) for band in bands])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    if not high > low:
        raise InputError("the coarse raster has next to no contrast")
    return np.round((np.clip(bands, low, high) - low) / (high - low) * 60000 + 500).astype("uint16")


def moved(image: AnyArray, shift: tuple[float, float], margin: int) -> AnyArray:
    """Move an image (down, right) by parts of pixels; its edges are mirrored."""
    padded = np.pad(image, margin, mode="reflect")
    inside = (slice(margin, -margin),) * 2
    return np.asarray(np.fft.ifft2(fourier_shift(np.fft.fft2(padded), shift)).real[inside])


def wiener(image: AnyArray, sigma: float, noise: float) -> AnyArray:
    """Undo a gaussian blur as far as noise allows.

    Parameters
    ----------
    image
        (H, W).
    sigma
        Of the blur, in pixels.
    noise
        Its power as a share of the signal's.
    """
    margin = 32
    padded = np.pad(image, margin, mode="reflect")
    fy, fx = np.fft.fftfreq(padded.shape[0])[:, None], np.fft.fftfreq(padded.shape[1])
    blur = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
    gain = blur * (1 + noise) / (blur**2 + noise)  # 1 at frequency 0
    inside = (slice(margin, -margin),) * 2
    return np.asarray(np.fft.ifft2(np.fft.fft2(padded) * gain).real[inside])


class _Judge:
    """Compares images with the fine one, a frame left out."""

    def __init__(self, fine: AnyArray, scale: int) -> None:
        self._inside = (slice(FRAME * scale, -FRAME * scale),) * 2
        self._scale = scale
        self._truth = fine[self._inside]
        self._detail = self._high(fine)
        low, high = np.percentile(self._truth, RANGE)
        if not high > low:
            raise InputError("the fine raster has next to no contrast")
        self._peak = high - low

    def _high(self, image: AnyArray) -> AnyArray:
        return np.asarray((image - gaussian_filter(image, self._scale))[self._inside])

    def fitted(self, image: AnyArray) -> AnyArray:
        """The whole image with the gain and offset that suit the fine one best."""
        values = image[self._inside]
        spread = np.square(values - values.mean()).sum()
        shared = ((values - values.mean()) * (self._truth - self._truth.mean())).sum()
        gain = shared / spread if spread > 0 else 0.0
        return np.asarray((image - values.mean()) * gain + self._truth.mean())

    def score(self, image: AnyArray) -> Score:
        """PSNR and correlation of detail."""
        error = np.mean(np.square(self.fitted(image)[self._inside] - self._truth))
        psnr = 10 * np.log10(self._peak**2 / error) if error > 0 else np.inf
        high = self._high(image)
        flat = not np.ptp(high) or not np.ptp(self._detail)
        both = np.corrcoef(high.ravel(), self._detail.ravel())[0, 1]
        return Score(float(psnr), 0.0 if flat else float(both))
