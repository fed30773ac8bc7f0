"""Exemplars: tiles of a raster as a network would see them."""

from __future__ import annotations

from georsr.config import SRConfig
from georsr.engine.patch import Strip, prepare
from georsr.engine.preflight import check_bands, plan_for
from georsr.errors import InputError
from georsr.models.spec import ModelSpec
from georsr.raster.reader import RasterReader
from georsr.raster.stretch import choose_stretch
from georsr.tiling.padding import pad_to
from georsr.types import FloatArray

MOST = 24
"""Tiles: more change the ranges of features no further, and each costs a pass."""


def exemplars(reader: RasterReader, spec: ModelSpec, tile: int | None = None) -> list[FloatArray]:
    """Tiles spread over a raster, stretched and filled as for a run.

    Parameters
    ----------
    reader, spec
        The raster, and the contract of the model that is to see it.
    tile
        Height and width; None takes the model's.

    Returns
    -------
    list of ndarray
        Each (C, tile, tile) float32 in 0..1.

    Raises
    ------
    UsageError
        The bands are not the model's.
    InputError
        No pixel of the raster is valid.
    """
    check_bands(reader.info, spec)
    plan = plan_for(reader.info, spec, SRConfig(tile=tile))
    stretch = choose_stretch(reader, "auto")
    side = tile or spec.tile
    found = []
    for index in range(0, len(plan), max(1, len(plan) // MOST)):
        tile_seen = plan.tile_at(index // len(plan.columns), index % len(plan.columns))
        window = tile_seen.read.intersection(plan.image_window)
        assert window is not None, "a tile reads some of the image"
        ready = prepare(Strip(window, reader.read(window)), tile_seen, stretch)
        if ready is not None:
            found.append(pad_to(ready.pixels, side, side))
    if not found:
        raise InputError(f"{reader.info.path}: has no valid pixel to learn ranges from")
    return found[:MOST]
