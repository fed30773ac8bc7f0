"""Consistency: does the product, degraded again, give its source back?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.evaluation.alignment import scale_between
from georsr.evaluation.peak import peak_of
from georsr.evaluation.validity import eroded
from georsr.kernels import Kernel, psf_sigma
from georsr.raster.info import RasterInfo
from georsr.raster.reader import RasterReader
from georsr.training.data.crops import grown
from georsr.training.data.degrade import Bicubic, Degradation, bicubic_downsample
from georsr.training.data.sensor import Sensor, blur_and_sample, sharpened
from georsr.types import AnyArray, BoolArray, FloatArray, Window

BLOCK = 128
"""Source rows and columns compared at a time."""


@dataclass(frozen=True)
class Consistency:
    """Difference of the degraded product from the source, in the rasters' units."""

    degradation: str
    pixels: int
    """Source pixels compared, in the band that has most."""
    mae: tuple[float, ...]
    """Per band, mean absolute difference."""
    psnr: tuple[float, ...]
    """Per band, dB."""

    @property
    def mean(self) -> float:
        """Mean absolute difference over all bands."""
        return float(np.mean(self.mae))

    def describe(self) -> str:
        """A line for people."""
        return (
            f"consistency with the source ({self.degradation}): mean absolute difference "
            f"{self.mean:.4g}, PSNR {np.mean(self.psnr):.2f} dB"
        )


@dataclass(frozen=True)
class Shrink:
    """The deterministic, linear part of a degradation, for values in any units."""

    name: str
    apply: Callable[[AnyArray, int], AnyArray]
    """(C, H, W), scale -> (C, H / scale, W / scale)."""
    margin: int
    """Source pixels beyond a block that it depends on."""


def shrink_of(degradation: Degradation | Kernel, scale: int) -> Shrink:
    """What a degradation does without noise, quantisation and coding; or a kernel.

    Raises
    ------
    UsageError
        A degradation whose blur is not known, or is drawn from a range.
    """
    if isinstance(degradation, Kernel):
        return Shrink(f"kernel {degradation}", degradation.shrink, degradation.reach(scale))
    if isinstance(degradation, Bicubic):
        return Shrink("bicubic", bicubic_downsample, degradation.margin(scale) // scale)
    if isinstance(degradation, Sensor) and degradation.system_is_fixed:
        mtf, sharpen = degradation.mtf[0], degradation.sharpen[0]
        sigma = psf_sigma(mtf, scale, degradation.pixel)

        def shrink(image: FloatArray, scale: int) -> FloatArray:
            return sharpened(blur_and_sample(image, scale, sigma, degradation.pixel), sharpen)

        name = f"sensor model, MTF {mtf:g} at Nyquist" + (
            f", sharpened by {sharpen:g}" if sharpen else ""
        )
        return Shrink(name, shrink, degradation.margin(scale) // scale)
    raise UsageError(
        f"degradation {degradation.describe()}: rasters need bicubic, or a sensor of one MTF "
        "(sensor,mtf=0.2)"
    )


def measure_consistency(
    sr: RasterReader, lr: RasterReader, degradation: Degradation | Kernel
) -> Consistency:
    """Compare a product, degraded, with its source, block by block.

    Where the source holds whole numbers the degraded product is rounded like it, so that a
    product that explains its source exactly has the difference 0. A source pixel counts where
    it is valid and so is everything under its kernel.

    Raises
    ------
    UsageError
        Sizes, grids or bands do not belong together.
    InputError
        No source pixel can be compared in some band.
    """
    scale = scale_between(sr.info, lr.info)
    if sr.info.count != lr.info.count:
        raise UsageError(
            f"{sr.info.path} has {sr.info.count} bands, {lr.info.path} {lr.info.count}; "
            "choose the bands of the source with --bidx"
        )
    shrink = shrink_of(degradation, scale)
    absolute, squares, pixels = np.zeros((3, lr.info.count))
    for block in _blocks(lr.info):
        source = lr.read(block)
        shrunk, good = _shrunk(sr, block, shrink, scale)
        if lr.info.dtype.startswith(("int", "uint")):
            shrunk = np.rint(shrunk)
        good &= source.valid
        difference = np.where(good, shrunk - np.where(good, source.values, 0), 0.0)
        absolute += np.abs(difference).sum((1, 2))
        squares += np.square(difference).sum((1, 2))
        pixels += good.sum((1, 2))
    if not pixels.all():
        raise InputError(f"{sr.info.path} and {lr.info.path} share no valid pixel in some band")
    peak = peak_of(lr)
    mse = squares / pixels
    return Consistency(
        degradation=shrink.name,
        pixels=int(pixels.max()),
        mae=tuple(float(v) for v in absolute / pixels),
        psnr=tuple(10 * math.log10(peak**2 / m) if m > 0 else math.inf for m in mse),
    )


def _blocks(info: RasterInfo) -> Iterator[Window]:
    for top in range(0, info.height, BLOCK):
        for left in range(0, info.width, BLOCK):
            rows, columns = min(BLOCK, info.height - top), min(BLOCK, info.width - left)
            yield Window(top, left, rows, columns)


def _shrunk(
    sr: RasterReader, block: Window, shrink: Shrink, scale: int
) -> tuple[AnyArray, BoolArray]:
    """The product degraded to a block of the source, and where all under the kernel is valid."""
    whole = Window(0, 0, sr.info.height // scale, sr.info.width // scale)
    around = grown(block, shrink.margin).intersection(whole) or block
    patch = sr.read(around.scaled(scale))
    shrunk = shrink.apply(np.where(patch.valid, patch.values, 0).astype(np.float32), scale)
    kept = (slice(None), *block.relative_to(around).slices)
    return shrunk[kept].astype(np.float64), _supported(patch.valid, scale, shrink)[kept]


def _supported(valid: BoolArray, scale: int, shrink: Shrink) -> BoolArray:
    """Source pixels without an invalid product pixel within reach of the kernel."""
    bands, height, width = valid.shape
    cells = valid.reshape(bands, height // scale, scale, width // scale, scale)
    return eroded(np.asarray(cells.all((2, 4))), shrink.margin)
