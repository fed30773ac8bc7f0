"""Degrade high-resolution (HR) images to low-resolution (LR) ones: bicubic, or by a sensor model.

LR pixel i covers the HR pixels ``scale * i .. scale * i + scale - 1``, so that a pair has no
half-pixel shift and an output keeps the corners of its source.

`ImagingChain` simulates optics, detector, noise, resampling, sharpening and coding. It also returns
the description of the sensor that a network is given (see `georsr.radiometry.kernels`), measured on
the result. Degradations are built from recipes and from the text of the command line.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from georsr.errors import UsageError
from georsr.radiometry.kernels import (
    MAX_MTF,
    MAX_SHARPENING,
    MIN_MTF,
    PSF_CUTOFF,
    SensorDescription,
    bicubic_matrix,
    correlate,
    cubic,
    mtfc_matrix,
    psf_matrix,
    psf_sigma,
    sampling_matrix,
)
from georsr.window import AnyArray, FloatArray

T = TypeVar("T")


def check_fraction(key: str, value: Any) -> None:
    """Raise unless ``value`` is a number from 0 to 1."""
    if not (is_number(value) and 0 <= value <= 1):
        raise UsageError(f"{key} is {value!r}, expected a fraction from 0 to 1")


def check_range(key: str, value: Any, lowest: float, highest: float) -> None:
    """Raise unless ``value`` is a tuple of two numbers in ascending order within the limits."""
    if not (isinstance(value, tuple) and len(value) == 2 and all(map(is_number, value))):
        raise UsageError(f"{key} is {value!r}, expected two numbers, lowest and highest")
    if not lowest <= value[0] <= value[1] <= highest:
        raise UsageError(
            f"{key} is {list(value)}, expected lowest and highest in {lowest}..{highest}"
        )


def is_number(value: Any) -> bool:
    """Return whether ``value`` is an int or a float, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def from_dict(cls: type[T], values: Any, context: str) -> T:
    """Build a dataclass whose ``__post_init__`` checks its values, and whose fields have defaults.

    ``values`` are plain values by the names of fields, as read from YAML or JSON; lists become
    tuples. ``context`` is their source, for error messages.

    Raises
    ------
    UsageError
        ``values`` is not a mapping, has an unknown key, or a value is refused.
    """
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise UsageError(f"{context}: expected 'key: value' lines, got {values!r}")
    if unknown := [str(key) for key in values if key not in known]:
        raise UsageError(f"{context}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    plain = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    try:
        return cls(**plain)
    except UsageError as error:
        raise UsageError(f"{context}: {error}") from error


def plain_values(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as plain values, lists instead of tuples."""
    values = asdict(settings).items()
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values}


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
        lr = _clip(lr)
        if quality is not None:
            return jpeg_roundtrip(lr, quality)
        return lr if self.bits is None else _quantize(lr, 2**self.bits - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a recipe, with the key ``kind`` and ranges as lists."""
        return {"kind": self.name, **plain_values(self)}

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
    padded = np.pad(noise, ((0, 0), (radius, radius), (radius, radius)), mode="wrap")
    return correlate(correlate(padded, taps, -2), taps, -1)


def sharpened(lr: FloatArray, strength: float) -> FloatArray:
    """Apply MTF compensation to (C, h, w) along both axes, without clipping."""
    rows, columns = (mtfc_matrix(size, strength) for size in lr.shape[-2:])
    return np.asarray(rows @ lr @ columns.T)


def jpeg_roundtrip(lr: FloatArray, quality: int) -> FloatArray:
    """Encode (C, h, w) in 0..1 as 8-bit JPEG and decode it again."""
    return _encode_and_decode(lr, "JPEG", quality=quality)


def jpeg2000_roundtrip(lr: FloatArray, ratio: float) -> FloatArray:
    """Encode (C, h, w) in 0..1 as 8-bit JPEG 2000, irreversible wavelet, and decode it again."""
    rates = {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True}
    return _encode_and_decode(lr, "JPEG2000", **rates)


def _encode_and_decode(lr: FloatArray, file_format: str, **options: Any) -> FloatArray:
    """Encode and decode (C, h, w) in 0..1 in 8 bits: three bands as RGB, others band by band."""
    from PIL import Image

    levels = np.rint(lr * 255).astype(np.uint8)
    decoded = []
    for pixels in [levels.transpose(1, 2, 0)] if len(levels) == 3 else levels:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, file_format, **options)
        with Image.open(file, formats=[file_format]) as image:
            decoded.append(np.asarray(image))
    planes = decoded[0].transpose(2, 0, 1) if len(levels) == 3 else np.stack(decoded)
    return np.asarray(planes, np.float32) / np.float32(255)


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
        return _clip(bicubic_downsample(hr, scale))

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"kind": "bicubic"}``."""
        return {"kind": self.name}

    def describe(self) -> str:
        """Return "bicubic"."""
        return self.name


def bicubic_downsample(image: AnyArray, scale: int) -> FloatArray:
    """Downsample (..., H, W), multiples of ``scale``, with an antialiased bicubic kernel.

    Takes any real type, and returns (..., H / scale, W / scale) float32 in the image's units,
    neither rounded nor clipped.
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


