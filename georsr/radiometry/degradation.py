"""Degrade high-resolution (HR) images to low-resolution (LR) ones: bicubic, or by a sensor model.

LR pixel i covers the HR pixels ``scale * i .. scale * i + scale - 1``, so that a pair has no
half-pixel shift and an output keeps the corners of its source.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from georsr._fields import check_range, from_dict, is_number
from georsr.errors import UsageError
from georsr.radiometry.kernels import (
    MAX_MTF,
    MAX_SHARPENING,
    MIN_MTF,
    PSF_CUTOFF,
    bicubic_matrix,
    mtfc_matrix,
    psf_matrix,
    psf_sigma,
)
from georsr.window import AnyArray, FloatArray

Range = tuple[float, float]


@dataclass(frozen=True)
class SensorDegradation:
    """A coarser sensor, with parameters drawn at random for every image.

    The steps are blur and sampling by a point spread function, noise, sharpening, clipping to 0..1,
    quantization and optionally JPEG. Noise has the standard deviation sqrt(noise^2 + shot^2 x) at
    radiance x (A. Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for
    single-image raw-data", IEEE TIP 17(10), 2008). Ranges are (lowest, highest), drawn uniformly.
    """

    name = "sensor"

    mtf: Range = (0.1, 0.35)
    """MTF of the system at the LR Nyquist frequency; the default holds most optical satellites."""
    noise: Range = (0.0, 0.01)
    """Standard deviation of read noise, in units of the 0..1 scale."""
    shot: Range = (0.0, 0.0)
    """Standard deviation of shot noise at radiance 1, in the same units."""
    grain: Range = (0.0, 0.0)
    """Standard deviation in LR pixels of a gaussian that smooths the noise, as the resampling of
    archives does. The noise keeps the standard deviation given by ``noise`` and ``shot``."""
    sharpen: Range = (0.0, 0.0)
    """Strength of MTF compensation, which many archives apply: contrast at the LR Nyquist
    frequency, noise included, is multiplied by 1 + this."""
    bits: int | None = 8
    """Number of bits of the quantization of 0..1; None for no quantization."""
    jpeg: tuple[int, int] | None = None
    """Range of JPEG qualities, 1..100. Three bands are coded as RGB, others band by band."""
    pixel: bool = False
    """Whether the PSF is a gaussian followed by the mean over the LR pixel, rather than a gaussian
    for both. ``mtf`` is the MTF of the system in either case."""

    def __post_init__(self) -> None:
        if not isinstance(self.pixel, bool):
            raise UsageError(f"pixel is {self.pixel!r}, expected true or false")
        check_range("mtf", self.mtf, MIN_MTF, MAX_MTF[self.pixel])
        check_range("noise", self.noise, 0, 0.5)
        check_range("shot", self.shot, 0, 0.5)
        check_range("grain", self.grain, 0, 4)
        check_range("sharpen", self.sharpen, 0, MAX_SHARPENING)
        if self.bits is not None and (type(self.bits) is not int or not 2 <= self.bits <= 16):
            raise UsageError(f"bits is {self.bits!r}, expected 2 to 16, or none")
        if self.jpeg is not None:
            check_range("jpeg", self.jpeg, 1, 100)
            if any(type(quality) is not int for quality in self.jpeg):
                raise UsageError(f"jpeg is {self.jpeg!r}, expected integers")
            if self.bits != 8:
                raise UsageError(f"jpeg needs bits: 8, got bits: {self.bits}")

    @property
    def fixed(self) -> bool:
        """Return whether nothing is random: there is no noise, and all ranges are single values."""
        low, high = self.jpeg or (0, 0)
        return not any((*self.noise, *self.shot)) and self.system_is_fixed and low == high

    @property
    def system_is_fixed(self) -> bool:
        """Return whether blur and sharpening are the same for every image."""
        return all(low == high for low, high in (self.mtf, self.sharpen))

    def margin(self, scale: int) -> int:
        """Return the radius of the widest PSF in HR pixels, a multiple of ``scale``."""
        radius = PSF_CUTOFF * psf_sigma(self.mtf[0], scale, self.pixel)
        if self.pixel:
            radius += (scale - 1) / 2
        if any(self.sharpen):
            radius += scale
        return math.ceil(radius / scale) * scale

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Degrade (C, H, W) in 0..1 to (C, H / scale, W / scale) in 0..1; see `Degradation`."""
        mtf, noise, shot = (rng.uniform(*limits) for limits in (self.mtf, self.noise, self.shot))
        quality = int(rng.integers(*self.jpeg, endpoint=True)) if self.jpeg else None
        lr = blur_and_sample(hr, scale, psf_sigma(mtf, scale, self.pixel), self.pixel)
        if noise > 0 or shot > 0:
            grain = rng.uniform(*self.grain) if any(self.grain) else 0.0
            lr += draw_noise(lr, noise, shot, rng, grain)
        if any(self.sharpen):
            lr = sharpened(lr, rng.uniform(*self.sharpen))
        np.clip(lr, np.float32(0), np.float32(1), out=lr)
        if quality is not None:
            return jpeg_roundtrip(lr, quality)
        if self.bits is None:
            return lr
        top = np.float32(2**self.bits - 1)
        return np.rint(lr * top) / top

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a recipe, with the key ``kind`` and ranges as lists."""
        plain = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        return {"kind": self.name, **plain}

    @classmethod
    def from_dict(cls, values: Any, context: str) -> SensorDegradation:
        """Build from the values of `to_dict` without ``kind``; a number is a range of one value."""
        if isinstance(values, dict):
            ranges = ("mtf", "noise", "shot", "grain", "sharpen", "jpeg")
            values = {
                key: (value, value) if key in ranges and is_number(value) else value
                for key, value in values.items()
            }
        return from_dict(cls, values, context)

    def describe(self) -> str:
        """Return text such as ``sensor model, MTF 0.1..0.35 at Nyquist, noise 0..0.01, 8 bits``."""
        parts = [f"sensor model, MTF {_format_range(self.mtf)} at Nyquist"]
        parts += [f"noise {_format_range(self.noise)}"] if any(self.noise) else []
        parts += [f"shot noise {_format_range(self.shot)}"] if any(self.shot) else []
        parts += [f"grain {_format_range(self.grain)} pixels"] if any(self.grain) else []
        parts += [f"sharpened by {_format_range(self.sharpen)}"] if any(self.sharpen) else []
        parts += [f"{self.bits} bits"] if self.bits else []
        parts += [f"JPEG {_format_range(self.jpeg)}"] if self.jpeg else []
        return ", ".join(parts)


def blur_and_sample(hr: FloatArray, scale: int, sigma: float, pixel: bool = False) -> FloatArray:
    """Blur and sample (..., H, W), multiples of ``scale``, with the PSF of `psf_matrix`."""
    height, width = hr.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"image {height}x{width} is not a multiple of {scale}; crop it first")
    rows = psf_matrix(height, scale, sigma, pixel)
    columns = rows if width == height else psf_matrix(width, scale, sigma, pixel)
    return np.asarray(rows @ hr @ columns.T)


def draw_noise(
    lr: FloatArray, noise: float, shot: float, rng: np.random.Generator, grain: float = 0.0
) -> FloatArray:
    """Draw read and shot noise for an image in 0..1; see `SensorDegradation`."""
    drawn = rng.standard_normal(lr.shape, dtype=np.float32)
    if grain > 0:
        drawn = smooth_noise(drawn, grain)
    if shot == 0:
        return drawn * np.float32(noise)
    return drawn * np.sqrt(np.float32(noise**2) + np.float32(shot**2) * np.maximum(lr, 0))


def smooth_noise(noise: FloatArray, sigma: float) -> FloatArray:
    """Smooth white noise (C, h, w) by a gaussian of ``sigma`` pixels, keeping its variance."""
    radius = math.ceil(PSF_CUTOFF * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    taps /= np.sqrt(np.square(taps).sum())  # keeps the variance of independent values
    for axis in (-2, -1):
        length = noise.shape[axis]
        padding = [(0, 0)] * noise.ndim
        padding[axis] = (radius, radius)
        padded = np.pad(noise, padding, mode="wrap")
        parts = (np.take(padded, range(i, i + length), axis) * tap for i, tap in enumerate(taps))
        noise = np.asarray(sum(parts))
    return noise


def sharpened(lr: FloatArray, strength: float) -> FloatArray:
    """Apply MTF compensation to (C, h, w) along both axes, without clipping."""
    rows, columns = (mtfc_matrix(size, strength) for size in lr.shape[-2:])
    return np.asarray(rows @ lr @ columns.T)


def jpeg_roundtrip(lr: FloatArray, quality: int) -> FloatArray:
    """Encode (C, h, w) in 0..1 as 8-bit JPEG and decode it again."""
    levels = np.rint(lr * 255).astype(np.uint8)
    if len(levels) == 3:
        planes = _encode_decode(levels.transpose(1, 2, 0), quality).transpose(2, 0, 1)
    else:
        planes = np.stack([_encode_decode(band, quality) for band in levels])
    return np.asarray(planes, np.float32) / np.float32(255)


def _encode_decode(pixels: AnyArray, quality: int) -> AnyArray:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality)
    with Image.open(file, formats=["JPEG"]) as image:
        return np.asarray(image)


def _format_range(limits: tuple[float, float]) -> str:
    low, high = limits
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


class Degradation(Protocol):
    """Degrades a high-resolution image to what a coarser sensor would have recorded."""

    @property
    def name(self) -> str:
        """Return the kind of degradation, as in recipes."""

    @property
    def fixed(self) -> bool:
        """Return whether the result is the same for every generator."""

    def margin(self, scale: int) -> int:
        """Return how far in HR pixels, a multiple of ``scale``, an LR pixel depends on others."""

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Degrade an image.

        Parameters
        ----------
        hr
            (C, H, W) float32 in 0..1; H and W are multiples of ``scale``.
        scale
            HR pixels per LR pixel along each axis, at least 1.
        rng
            Generator of everything that is random.

        Returns
        -------
        ndarray
            (C, H / scale, W / scale) float32 in 0..1.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a recipe, with the key ``kind``."""

    def describe(self) -> str:
        """Return a short description for reports."""


@dataclass(frozen=True)
class BicubicDegradation:
    """Antialiased bicubic downsampling, the degradation of the published benchmarks."""

    name = "bicubic"
    fixed = True

    def margin(self, scale: int) -> int:
        """Return the radius of the stretched kernel, two LR pixels, in HR pixels."""
        return 2 * scale

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Downsample and clip to 0..1, because the kernel overshoots; ``rng`` is not used."""
        return np.clip(bicubic_downsample(hr, scale), np.float32(0), np.float32(1))

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"kind": "bicubic"}``."""
        return {"kind": self.name}

    def describe(self) -> str:
        """Return "bicubic"."""
        return self.name


def bicubic_downsample(image: AnyArray, scale: int) -> FloatArray:
    """Downsample an image by an integer factor with an antialiased bicubic kernel.

    Parameters
    ----------
    image
        (..., H, W), any real dtype; H and W are multiples of ``scale``.
    scale
        Factor, at least 1.

    Returns
    -------
    ndarray
        (..., H / scale, W / scale) float32 in the image's units, neither rounded nor clipped.
    """
    height, width = image.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"image {height}x{width} is not a multiple of {scale}; crop it first")
    down_rows, down_columns = bicubic_matrix(height, scale), bicubic_matrix(width, scale)
    return np.asarray(down_rows @ image.astype(np.float32, copy=False) @ down_columns.T)


