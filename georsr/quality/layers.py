"""Compute the quality layers of an output: how far each of its pixels can be trusted.

A network is deterministic but not equivariant: rotated and mirrored, the same ground gives slightly
different predictions. Where the predictions of the eight orientations differ, the input did not
determine the output.

The expected absolute error of a pixel, on the scale on which the network sees 0..1, is modelled as
``(a sqrt(deviation) + b sqrt(gradient) + c) ** 2``: errors are large where the predictions differ
and at edges, whose exact position the input does not determine, and never below a floor. The roots
keep a few large values from dominating the fit.

Downsampled with the kernel of the sensor, an output should equal its source. The difference between
the output and the bicubic enlargement of the downsampled output is detail that the source does not
contain.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from json import loads
from typing import Any

import numpy as np

from georsr.device import DeviceConfig
from georsr.errors import UsageError
from georsr.inference.backends import bicubic_on_cpu
from georsr.inference.consistency import shrink_valid
from georsr.inference.pipeline import (
    OutputFormat,
    RowStrip,
    TilePipeline,
    TileResult,
    block_assembler,
)
from georsr.inference.predictor import MEMBERS, TilePredictor, tta_predictions
from georsr.io.metadata import BandInfo
from georsr.io.reader import RasterReader
from georsr.models.arrays import Array, box_sum, enlarge_bicubic, namespace, resize_bilinear
from georsr.models.io import Model
from georsr.models.spec import ModelSpec
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.nodata import fill_invalid
from georsr.radiometry.quantize import replicate
from georsr.tiling.stitch import TileStitcher
from georsr.window import AnyArray, BoolArray, FloatArray, Window

BICUBIC_RADIUS = 2
"""Source pixels on either side that the bicubic enlargement depends on."""


def inconsistency(low: FloatArray, source: AnyArray, valid: BoolArray) -> FloatArray:
    """Return |downsampled output - source|, mean over valid bands: (C, h, w) each -> (h, w)."""
    difference = np.abs(low - np.where(valid, source, 0).astype(np.float32))
    return _mean_over_bands(np.where(valid, difference, np.float32(0)), valid)


def synthesised_detail(
    image: FloatArray,
    valid: BoolArray,
    low: FloatArray,
    low_valid: BoolArray,
    scale: int,
    backend: str = "torch",
) -> FloatArray:
    """Return the local root mean square of detail that bicubic enlargement cannot carry, (H, W).

    It is that of squares of 2 scale + 1 pixels and of all bands, in the output's units.

    Parameters
    ----------
    image, valid
        Output (C, H, W).
    low, low_valid
        Downsampled output (C, H / scale, W / scale).
    scale
        Output pixels per source pixel, along each axis.
    backend
        Library that enlarges: ``torch``, or ``onnx`` for NumPy.
    """
    enlarged = bicubic_on_cpu(fill_invalid(low, low_valid), scale, backend)
    detail = np.where(valid, image - enlarged, np.float32(0))
    energy = box_sum(detail * detail, scale)
    count = box_sum(valid.astype(np.float32), scale)
    power = energy / np.maximum(count, 1)
    return np.sqrt(_mean_over_bands(np.where(valid, power, np.float32(0)), valid))


def _mean_over_bands(values: FloatArray, valid: BoolArray) -> FloatArray:
    """Return the mean over valid bands of (C, h, w), zero where invalid: (h, w)."""
    count = np.maximum(valid.sum(0), 1).astype(np.float32)
    return np.asarray(values.sum(0, dtype=np.float32) / count)


VARIANCE, GRADIENT, MEAN_SQUARE, FIRST_MEAN = 0, 1, 2, 3
"""Indices of the planes of an `EnsemblePredictor`; the means of the bands begin at the last one."""


def n_planes(bands: int, maps: int) -> int:
    """Return the number of planes that an `EnsemblePredictor` returns."""
    return FIRST_MEAN + bands + maps


class EnsemblePredictor(TilePredictor):
    """Predicts statistics of eight orientations of a tile, instead of one image.

    All planes may be blended linearly between tiles: of two tiles that disagree, the mean of the
    squares less the square of the mean is the variance of the mixture, so that `ensemble_std`
    includes the disagreement of overlapping tiles.
    """

    interpolates = False  # the statistics of an interpolation are on the 0..1 scale, too

    def predict(self, x: Array) -> Array:
        """Return the planes of a batch (N, C, h, w) in 0..1: (N, P, s * h, s * w) float32.

        Returns
        -------
        Tensor
            Planes of each pixel: the variance of the eight predictions, mean over bands; the
            magnitude of the gradient of the mean prediction, per output pixel, mean over bands;
            the mean over bands of the squares of the planes that follow; the mean prediction of
            each band minus the bicubic enlargement; the guidance maps of the network, if any.
        """
        # differences from bicubic are small, so that their squares are exact enough in float32
        xp = namespace(x)
        base = enlarge_bicubic(x, self.spec.scale)
        total = squares = xp.zeros_like(base)
        for prediction in tta_predictions(self.forward_pass, x):
            detail = prediction - base
            total, squares = total + detail, squares + xp.square(detail)
        mean = total / MEMBERS
        variance = (squares / MEMBERS - xp.square(mean)).clip(min=0)
        planes = [
            variance.mean(1)[:, None],
            _gradient((mean + base).mean(1)[:, None]),
            xp.square(mean).mean(1)[:, None],
            mean,
        ]
        if self.backend.guidance_count:
            network_input = (
                x if self.multiband is None else x[:, list(self.multiband.network_bands)]
            )
            maps = self.backend.guidance_maps(network_input)
            planes.append(resize_bilinear(maps, tuple(base.shape[2:])))
        return xp.concatenate(planes, 1)


def guidance_count(model: Model, placement: DeviceConfig) -> int:
    """Return the number of guidance maps of a model's network."""
    if placement.backend == "torch":
        return int(getattr(model.network, "guidance_count", 0))
    network = model.array_network()
    return 0 if network is None else network.guidance_count


