"""Kernels: what a pixel of a coarse image is of the pixels of the fine image below it.

All of them are separable and stand on the centre of the coarse pixel, ``(i + 0.5) * scale - 0.5``
in fine pixels, so that corners of the grids agree. At the image's edge they are cut and
renormalised: a constant stays what it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from georsr.errors import UsageError
from georsr.window import AnyArray, FloatArray

PSF_CUTOFF = 4.0
"""Standard deviations at which the PSF is cut: 6e-5 of its energy lies beyond."""
MAX_MTF = {False: 0.5, True: 0.4}
"""Highest MTF by ``pixel``; a sharper PSF, sampled on the HR grid at x2, would miss it by 1 %."""
MIN_MTF = 0.01
"""Lowest MTF."""
MAX_SHARPENING = 4.0
"""Highest strength of `sharpening`."""


@dataclass(frozen=True)
class Kernel:
    """One of the kernels by name.

    Attributes
    ----------
    kind : str
        ``bicubic`` (antialiased, a = -0.5), ``mean`` (of the pixel's own area) or ``psf`` (a
        gaussian).
    mtf : float
        Of the PSF, at the coarse image's Nyquist frequency.
    sharpen : float
        Strength of the `sharpening` that followed the PSF, in coarse pixels.
    damping : float
        Of what consistency adds: weight of its roughness, see `georsr.inference.consistency`; 0:
        the usual one.
    """

    kind: str
    mtf: float = 0.0
    sharpen: float = 0.0
    damping: float = 0.0

    def __str__(self) -> str:
        if self.kind != "psf":
            return self.kind
        return f"psf:{self.mtf:g}" + (f"+{self.sharpen:g}" if self.sharpen else "")

    def matrix(self, size: int, scale: int) -> FloatArray:
        """Shrinking along one axis: (size // scale, size) float32, rows sum to 1; read-only."""
        return _matrix(self, size, scale)

    def radius(self, scale: int) -> int:
        """Coarse pixels to either side of a pixel that share fine pixels with it."""
        if self.kind == "psf":
            return math.ceil(PSF_CUTOFF * psf_sigma(self.mtf, scale) / scale) + bool(self.sharpen)
        return 2 if self.kind == "bicubic" else 0

    def shrink(self, image: AnyArray, scale: int) -> FloatArray:
        """(..., H, W), multiples of ``scale`` -> (..., H / scale, W / scale) float32."""
        rows, columns = (self.matrix(size, scale) for size in image.shape[-2:])
        return np.asarray(rows @ image.astype(np.float32, copy=False) @ columns.T)


@lru_cache(maxsize=64)
def _matrix(kernel: Kernel, size: int, scale: int) -> FloatArray:
    if kernel.kind == "bicubic":
        return bicubic_matrix(size, scale)
    if kernel.kind == "mean":
        matrix = mean_matrix(size, scale)
    else:
        matrix = psf_matrix(size, scale, psf_sigma(kernel.mtf, scale))
        if kernel.sharpen:
            matrix = mtfc_matrix(size // scale, kernel.sharpen) @ matrix
    matrix.setflags(write=False)
    return matrix


def parse_kernel(text: str) -> Kernel:
    """``bicubic``, ``mean``, ``psf:MTF`` or ``psf:MTF+SHARPEN``.

    Raises
    ------
    UsageError
        None of these, or a number out of range.
    """
    kind, colon, value = text.partition(":")
    if kind in ("bicubic", "mean") and not colon:
        return Kernel(kind)
    optics, plus, more = value.partition("+")
    try:
        mtf = float(optics) if kind == "psf" else math.nan
        sharpen = float(more) if plus else 0.0
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
    """Antialiased cubic resampling as a matrix, (size // scale, size) float32, rows sum to 1.

    Keys' cubic with a = -0.5, stretched by ``scale``, cut at the image's edge and renormalised:
    the kernel of Pillow's BICUBIC and, away from the edge, of MATLAB's imresize.
    """
    centres = (np.arange(size // scale) + 0.5) * scale - 0.5
    x = np.abs(centres[:, None] - np.arange(size)[None, :]) / scale
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))
    matrix: FloatArray = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def mtfc_matrix(size: int, strength: float) -> FloatArray:
    """What archives do to make up for optics (MTF compensation), as a matrix (size, size) float32.

    A pixel's difference from the [1, 2, 1] / 4 mean round it is added ``strength`` times. That mean
    has no contrast at the Nyquist frequency, where the image gains 1 + strength. The edge is
    continued, so that rows sum to 1.
    """
    before = np.eye(size, k=-1) + np.eye(size) * (np.arange(size) == 0)
    after = np.eye(size, k=1) + np.eye(size) * (np.arange(size) == size - 1)
    matrix = np.eye(size) + strength / 4 * (2 * np.eye(size) - before - after)
    return np.asarray(matrix, np.float32)


def mean_matrix(size: int, scale: int) -> FloatArray:
    """The mean over each coarse pixel's own area as a matrix, (size // scale, size) float32."""
    return np.repeat(np.eye(size // scale, dtype=np.float32), scale, axis=1) / np.float32(scale)


def box_mtf(scale: int) -> float:
    """MTF of the mean over ``scale`` HR pixels at the LR Nyquist frequency 1 / (2 scale)."""
    return 1.0 / (scale * math.sin(math.pi / (2 * scale)))


def psf_sigma(mtf: float, scale: int, pixel: bool = False) -> float:
    """Standard deviation, in HR pixels, of the gaussian that gives a sensor its MTF.

    A gaussian has the response exp(-2 pi^2 sigma^2 f^2); at the LR Nyquist frequency
    f = 1 / (2 scale) cycles per HR pixel it has to be ``mtf``. This is the usual description of
    sensors in pansharpening: Aiazzi, Alparone, Baronti, Garzelli and Selva, "MTF-tailored
    multiscale fusion of high-resolution MS and Pan imagery", PE&RS 72(5), 2006; Vivone et al.,
    "A critical comparison among pansharpening algorithms", IEEE TGRS 53(5), 2015.

    Parameters
    ----------
    mtf
        Of the whole system (optics, detector, motion) at the LR Nyquist frequency, 0..1.
    scale
        HR pixels per LR pixel.
    pixel
        The detector's footprint is a box of its own, and the gaussian only the rest.
    """
    share = mtf / box_mtf(scale) if pixel else mtf
    return scale * math.sqrt(-2 * math.log(share)) / math.pi


def psf_matrix(size: int, scale: int, sigma: float, pixel: bool = False) -> FloatArray:
    """Blurring and sampling along one axis, (size // scale, size) float32, rows sum to 1.

    The PSF stands on the centre of each LR pixel, (i + 0.5) * scale - 0.5 in HR pixels, is cut
    at `PSF_CUTOFF` sigma and at the image's edge, and renormalised.

    Parameters
    ----------
    size
        HR pixels, a multiple of ``scale``.
    scale
        HR pixels per LR pixel.
    sigma
        Of the gaussian, in HR pixels.
    pixel
        Follow the gaussian by the mean over the LR pixel's own ``scale`` HR pixels.
    """
    corners = np.arange(size // scale)[:, None] * scale
    columns = np.arange(size)[None, :]
    steps = range(scale) if pixel else [(scale - 1) / 2]
    weights = np.zeros((size // scale, size))
    for step in steps:
        x = (columns - corners - step) / sigma
        weights += np.where(np.abs(x) <= PSF_CUTOFF, np.exp(-0.5 * x * x), 0.0)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)
