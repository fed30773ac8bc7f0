"""Image quality metrics of the super-resolution literature, on numpy arrays.

Images are in 8-bit units (0..255) unless stated otherwise; all computations are in float64.
"""

from __future__ import annotations

import math

import numpy as np

from georsr.radiometry.kernels import correlate
from georsr.window import AnyArray, BoolArray

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
LUMA = np.array([65.481, 128.553, 24.966]) / 255.0
"""Weights of red, green and blue in Y of ITU-R BT.601, in studio range."""


def luma(rgb: AnyArray) -> AnyArray:
    """Compute Y of ITU-R BT.601 in studio range, not rounded.

    (3, H, W) in 0..255 -> (H, W) in 16..235.
    """
    return np.asarray(16.0 + np.tensordot(LUMA, rgb.astype(np.float64), axes=1))


def crop_border(image: AnyArray, border: int) -> AnyArray:
    """Cut ``border`` pixels from each side of the last two axes."""
    if border == 0:
        return image
    return image[..., border:-border, border:-border]


def psnr(a: AnyArray, b: AnyArray, peak: float = 255.0) -> float:
    """Compute the peak signal-to-noise ratio in dB over all values; infinite for equal images."""
    return psnr_of_mse(float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)))), peak)


def psnr_of_mse(mse: float, peak: float) -> float:
    """Return the peak signal-to-noise ratio in dB of a mean squared error; infinite for 0."""
    return math.inf if mse == 0 else 10.0 * math.log10(peak * peak / mse)


def gaussian_filter(image: AnyArray) -> AnyArray:
    """Apply a gaussian over the last two axes, valid part only (5 pixels less on each side)."""
    radius = SSIM_WINDOW // 2
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    return correlate(correlate(image, taps, -2), taps, -1)


def ssim_map(a: AnyArray, b: AnyArray, peak: float = 255.0) -> AnyArray:
    """Compute the structural similarity of every window: (..., H, W) -> (..., H - 10, W - 10).

    Gaussian window 11, sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance (Wang et al.,
    IEEE TIP 13(4), 2004).
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b, aa, bb, ab = gaussian_filter(np.stack([a, b, a * a, b * b, a * b]))
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return np.asarray(numerator / denominator)


def ssim(a: AnyArray, b: AnyArray, peak: float = 255.0) -> float:
    """Compute the mean of :func:`ssim_map` over two (H, W) images of at least 11 x 11 pixels."""
    return float(np.mean(ssim_map(a, b, peak)))


def psnr_y(a: AnyArray, b: AnyArray, border: int) -> float:
    """Compute PSNR by the Y protocol: of the luma of (3, H, W) uint8, ``border`` pixels cropped."""
    return psnr(crop_border(luma(a), border), crop_border(luma(b), border))


def psnr_rgb(a: AnyArray, b: AnyArray, border: int) -> float:
    """Compute PSNR by the RGB protocol: mean over the bands of (C, H, W), ``border`` cropped."""
    a, b = crop_border(a, border), crop_border(b, border)
    return float(np.mean([psnr(x, y) for x, y in zip(a, b, strict=True)]))


MIN_SPECTRAL_BANDS = 3
"""With fewer bands the angle between spectra has little meaning: SAM and ERGAS are NaN."""


def spectral_angles(a: AnyArray, b: AnyArray) -> AnyArray:
    """Compute the angle between the spectra of every pixel (SAM: Kruse et al., RSE 44, 1993).

    Takes two (C, ...) images in any common unit and returns (...) float64 in degrees, 0..180; NaN
    where either spectrum is all zero.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    length_a, length_b = np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit_a, unit_b = a / length_a, b / length_b
    # the arc cosine of a value near one loses half of the digits; this form loses none
    difference = np.linalg.norm(unit_a - unit_b, axis=0)
    total = np.linalg.norm(unit_a + unit_b, axis=0)
    return np.asarray(np.degrees(2 * np.arctan2(difference, total)))


def spectral_angle(a: AnyArray, b: AnyArray) -> float:
    """Compute the mean of :func:`spectral_angles`; NaN below three bands or without a spectrum."""
    if len(a) < MIN_SPECTRAL_BANDS:
        return math.nan
    angles = spectral_angles(a, b)
    defined = angles[np.isfinite(angles)]
    return float(defined.mean()) if defined.size else math.nan


def ergas_of(rmse: AnyArray, mean: AnyArray, scale: float) -> float:
    """Compute ERGAS of per-band figures: 100 (h / l) sqrt(mean over bands of (rmse / mean)^2).

    L. Wald, "Quality of high resolution synthesised images: is there a simple criterion?", Fusion
    of Earth Data, 2000. Zero is best; below 3 counts as good. NaN below three bands, or where a
    band of the truth has mean zero.

    Parameters
    ----------
    rmse, mean
        (C,) root mean square error of each band, and mean of each band of the truth.
    scale
        l / h: pixels of the output per pixel of its source along each axis.
    """
    if len(rmse) < MIN_SPECTRAL_BANDS or not np.all(mean):
        return math.nan
    return float(100 / scale * np.sqrt(np.mean(np.square(rmse / mean))))


def ergas(sr: AnyArray, hr: AnyArray, scale: float) -> float:
    """Compute ERGAS of two (C, H, W) images; see :func:`ergas_of`."""
    truth = hr.astype(np.float64)
    squares = np.square(sr.astype(np.float64) - truth).mean((1, 2))
    return ergas_of(np.sqrt(squares), truth.mean((1, 2)), scale)


def _power(image: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return (radial frequency in cycles per pixel, power) of each Fourier coefficient."""
    height, width = image.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    level = (image * window).sum() / window.sum()
    spectrum = np.fft.fft2((image - level) * window)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    return np.hypot(fy, fx), np.abs(spectrum) ** 2 / np.square(window).sum()


def radial_power(image: AnyArray, bins: int = 32) -> tuple[AnyArray, AnyArray]:
    """Compute the radially averaged power spectral density of (H, W), at least 8 x 8.

    Returns
    -------
    frequency, power
        (bins,) centre of each ring between 0 and 0.5 cycles per pixel, and mean power in it in
        squared units of the image: white noise of standard deviation s has power s^2. NaN in rings
        without a coefficient.
    """
    radius, power = _power(image.astype(np.float64))
    ring = np.floor(radius * 2 * bins).astype(int)
    inside = (ring < bins) & (radius > 0)
    counts = np.bincount(ring[inside], minlength=bins)
    sums = np.bincount(ring[inside], power[inside], minlength=bins)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return (np.arange(bins) + 0.5) / (2 * bins), means


def detail_ratio(sr: AnyArray, hr: AnyArray, scale: int) -> float:
    """Compute the energy of SR over that of the truth, at frequencies the source cannot hold.

    These are 1 / (2 scale) to 0.5 cycles per pixel. 1 is as much fine detail as the truth has,
    right or wrong; 0 is none. NaN at scale 1, or where the truth has none. Takes two (H, W) images
    in one unit.
    """
    radius, power = _power(sr.astype(np.float64))
    true_power = _power(hr.astype(np.float64))[1]
    fine = (radius >= 1 / (2 * scale)) & (radius < 0.5)
    truth = float(true_power[fine].sum())
    return float(power[fine].sum()) / truth if truth > 0 else math.nan


class MetricAccumulator:
    """Sums over blocks of SR and HR, (C, h, w) each, band by band.

    ``peak`` is the value range that PSNR and SSIM refer to.
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