def _gradient(image: Array) -> Array:
    """Return the gradient magnitude by central differences, edges replicated: (N, 1, H, W)."""
    xp = namespace(image)
    padded = xp.concatenate([image[:, :, :1], image, image[:, :, -1:]], 2)
    padded = xp.concatenate([padded[..., :1], padded, padded[..., -1:]], 3)
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    right = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    return xp.hypot(down, right) / 2


@dataclass(frozen=True)
class Calibration:
    """Coefficients of the expected error of a model."""

    deviation: float
    gradient: float
    floor: float
    """Coefficients a, b and c of the formula of this module; all at least 0."""
    fitted_for: str
    """Name of the model whose errors they were fitted to."""
    fitted_on: str
    """Images and degradations of the fit."""

    def describe(self, spec: ModelSpec) -> str:
        """Return a sentence for the tags of the layers."""
        fitted = f"expected absolute error, fitted to {self.fitted_for} on {self.fitted_on}"
        if spec.name == self.fitted_for:
            return fitted
        return f"{fitted}: not calibrated for {spec.name}, ranks errors only"


def calibrations() -> dict[str, Calibration]:
    """Return model name -> calibration, as ``benchmarks/quality/uncertainty.py --fit`` wrote it."""
    file = resources.files("georsr.quality") / "calibration.json"
    table: dict[str, dict[str, Any]] = loads(file.read_text(encoding="utf-8"))
    return {name: Calibration(fitted_for=name, **numbers) for name, numbers in table.items()}


def calibration_of(spec: ModelSpec) -> Calibration:
    """Return the calibration of a model, or of the bundled model with the nearest scale."""
    table = calibrations()
    if spec.name in table:
        return table[spec.name]
    scale = 2 if spec.scale <= 2 else 4
    return table[f"segsr-lite-x{scale}-sensor"]


MEANINGS = {
    "uncertainty": "expected absolute error of a pixel, mean over bands",
    "deviation": "standard deviation of the network's answers in eight orientations and of "
    "overlapping tiles, root mean square over bands",
    "inconsistency": "absolute difference between the source and the product shrunk to it, "
    "mean over bands",
    "synthesised detail": "local root mean square of what enlarging the shrunk product does not "
    "give back",
}
"""Name of a layer -> its description. The guidance maps of the network follow these layers."""


