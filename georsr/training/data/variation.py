"""Vary training crops: resolution, bands, brightness and contrast, areas without detail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from georsr.radiometry.degradation import check_fraction, check_range, from_dict, plain_values
from georsr.window import AnyArray, FloatArray

Range = tuple[float, float]


@dataclass(frozen=True)
class Variation:
    """Random changes of training crops.

    Attributes
    ----------
    whole : float
        Fraction of crops at the image's own resolution; the others are shrunk first, by a factor
        drawn on a logarithmic scale.
    shrink : (float, float)
        Lowest and highest factor. Shrunk crops have less of the image's blur and coding.
    gray : float
        Fraction of crops with one band three times: a single band, or a mixture of all.
    colours : float
        Fraction of crops whose bands are permuted, mixed or, where there is one, replaced by the
        near infrared.
    light : float
        Fraction of crops with another brightness, contrast and gamma.
    contrast, gamma : (float, float)
        Ranges of contrast and gamma.
    flat : float
        Fraction of crops of which a part is replaced by an even surface, like water.
    """

    whole: float = 0.4
    shrink: Range = (1.0, 4.0)
    gray: float = 0.3
    colours: float = 0.25
    light: float = 0.5
    contrast: Range = (0.35, 1.6)
    gamma: Range = (0.7, 1.4)
    flat: float = 0.12

    def __post_init__(self) -> None:
        for key in ("whole", "gray", "colours", "light", "flat"):
            check_fraction(key, getattr(self, key))
        check_fraction("gray and colours together", self.gray + self.colours)
        check_range("shrink", self.shrink, 1, 16)
        check_range("contrast", self.contrast, 0.01, 10)
        check_range("gamma", self.gamma, 0.1, 10)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, lists instead of tuples."""
        return plain_values(self)

    @classmethod
    def from_dict(cls, values: Any, where: str) -> Variation:
        """Build from the result of `to_dict`; ``where`` names the source in errors."""
        return from_dict(cls, values, where)

    def crop(self, image: AnyArray, size: int, rng: np.random.Generator) -> FloatArray:
        """Draw a varied crop.

        Parameters
        ----------
        image
            (B, H, W) uint8: RGB, and the near infrared where B is 4.
        size
            Height and width of the crop; if the shrunk image is smaller, it is mirrored.
        rng
            Random number generator.

        Returns
        -------
        ndarray
            (1 or 3, size, size) float32 in 0..1; one band stands for three equal ones.
        """
        factor = 1.0
        if rng.random() >= self.whole:
            factor = math.exp(rng.uniform(*np.log(self.shrink)))
        height, width = (min(n, math.ceil(size * factor)) for n in image.shape[1:])
        top = int(rng.integers(image.shape[1] - height + 1))
        left = int(rng.integers(image.shape[2] - width + 1))
        crop = image[:, top : top + height, left : left + width].astype(np.float32)
        bands = np.tensordot(self._mixing_weights(len(image), rng), crop, 1) / np.float32(255)
        bands = shrink(bands, factor, size, rng)
        if rng.random() < self.flat:
            bands = add_even_surface(bands, rng)
        if rng.random() < self.light:
            bands = self._change_light(bands, rng)
        return np.ascontiguousarray(np.clip(bands, np.float32(0), np.float32(1)))

    def _mixing_weights(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the weights of the image's bands in those of the crop: (1 or 3, count)."""
        kind = rng.random()
        identity = np.eye(count, dtype=np.float32)
        if kind < self.gray:
            if rng.random() < 0.5:
                return identity[[int(rng.integers(count))]]
            return rng.dirichlet(np.ones(count), 1).astype(np.float32)
        if kind >= self.gray + self.colours:
            return identity[:3]
        if count > 3 and rng.random() < 0.5:
            return identity[[3, 0, 1]]
        if rng.random() < 0.5:
            return identity[rng.permutation(count)[:3]]
        return rng.dirichlet(np.full(count, 0.5), 3).astype(np.float32)

    def _change_light(self, bands: FloatArray, rng: np.random.Generator) -> FloatArray:
        mean = float(bands.mean())
        contrast = math.exp(rng.uniform(*np.log(self.contrast)))
        middle = min(max(mean + rng.uniform(-0.25, 0.25), 0.1), 0.9)
        changed = (bands - np.float32(mean)) * np.float32(contrast) + np.float32(middle)
        changed = np.clip(changed, np.float32(0), np.float32(1))
        return np.power(changed, np.float32(math.exp(rng.uniform(*np.log(self.gamma)))))


def shrink(bands: FloatArray, factor: float, size: int, rng: np.random.Generator) -> FloatArray:
    """Shrink (C, h, w) by ``factor`` with one of three filters, and mirror it to ``size``."""
    if factor > 1:
        from PIL import Image

        filters = (Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
        chosen = filters[int(rng.integers(len(filters)))]
        height, width = (min(size, int(n / factor)) for n in bands.shape[1:])
        box = (0.0, 0.0, width * factor, height * factor)
        bands = np.stack(
            [
                np.asarray(Image.fromarray(band, "F").resize((width, height), chosen, box))
                for band in np.ascontiguousarray(bands)
            ]
        )
    missing = [size - n for n in bands.shape[1:]]
    return np.pad(bands, ((0, 0), *((0, n) for n in missing)), mode="symmetric")


def add_even_surface(bands: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Replace the lower part of a smooth random relief by a surface of nearly one colour."""
    _, height, width = bands.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y / height - np.float32(0.5), x / width - np.float32(0.5)
    relief = np.zeros((height, width), np.float32)
    for waves in (0.0, 1.0, 2.0, 4.0):
        a, b, phase = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0, 2 * math.pi)
        wave = np.sin(2 * math.pi * waves * (a * x + b * y) + phase) if waves else a * x + b * y
        relief += wave.astype(np.float32) / np.float32(max(waves, 0.5))
    level = np.quantile(relief, rng.uniform(0.2, 1.0))
    slope = np.hypot(*np.gradient(relief)).mean() + 1e-9
    land = np.clip((relief - level) / slope + 0.5, 0, 1)  # the shore is about one pixel wide
    colour = rng.uniform(0.05, 0.9, (len(bands), 1, 1)) * rng.uniform(0.5, 1)
    tilt = rng.uniform(-0.05, 0.05, (len(bands), 2, 1, 1))
    ground = (colour + tilt[:, 0] * x + tilt[:, 1] * y).astype(np.float32)
    return ground + (bands - ground) * land
