"""The imaging chain: optics, detector, noise, resampling, sharpening and coding, and their measure.

Beside the degraded image it gives the sensor description a network is told (see
`georsr.radiometry.sensor`), measured on what was done rather than copied from what was asked for.
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
    bicubic_matrix,
    psf_sigma,
)
from georsr.radiometry.sensor import SensorDescription
from georsr.window import AnyArray, FloatArray

Range = tuple[float, float]

MAX_AXIS_RATIO = 1.15
"""Largest ratio of the MTF along one axis to that drawn for both."""
MAX_SPACING_DRIFT = 0.015
"""Largest difference, as a share, between the spacing of detectors and of the product's pixels."""


@dataclass(frozen=True)
class ImagingChain:
    """What stands between the ground and an image in an archive, drawn anew for every image.

    Light passes gaussian optics and, in half of the images, the mean over a detector; it is sampled
    anywhere between the product's pixels and gets noise that grows with the signal, and stripes;
    it is resampled to the product's grid, sharpened, clipped, quantised and coded. A share of the
    images is shrunk by bicubic and rounded to 8 bits instead, as benchmarks are.
    """

    name = "imaging-chain"
    fixed = False

    bicubic: float = 0.25
    """Share of images shrunk by bicubic instead."""
    mtf: Range = (0.1, 0.5)
    """Of optics and detector at the LR Nyquist frequency."""
    quiet: float = 0.3
    """Share of the others that have no noise."""
    noise: Range = (0.001, 0.03)
    """Standard deviation at radiance 0.5 of the rest, units of the 0..1 scale, drawn on a
    logarithmic scale; between none and all of its variance grows with the radiance."""
    striped: float = 0.1
    """Share of noisy images whose columns differ, by up to half of the noise."""
    warped: float = 0.45
    """Share resampled once more, bilinear or cubic, to pixels between the detectors'."""
    grainy: float = 0.3
    """Share of noisy images whose noise is smooth, by a gaussian of up to one pixel."""
    filtered: float = 0.5
    """Share sharpened, or smoothed, on the ground, noise included."""
    sharpen: Range = (-0.4, 1.8)
    """Strength of that, see `filter_matrix`."""
    levels: Range = (60.0, 4096.0)
    """Levels that 0..1 is quantised to, drawn on a logarithmic scale: an image of 8 bits that was
    stretched later has few."""
    coded: float = 0.2
    """Share coded, half of it as JPEG and half as JPEG 2000."""
    jpeg: tuple[int, int] = (60, 98)
    """Quality of the one."""
    jpeg2000: Range = (3.0, 14.0)
    """Compression ratio of the other, of 8 bits per band."""

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
        """Reach of the widest PSF, of a cubic and of the filter, in HR pixels."""
        reach = PSF_CUTOFF * psf_sigma(self.mtf[0] / MAX_AXIS_RATIO, scale) + 4 * scale
        return math.ceil(reach / scale) * scale

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Record (C, H, W) 0..1 as (C, H / scale, W / scale) 0..1; see `Degradation`."""
        return self.record(hr, scale, rng)[0]

    def record(
        self, hr: FloatArray, scale: int, rng: np.random.Generator
    ) -> tuple[FloatArray, SensorDescription]:
        """The degraded image, and how it came about."""
        if rng.random() < self.bicubic:
            rows, columns = (bicubic_matrix(size, scale) for size in hr.shape[-2:])
            clean = _clipped(rows @ hr @ columns.T)
            lr = _quantised(clean, 255)
        else:
            rows, columns, clean, lr = self._through(hr, scale, rng)
        half, nyquist = (
            float(np.mean([matrix_mtf(m, scale, f) for m in (rows, columns)])) for f in (0.25, 0.5)
        )
        noise, grain = noise_statistics(lr - clean)
        return lr, SensorDescription(half, nyquist, noise, grain)

    def _through(
        self, hr: FloatArray, scale: int, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Both operators of the linear part, its result, and the image in the archive."""
        mtf = rng.uniform(*self.mtf)
        pixel = bool(rng.random() < 0.5) and mtf * MAX_AXIS_RATIO < MAX_MTF[True]
        warped = bool(rng.random() < self.warped)
        cubic = bool(rng.random() < 0.5)
        strength, far = 0.0, 0.0
        if rng.random() < self.filtered:
            strength = rng.uniform(*self.sharpen)
            far = rng.uniform(-0.35, 0.35) * strength
        optics, ground = [], []
        for size in hr.shape[-2:]:
            count = size // scale
            unequal = MAX_AXIS_RATIO ** rng.uniform(-1, 1)
            sigma = psf_sigma(min(mtf * unequal, MAX_MTF[pixel]), scale, pixel)
            phase, drift = (
                rng.uniform(-0.5, 0.5),
                rng.uniform(-MAX_SPACING_DRIFT, MAX_SPACING_DRIFT),
            )
            places = np.arange(count, dtype=np.float64)
            after = np.eye(count, dtype=np.float32)
            if warped:
                middle = (count - 1) / 2
                places = places + phase + drift * (places - middle)
                wanted = (np.arange(count) - phase + drift * middle) / (1 + drift)
                after = resampling_matrix(wanted, count, cubic)
            if strength:
                after = filter_matrix(count, strength * unequal, far) @ after
            optics.append(sampling_matrix(places, size, scale, sigma, pixel))
            ground.append(after)
        recorded: FloatArray = np.asarray(optics[0] @ hr @ optics[1].T)
        noisy = recorded + self._noise(recorded, rng)
        clean, lr = (_clipped(ground[0] @ image @ ground[1].T) for image in (recorded, noisy))
        low, high = np.log(self.levels)
        lr = _quantised(lr, math.floor(math.exp(rng.uniform(low, high))))
        if rng.random() < self.coded:
            if rng.random() < 0.5:
                lr = jpeg_roundtrip(lr, int(rng.integers(*self.jpeg, endpoint=True)))
            else:
                lr = jpeg2000_roundtrip(lr, rng.uniform(*self.jpeg2000))
        rows, columns = (np.asarray(a @ b) for a, b in zip(ground, optics, strict=True))
        return rows, columns, clean, lr

    def _noise(self, recorded: FloatArray, rng: np.random.Generator) -> FloatArray:
        if rng.random() < self.quiet:
            return np.zeros_like(recorded)
        sigma = math.exp(rng.uniform(*np.log(self.noise)))
        share = rng.random()
        variance = (1 - share) + share * np.maximum(recorded, 0) / 0.5
        noise = rng.standard_normal(recorded.shape, dtype=np.float32)
        if rng.random() < self.grainy:
            noise = smooth_noise(noise, rng.uniform(0.2, 1.0))
        noise *= np.sqrt(variance.astype(np.float32)) * np.float32(sigma)
        if rng.random() < self.striped:
            columns = rng.standard_normal((len(noise), 1, noise.shape[-1]), dtype=np.float32)
            noise += columns * np.float32(sigma * rng.uniform(0, 0.5))
        return noise

    def to_mapping(self) -> dict[str, Any]:
        """Plain values with the key ``kind``; ranges as lists."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"kind": self.name, **plain}

    @classmethod
    def from_mapping(cls, values: Any, where: str) -> ImagingChain:
        """Inverse of `to_mapping` without ``kind``."""
        return from_dict(cls, values, where)

    def describe(self) -> str:
        """A few words for people."""
        low, high = self.mtf
        return f"imaging chain, MTF {low:g}..{high:g} at Nyquist, {self.bicubic:.0%} bicubic"


def sampling_matrix(
    places: AnyArray, size: int, scale: int, sigma: float, pixel: bool = False
) -> FloatArray:
    """Blurring and sampling along one axis at any places, as a matrix whose rows sum to 1.

    Parameters
    ----------
    places
        (n,) centres of detectors, in LR pixels from the centre of the first LR pixel.
    size, scale
        HR pixels, and HR pixels per LR pixel.
    sigma, pixel
        As for `georsr.radiometry.kernels.psf_matrix`.

    Returns
    -------
    ndarray
        (n, size) float32.
    """
    corners = places[:, None] * scale
    columns = np.arange(size)[None, :]
    weights = np.zeros((len(places), size))
    for step in range(scale) if pixel else [(scale - 1) / 2]:
        x = (columns - corners - step) / sigma
        weights += np.exp(-0.5 * np.minimum(x * x, 80.0)) * (np.abs(x) <= PSF_CUTOFF)
    total = weights.sum(1, keepdims=True)
    # a detector beyond the image's edge sees the pixel at the edge
    edge = columns == np.clip(np.rint(corners), 0, size - 1)
    return np.where(total > 0, weights / np.maximum(total, 1e-12), edge).astype(np.float32)


def resampling_matrix(places: AnyArray, count: int, cubic: bool) -> FloatArray:
    """Interpolation at places (n,) of a row of ``count`` pixels: (n, count) float32, sums of 1.

    Linear, or Keys' cubic with a = -0.5; the row is continued by its own ends.
    """
    reach = 2 if cubic else 1
    first = np.floor(places).astype(int)
    matrix = np.zeros((len(places), count))
    rows = np.arange(len(places))
    for tap in range(1 - reach, reach + 1):
        x = np.abs(places - (first + tap))
        if cubic:
            near = 1.5 * x**3 - 2.5 * x**2 + 1
            far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            weight = np.where(x <= 1, near, far)
        else:
            weight = 1 - x
        np.add.at(matrix, (rows, np.clip(first + tap, 0, count - 1)), weight)
    return matrix.astype(np.float32)


def filter_matrix(size: int, near: float, far: float) -> FloatArray:
    """A filter of five taps along one axis, (size, size) float32, rows sum to 1.

    A wave of f cycles per pixel is multiplied by 1 + near (1 - cos 2 pi f) / 2 +
    far (1 - cos 4 pi f) / 2: with ``far`` 0 this is `georsr.radiometry.kernels.sharpening`. The
    edge is continued.
    """
    matrix = np.eye(size)
    for reach, strength in ((1, near), (2, far)):
        for step in (-reach, reach):
            other = np.eye(size)[np.clip(np.arange(size) + step, 0, size - 1)]
            matrix += strength / 4 * (np.eye(size) - other)
    return matrix.astype(np.float32)


def jpeg2000_roundtrip(lr: FloatArray, ratio: float) -> FloatArray:
    """(C, h, w) 0..1 through 8-bit JPEG 2000 with its irreversible wavelet, and back."""
    from PIL import Image

    levels = np.rint(lr * 255).astype(np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(levels.transpose(1, 2, 0) if len(levels) == 3 else levels[0])
    picture.save(file, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)
    with Image.open(file) as image:
        pixels = np.asarray(image)
    planes = pixels.transpose(2, 0, 1) if len(levels) == 3 else pixels[None]
    return np.asarray(planes, np.float32) / np.float32(255)


def matrix_mtf(matrix: FloatArray, scale: int, frequency: float) -> float:
    """What a shrinking matrix (n, size) leaves of a wave's amplitude, away from its ends.

    ``frequency`` is in cycles per LR pixel. Rows with different phases are averaged as powers.
    """
    angle = 2 * np.pi * frequency / scale * np.arange(matrix.shape[1])
    waves = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    edge = min(4, (len(matrix) - 1) // 2)
    inner = (matrix @ waves)[edge : len(matrix) - edge]
    return float(np.sqrt(np.square(inner).sum(1).mean()))


def noise_statistics(error: FloatArray) -> tuple[float, float]:
    """Standard deviation of (C, h, w), and its correlation between neighbours, both axes alike."""
    power = float(np.square(error).mean())
    if power < 1e-12:
        return 0.0, 0.0
    across = float((error[..., 1:] * error[..., :-1]).mean())
    down = float((error[..., 1:, :] * error[..., :-1, :]).mean())
    return math.sqrt(power), (across + down) / 2 / power


def _clipped(image: AnyArray) -> FloatArray:
    return np.asarray(np.clip(image, np.float32(0), np.float32(1)), np.float32)


def _quantised(image: FloatArray, top: int) -> FloatArray:
    return np.asarray(np.rint(image * np.float32(top)) / np.float32(top))
