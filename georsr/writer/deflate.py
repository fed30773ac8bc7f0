"""Encode the tiles of a TIFF file with DEFLATE, using ISA-L.

ISA-L takes a third of the time of GDAL's encoder, the slowest step of a run after the network, for
files that are 1 to 2 % larger (``benchmarks/speed/encoding.py``). It is used for the default
creation options; GDAL encodes all others, and reads back every file before it is published.

The bytes of a tile before compression follow TIFF 6.0, section 14, for differences of integers, and
TIFF Technical Note 3 for those of floating-point numbers. A mask has one bit per pixel and no
predictor.
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
except ImportError:  # not available for every processor
    from zlib import compress, crc32

    INSTALLED = False

ISAL_LEVEL = 3
"""Compression level of ISA-L, 0 to 3. Blocks of 512 x 512 x 3 bytes of enlarged aerial imagery, one
core: 3.7, 3.9 and 4.2 ms at levels 1 to 3, and 7.1 ms with libdeflate at level 1, as in GDAL; the
files are 3.3, 2.5 and 2.3 % larger than those of libdeflate."""
MIN_ISAL_BYTES = 2**15
"""Size in bytes below which zlib compresses instead. For short inputs, ISA-L clears only two
entries per byte of its hash table of 32,768, but reads others too at levels 1 and 2: its output
for 32 to 768 bytes depended on earlier contents of memory. Outputs must be reproducible."""

FAST, BEST = 1, 9
"""Compression levels of zlib. `BEST` is for constant blocks, which are compressed once and stored
many times; ISA-L needs three times as many bytes for them."""

Encode = Callable[[AnyArray, AnyArray | None], tuple[bytes, ...]]
"""(values (count, h, w), mask (h, w) of 0 and 255 or None) -> the tiles of an `EncodedBlock`."""

_SUPPORTED_OPTIONS = {"COMPRESS", "PREDICTOR", "ZLEVEL", "BIGTIFF", "INTERLEAVE"}
"""Creation options that this encoder supports."""

__all__ = ["Encode", "crc32", "make_encoder"]


def make_encoder(layout: OutputLayout) -> Encode | None:
    """Return the encoder of the blocks of an output; None if only GDAL can encode them."""
    options = {name: value.upper() for name, value in layout.options.items()}
    dtype = np.dtype(layout.dtype)
    predict = {"1": _interleave, "2": _differences, "3": _byte_differences}.get(
        options.get("PREDICTOR", "1")
    )
    supported = (
        INSTALLED
        and sys.byteorder == "little"
        and options["COMPRESS"] == "DEFLATE"
        and options.get("ZLEVEL") == DEFLATE_LEVEL
        and not options.keys() - _SUPPORTED_OPTIONS
        and dtype.kind in "uif"
        and dtype.itemsize <= 4
        and (predict is not _byte_differences or dtype.kind == "f")
    )
    if not supported or predict is None:
        return None
    size, per_band = layout.blocksize, options.get("INTERLEAVE", "PIXEL") == "BAND"

    def encode(values: AnyArray, mask: AnyArray | None) -> tuple[bytes, ...]:
        tiles = [values[i : i + 1] for i in range(len(values))] if per_band else [values]
        level = BEST if is_constant(values) else FAST
        encoded = [_compress(predict(tile, size), level) for tile in tiles]
        if mask is not None:
            bits = np.packbits(_interleave(mask[None], size)[..., 0] != 0, axis=1)
            encoded.append(_compress(bits, level))
        return tuple(encoded)

    return encode


def _compress(raw: AnyArray, level: int) -> bytes:
    """Compress bytes with ISA-L, or with zlib if they are few or constant."""
    if level == FAST and raw.nbytes >= MIN_ISAL_BYTES:
        return compress(raw, ISAL_LEVEL)
    return zlib.compress(raw.data, level)


def _empty_tile(values: AnyArray, size: int) -> AnyArray:
    """Allocate (size, size, C) for values (C, h, w), with zeros beyond the edge of the output."""
    count, height, width = values.shape
    full = height == width == size
    return (np.empty if full else np.zeros)((size, size, count), values.dtype)


def _interleave(values: AnyArray, size: int) -> AnyArray:
    """Rearrange (C, h, w) -> (size, size, C), without predictor."""
    _, height, width = values.shape
    tile = _empty_tile(values, size)
    for i, band in enumerate(values):  # band by band: several times as fast as one assignment
        tile[:height, :width, i] = band
    return tile


def _differences(values: AnyArray, size: int) -> AnyArray:
    """Rearrange (C, h, w) -> (size, size, C): each number minus its left neighbour, wrapping."""
    _, height, width = values.shape
    bits = values.view(f"u{values.dtype.itemsize}")
    tile = _empty_tile(bits, size)
    for i, band in enumerate(bits):
        tile[:height, 0, i] = band[:, 0]
        np.subtract(band[:, 1:], band[:, :-1], out=tile[:height, 1:width, i])
    return tile


def _byte_differences(values: AnyArray, size: int) -> AnyArray:
    """Rearrange floats (C, h, w) -> (size, bytes of a row): first bytes, then second bytes, etc.

    Each byte is stored minus that of the pixel on its left.
    """
    count, bytes_each = len(values), values.dtype.itemsize
    rows = _interleave(values, size).view(np.uint8).reshape(size, size * count, bytes_each)
    planes = rows[..., ::-1].transpose(0, 2, 1).reshape(size, -1)
    planes[:, count:] = planes[:, count:] - planes[:, :-count]
    return planes
