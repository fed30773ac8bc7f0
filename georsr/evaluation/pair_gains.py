"""Measure how much real detail enlargements of a coarse image have, against a fine image.

The two images differ in more than resolution: in sensor, bands, gain, offset and by a part of a
pixel. All of that is fitted alike for every enlargement, so that only their detail differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.evaluation.metrics import psnr_of_mse
from georsr.geo.registration import phase_shift
from georsr.window import AnyArray

try:
    from scipy.ndimage import fourier_shift, gaussian_filter
    from scipy.optimize import nnls
except ModuleNotFoundError as error:  # the light set does without
    raise UsageError("measuring real pairs needs scipy: pip install scipy") from error

BORDER = 4
"""Coarse pixels that are left out along every edge."""
WIENER_SIGMAS, WIENER_NOISES = (0.3, 0.45, 0.6), (0.03, 0.1, 0.3)
"""Wiener filters: gaussian blur in coarse pixels, noise as a fraction of the signal's power."""
FIXED_FILTER = (0.45, 0.1)
"""Sigma and noise of the one filter that is used for all pairs."""
PEAK_PERCENTILES = (1.0, 99.0)
"""Percentiles of the fine image whose difference is the peak of PSNR."""
MIN_DETAIL_CORRELATION = 0.15
"""Correlation of detail below which the two images do not show the same ground."""
BICUBIC = "bicubic"
ONE_FILTER, BEST_FILTER = "one Wiener filter", "best Wiener filter"

Enlarge = Callable[[AnyArray], AnyArray]
"""(C, h, w) uint16 -> (C, s * h, s * w)."""


@dataclass(frozen=True)
class PairPixels:
    """Pixels of a pair, on grids that share their top left corner."""

    coarse: AnyArray
    """(C, h, w): All bands of the coarse raster."""
    fine: AnyArray
    """(scale * h, scale * w): First band of the fine raster."""
    rgb: tuple[int, ...]
    """Indexes of red, green and blue in ``coarse``; empty if there are none."""


@dataclass(frozen=True)
class Score:
    """How close one image comes to the fine image."""

    psnr: float
    """dB, after the best gain and offset; the peak is the range of the fine image."""
    detail: float
    """Correlation with the fine image, once a gaussian of ``scale`` pixels is taken from both."""

    def __sub__(self, other: Score) -> Score:
        return Score(self.psnr - other.psnr, self.detail - other.detail)


@dataclass(frozen=True)
class Gains:
    """Result of one pair."""

    weights: tuple[float, ...]
    """Weights of the coarse bands, whose mixture is closest to the fine image; their sum is 1."""
    shift: tuple[float, float]
    """Shift of the fine image against bicubic, (down, right) in fine pixels; it was undone."""
    bicubic: Score
    gains: dict[str, Score]
    """Gain over bicubic of each model, then of the Wiener filters."""
    best_filter: tuple[float, float]
    """Sigma and noise of the best Wiener filter."""
    images: dict[str, AnyArray] = field(repr=False)
    """Bicubic, then as ``gains``: (s * h, s * w), registered, gain and offset fitted."""


def measure_gains(
    pixels: PairPixels, scale: int, bicubic: Enlarge, models: Mapping[str, Enlarge], *, colour: bool
) -> Gains:
    """Measure enlargements of the coarse image against the fine image.

    Parameters
    ----------
    pixels, scale
        The two images, and fine pixels per coarse pixel.
    bicubic
        Baseline, by which the fine image is also registered.
    models
        Name -> enlargement to measure.
    colour
        Enlarge red, green and blue and mix the results as the fine image has them; otherwise mix
        all bands and enlarge the mixture.

    Raises
    ------
    InputError
        The two images do not show the same ground, or one has no contrast.
    """
    bands = pixels.coarse[list(pixels.rgb)] if colour else pixels.coarse
    weights = band_weights(bands, pixels.fine, scale)
    network_input = _as_uint16(bands if colour else _mix(bands, weights)[None])

    def apply(enlarge: Enlarge) -> AnyArray:
        out = enlarge(network_input).astype(np.float64)
        return _mix(out, weights) if colour else out[0]

    baseline = apply(bicubic)
    shift = phase_shift(pixels.fine, baseline, scale)
    if not max(map(abs, shift)) < BORDER * scale:  # NaN for images without contrast
        raise InputError(
            f"the rasters cannot be registered: shift {shift[0]:.1f} pixels down, {shift[1]:.1f} "
            f"right, expected less than {BORDER * scale}; do both show the same ground?"
        )
    reference = _FineImage(pixels.fine, scale)
    baseline = translate(baseline, shift, BORDER * scale)
    base = reference.score(baseline)
    if not base.detail >= MIN_DETAIL_CORRELATION:
        raise InputError(
            f"the rasters do not show the same ground: correlation of detail {base.detail:.2f}, "
            f"expected at least {MIN_DETAIL_CORRELATION}"
        )
    images = {
        name: translate(apply(enlarge), shift, BORDER * scale) for name, enlarge in models.items()
    }
    filtered = {
        (sigma, noise): wiener(baseline, sigma * scale, noise)
        for sigma in WIENER_SIGMAS
        for noise in WIENER_NOISES
    }
    best = max(filtered, key=lambda key: reference.score(filtered[key]).psnr)
    images |= {ONE_FILTER: filtered[FIXED_FILTER], BEST_FILTER: filtered[best]}
    return Gains(
        tuple(map(float, weights)),
        shift,
        base,
        {name: reference.score(image) - base for name, image in images.items()},
        best,
        {name: reference.fit(image) for name, image in {BICUBIC: baseline, **images}.items()},
    )


