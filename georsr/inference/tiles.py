"""Choose the tiles of a source, and convert their pixels to network input and back.

What happens when a tile does not fit into memory is elsewhere: `georsr.inference.predictor` halves
the batch, then `georsr.jobs.run` the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from georsr.config import SRConfig
from georsr.errors import InputError
from georsr.inference.bands import check_bands
from georsr.io.metadata import RasterInfo
from georsr.io.reader import RasterReader, choose_normalization
from georsr.models.arrays import upsample_bilinear
from georsr.models.spec import ModelSpec
from georsr.radiometry.nodata import dataset_mask, fill_invalid
from georsr.radiometry.normalization import Normalization
from georsr.radiometry.quantize import (
    broadcast_pixel,
    invalid_pixels,
    quantize,
    quantize_alpha,
    replicate,
)
from georsr.tiling.grid import Tile, TileGrid, make_grid
from georsr.tiling.stitch import pad_to
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window

if TYPE_CHECKING:
    from georsr.geo.aoi import AreaOfInterest


def make_tile_grid(height: int, width: int, spec: ModelSpec, config: SRConfig) -> TileGrid:
    """Create the tile grid of a scene, by the options or else the specification of the model."""
    halo = spec.halo if config.halo is None else config.halo
    overlap = spec.overlap if config.overlap is None else config.overlap
    if config.blend == "crop":
        halo, overlap = halo + overlap // 2, overlap % 2
    return make_grid(
        height,
        width,
        scale=spec.scale,
        tile=config.tile_size or spec.tile,
        halo=halo,
        overlap=overlap,
        multiple_of=spec.multiple_of,
    )


def tile_grid_of(
    info: RasterInfo, spec: ModelSpec, config: SRConfig, area: AreaOfInterest | None = None
) -> TileGrid:
    """Create the tile grid of a run.

    The tiles of an area are those of the whole raster, so that its pixels are the same.
    """
    plan = make_tile_grid(info.height, info.width, spec, config)
    return plan if area is None else plan.subgrid(area.window)


class OutputFormat(Protocol):
    """Data type, nodata value, planes and block size of an output: of a file or of an array."""

    @property
    def dtype(self) -> str:
        """Name of the data type."""

    @property
    def nodata(self) -> float | None:
        """Value of invalid pixels, if one is declared."""

    @property
    def alpha(self) -> bool:
        """Whether an alpha plane follows the bands."""

    @property
    def mask(self) -> bool:
        """Whether a plane of 0 and 1 comes last."""

    @property
    def planes(self) -> int:
        """Bands, alpha and mask together."""

    @property
    def blocksize(self) -> int:
        """Height and width of blocks."""


@dataclass(frozen=True)
class RowStrip:
    """Source pixels that the tiles of one grid row read."""

    window: Window
    patch: PixelBlock

    def cut(self, window: Window) -> tuple[AnyArray, AnyArray, AnyArray | None]:
        """Return (values, valid, alpha) inside ``window`` (image coordinates), as views."""
        rows, columns = window.relative_to(self.window).slices
        alpha = self.patch.alpha
        return (
            self.patch.values[:, rows, columns],
            self.patch.valid[:, rows, columns],
            None if alpha is None else alpha[rows, columns],
        )


@dataclass(frozen=True)
class NetworkInput:
    """A tile ready for the network."""

    pixels: FloatArray
    """(C, h, w) in 0..1, padded to the tile's size."""
    remainder: FloatArray | None
    """(C, h, w): what the clip to 0..1 took away; None when nothing."""
    valid: BoolArray | None = None
    """(C, h, w): False where a pixel was filled or padded; None when none was."""

    @property
    def flat(self) -> bool:
        """Whether the tile has one value in each band, and no remainder."""
        corner = self.pixels[:, :1, :1]
        if self.remainder is not None or (self.pixels[:, 0] != corner[:, 0]).any():
            return False
        return bool((self.pixels == corner).all())


def preprocess(strip: RowStrip, tile: Tile, stretch: Normalization) -> NetworkInput | None:
    """Cut, fill, normalize and pad one tile; None if no pixel of its output is valid."""
    made = strip.cut(tile.output_window)[1]
    if not made.any():
        return None
    inside = tile.input_window.intersection(strip.window)
    assert inside is not None, "a tile lies in its own strip"
    values, valid, _ = strip.cut(inside)
    filled = values.astype(np.float32)
    if not valid.all():
        filled = fill_invalid(filled, valid)
    clipped, remainder = stretch.clip_with_remainder(stretch.forward(filled))
    height, width = tile.input_window.height, tile.input_window.width
    padding = ((0, 0), (0, height - inside.height), (0, width - inside.width))
    return NetworkInput(
        pad_to(clipped, height, width),
        None if remainder is None else pad_to(remainder, height, width),
        None if valid.all() and not np.any(padding) else np.pad(valid, padding),
    )


