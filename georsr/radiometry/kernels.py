"""Downsampling kernels as matrices: bicubic, mean, and the point spread function of a sensor.

All are separable and centred on the low-resolution (LR) pixel, at ``(i + 0.5) * scale - 0.5`` in
high-resolution (HR) pixels, so that the corners of both grids agree. At the image's edge they are
cut off and renormalized, so that a constant image stays constant.

`bicubic_weights` are for enlarging. `SensorDescription` describes how an image was recorded: its
contrast, noise and correlation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from georsr.errors import UsageError
from georsr.window import AnyArray, FloatArray

PSF_CUTOFF = 4.0
"""Radius of the PSF in standard deviations; 6e-5 of its energy lies beyond."""
MAX_MTF = {False: 0.5, True: 0.4}
"""Largest MTF, by ``pixel``; a sharper PSF, sampled on the HR grid at x2, has an error of 1 %."""
MIN_MTF = 0.01
"""Smallest MTF."""
MAX_SHARPENING = 4.0
"""Largest strength of `mtfc_matrix`."""


@dataclass(frozen=True)
class Kernel:
    """A downsampling kernel."""

    kind: str
    """``bicubic`` (antialiased, a = -0.5), ``mean`` (over the area of the LR pixel) or ``psf`` (a
    gaussian)."""
    mtf: float = 0.0
    """MTF of the PSF at the LR Nyquist frequency, 0..1."""
    sharpen: float = 0.0
    """Strength of the MTF compensation after the PSF, see `mtfc_matrix`."""
    damping: float = 0.0
    """Weight of the roughness of the correction by `georsr.inference.consistency`; 0 for the
    default."""

    def __str__(self) -> str:
        if self.kind != "psf":
            return self.kind
        return f"psf:{self.mtf:g}" + (f"+{self.sharpen:g}" if self.sharpen else "")

    def matrix(self, size: int, scale: int) -> FloatArray:
        """Return the kernel along one axis as a read-only (size // scale, size) float32 matrix.

        Its rows sum to 1.
        """
        return _matrix(self, size, scale)

    def radius(self, scale: int) -> int:
        """Return up to what distance in pixels two LR pixels depend on the same HR pixel."""
        if self.kind == "psf":
            return math.ceil(PSF_CUTOFF * psf_sigma(self.mtf, scale) / scale) + bool(self.sharpen)
        return 2 if self.kind == "bicubic" else 0

    def downsample(self, image: AnyArray, scale: int) -> FloatArray:
        """Downsample (..., H, W), multiples of ``scale``, to (..., H/scale, W/scale) float32."""
        rows, columns = (self.matrix(size, scale) for size in image.shape[-2:])
        return np.asarray(rows @ image.astype(np.float32, copy=False) @ columns.T)


@lru_cache(maxsize=64)
def _matrix(kernel: Kernel, size: int, scale: int) -> FloatArray:
    if kernel.kind == "bicubic":
        return bicubic_matrix(size, scale)
    if kernel.kind == "mean":
        matrix = np.repeat(np.eye(size // scale, dtype=np.float32), scale, 1) / np.float32(scale)
    else:
        matrix = psf_matrix(size, scale, psf_sigma(kernel.mtf, scale))
        if kernel.sharpen:
            before = np.concatenate([matrix[:1], matrix[:-1]])
            after = np.concatenate([matrix[1:], matrix[-1:]])
            # as `mtfc_matrix`, element by element: sums of BLAS depend on its threads
            matrix = matrix + np.float32(kernel.sharpen / 4) * (2 * matrix - before - after)
    matrix.setflags(write=False)
    return matrix


def parse_kernel(text: str) -> Kernel:
    """Parse ``bicubic``, ``mean``, ``psf:MTF`` or ``psf:MTF+SHARPEN``.

    Raises
    ------
    UsageError
        The text is none of these, or a number is out of range.
    """
    kind, colon, value = text.partition(":")
    if kind in ("bicubic", "mean") and not colon:
        return Kernel(kind)
    mtf_text, plus, sharpen_text = value.partition("+")
    try:
        mtf = float(mtf_text) if kind == "psf" else math.nan
        sharpen = float(sharpen_text) if plus else 0.0
    except ValueError:
        mtf = sharpen = math.nan
    if not (MIN_MTF <= mtf <= MAX_MTF[False] and 0 <= sharpen <= MAX_SHARPENING):
        raise UsageError(
            f"kernel {text!r}: expected bicubic, mean, or psf:MTF with the MTF at Nyquist in "
            f"{MIN_MTF:g}..{MAX_MTF[False]:g}, such as psf:0.2, or psf:0.2+0.5 where the source "
            f"was sharpened, by up to {MAX_SHARPENING:g}"
        )
    return Kernel("psf", mtf, sharpen)


@lru_cache(maxsize=64)
def bicubic_matrix(size: int, scale: int) -> FloatArray:
    """Return antialiased cubic resampling as a (size // scale, size) float32 matrix.

    This is Keys' cubic with a = -0.5, stretched by ``scale``, cut off at the image's edge and
    renormalized, so that rows sum to 1: the kernel of Pillow's BICUBIC and, away from the edge, of
    MATLAB's imresize.
    """
    centres = (np.arange(size // scale) + 0.5) * scale - 0.5
    weights = cubic((centres[:, None] - np.arange(size)) / scale, -0.5)
    matrix: FloatArray = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def bicubic_weights(scale: int) -> FloatArray:
    """Return float64 weights of the five nearest pixels at ``scale`` sub-pixel positions: (s, 5).

    They are Keys' cubic convolution with a = -0.75.
    """
    phase = (np.arange(scale) + 0.5) / scale - 0.5
    weights = cubic(phase[:, None] - np.arange(-2.0, 3.0), -0.75)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def cubic(distance: AnyArray, a: float) -> AnyArray:
    """Return Keys' cubic convolution kernel at distances in pixels, any shape, float64.

    R. Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 29(6), 1981,
    eq. 8 and 15.
    """
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def correlate(image: AnyArray, taps: AnyArray, axis: int) -> AnyArray:
    """Correlate one axis with ``taps``, only where all of them lie inside."""
    windows = np.lib.stride_tricks.sliding_window_view(image, len(taps), axis)
    return np.asarray(sum(windows[..., i] * tap for i, tap in enumerate(taps)))


def mtfc_matrix(size: int, strength: float) -> FloatArray:
    """Return MTF compensation, the sharpening of many archives, as a (size, size) float32 matrix.

    The difference of a pixel from its [1, 2, 1] / 4 mean is added ``strength`` times. This mean has
    no contrast at the Nyquist frequency, so contrast there is multiplied by 1 + strength. The edge
    pixel is repeated beyond the edge, so that rows sum to 1.
    """
    before = np.eye(size, k=-1) + np.eye(size) * (np.arange(size) == 0)
    after = np.eye(size, k=1) + np.eye(size) * (np.arange(size) == size - 1)
    matrix = np.eye(size) + strength / 4 * (2 * np.eye(size) - before - after)
    return np.asarray(matrix, np.float32)


def box_mtf(scale: int) -> float:
    """Return the MTF of the mean over ``scale`` HR pixels at the LR Nyquist frequency."""
    return 1.0 / (scale * math.sin(math.pi / (2 * scale)))


def psf_sigma(mtf: float, scale: int, pixel: bool = False) -> float:
    """Return the standard deviation in HR pixels of the gaussian PSF with a given MTF.

    A gaussian has the response exp(-2 pi^2 sigma^2 f^2), which equals ``mtf`` at the LR Nyquist
    frequency f = 1 / (2 scale) cycles per HR pixel. This is the usual model of sensors in
    pansharpening: Aiazzi, Alparone, Baronti, Garzelli and Selva, "MTF-tailored
    multiscale fusion of high-resolution MS and Pan imagery", PE&RS 72(5), 2006; Vivone et al.,
    "A critical comparison among pansharpening algorithms", IEEE TGRS 53(5), 2015.

    Parameters
    ----------
    mtf
        MTF of the system (optics, detector, motion) at the LR Nyquist frequency, 0..1.
    scale
        HR pixels per LR pixel.
    pixel
        Whether the detector is modelled as a box of one LR pixel in addition to the gaussian.
    """
    gaussian_mtf = mtf / box_mtf(scale) if pixel else mtf
    return scale * math.sqrt(-2 * math.log(gaussian_mtf)) / math.pi


def psf_matrix(size: int, scale: int, sigma: float, pixel: bool = False) -> FloatArray:
    """Return blur and sampling along one axis as a (size // scale, size) float32 matrix.

    The PSF is centred on each LR pixel, at (i + 0.5) * scale - 0.5 in HR pixels, cut off at
    `PSF_CUTOFF` sigma and at the image's edge, and renormalized, so that rows sum to 1.

    Parameters
    ----------
    size
        Number of HR pixels, a multiple of ``scale``.
    scale
        HR pixels per LR pixel.
    sigma
        Standard deviation of the gaussian in HR pixels.
    pixel
        Whether to average over the ``scale`` HR pixels of the LR pixel after the gaussian.
    """
    return sampling_matrix(np.arange(size // scale), size, scale, sigma, pixel)


def sampling_matrix(
    positions: AnyArray, size: int, scale: int, sigma: float, pixel: bool = False
) -> FloatArray:
    """Return blur and sampling along one axis at any positions as an (n, size) float32 matrix.

    ``positions`` (n,) are centres of detectors, in LR pixels from the centre of the first LR pixel;
    the rest is as for `psf_matrix`. Rows sum to 1.
    """
    corners = positions[:, None] * scale
    columns = np.arange(size)
    weights = np.zeros((len(positions), size))
    for step in range(scale) if pixel else [(scale - 1) / 2]:
        x = (columns - corners - step) / sigma
        weights += np.exp(-0.5 * np.minimum(x * x, 80.0)) * (np.abs(x) <= PSF_CUTOFF)
    total = weights.sum(1, keepdims=True)
    # a detector beyond the image's edge gets the value of the pixel at the edge
    edge = columns == np.clip(np.rint(corners), 0, size - 1)
    return np.asarray(np.where(total > 0, weights / np.maximum(total, 1e-12), edge), np.float32)


MIN_NOISE = 5e-4
"""Noise on the 0..1 scale that is added before its logarithm is taken."""
MEANS = (0.82, 0.35, math.log(4e-3), 0.05)
STANDARD_DEVIATIONS = (0.18, 0.18, 1.1, 0.18)
"""Mean and standard deviation of each number over sensors; those of noise are of its logarithm."""
MAX_NORMALIZED = 3.0
"""Largest absolute value of a normalized number."""
N_SENSOR_VALUES = len(MEANS)
"""Number of values in a description."""


@dataclass(frozen=True)
class SensorDescription:
    """Description of how an image was recorded."""

    mtf_half: float
    """MTF of optics, detector, resampling and sharpening together, at half the Nyquist frequency (a
    quarter of a cycle per pixel)."""
    mtf: float
    """The same at the Nyquist frequency."""
    noise: float
    """Standard deviation of noise, quantization and compression errors, on the 0..1 scale."""
    grain: float
    """Correlation of the noise of neighbouring pixels, -1..1."""

    def normalize(self) -> tuple[float, ...]:
        """Return the numbers as standard scores over sensors, at most `MAX_NORMALIZED`."""
        half, nyquist, noise, grain = astuple(self)
        numbers = (half, nyquist, math.log(max(noise, 0.0) + MIN_NOISE), grain)
        scaled = ((x - c) / s for x, c, s in zip(numbers, MEANS, STANDARD_DEVIATIONS, strict=True))
        return tuple(min(max(x, -MAX_NORMALIZED), MAX_NORMALIZED) for x in scaled)

    def __str__(self) -> str:
        """Return text that `parse_sensor` reads."""
        return (
            f"mtf_half={self.mtf_half:.3f},mtf={self.mtf:.3f},"
            f"noise={self.noise:.4f},grain={self.grain:.2f}"
        )

    @classmethod
    def from_normalized(cls, numbers: Sequence[float]) -> SensorDescription:
        """Build a description from the numbers of `normalize`."""
        half, nyquist, noise, grain = (
            x * s + c for x, c, s in zip(numbers, MEANS, STANDARD_DEVIATIONS, strict=True)
        )
        return cls(half, nyquist, max(math.exp(noise) - MIN_NOISE, 0.0), grain)


VALUE_RANGES = {
    "mtf_half": (0.01, 2.0),
    "mtf": (0.01, 2.0),
    "noise": (0.0, 0.5),
    "grain": (-1.0, 1.0),
}
"""Smallest and largest permitted value of each number."""


def parse_sensor(text: str) -> dict[str, float]:
    """Parse some attributes of `SensorDescription`, such as ``mtf=0.2,noise=0.01``.

    If ``mtf`` is given without ``mtf_half``, the MTF is taken to be a gaussian, which at half the
    Nyquist frequency is the fourth root of ``mtf``.

    Raises
    ------
    UsageError
        A number is unknown, repeated or out of range.
    """
    numbers: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        low, high = VALUE_RANGES.get(key, (0.0, -1.0))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high or key in numbers:
            limits = ", ".join(
                f"{name}={low:g}..{high:g}" for name, (low, high) in VALUE_RANGES.items()
            )
            raise UsageError(
                f"sensor {text!r}: expected one or more of {limits}, each once, such as "
                "mtf=0.2,noise=0.01"
            )
        numbers[key] = number
    if "mtf" in numbers:
        numbers.setdefault("mtf_half", numbers["mtf"] ** 0.25)
    return numbers


def combine_estimates(mean: Any, variance: Any) -> Any:
    """Combine the estimates of several windows of one scene into one description.

    The result is a mean, weighted by the information that each estimate has over the standard
    normal prior. It stays as close to the prior as a single estimate, because the errors of
    estimates of one scene are not independent. Without information it is zero, the prior.

    Takes mean and variance, (n, N_SENSOR_VALUES) with one row per window, as arrays or tensors, and
    returns (N_SENSOR_VALUES,).
    """
    information = (1 / variance - 1).clip(min=0)
    return (mean * information).sum(0) / information.sum(0).clip(min=1e-6)