MAX_AXIS_RATIO = 1.15
"""Largest ratio of the MTF of one axis to the MTF drawn for both axes."""
MAX_SPACING_DRIFT = 0.015
"""Largest relative difference between the spacing of detectors and of the image's pixels."""


@dataclass(frozen=True)
class ImagingChain:
    """A simulated imaging chain from the ground to an image in an archive, random for every image.

    The image is blurred by gaussian optics and, in half of the cases, averaged over a detector. It
    is sampled at positions between the pixels, gets noise that grows with the signal and stripes,
    and is resampled to the pixels, sharpened, clipped, quantized and coded. A fraction of the
    images is downsampled by bicubic and rounded to 8 bits instead, as in benchmarks.
    """

    name = "imaging-chain"
    fixed = False

    bicubic: float = 0.25
    """Fraction of images that are downsampled by bicubic instead."""
    mtf: Range = (0.1, 0.5)
    """MTF of optics and detector at the LR Nyquist frequency."""
    quiet: float = 0.3
    """Fraction of the other images that have no noise."""
    noise: Range = (0.001, 0.03)
    """Standard deviation of noise at radiance 0.5, on the 0..1 scale, drawn on a logarithmic scale.
    A random fraction of its variance grows with the radiance."""
    striped: float = 0.1
    """Fraction of noisy images with stripes of up to half the standard deviation of the noise."""
    warped: float = 0.45
    """Fraction resampled, bilinearly or by cubic convolution, from the detectors to the pixels."""
    grainy: float = 0.3
    """Fraction of noisy images whose noise is smoothed by a gaussian of up to one pixel."""
    filtered: float = 0.5
    """Fraction sharpened or smoothed by ground processing, noise included."""
    sharpen: Range = (-0.4, 1.8)
    """Strength of the sharpening, see `filter_matrix`; negative values smooth."""
    levels: Range = (60.0, 4096.0)
    """Number of quantization levels of 0..1, drawn on a logarithmic scale. An 8-bit image whose
    contrast was stretched has few."""
    coded: float = 0.2
    """Fraction that is compressed, half of it as JPEG and half as JPEG 2000."""
    jpeg: tuple[int, int] = (60, 98)
    """Range of JPEG qualities, 1..100."""
    jpeg2000: Range = (3.0, 14.0)
    """Range of JPEG 2000 compression ratios, relative to 8 bits per band."""

    def __post_init__(self) -> None:
        for key in ("bicubic", "quiet", "striped", "warped", "grainy", "filtered", "coded"):
            check_fraction(key, getattr(self, key))
        check_range("mtf", self.mtf, MIN_MTF, MAX_MTF[False])
        check_range("noise", self.noise, 1e-5, 0.5)
        check_range("sharpen", self.sharpen, -0.5, MAX_SHARPENING)
        check_range("levels", self.levels, 2, 65536)
        check_range("jpeg", self.jpeg, 1, 100)
        check_range("jpeg2000", self.jpeg2000, 1, 100)

    def margin(self, scale: int) -> int:
        """Return the radius of the widest PSF, cubic and filter together, in HR pixels."""
        radius = PSF_CUTOFF * psf_sigma(self.mtf[0] / MAX_AXIS_RATIO, scale) + 4 * scale
        return math.ceil(radius / scale) * scale

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Degrade (C, H, W) in 0..1 to (C, H / scale, W / scale) in 0..1; see `Degradation`."""
        return self.simulate(hr, scale, rng)[0]

    def simulate(
        self, hr: FloatArray, scale: int, rng: np.random.Generator
    ) -> tuple[FloatArray, SensorDescription]:
        """Return the degraded image and the measured description of its sensor."""
        if rng.random() < self.bicubic:
            rows, columns = (bicubic_matrix(size, scale) for size in hr.shape[-2:])
            clean = _clip(rows @ hr @ columns.T)
            lr = _quantize(clean, 255)
        else:
            rows, columns, clean, lr = self._simulate_chain(hr, scale, rng)
        half, nyquist = (
            float(np.mean([matrix_mtf(m, scale, f) for m in (rows, columns)])) for f in (0.25, 0.5)
        )
        noise, grain = noise_statistics(lr - clean)
        return lr, SensorDescription(half, nyquist, noise, grain)

    def _simulate_chain(
        self, hr: FloatArray, scale: int, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return the linear operators along rows and columns, their result and the final image."""
        mtf = rng.uniform(*self.mtf)
        pixel = bool(rng.random() < 0.5) and mtf * MAX_AXIS_RATIO < MAX_MTF[True]
        warped = bool(rng.random() < self.warped)
        is_cubic = bool(rng.random() < 0.5)
        near, far = 0.0, 0.0
        if rng.random() < self.filtered:
            near = rng.uniform(*self.sharpen)
            far = rng.uniform(-0.35, 0.35) * near
        sensor, ground = [], []
        for size in hr.shape[-2:]:
            count = size // scale
            axis_ratio = MAX_AXIS_RATIO ** rng.uniform(-1, 1)
            sigma = psf_sigma(min(mtf * axis_ratio, MAX_MTF[pixel]), scale, pixel)
            phase = rng.uniform(-0.5, 0.5)
            drift = rng.uniform(-MAX_SPACING_DRIFT, MAX_SPACING_DRIFT)
            positions = np.arange(count, dtype=np.float64)
            ground_processing = np.eye(count, dtype=np.float32)
            if warped:
                centre = (count - 1) / 2
                positions = positions + phase + drift * (positions - centre)
                pixels = (np.arange(count) - phase + drift * centre) / (1 + drift)
                ground_processing = resampling_matrix(pixels, count, is_cubic)
            if near:
                ground_processing = filter_matrix(count, near * axis_ratio, far) @ ground_processing
            sensor.append(sampling_matrix(positions, size, scale, sigma, pixel))
            ground.append(ground_processing)
        recorded: FloatArray = np.asarray(sensor[0] @ hr @ sensor[1].T)
        noisy = recorded + self._noise(recorded, rng)
        clean, lr = (_clip(ground[0] @ image @ ground[1].T) for image in (recorded, noisy))
        low, high = np.log(self.levels)
        lr = _quantize(lr, math.floor(math.exp(rng.uniform(low, high))))
        if rng.random() < self.coded:
            if rng.random() < 0.5:
                lr = jpeg_roundtrip(lr, int(rng.integers(*self.jpeg, endpoint=True)))
            else:
                lr = jpeg2000_roundtrip(lr, rng.uniform(*self.jpeg2000))
        rows, columns = (np.asarray(a @ b) for a, b in zip(ground, sensor, strict=True))
        return rows, columns, clean, lr

    def _noise(self, recorded: FloatArray, rng: np.random.Generator) -> FloatArray:
        if rng.random() < self.quiet:
            return np.zeros_like(recorded)
        sigma = math.exp(rng.uniform(*np.log(self.noise)))
        signal_fraction = rng.random()
        variance = (1 - signal_fraction) + signal_fraction * np.maximum(recorded, 0) / 0.5
        noise = rng.standard_normal(recorded.shape, dtype=np.float32)
        if rng.random() < self.grainy:
            noise = smooth_noise(noise, rng.uniform(0.2, 1.0))
        noise *= np.sqrt(variance.astype(np.float32)) * np.float32(sigma)
        if rng.random() < self.striped:
            columns = rng.standard_normal((len(noise), 1, noise.shape[-1]), dtype=np.float32)
            noise += columns * np.float32(sigma * rng.uniform(0, 0.5))
        return noise

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a recipe, with the key ``kind`` and ranges as lists."""
        return {"kind": self.name, **plain_values(self)}

    def describe(self) -> str:
        """Return a short description for reports."""
        low, high = self.mtf
        return f"imaging chain, MTF {low:g}..{high:g} at Nyquist, {self.bicubic:.0%} bicubic"


def resampling_matrix(positions: AnyArray, count: int, is_cubic: bool) -> FloatArray:
    """Return interpolation at positions (n,) of ``count`` pixels as an (n, count) float32 matrix.

    It is linear, or Keys' cubic with a = -0.5. The first and last pixel are repeated beyond the
    ends, so that rows sum to 1.
    """
    radius = 2 if is_cubic else 1
    first = np.floor(positions).astype(int)
    matrix = np.zeros((len(positions), count))
    rows = np.arange(len(positions))
    for tap in range(1 - radius, radius + 1):
        x = positions - (first + tap)
        weight = cubic(x, -0.5) if is_cubic else 1 - np.abs(x)
        np.add.at(matrix, (rows, np.clip(first + tap, 0, count - 1)), weight)
    return matrix.astype(np.float32)


def filter_matrix(size: int, near: float, far: float) -> FloatArray:
    """Return a filter of five taps along one axis as a (size, size) float32 matrix.

    A wave of f cycles per pixel is multiplied by 1 + near (1 - cos 2 pi f) / 2 +
    far (1 - cos 4 pi f) / 2. With ``far`` 0 this is `georsr.radiometry.kernels.mtfc_matrix`. The
    edge pixel is repeated beyond the edge, so that rows sum to 1.
    """
    matrix = np.eye(size)
    for distance, strength in ((1, near), (2, far)):
        for step in (-distance, distance):
            neighbour = np.eye(size)[np.clip(np.arange(size) + step, 0, size - 1)]
            matrix += strength / 4 * (np.eye(size) - neighbour)
    return matrix.astype(np.float32)


def matrix_mtf(matrix: FloatArray, scale: int, frequency: float) -> float:
    """Return the MTF of a downsampling matrix (n, size), away from its ends.

    ``frequency`` is in cycles per LR pixel. The squared amplitudes of rows are averaged, because
    rows differ in phase.
    """
    angle = 2 * np.pi * frequency / scale * np.arange(matrix.shape[1])
    waves = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    edge = min(4, (len(matrix) - 1) // 2)
    response = (matrix @ waves)[edge : len(matrix) - edge]
    return float(np.sqrt(np.square(response).sum(1).mean()))


def noise_statistics(error: FloatArray) -> tuple[float, float]:
    """Return the standard deviation of (C, h, w) and the correlation of neighbouring pixels."""
    power = float(np.square(error).mean())
    if power < 1e-12:
        return 0.0, 0.0
    across = float((error[..., 1:] * error[..., :-1]).mean())
    down = float((error[..., 1:, :] * error[..., :-1, :]).mean())
    return math.sqrt(power), (across + down) / 2 / power


def _clip(image: AnyArray) -> FloatArray:
    return np.asarray(np.clip(image, np.float32(0), np.float32(1)), np.float32)


def _quantize(image: FloatArray, top: int) -> FloatArray:
    return np.asarray(np.rint(image * np.float32(top)) / np.float32(top))


@dataclass(frozen=True)
class Mixture:
    """Draws one of several degradations for every image, so that a network learns to undo all."""

    name = "mixture"
    fixed = False

    of: tuple[Degradation, ...]
    """Degradations, drawn with equal probability."""

    def margin(self, scale: int) -> int:
        """Return the largest margin of the degradations in HR pixels."""
        return max(degradation.margin(scale) for degradation in self.of)

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Degrade (C, H, W) in 0..1 by one of the degradations; see `Degradation`."""
        return self.of[int(rng.integers(len(self.of)))](hr, scale, rng)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"kind": "mixture", "of": [...]}``."""
        return {"kind": self.name, "of": [degradation.to_dict() for degradation in self.of]}

    def describe(self) -> str:
        """Return the descriptions of the degradations, joined by *or*."""
        return " or ".join(degradation.describe() for degradation in self.of)


def _mixture(values: Any, context: str) -> Degradation:
    parts = values.pop("of", None)
    if values:
        raise UsageError(f"{context}: unknown key {sorted(map(str, values))[0]!r}; known: of")
    if not isinstance(parts, list) or len(parts) < 2:
        raise UsageError(
            f"{context}: 'of' is {parts!r}, expected a list of two degradations or more"
        )
    return Mixture(tuple(degradation_from_dict(part, f"{context}: of") for part in parts))


PARSERS: dict[str, Callable[[Any, str], Degradation]] = {
    "bicubic": partial(from_dict, BicubicDegradation),
    "sensor": SensorDegradation.from_dict,
    "imaging-chain": partial(from_dict, ImagingChain),
    "mixture": _mixture,
}


def degradation_from_dict(values: Any, context: str) -> Degradation:
    """Build a degradation from the plain values of its ``to_dict``.

    They are such as ``{"kind": "sensor", "mtf": [0.1, 0.35]}`` or ``{"kind": "mixture", "of":
    [...]}``; ``context`` is their source, for error messages.

    Raises
    ------
    UsageError
        The kind or a key is missing or unknown, or a value is out of range.
    """
    kind = str(values.get("kind")) if isinstance(values, dict) else ""
    if kind not in PARSERS:
        raise UsageError(
            f"{context}: expected 'kind: ' with one of {', '.join(PARSERS)}, got {values!r}"
        )
    rest = {key: value for key, value in values.items() if key != "kind"}
    return PARSERS[kind](rest, context)


CONSTANTS = {"true": True, "false": False, "none": None}


def parse_degradation(text: str) -> Degradation:
    """Parse a degradation such as ``bicubic`` or ``sensor,mtf=0.1..0.35,noise=0.01,bits=8``.

    The values are numbers, ranges ``LO..HI``, ``true``, ``false`` or ``none``.

    Raises
    ------
    UsageError
        The kind or a key is unknown, or a value is out of range.
    """
    kind, *settings = (part.strip() for part in text.split(","))
    context = f"degradation {text!r}"
    if kind not in PARSERS:
        raise UsageError(f"{context}: expected one of {', '.join(PARSERS)}, got {kind!r}")
    values: dict[str, Any] = {"kind": kind}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise UsageError(f"{context}: {setting!r} is not key=value")
        if key in values:
            raise UsageError(f"{context}: {key!r} is given twice")
        values[key] = _value(value, context)
    return degradation_from_dict(values, context)


def _value(text: str, context: str) -> Any:
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    low, dots, high = text.partition("..")
    try:
        return [_number(low), _number(high)] if dots else _number(text)
    except ValueError:
        raise UsageError(
            f"{context}: {text!r} is not a number, a range LO..HI, true, false or none"
        ) from None


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