def layer_names(maps: int) -> tuple[str, ...]:
    """Return the names of the layers, in order."""
    return (*MEANINGS, *(f"guidance {i}" for i in range(1, maps + 1)))


def layer_bands(source: tuple[BandInfo, ...], maps: int) -> tuple[BandInfo, ...]:
    """Return the band descriptions of the layers.

    Layers have the unit of the source's stored values. If all its bands have the same scale, the
    layers have it too, but no offset, because they are differences.
    """
    units, scales = {band.unit for band in source}, {band.scale for band in source}
    unit = units.pop() if len(units) == 1 else None
    scale = scales.pop() if len(scales) == 1 else 1.0
    guided = "where the network was guided to, dimensionless, by tile"
    return tuple(
        BandInfo(
            number=number,
            dtype="float32",
            description=name,
            unit=(unit or "DN") if name in MEANINGS else "1",
            scale=scale if name in MEANINGS else 1.0,
            nodata=float("nan"),
            tags={"": {"LAYER": MEANINGS.get(name, guided)}},
        )
        for number, name in enumerate(layer_names(maps), 1)
    )


@dataclass(frozen=True)
class QualityConfig:
    """Parameters for computing layers from the planes of an `EnsemblePredictor` and pixels."""

    calibration: Calibration
    """Coefficients of the expected error."""
    kernel: Kernel
    """Kernel of the sensor that recorded the source."""
    maps: int
    """Number of guidance maps of the network."""

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(layer_names(self.maps))


@dataclass
class LayersPipeline:
    """Computes the quality layers of an output."""

    tiles: TilePipeline
    """Predicts the planes of the source's tiles with an `EnsemblePredictor`."""
    output_format: OutputFormat
    """Form of the layers."""
    output: RasterReader
    """The finished output."""
    config: QualityConfig
    """Parameters of the layers."""

    def blocks(self, top: int = 0) -> Generator[tuple[Window, AnyArray], None, None]:
        """Yield the finished blocks of the layers from output row ``top`` on."""
        timer, tile_grid = self.tiles.context.timer, self.tiles.tile_grid
        stitcher = TileStitcher(tile_grid, n_planes(self.tiles.bands, self.config.maps))
        assembler = block_assembler(tile_grid, self.output_format, top)
        with closing(self.tiles.predicted_tiles(top)) as results:
            for result in results:
                with timer.section("join"):
                    planes = _output_part(result)
                    window, planes = stitcher.add(result.tile, planes)
                    complete = []
                    if window.height and window.width:
                        pixels = self._finalize(planes, window, result.strip)
                        complete = list(assembler.add(window, pixels))
                yield from complete
                self.tiles.finish_tile(result.tile)

    def _finalize(self, planes: FloatArray | None, window: Window, strip: RowStrip) -> FloatArray:
        """Return the layers of a window, NaN where the output has no valid pixel."""
        tile_grid, area = self.tiles.tile_grid, self.tiles.area
        layers = np.full((self.config.count, window.height, window.width), np.nan, np.float32)
        # the tiles of an area may extend beyond it
        inside = window.intersection(Window(0, 0, tile_grid.out_height, tile_grid.out_width))
        if planes is None or inside is None:
            return layers
        part = (slice(None), *inside.relative_to(window).slices)
        layers[part] = self._layers(planes[part], inside, strip)
        outside = None if area is None else area.outside_mask(window, tile_grid.scale)
        if outside is not None:
            layers[:, outside] = np.nan
        return layers

    def _layers(self, values: FloatArray, window: Window, strip: RowStrip) -> FloatArray:
        """Return the layers of a window inside the output, from its blended planes (P, H, W)."""
        s, n_statistics = self.tiles.tile_grid.scale, len(values) - self.config.maps
        deviation = ensemble_std(values[:n_statistics])
        units = self._units_per_range()
        layers = np.empty((self.config.count, *deviation.shape), np.float32)
        layers[0] = expected_error(deviation, values[GRADIENT], self.config.calibration) * units
        layers[1] = deviation * units
        low, detail, valid = self._compare(window, strip)
        layers[2] = replicate(low, s)
        layers[3] = detail
        layers[4:] = values[n_statistics:]
        layers = round_bits(layers)
        layers[:, ~replicate(valid, s)] = np.nan
        return layers

    def _units_per_range(self) -> np.float32:
        """Return the source units per unit of the 0..1 scale, mean over bands."""
        corners = np.zeros((2, len(self.tiles.normalization.lo), 1, 1), np.float32)
        corners[1] = 1
        low, high = (self.tiles.normalization.inverse(corner) for corner in corners)
        return np.float32((high - low).mean())

    def _compare(self, window: Window, strip: RowStrip) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return inconsistency (h, w), detail (H, W), and validity in all bands (h, w)."""
        tile_grid, kernel = self.tiles.tile_grid, self.config.kernel
        s, extent = tile_grid.scale, Window(0, 0, tile_grid.height, tile_grid.width)
        source_window = window.coarser(s)
        padded = source_window.grow(kernel.radius(s) + BICUBIC_RADIUS + 1).intersection(extent)
        assert padded is not None, "the window is inside the output"
        block = self.output.read(padded.scaled(s))
        image, image_valid = block.values.astype(np.float32), block.valid
        image[~image_valid] = 0
        low, low_valid = shrink_valid(image, image_valid, kernel, s)
        backend = self.tiles.predictor.placement.backend
        detail = synthesised_detail(image, image_valid, low, low_valid, s, backend)
        crop = (slice(None), *source_window.relative_to(padded).slices)
        source, source_valid, _ = strip.cut(source_window)
        difference = inconsistency(low[crop], source, source_valid & low_valid[crop])
        valid: BoolArray = np.asarray(source_valid.all(0))
        return difference, detail[window.relative_to(padded.scaled(s)).slices], valid


def _output_part(result: TileResult) -> FloatArray | None:
    """Return the network's output for the output window of a tile; None without valid pixels."""
    if result.output is None:
        return None
    tile = result.tile
    scale = result.output.shape[1] // tile.input_window.height
    inner = tile.output_window.relative_to(tile.input_window).scaled(scale)
    return result.output[(slice(None), *inner.slices)].copy()


