"""From a strip of raster to what the network eats, and back to the product's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from georsr.models.linear import enlarge_linear
from georsr.raster.fill import fill_invalid
from georsr.raster.mask import dataset_mask
from georsr.raster.quantise import invalid_pixels, quantise, quantise_alpha, replicate
from georsr.raster.reader import Patch
from georsr.raster.stretch import Stretch
from georsr.raster.uniform import repeated
from georsr.tiling.padding import pad_to
from georsr.tiling.plan import Tile
from georsr.types import AnyArray, BoolArray, FloatArray, Window


class Form(Protocol):
    """The form finished pixels take; a file's layout has it, and an array's."""

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
class Strip:
    """The part of the source that one grid row of tiles reads."""

    window: Window
    patch: Patch

    def cut(self, window: Window) -> tuple[AnyArray, AnyArray, AnyArray | None]:
        """(values, valid, alpha) inside ``window`` (image coordinates), as views."""
        rows, columns = window.relative_to(self.window).slices
        alpha = self.patch.alpha
        return (
            self.patch.values[:, rows, columns],
            self.patch.valid[:, rows, columns],
            None if alpha is None else alpha[rows, columns],
        )


@dataclass(frozen=True)
class Prepared:
    """A tile ready for the network, and what has to go round it."""

    pixels: FloatArray
    """(C, h, w) in 0..1, padded to the tile's size."""
    remainder: FloatArray | None
    """(C, h, w): what the clip to 0..1 took away; None when nothing."""
    valid: BoolArray | None = None
    """(C, h, w): False where a pixel was filled or padded; None when none was."""

    @property
    def flat(self) -> bool:
        """Whether the network would see one value in each band, and nothing goes round it."""
        corner = self.pixels[:, :1, :1]
        if self.remainder is not None or (self.pixels[:, 0] != corner[:, 0]).any():
            return False
        return bool((self.pixels == corner).all())


def prepare(strip: Strip, tile: Tile, stretch: Stretch) -> Prepared | None:
    """Cut, fill, stretch and pad one tile; None when it would make no valid pixel."""
    made = strip.cut(tile.made)[1]
    if not made.any():
        return None
    inside = tile.read.intersection(strip.window)
    assert inside is not None, "a tile lies in its own strip"
    values, valid, _ = strip.cut(inside)
    filled = values.astype(np.float32)
    if not valid.all():
        filled = fill_invalid(filled, valid)
    clipped, remainder = stretch.split(stretch.forward(filled))
    height, width = tile.read.height, tile.read.width
    padding = ((0, 0), (0, height - inside.height), (0, width - inside.width))
    return Prepared(
        pad_to(clipped, height, width),
        None if remainder is None else pad_to(remainder, height, width),
        None if valid.all() and not np.any(padding) else np.pad(valid, padding),
    )


def restore(
    output: FloatArray,
    remainder: FloatArray | None,
    tile: Tile,
    stretch: Stretch,
) -> FloatArray:
    """Network output -> product units, cut to what the tile makes.

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
    scale = output.shape[1] // tile.read.height
    inner = tile.made.relative_to(tile.read)
    cut = (slice(None), *inner.scaled(scale).slices)
    values = output[cut]
    if remainder is not None:
        # bilinear: what lies beyond the range must not ring
        values = values + enlarge_linear(torch.from_numpy(remainder), scale).numpy()[cut]
    return stretch.inverse(values, out=values)


def finish(
    values: FloatArray | None, window: Window, strip: Strip, form: Form, scale: int
) -> AnyArray:
    """Round, clip, restore invalid pixels, and add alpha and mask planes.

    Parameters
    ----------
    values
        (C, H, W) float32 in the source's units, blended; None where no pixel is valid.
    window
        Where they lie in the output; its edges are multiples of ``scale``.
    strip, form, scale
        Source pixels below, the product's form, pixels per source pixel.

    Returns
    -------
    ndarray
        (P, H, W) in the product's dtype: bands, then alpha where the product has one, then
        non-zero for valid pixels where it has a mask. Without values it may be one pixel that
        repeats (`georsr.raster.uniform`), which cannot be written.
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
        low.append(quantise_alpha(alpha, form.dtype)[None])
    if form.mask:
        low.append(dataset_mask(valid)[None].astype(form.dtype))
    if values is None:
        bands = invalid_pixels(source, form.dtype, form.nodata, masked=masked)
        return replicate(np.concatenate([bands, *low]) if low else bands, scale)
    whole = bool(valid.all())
    made = quantise(
        values,
        None if whole else replicate(valid, scale),
        None if whole else replicate(source, scale),
        form.dtype,
        form.nodata,
        masked=masked,
    )
    return np.concatenate([made, *(replicate(plane, scale) for plane in low)]) if low else made


def blank(planes: AnyArray, outside: BoolArray, form: Form) -> AnyArray:
    """Make pixels invalid, in whatever way the product has for it.

    Parameters
    ----------
    planes
        (P, H, W) as :func:`finish` gives them.
    outside
        (H, W).
    form
        The product's form.

    Returns
    -------
    ndarray
        (P, H, W), as :func:`finish` gives them.
    """
    bands = form.planes - form.alpha - form.mask
    nothing = np.zeros((form.planes, 1, 1), form.dtype)
    nothing[:bands] = 0 if form.nodata is None else form.nodata
    if outside.all():
        return repeated(nothing, *outside.shape)
    return np.where(outside, nothing, planes)