def constant_tile(ready: NetworkInput, tile: Tile, scale: int) -> FloatArray:
    """Return a tile of one value, enlarged without the network: (C, s * h, s * w) in 0..1."""
    height, width = tile.input_window.height * scale, tile.input_window.width * scale
    return ready.pixels[:, :1, :1] * np.ones((1, height, width), np.float32)


def denormalize(
    output: FloatArray,
    remainder: FloatArray | None,
    tile: Tile,
    stretch: Normalization,
) -> FloatArray:
    """Return the network's output in source units, cut to the output window of the tile.

    Parameters
    ----------
    output
        (C, s * h, s * w) for the padded tile, around 0..1. Its memory is used for what is returned:
        fewer large arrays come and go, and leave fewer gaps in the heap.
    remainder
        (C, h, w) that went round the network and is not in ``output`` yet; None when nothing.
    tile, stretch
        What the tile was made from.

    Returns
    -------
    ndarray
        (C, s * made.height, s * made.width) float32 in the source's units, which nothing else uses.
    """
    scale = output.shape[1] // tile.input_window.height
    inner = tile.output_window.relative_to(tile.input_window)
    cut = (slice(None), *inner.scaled(scale).slices)
    values = output[cut]
    if remainder is not None:
        # bilinear: what lies beyond the range must not ring
        values = values + upsample_bilinear(remainder, scale)[cut]
    return stretch.inverse(values, out=values)


def finalize(
    values: FloatArray | None, window: Window, strip: RowStrip, form: OutputFormat, scale: int
) -> AnyArray:
    """Round, clip, restore invalid pixels, and add alpha and mask planes.

    Parameters
    ----------
    values
        (C, H, W) float32 in the source's units, blended; None where no pixel is valid.
    window
        Where they lie in the output; its edges are multiples of ``scale``.
    strip, form, scale
        Source pixels below, the output's form, pixels per source pixel.

    Returns
    -------
    ndarray
        (P, H, W) in the output's dtype: bands, then alpha where the output has one, then
        non-zero for valid pixels where it has a mask. Without values it may be one pixel that
        repeats (`georsr.radiometry.quantize`), which cannot be written.
    """
    below = Window(
        window.top // scale,
        window.left // scale,
        window.height // scale,
        window.width // scale,
    )
    source, valid, alpha = strip.cut(below)
    masked = form.mask or form.alpha
    low = []
    if form.alpha and alpha is not None:
        low.append(quantize_alpha(alpha, form.dtype)[None])
    if form.mask:
        low.append(dataset_mask(valid)[None].astype(form.dtype))
    if values is None:
        bands = invalid_pixels(source, form.dtype, form.nodata, masked=masked)
        return replicate(np.concatenate([bands, *low]) if low else bands, scale)
    whole = bool(valid.all())
    made = quantize(
        values,
        None if whole else replicate(valid, scale),
        None if whole else replicate(source, scale),
        form.dtype,
        form.nodata,
        masked=masked,
    )
    return np.concatenate([made, *(replicate(plane, scale) for plane in low)]) if low else made


def mask_outside(planes: AnyArray, outside: BoolArray, form: OutputFormat) -> AnyArray:
    """Make the pixels outside of an area invalid.

    Parameters
    ----------
    planes
        (P, H, W) as :func:`finalize` gives them.
    outside
        (H, W).
    form
        The output's form.

    Returns
    -------
    ndarray
        (P, H, W), as :func:`finalize` gives them.
    """
    bands = form.planes - form.alpha - form.mask
    nothing = np.zeros((form.planes, 1, 1), form.dtype)
    nothing[:bands] = 0 if form.nodata is None else form.nodata
    if outside.all():
        return broadcast_pixel(nothing, *outside.shape)
    return np.where(outside, nothing, planes)


MAX_TILES = 24
"""Tiles: more change the ranges of features no further, and each costs a pass."""


def calibration_tiles(
    reader: RasterReader, spec: ModelSpec, tile: int | None = None
) -> list[FloatArray]:
    """Return tiles spread over a raster, normalized and filled as for a run.

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
    plan = tile_grid_of(reader.info, spec, SRConfig(tile_size=tile))
    stretch = choose_normalization(reader, "auto")
    side = tile or spec.tile
    found = []
    for index in range(0, len(plan), max(1, len(plan) // MAX_TILES)):
        tile_seen = plan.tile_at(index // len(plan.columns), index % len(plan.columns))
        window = tile_seen.input_window.intersection(plan.image_window)
        assert window is not None, "a tile reads some of the image"
        ready = preprocess(RowStrip(window, reader.read(window)), tile_seen, stretch)
        if ready is not None:
            found.append(pad_to(ready.pixels, side, side))
    if not found:
        raise InputError(f"{reader.info.path}: has no valid pixel to learn ranges from")
    return found[:MAX_TILES]