def ensemble_std(planes: FloatArray) -> FloatArray:
    """Return the standard deviation over orientations and overlapping tiles, in 0..1.

    Takes planes without guidance maps (P, H, W) and returns (H, W). By the law of total variance,
    the variance is the mean of the variances within tiles plus the variance of the tiles' means,
    with the weights of blending.
    """
    between = planes[MEAN_SQUARE] - np.square(planes[FIRST_MEAN:]).mean(0)
    return np.asarray(np.sqrt(np.maximum(planes[VARIANCE] + np.maximum(between, 0), 0)))


def expected_error(
    deviation: FloatArray, gradient: FloatArray, calibration: Calibration
) -> FloatArray:
    """Return the expected absolute error in 0..1; see :mod:`georsr.quality.layers`."""
    a, b, c = map(np.float32, (calibration.deviation, calibration.gradient, calibration.floor))
    root = a * np.sqrt(np.maximum(deviation, 0)) + b * np.sqrt(np.maximum(gradient, 0)) + c
    return np.asarray(np.square(root))


def round_bits(values: FloatArray) -> FloatArray:
    """Round to 12 significant bits (0.01 %), so that the file does not store mostly noise."""
    bits = values.view(np.uint32)
    half = np.uint32(0x7FF) + ((bits >> np.uint32(12)) & np.uint32(1))  # ties to even
    kept = (bits + half) & np.uint32(0xFFFFF000)
    return np.where(np.isfinite(values), kept.view(np.float32), values)


def check_pair(output: RasterReader, source_bands: int, height: int, width: int) -> None:
    """Refuse an output that was not computed from this source.

    Raises
    ------
    UsageError
        Size or number of bands differ.
    """
    info = output.info
    if (info.height, info.width) != (height, width):
        raise UsageError(
            f"{info.path}: {info.width} x {info.height} pixels, expected {width} x {height}: "
            "the output of this source, model and area"
        )
    if info.count != source_bands:
        raise UsageError(
            f"{info.path}: {info.count} bands, its source has {source_bands}; choose the bands of "
            "the source with --bidx"
        )
