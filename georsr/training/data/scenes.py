"""Rasters of any type and number of bands, degraded window by window."""

from __future__ import annotations

import numpy as np

from georsr.errors import InputError
from georsr.raster.fill import fill_invalid
from georsr.raster.reader import RasterReader
from georsr.raster.stretch import Stretch, choose_stretch
from georsr.training.data.crops import grown
from georsr.training.data.degrade import Degradation
from georsr.training.data.raster_crops import LEAST_VALID, Cut
from georsr.training.data.reader_pool import ReaderPool
from georsr.types import AnyArray, BoolArray, FloatArray, Window


class Scene:
    """A raster whose LR version a degradation makes; a `Site`.

    Parameters
    ----------
    reader
        The raster and its selected bands.
    degradation, scale
        How and by how much it is degraded.
    stretch
        What maps to 0..1, decided once for the whole scene as ``georsr sr`` does.
    pool
        Keeps rasters open.
    """

    def __init__(
        self,
        reader: RasterReader,
        degradation: Degradation,
        scale: int,
        *,
        stretch: str = "auto",
        pool: ReaderPool,
    ) -> None:
        self.reader, self.degradation, self.scale, self.pool = reader, degradation, scale, pool
        self.name, self.bands = reader.info.path, reader.info.count
        self.area = Window(0, 0, reader.info.height // scale, reader.info.width // scale)
        self.margin = degradation.margin(scale) // scale
        if min(self.area.height, self.area.width) < 1:
            raise InputError(f"{self.name}: has less than {scale} x {scale} pixels")
        self.stretch = choose_stretch(reader, stretch)
        reader.close()

    def cut(self, window: Window, rng: np.random.Generator) -> Cut | None:
        """Read a window (LR pixels) with what its degradation reaches, and degrade it.

        Invalid pixels are filled from valid ones before the degradation, as before super-
        resolution; HR pixels under an LR pixel that the fill has reached do not count.
        """
        around = grown(window, self.margin).intersection(self.area) or window
        patch = self.pool.read(self.reader, around.scaled(self.scale))
        inner = window.relative_to(around)
        valid = trusted(np.asarray(patch.valid.all(0)), self.scale, self.margin)
        if valid is not None:
            valid = np.ascontiguousarray(valid[inner.scaled(self.scale).slices])
            if valid.mean() < LEAST_VALID:
                return None
        hr = on_unit_scale(patch.values, patch.valid, self.stretch)
        lr = self.degradation(hr, self.scale, rng)
        return Cut(
            np.ascontiguousarray(lr[(slice(None), *inner.slices)]),
            np.ascontiguousarray(hr[(slice(None), *inner.scaled(self.scale).slices)]),
            None if valid is None or valid.all() else valid,
        )


def on_unit_scale(values: AnyArray, valid: BoolArray, stretch: Stretch) -> FloatArray:
    """(C, h, w) in the file's units to float32 0..1, filled and clipped, as networks see it."""
    filled = values.astype(np.float32)
    if not valid.all():
        filled = fill_invalid(filled, valid)
    x = stretch.forward(filled)
    return np.clip(x, np.float32(0), np.float32(1), out=x)


def trusted(good: BoolArray, scale: int, margin: int) -> BoolArray | None:
    """HR pixels whose LR pixel depends on valid pixels alone.

    Parameters
    ----------
    good
        (s * h, s * w), True for valid HR pixels.
    scale
        s.
    margin
        LR pixels that the degradation reaches beyond an LR pixel.

    Returns
    -------
    ndarray or None
        Same shape, True in whole blocks of s x s; None where everything is valid.
    """
    if good.all():
        return None
    height, width = (n // scale for n in good.shape)
    bad = np.asarray(~good.reshape(height, scale, width, scale).all((1, 3)))
    for axis in (0, 1):
        bad = _dilated(bad, margin, axis)
    return ~bad.repeat(scale, 0).repeat(scale, 1)


def _dilated(bad: BoolArray, margin: int, axis: int) -> BoolArray:
    """True wherever ``bad`` is within ``margin`` pixels along an axis."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (margin, margin)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(bad, padding), 2 * margin + 1, axis)
    return np.asarray(windows.any(-1))
