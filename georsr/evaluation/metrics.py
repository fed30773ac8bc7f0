"""Image quality as the super-resolution literature measures it, on numpy arrays.

Every function takes images in 8-bit units (0..255), computes in float64 and says what it crops.
"""

from __future__ import annotations

import math

import numpy as np

from georsr.types import AnyArray

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
LUMA = np.array([65.481, 128.553, 24.966]) / 255.0
"""What red, green and blue have in Y of ITU-R BT.601, in studio range."""


def luma(rgb: AnyArray) -> AnyArray:
    """Y of ITU-R BT.601 in studio range, not rounded: (3, H, W) in 0..255 -> (H, W) in 16..235."""
    return np.asarray(16.0 + np.tensordot(LUMA, rgb.astype(np.float64), axes=1))


def crop_border(image: AnyArray, border: int) -> AnyArray:
    """Cut ``border`` pixels from each side of the last two axes."""
    if border == 0:
        return image
    return image[..., border:-border, border:-border]


def psnr(a: AnyArray, b: AnyArray, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB over all values; infinite for equal images."""
    mse = float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))
    return math.inf if mse == 0 else 10.0 * math.log10(peak * peak / mse)


def gaussian_filter(image: AnyArray) -> AnyArray:
    """Separable gaussian over the last two axes, valid part only (5 pixels lost on each side)."""
    radius = SSIM_WINDOW // 2
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    rows = image.shape[-2] - 2 * radius
    columns = image.shape[-1] - 2 * radius
    vertical = sum(t * image[..., i : i + rows, :] for i, t in enumerate(taps))
    return np.asarray(sum(t * vertical[..., :, i : i + columns] for i, t in enumerate(taps)))


def ssim_map(a: AnyArray, b: AnyArray, peak: float = 255.0) -> AnyArray:
    """Structural similarity of every window inside: (..., H, W) twice -> (..., H - 10, W - 10).

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
    """Mean of :func:`ssim_map` over two (H, W) images of at least 11 x 11 pixels."""
    return float(np.mean(ssim_map(a, b, peak)))


def psnr_y(a: AnyArray, b: AnyArray, border: int) -> float:
    """Y protocol: PSNR of the luma of two (3, H, W) uint8 images, ``border`` pixels cropped."""
    return psnr(crop_border(luma(a), border), crop_border(luma(b), border))


def ssim_y(a: AnyArray, b: AnyArray, border: int) -> float:
    """Y protocol: SSIM of the luma of two (3, H, W) uint8 images, ``border`` pixels cropped."""
    return ssim(crop_border(luma(a), border), crop_border(luma(b), border))


def psnr_rgb(a: AnyArray, b: AnyArray, border: int) -> float:
    """RGB protocol: mean of the bands' PSNRs of two (C, H, W) images, ``border`` cropped."""
    a, b = crop_border(a, border), crop_border(b, border)
    return float(np.mean([psnr(x, y) for x, y in zip(a, b, strict=True)]))
