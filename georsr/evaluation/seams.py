"""Measure seams: how much an output depends on the position of the tile grid."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Unpack

import numpy as np

from georsr.api import super_resolve_array
from georsr.config import SROptions
from georsr.errors import UsageError, redact_url
from georsr.inference.model_bands import open_for_model
from georsr.io.reader import choose_normalization
from georsr.models.io import Model
from georsr.window import Window

MAX_SIZE = 1024
"""Largest height and width of the window that is measured, in the raster's centre."""


@dataclass(frozen=True)
class SeamReport:
    """Change of the output when the tile grid moves by half a tile, in the raster's units.

    Attributes
    ----------
    source, model : str
    tile : int
        Height and width of a tile in source pixels.
    shift : int
        Source pixels down and right by which the grid was moved.
    pixels : int
        Output pixels compared, per band.
    mean, p999, maximum : float
        Mean, 99.9th percentile and maximum of the absolute changes.
    relative_mean : float
        Mean change divided by the range the network sees as 0..1.
    """

    source: str
    model: str
    tile: int
    shift: int
    pixels: int
    mean: float
    p999: float
    maximum: float
    relative_mean: float

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
    """Super-resolve a window twice, with the tile grid moved by half a tile, and compare.

    The grid begins at the corner of the window, so cropping half a tile from the window's top and
    left moves it. One tile along those edges is left out of the comparison: it differs because of
    the edge, not because of the grid.

    Parameters
    ----------
    source
        Path of a raster.
    model
        Model to run.
    **options
        Fields of :class:`georsr.config.SRConfig` (indexes, tile_size, halo, overlap, device...).

    Raises
    ------
    UsageError
        The raster is smaller than two tiles, or has no valid pixel there.
    """
    spec = model.spec
    tile = options.get("tile_size") or spec.tile
    shift = max(spec.multiple_of, tile // 2 // spec.multiple_of * spec.multiple_of)
    with open_for_model(source, model, options.pop("indexes", None)) as (reader, model):
        height, width = reader.info.height, reader.info.width
        if min(height, width) < 2 * tile:
            raise UsageError(
                f"{source}: {width} x {height} pixels; seams of {tile}-pixel tiles need at least "
                f"{2 * tile} along each axis (or a smaller --tile)"
            )
        rows, columns = min(height, MAX_SIZE), min(width, MAX_SIZE)
        window = Window((height - rows) // 2, (width - columns) // 2, rows, columns)
        block = reader.read(window)
        stretch = choose_normalization(reader, options.pop("stretch", "auto"))
    low, high = min(stretch.lo), max(stretch.hi)
    # both runs use the normalization of the scene; a constant band has no range of its own
    limits = [(a, b if b > a else a + 1) for a, b in zip(stretch.lo, stretch.hi, strict=True)]
    pairs = ";".join(f"{a},{b}" for a, b in limits)
    options |= {"stretch": pairs, "dtype": "float32"}
    moved = (slice(None), slice(shift, None), slice(shift, None))
    first = super_resolve_array(block.values, model, valid=block.valid, **options)
    second = super_resolve_array(block.values[moved], model, valid=block.valid[moved], **options)
    s = spec.scale
    change = np.abs(first[:, s * shift :, s * shift :] - second)[:, s * tile :, s * tile :]
    valid = block.valid[moved].repeat(s, 1).repeat(s, 2)[:, s * tile :, s * tile :]
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
