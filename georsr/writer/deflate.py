"""Encode the tiles of a TIFF file with DEFLATE, by ISA-L.

GDAL's encoder took more of a run than anything else beside the network; this takes a third of that,
for files that are 1 to 2 % larger (``benchmarks/speed/encoding.py``). It makes what georsr asks for
by default, and leaves every other encoding to GDAL, which also reads back what was made here before
it is published.

A tile's bytes before compression: TIFF 6.0, section 14, for differences of integers; TIFF Technical
Note 3 for those of floating-point numbers; a mask's have one bit a pixel and no predictor.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable

import numpy as np

from georsr.radiometry.quantize import is_constant
from georsr.window import AnyArray
from georsr.writer.creation_options import DEFLATE_LEVEL
from georsr.writer.layout import OutputLayout

try:
    from isal.isal_zlib import compress, crc32

    INSTALLED = True
except ImportError:  # it is not built for every kind of processor
    from zlib import compress, crc32

    INSTALLED = False

LEVEL = 3
"""Of 0 to 3. Blocks of 512 x 512 x 3 bytes of enlarged aerial imagery, one core: 3.7, 3.9 and
4.2 ms at levels 1 to 3, and 7.1 by libdeflate at its level 1, as in GDAL; files larger than that
one's by 3.3, 2.5 and 2.3 %."""
MIN_ISAL_BYTES = 2**15
"""Bytes below which zlib compresses. Of a table of 32,768 places, ISA-L clears two for each byte to
come, if that is not all of them, and at levels 1 and 2 it then looks at others, too: what it made
of 32 to 768 bytes depended on what other threads had left in memory. A output's bytes must not."""

FAST, BEST = 1, 9
"""Levels of zlib. The best is for blocks of one value: each is compressed once and stored again
and again, and ISA-L makes three times as many bytes of it."""

Encode = Callable[[AnyArray, AnyArray | None], tuple[bytes, ...]]
"""(values (count, h, w), mask (h, w) of 0 and 255 or None) -> the pieces of an `EncodedBlock`."""

_KNOWN = {"COMPRESS", "PREDICTOR", "ZLEVEL", "BIGTIFF", "INTERLEAVE"}
"""Creation options that are understood here."""

__all__ = ["Encode", "crc32", "make_encoder"]


def make_encoder(layout: OutputLayout) -> Encode | None:
    """Return the encoder of the blocks of an output; None if only GDAL can encode them."""
    options = {name: value.upper() for name, value in layout.options.items()}
    dtype = np.dtype(layout.dtype)
    predict = {"1": _as_they_are, "2": _differences, "3": _byte_differences}.get(
        options.get("PREDICTOR", "1")
    )
    able = (
        INSTALLED
        and sys.byteorder == "little"
        and options["COMPRESS"] == "DEFLATE"
        and options.get("ZLEVEL") == DEFLATE_LEVEL
        and not options.keys() - _KNOWN
        and dtype.kind in "uif"
        and dtype.itemsize <= 4
        and (predict is not _byte_differences or dtype.kind == "f")
    )
    if not able or predict is None:
        return None
    size, apart = layout.blocksize, options.get("INTERLEAVE", "PIXEL") == "BAND"

    def pack(values: AnyArray, mask: AnyArray | None) -> tuple[bytes, ...]:
        tiles = [values[i : i + 1] for i in range(len(values))] if apart else [values]
        level = BEST if is_constant(values) else FAST
        pieces = [_compressed(predict(tile, size), level) for tile in tiles]
        if mask is not None:
            bits = np.packbits(_as_they_are(mask[None], size)[..., 0] != 0, axis=1)
            pieces.append(_compressed(bits, level))
        return tuple(pieces)

    return pack


def _compressed(raw: AnyArray, level: int) -> bytes:
    if level == FAST and raw.nbytes >= MIN_ISAL_BYTES:
        return compress(raw, LEVEL)
    return zlib.compress(raw.data, level)


def _tile(values: AnyArray, size: int) -> AnyArray:
    """Return (size, size, C) for values (C, h, w); 0 beyond the edge of the output."""
    count, height, width = values.shape
    whole = height == width == size
    return (np.empty if whole else np.zeros)((size, size, count), values.dtype)


def _as_they_are(values: AnyArray, size: int) -> AnyArray:
    """Rearrange (C, h, w) -> (size, size, C), without predictor."""
    _, height, width = values.shape
    tile = _tile(values, size)
    for i, band in enumerate(values):  # a band at a time: several times as fast as all at once
        tile[:height, :width, i] = band
    return tile


def _differences(values: AnyArray, size: int) -> AnyArray:
    """Rearrange (C, h, w) -> (size, size, C): each number less its left neighbour, wrapping."""
    _, height, width = values.shape
    bits = values.view(f"u{values.dtype.itemsize}")
    tile = _tile(bits, size)
    for i, band in enumerate(bits):
        tile[:height, 0, i] = band[:, 0]
        np.subtract(band[:, 1:], band[:, :-1], out=tile[:height, 1:width, i])
    return tile


def _byte_differences(values: AnyArray, size: int) -> AnyArray:
    """(C, h, w) of floats -> (size, bytes of a row): all first bytes, then all second ones...,
    each less that of the pixel on its left."""
    count, bytes_each = len(values), values.dtype.itemsize
    rows = _as_they_are(values, size).view(np.uint8).reshape(size, size * count, bytes_each)
    planes = rows[..., ::-1].transpose(0, 2, 1).reshape(size, -1)
    planes[:, count:] = planes[:, count:] - planes[:, :-count]
    return planes
