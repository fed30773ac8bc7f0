"""Quick-looks: rasters of any type as small pictures for people, all in the same tones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from georsr.models.bicubic import Bicubic
from georsr.raster.fill import fill_invalid
from georsr.raster.reader import Patch, RasterReader
from georsr.types import AnyArray, FloatArray, Window

SIDE = 480
"""Longest side of a quick-look in pixels."""
TONES = (1.0, 99.0)
"""Percentiles of a raster that become black and white."""
EMPTY = 255
"""Grey of pixels that are not valid."""


@dataclass(frozen=True)
class Tones:
    """What becomes black and white, per band shown."""

    bands: tuple[int, ...]
    """Positions, three of them: red, green and blue, or one band thrice."""
    low: tuple[float, ...]
    high: tuple[float, ...]

    def picture(self, patch: Patch) -> AnyArray:
        """(3, h, w) uint8."""
        shown = np.empty((3, *patch.values.shape[1:]), np.uint8)
        for out, band, low, high in zip(shown, self.bands, self.low, self.high, strict=True):
            values = np.where(patch.valid[band], patch.values[band], low).astype(np.float64)
            out[:] = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)
        shown[:, ~patch.valid[list(self.bands)].all(0)] = EMPTY
        return shown


def tones_of(reader: RasterReader) -> Tones:
    """Red, green and blue of a raster, by its colour interpretation or its first three bands."""
    colours = [band.colorinterp for band in reader.info.bands]
    bands = tuple(colours.index(c) for c in ("red", "green", "blue") if c in colours)
    if len(bands) < 3:
        bands = (0, 1, 2) if reader.info.count >= 3 else (0, 0, 0)
    sample = reader.sample()
    limits = []
    for band in bands:
        good = sample.values[band][sample.valid[band]]
        low, high = np.percentile(good, TONES) if good.size else (0.0, 1.0)
        limits.append((float(low), float(high) if high > low else float(low) + 1.0))
    return Tones(bands, tuple(low for low, _ in limits), tuple(high for _, high in limits))


def quicklook(reader: RasterReader, tones: Tones) -> AnyArray:
    """A whole raster as a picture, (3, h, w) uint8 of at most `SIDE` pixels along each axis."""
    height, width = reader.info.height, reader.info.width
    step = max(1.0, max(height, width) / SIDE)
    return tones.picture(
        reader.decimated(max(1, round(height / step)), max(1, round(width / step)))
    )


def enlarged(patch: Patch, scale: int) -> Patch:
    """The bicubic enlargement of a window; invalid where the source is."""
    filled: FloatArray = fill_invalid(patch.values.astype(np.float32), patch.valid)
    with torch.inference_mode():
        values = Bicubic(scale)(torch.from_numpy(filled)[None])[0].numpy()
    return Patch(values, patch.valid.repeat(scale, 1).repeat(scale, 2), None)


def busiest_windows(reader: RasterReader, side: int, count: int) -> list[Window]:
    """Up to ``count`` windows of a raster that hold most contrast, apart from each other."""
    height, width = reader.info.height, reader.info.width
    h, w = min(side, height), min(side, width)
    tops = sorted({round((height - h) * k / 4) for k in range(5)})
    lefts = sorted({round((width - w) * k / 4) for k in range(5)})
    ranked = []
    for top in tops:
        for left in lefts:
            window = Window(top, left, h, w)
            patch = reader.read(window)
            if patch.valid.all():
                ranked.append((float(patch.values.astype(np.float64).std((1, 2)).sum()), window))
    ranked.sort(key=lambda each: (-each[0], each[1]))
    chosen: list[Window] = []
    for _, window in ranked:
        if len(chosen) < count and all(window.intersection(other) is None for other in chosen):
            chosen.append(window)
    return chosen