def to_uint8(image: AnyArray) -> AnyArray:
    """Round to the nearest integer, ties to even, and clip to 0..255."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def crop_to_multiple(image: AnyArray, scale: int) -> AnyArray:
    """Remove the last rows and columns so that the last two axes are multiples of ``scale``."""
    height, width = image.shape[-2:]
    return image[..., : height - height % scale, : width - width % scale]


def degrade_pair(image: AnyArray, scale: int) -> tuple[AnyArray, AnyArray]:
    """Return (HR, LR), both uint8: the image cropped to a multiple of ``scale``, and its LR."""
    hr = crop_to_multiple(image, scale)
    return hr, to_uint8(bicubic_downsample(hr, scale))


VALIDATION_SEED = 20_000
"""First word of the random seed of a validation image, the same in every run."""


def degrade_image(
    hr: AnyArray, degradation: Degradation, scale: int, rng: np.random.Generator
) -> AnyArray:
    """Degrade (3, scale * h, scale * w) uint8 to (3, h, w) uint8."""
    if isinstance(degradation, BicubicDegradation):
        # the published protocol rounds in units of 1/255, in which halves are exact
        return degrade_pair(hr, scale)[1]
    return to_uint8(degradation(to_float(hr), scale, rng) * np.float32(255))


def to_float(image: AnyArray) -> FloatArray:
    """Convert uint8 to contiguous float32 in 0..1."""
    return np.divide(image, np.float32(255), dtype=np.float32, order="C")
