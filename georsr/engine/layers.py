"""Layers: bands beside a product that say how far each of its pixels can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from georsr.engine.evidence import inconsistency, margin, shrink_valid, synthesised_detail
from georsr.engine.patch import Prepared, Strip
from georsr.engine.sounding import FIRST, GRADIENT, SQUARE, WITHIN
from georsr.engine.stream import TileStream
from georsr.errors import UsageError
from georsr.kernels import Kernel
from georsr.models.calibration import Calibration
from georsr.raster.info import BandInfo
from georsr.raster.quantise import replicate
from georsr.raster.reader import RasterReader
from georsr.tiling.plan import Tile
from georsr.types import AnyArray, BoolArray, FloatArray, Window

UNCERTAINTY, DEVIATION, INCONSISTENCY, DETAIL = (
    "uncertainty",
    "deviation",
    "inconsistency",
    "synthesised detail",
)
MEANINGS = {
    UNCERTAINTY: "expected absolute error of a pixel, mean over bands",
    DEVIATION: "standard deviation of the network's answers in eight orientations and of "
    "overlapping tiles, root mean square over bands",
    INCONSISTENCY: "absolute difference between the source and the product shrunk to it, "
    "mean over bands",
    DETAIL: "local root mean square of what enlarging the shrunk product does not give back",
}
"""Layer -> what it is; guidance maps follow these, one for each map of the network."""


def layer_names(maps: int) -> tuple[str, ...]:
    """Names of the bands, in order."""
    return (*MEANINGS, *(f"guidance {i}" for i in range(1, maps + 1)))


def layer_bands(source: tuple[BandInfo, ...], maps: int) -> tuple[BandInfo, ...]:
    """What the bands say about themselves.

    In the units in which the source stores its values; where all its bands have one scale, that
    is carried, without offset: these are differences.
    """
    units, scales = {band.unit for band in source}, {band.scale for band in source}
    unit = units.pop() if len(units) == 1 else None
    scale = scales.pop() if len(scales) == 1 else 1.0
    bands = []
    for number, name in enumerate(layer_names(maps), 1):
        measured = name in MEANINGS
        bands.append(
            BandInfo(
                number=number,
                dtype="float32",
                description=name,
                unit=(unit or "DN") if measured else "1",
                scale=scale if measured else 1.0,
                nodata=float("nan"),
                tags={
                    "LAYER": MEANINGS.get(
                        name, "where the network was guided to, dimensionless, by tile"
                    )
                },
            )
        )
    return tuple(bands)


@dataclass(frozen=True)
class Recipe:
    """How soundings and pixels become layers.

    Attributes
    ----------
    calibration : Calibration
    kernel : Kernel
        What made the source of the ground.
    maps : int
        Guidance maps in a sounding.
    """

    calibration: Calibration
    kernel: Kernel
    maps: int

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(layer_names(self.maps))


@dataclass
class LayerStream(TileStream):
    """A pass over the raster that makes layers of soundings, the product and its source.

    ``bands`` counts the planes of a sounding.
    """

    recipe: Recipe = field(kw_only=True)
    product: RasterReader = field(kw_only=True)

    def _restore(self, output: FloatArray, ready: Prepared, tile: Tile) -> FloatArray:
        scale = output.shape[1] // tile.read.height
        inner = tile.made.relative_to(tile.read).scaled(scale)
        return output[(slice(None), *inner.slices)].copy()

    def _finish(self, values: FloatArray | None, window: Window, strip: Strip) -> AnyArray:
        layers = np.full((self.recipe.count, window.height, window.width), np.nan, np.float32)
        whole = Window(0, 0, self.plan.out_height, self.plan.out_width)
        inside = window.intersection(whole)  # tiles of a part reach out of it
        if values is None or inside is None:
            return layers
        part = (slice(None), *inside.relative_to(window).slices)
        layers[part] = self._layers(values[part], inside, strip)
        outside = None if self.area is None else self.area.outside(window, self.plan.scale)
        if outside is not None:
            layers[:, outside] = np.nan
        return layers

    def _layers(self, values: FloatArray, window: Window, strip: Strip) -> FloatArray:
        """The layers of a window inside the product, from its blended soundings (P, H, W)."""
        s, answers = self.plan.scale, len(values) - self.recipe.maps
        deviation = spread(values[:answers])
        units = self._span()
        layers = np.empty((self.recipe.count, *deviation.shape), np.float32)
        layers[0] = expected_error(deviation, values[GRADIENT], self.recipe.calibration) * units
        layers[1] = deviation * units
        low, detail, valid = self._evidence(window, strip)
        layers[2] = replicate(low, s)
        layers[3] = detail
        layers[4:] = values[answers:]
        layers = round_bits(layers)
        layers[:, ~replicate(valid, s)] = np.nan
        return layers

    def _span(self) -> np.float32:
        """Source units per unit of the 0..1 scale, mean over bands."""
        corners = np.zeros((2, len(self.stretch.lo), 1, 1), np.float32)
        corners[1] = 1
        low, high = (self.stretch.inverse(each) for each in corners)
        return np.float32((high - low).mean())

    def _evidence(self, window: Window, strip: Strip) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Inconsistency (h, w), detail (H, W), and validity in all bands (h, w)."""
        s, kernel = self.plan.scale, self.recipe.kernel
        whole = Window(0, 0, self.plan.height, self.plan.width)
        below = Window(window.top // s, window.left // s, window.height // s, window.width // s)
        reach = margin(kernel, s)
        around = Window(
            below.top - reach,
            below.left - reach,
            below.height + 2 * reach,
            below.width + 2 * reach,
        ).intersection(whole)
        assert around is not None, "a finished window lies in the product"
        patch = self.product.read(around.scaled(s))
        image, good = patch.values.astype(np.float32), patch.valid
        image[~good] = 0
        low, low_good = shrink_valid(image, good, kernel, s)
        detail = synthesised_detail(image, good, low, low_good, s)
        coarse, fine = below.relative_to(around), window.relative_to(around.scaled(s))
        inner = (slice(None), *coarse.slices)
        source, valid, _ = strip.cut(below)
        both = valid & low_good[inner]
        everywhere: BoolArray = np.asarray(valid.all(0))
        return inconsistency(low[inner], source, both), detail[fine.slices], everywhere


def spread(sounding: FloatArray) -> FloatArray:
    """Standard deviation of all answers, turned and overlapping, on the 0..1 scale.

    From a sounding without its guidance maps, (P, H, W), to (H, W). By the law of total variance:
    the mean of the variances within tiles, and the variance of the tiles' means under the weights
    they are blended with.
    """
    between = sounding[SQUARE] - np.square(sounding[FIRST:]).mean(0)
    return np.asarray(np.sqrt(np.maximum(sounding[WITHIN] + np.maximum(between, 0), 0)))


def expected_error(
    deviation: FloatArray, gradient: FloatArray, calibration: Calibration
) -> FloatArray:
    """Expected absolute error on the 0..1 scale; see :mod:`georsr.models.calibration`."""
    a, b, c = (
        np.float32(number)
        for number in (calibration.deviation, calibration.gradient, calibration.floor)
    )
    root = a * np.sqrt(np.maximum(deviation, 0)) + b * np.sqrt(np.maximum(gradient, 0)) + c
    return np.asarray(np.square(root))


def round_bits(values: FloatArray) -> FloatArray:
    """Keep 12 significant bits (0.01 %), so that what is stored is not mostly noise."""
    bits = values.view(np.uint32)
    kept = (bits + np.uint32(0x7FF) + ((bits >> np.uint32(12)) & np.uint32(1))) & np.uint32(
        0xFFFFF000
    )
    return np.where(np.isfinite(values), kept.view(np.float32), values)


def check_pair(product: RasterReader, source_bands: int, height: int, width: int) -> None:
    """Refuse a product that was not made of this source.

    Raises
    ------
    UsageError
        Other size or number of bands.
    """
    info = product.info
    if (info.height, info.width) != (height, width):
        raise UsageError(
            f"{info.path}: {info.width} x {info.height} pixels, expected {width} x {height}: "
            "the product of this source, model and part"
        )
    if info.count != source_bands:
        raise UsageError(
            f"{info.path}: {info.count} bands, its source has {source_bands}; choose the bands of "
            "the source with --bidx"
        )