def band_weights(bands: AnyArray, fine: AnyArray, scale: int) -> AnyArray:
    """Fit weights, none negative and 1 in sum, with which coarse bands resemble the fine band.

    Takes (C, h, w) and (scale * h, scale * w), and returns (C,).

    Raises
    ------
    InputError
        No mixture of the bands correlates with the fine band.
    """
    count, height, width = bands.shape
    coarse = gaussian_filter(fine, scale / 2).reshape(height, scale, width, scale).mean((1, 3))
    ones = np.ones(height * width)
    basis = np.stack([*bands.reshape(count, -1), ones, -ones], axis=1)
    weights = np.asarray(nnls(basis, coarse.ravel())[0][:count])
    if not weights.sum() > 0:
        raise InputError(
            "the rasters do not show the same ground: no mixture of the coarse bands follows the "
            "fine one"
        )
    return np.asarray(weights / weights.sum())


def _mix(bands: AnyArray, weights: AnyArray) -> AnyArray:
    return np.asarray(np.tensordot(weights, bands, 1))


def _as_uint16(bands: AnyArray) -> AnyArray:
    """Scale all bands by one range to uint16, so that they can still be mixed."""
    ends = np.array([np.percentile(band, (0.1, 99.9)) for band in bands])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    if not high > low:
        raise InputError("the coarse raster has next to no contrast")
    return np.round((np.clip(bands, low, high) - low) / (high - low) * 60000 + 500).astype("uint16")


def translate(image: AnyArray, shift: tuple[float, float], margin: int) -> AnyArray:
    """Shift (H, W) by (down, right) parts of pixels; its edges are mirrored over ``margin``."""
    padded = np.pad(image, margin, mode="reflect")
    inside = (slice(margin, -margin),) * 2
    return np.asarray(np.fft.ifft2(fourier_shift(np.fft.fft2(padded), shift)).real[inside])


def wiener(image: AnyArray, sigma: float, noise: float) -> AnyArray:
    """Undo a gaussian blur of (H, W) as far as noise allows.

    ``sigma`` is the standard deviation of the blur in pixels, ``noise`` the power of the noise as a
    fraction of that of the signal.
    """
    margin = 32
    padded = np.pad(image, margin, mode="reflect")
    fy, fx = np.fft.fftfreq(padded.shape[0])[:, None], np.fft.fftfreq(padded.shape[1])
    blur = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
    gain = blur * (1 + noise) / (blur**2 + noise)  # 1 at frequency 0
    inside = (slice(margin, -margin),) * 2
    return np.asarray(np.fft.ifft2(np.fft.fft2(padded) * gain).real[inside])


class _FineImage:
    """The fine image as the reference of scores; its border does not count."""

    def __init__(self, fine: AnyArray, scale: int) -> None:
        self._inside = (slice(BORDER * scale, -BORDER * scale),) * 2
        self._scale = scale
        self._truth = fine[self._inside]
        self._truth_detail = self._detail(fine)
        low, high = np.percentile(self._truth, PEAK_PERCENTILES)
        if not high > low:
            raise InputError("the fine raster has next to no contrast")
        self._peak = high - low

    def _detail(self, image: AnyArray) -> AnyArray:
        return np.asarray((image - gaussian_filter(image, self._scale))[self._inside])

    def fit(self, image: AnyArray) -> AnyArray:
        """Apply the gain and offset to an image that bring it closest to the reference."""
        values = image[self._inside]
        variance = np.square(values - values.mean()).sum()
        covariance = ((values - values.mean()) * (self._truth - self._truth.mean())).sum()
        gain = covariance / variance if variance > 0 else 0.0
        return np.asarray((image - values.mean()) * gain + self._truth.mean())

    def score(self, image: AnyArray) -> Score:
        """Compute PSNR and correlation of detail."""
        error = np.mean(np.square(self.fit(image)[self._inside] - self._truth))
        psnr = psnr_of_mse(float(error), self._peak)
        detail = self._detail(image)
        if not np.ptp(detail) or not np.ptp(self._truth_detail):
            return Score(psnr, 0.0)
        correlation = np.corrcoef(detail.ravel(), self._truth_detail.ravel())[0, 1]
        return Score(psnr, float(correlation))
