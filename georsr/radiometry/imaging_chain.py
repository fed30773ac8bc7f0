"""Simulate an imaging chain: optics, detector, noise, resampling, sharpening and coding.

The simulation also returns the description of the sensor that a network is given (see
`georsr.radiometry.kernels`), measured on the result.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from georsr._fields import check_fraction, check_range, from_dict
from georsr.radiometry.degradation import jpeg_roundtrip, smooth_noise
from georsr.radiometry.kernels import (
    MAX_MTF,
    MAX_SHARPENING,
    MIN_MTF,
    PSF_CUTOFF,
    SensorDescription,
    bicubic_matrix,
    psf_sigma,
)
from georsr.window import AnyArray, FloatArray

Range = tuple[float, float]

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
        cubic = bool(rng.random() < 0.5)
        near, far = 0.0, 0.0
        if rng.random() < self.filtered:
            near = rng.uniform(*self.sharpen)
            far = rng.uniform(-0.35, 0.35) * near
        sensor, ground = [], []
        for size in hr.shape[-2:]:
            count = size // scale
            axis_ratio = MAX_AXIS_RATIO ** rng.uniform(-1, 1)
            sigma = psf_sigma(min(mtf * axis_ratio, MAX_MTF[pixel]), scale, pixel)
            phase, drift = (
                rng.uniform(-0.5, 0.5),
                rng.uniform(-MAX_SPACING_DRIFT, MAX_SPACING_DRIFT),
            )
            positions = np.arange(count, dtype=np.float64)
            ground_processing = np.eye(count, dtype=np.float32)
            if warped:
                centre = (count - 1) / 2
                positions = positions + phase + drift * (positions - centre)
                pixels = (np.arange(count) - phase + drift * centre) / (1 + drift)
                ground_processing = resampling_matrix(pixels, count, cubic)
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
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"kind": self.name, **plain}

    @classmethod
    def from_dict(cls, values: Any, context: str) -> ImagingChain:
        """Build from the values of `to_dict` without ``kind``."""
        return from_dict(cls, values, context)

    def describe(self) -> str:
        """Return a short description for reports."""
        low, high = self.mtf
        return f"imaging chain, MTF {low:g}..{high:g} at Nyquist, {self.bicubic:.0%} bicubic"


def sampling_matrix(
    positions: AnyArray, size: int, scale: int, sigma: float, pixel: bool = False
) -> FloatArray:
    """Return blur and sampling along one axis at any positions as a matrix.

    Parameters
    ----------
    positions
        (n,) centres of detectors, in LR pixels from the centre of the first LR pixel.
    size, scale
        Number of HR pixels, and HR pixels per LR pixel.
    sigma, pixel
        As for `georsr.radiometry.kernels.psf_matrix`.

    Returns
    -------
    ndarray
        (n, size) float32; rows sum to 1.
    """
    corners = positions[:, None] * scale
    columns = np.arange(size)[None, :]
    weights = np.zeros((len(positions), size))
    for step in range(scale) if pixel else [(scale - 1) / 2]:
        x = (columns - corners - step) / sigma
        weights += np.exp(-0.5 * np.minimum(x * x, 80.0)) * (np.abs(x) <= PSF_CUTOFF)
    total = weights.sum(1, keepdims=True)
    # a detector beyond the image's edge gets the value of the pixel at the edge
    edge = columns == np.clip(np.rint(corners), 0, size - 1)
    return np.where(total > 0, weights / np.maximum(total, 1e-12), edge).astype(np.float32)


def resampling_matrix(positions: AnyArray, count: int, cubic: bool) -> FloatArray:
    """Return interpolation at positions (n,) of ``count`` pixels as an (n, count) float32 matrix.

    It is linear, or Keys' cubic with a = -0.5. The first and last pixel are repeated beyond the
    ends, so that rows sum to 1.
    """
    radius = 2 if cubic else 1
    first = np.floor(positions).astype(int)
    matrix = np.zeros((len(positions), count))
    rows = np.arange(len(positions))
    for tap in range(1 - radius, radius + 1):
        x = np.abs(positions - (first + tap))
        if cubic:
            near = 1.5 * x**3 - 2.5 * x**2 + 1
            far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            weight = np.where(x <= 1, near, far)
        else:
            weight = 1 - x
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


def jpeg2000_roundtrip(lr: FloatArray, ratio: float) -> FloatArray:
    """Encode (C, h, w) in 0..1 as 8-bit JPEG 2000, irreversible wavelet, and decode it again."""
    from PIL import Image

    levels = np.rint(lr * 255).astype(np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(levels.transpose(1, 2, 0) if len(levels) == 3 else levels[0])
    image.save(file, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)
    with Image.open(file) as decoded:
        pixels = np.asarray(decoded)
    planes = pixels.transpose(2, 0, 1) if len(levels) == 3 else pixels[None]
    return np.asarray(planes, np.float32) / np.float32(255)


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
