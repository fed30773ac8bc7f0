"""Seams: how much a product depends on where the grid of tiles happens to lie."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Unpack

import numpy as np

from georsr.api import super_resolve_array
from georsr.config import SROptions
from georsr.errors import UsageError
from georsr.io.reader import open_raster
from georsr.models.io import Model
from georsr.radiometry.normalization import choose_normalization
from georsr.redact import redact_url
from georsr.window import Window

LARGEST = 1024
"""Pixels along each axis of the window that is looked at, from the raster's centre."""


@dataclass(frozen=True)
class SeamReport:
    """Change of the output when the tile grid moves by half a tile, in the raster's units."""

    source: str
    model: str
    tile: int
    shift: int
    """Of the grid, in source pixels, down and right."""
    pixels: int
    """Output pixels compared, per band."""
    mean: float
    p999: float
    """99.9 % of the changes are smaller."""
    maximum: float
    relative_mean: float
    """Mean change divided by the range the network sees as 0..1."""

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def describe(self) -> str:
        """Two lines for people."""
        return (
            f"{self.model} on {self.source}: grid of {self.tile}-pixel tiles moved by "
            f"{self.shift} pixels\n"
            f"change of the output: mean {self.mean:.4g}, 99.9 % below {self.p999:.4g}, "
            f"maximum {self.maximum:.4g} ({100 * self.relative_mean:.3g} % of the range on average)"
        )


def measure_seams(source: str, model: Model, **options: Unpack[SROptions]) -> SeamReport:
    """Super-resolve a window twice, with the tile grid moved by half a tile, and compare.

    The grid is anchored to the corner of what is super-resolved, so cutting half a tile from the
    window's top and left moves it. One tile along those edges is left out of the comparison: it
    differs because of the edge, not because of the grid.

    Parameters
    ----------
    source
        Raster to try it on.
    model
        Model to try.
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
    with open_raster(source, indexes=options.pop("indexes", None)) as reader:
        height, width = reader.info.height, reader.info.width
        if min(height, width) < 2 * tile:
            raise UsageError(
                f"{source}: {width} x {height} pixels; seams of {tile}-pixel tiles need at least "
                f"{2 * tile} along each axis (or a smaller --tile)"
            )
        rows, columns = min(height, LARGEST), min(width, LARGEST)
        window = Window((height - rows) // 2, (width - columns) // 2, rows, columns)
        patch = reader.read(window)
        stretch = choose_normalization(reader, options.pop("stretch", "auto"))
    low, high = min(stretch.lo), max(stretch.hi)
    # both runs get the scene's stretch; a constant band has no range of its own to give
    limits = [(a, b if b > a else a + 1) for a, b in zip(stretch.lo, stretch.hi, strict=True)]
    pairs = ";".join(f"{a},{b}" for a, b in limits)
    options |= {"stretch": pairs, "dtype": "float32"}
    moved = (slice(None), slice(shift, None), slice(shift, None))
    first = super_resolve_array(patch.values, model, valid=patch.valid, **options)
    second = super_resolve_array(patch.values[moved], model, valid=patch.valid[moved], **options)
    s = spec.scale
    change = np.abs(first[:, s * shift :, s * shift :] - second)[:, s * tile :, s * tile :]
    good = patch.valid[moved].repeat(s, 1).repeat(s, 2)[:, s * tile :, s * tile :]
    if not good.any():
        raise UsageError(f"{source}: no valid pixel at its centre")
    values = change[good]
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
