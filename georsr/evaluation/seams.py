"""Measure seams: how much an output depends on the position of the tile grid."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Unpack

import numpy as np

from georsr.config import SRConfig, SROptions
from georsr.device import cpu_threads
from georsr.errors import UsageError, redact_url
from georsr.inference.array import ArrayFormat, array_reader, predict_window
from georsr.inference.blur_and_noise import resolve_kernel, with_scene_sensor
from georsr.inference.model_bands import open_for_model
from georsr.inference.pipeline import make_tile_grid
from georsr.inference.predictor import TilePredictor, place_model
from georsr.io.reader import RasterReader, choose_normalization
from georsr.models.io import Model
from georsr.models.spec import ModelSpec
from georsr.window import AnyArray, Window

MAX_SIZE = 1024
"""Largest height and width of the window that is measured, in the raster's centre.

Tiles larger than half of it need a larger window.
"""


@dataclass(frozen=True)
class SeamReport:
    """Change of the output when the tile grid moves by half its spacing, in the raster's units."""

    source: str
    model: str
    tile: int
    """Height and width of a tile in source pixels."""
    shift: int
    """Source pixels down and right by which the grid was moved."""
    pixels: int
    """Output pixels compared, per band."""
    mean: float
    p999: float
    maximum: float
    """Mean, 99.9th percentile and maximum of the absolute changes."""
    relative_mean: float
    """Mean change divided by the range the network sees as 0..1."""

    def to_json(self) -> str:
        """Return indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def describe(self) -> str:
        """Return two lines of text."""
        return (
            f"{self.model} on {self.source}: grid of {self.tile}-pixel tiles moved by "
            f"{self.shift} pixels\n"
            f"change of the output: mean {self.mean:.4g}, 99.9 % below {self.p999:.4g}, "
            f"maximum {self.maximum:.4g} ({100 * self.relative_mean:.3g} % of the range on average)"
        )


def measure_seams(source: str, model: Model, **options: Unpack[SROptions]) -> SeamReport:
    """Super-resolve a window twice, with the tile grid moved by half its spacing, and compare.

    Normalization, sensor and kernel are those of the scene, as in a run, where all tiles share
    them. A quarter of a tile along the edges of the window is left out of the comparison: it may
    differ because of the edge, not because of the grid. ``options`` are fields of
    :class:`georsr.config.SRConfig`, such as ``indexes`` and ``tile_size``.

    Raises
    ------
    UsageError
        The raster is an output of georsr, smaller than two tiles, or has no valid pixel there.
    """
    config = SRConfig(**options)
    spec = model.spec
    tile = config.tile_size or spec.tile
    with open_for_model(source, model, config) as (reader, model):
        height, width = reader.info.height, reader.info.width
        _check(reader, spec, config, tile)
        spacing = make_tile_grid(height, width, spec, config).columns[1].start
        shift = max(spec.multiple_of, spacing // 2 // spec.multiple_of * spec.multiple_of)
        # full tiles only: a tile that is moved back to the raster's edge would be in both grids
        largest = max(MAX_SIZE, 2 * tile)
        rows, columns = (
            tile + (min(side, largest) - tile) // spacing * spacing for side in (height, width)
        )
        window = Window((height - rows) // 2, (width - columns) // 2, rows, columns)
        block = reader.read(window)
        normalization = choose_normalization(reader, config.stretch)
        placement = place_model(model, config)
        scene = (reader.read, height, width, normalization)
        model = with_scene_sensor(*scene, model, config, placement)
        kernel = resolve_kernel(*scene, model, config, placement)
    predictor = TilePredictor.from_config(model, config, placement)

    def run(window: Window) -> AnyArray:
        """Return the output of a part of the window."""
        values, valid = (a[:, *window.slices] for a in (block.values, block.valid))
        whole = Window(0, 0, *values.shape[1:])
        return predict_window(
            array_reader(values, valid, whole),
            whole,
            bands=len(values),
            tile_grid=make_tile_grid(whole.height, whole.width, spec, config),
            normalization=normalization,
            form=ArrayFormat("float32", len(values), config.blocksize),
            inference=predictor,
            kernel=kernel,
        )

    moved = Window(shift, shift, rows - spacing, columns - spacing)
    with cpu_threads(config.num_threads):
        first, second = run(Window(0, 0, rows, columns)), run(moved)
    low, high = min(normalization.lo), max(normalization.hi)
    compared = moved.grow(-(tile // 4))
    inside = compared.relative_to(moved).scaled(spec.scale).slices
    change = np.abs(first[:, *compared.scaled(spec.scale).slices] - second[:, *inside])
    valid = block.valid[:, *compared.slices].repeat(spec.scale, 1).repeat(spec.scale, 2)
    if not valid.any():
        raise UsageError(f"{source}: no valid pixel at its centre")
    values = change[valid]
    return SeamReport(
        source=redact_url(source),
        model=spec.name,
        tile=tile,
        shift=shift,
        pixels=int(change.shape[1] * change.shape[2]),
        mean=float(values.mean()),
        p999=float(np.percentile(values, 99.9)),
        maximum=float(values.max()),
        relative_mean=float(values.mean() / (high - low or 1.0)),
    )


def _check(reader: RasterReader, spec: ModelSpec, config: SRConfig, tile: int) -> None:
    """Raise UsageError for an output of georsr, and for a raster smaller than two tiles."""
    info = reader.info
    tags = info.tags.get("", {})
    if "GEORSR_MODEL" in tags:
        named = tags.get("GEORSR_SOURCE", "the raster that was super-resolved")
        raise UsageError(f"{info.path}: is an output of georsr; give its source: {named}")
    side = min(info.height, info.width)
    if side >= 2 * tile:
        return
    largest = side // 2 // spec.multiple_of * spec.multiple_of
    text = (
        f"{info.path}: {info.width} x {info.height} pixels; seams of {tile}-pixel tiles need at "
        f"least {2 * tile} along each axis"
    )
    try:
        make_tile_grid(info.height, info.width, spec, replace(config, tile_size=max(largest, 1)))
    except UsageError as error:
        text += f", and tiles of {largest} are too small for this model; use a larger raster"
        raise UsageError(text) from error
    raise UsageError(f"{text}; use --tile {largest} of georsr quality seams")
