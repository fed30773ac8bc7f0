"""Encode one block of an output, in memory.

What `georsr.writer.deflate` does not make, GDAL does: a block becomes a GeoTIFF of one tile in
memory, made with the output's own creation options, and the bytes of that tile are taken out of
it. So any codec of GDAL can be used, blocks are encoded in as many threads as one likes, and what
reaches the disk is ours to write, flush and account for: written by GDAL itself, a full disk can
pass without an error, and a file that is killed before it is closed holds nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from rasterio.io import MemoryFile

from georsr.io.gdal_env import gdal_env
from georsr.radiometry.quantize import broadcast_pixel, is_broadcast, is_constant
from georsr.system import available_cpus
from georsr.window import AnyArray
from georsr.writer.deflate import Encode, make_encoder
from georsr.writer.layout import OutputLayout
from georsr.writer.tiff import tile_tables
from georsr.writer.verify import block_checksum

CACHE_SIZE = 16
"""Blocks of one value that are kept encoded: most of a sparse mosaic is a few such blocks."""

_SOMEWHERE = Affine(1, 0, 0, 0, -1, 1)
"""Any geotransform: rasterio warns about files that have none."""


@dataclass(frozen=True)
class EncodedBlock:
    """A block as it is stored in the file.

    Attributes
    ----------
    pieces : tuple of bytes
        The tile of all bands, or one per band where bands are kept apart; then the mask's, if the
        output has one. A piece without bytes is a tile left out of a sparse file.
    checksum : int
        `block_checksum` of its pixels.
    """

    tiles: tuple[bytes, ...]
    checksum: int


class BlockEncoder:
    """Encodes blocks of one layout; may be called from several threads."""

    def __init__(self, layout: OutputLayout) -> None:
        without = {"crs": None, "transform": _SOMEWHERE}
        self._profile: dict[str, Any] = layout.profile() | without
        self._pack: Encode = make_encoder(layout) or self._by_gdal
        self._known: OrderedDict[tuple[object, ...], EncodedBlock] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, values: AnyArray, mask: AnyArray | None) -> EncodedBlock:
        """Encode one block.

        Parameters
        ----------
        values : (count, h, w)
            All bands of the file, alpha included, of the output's data type.
        mask : uint8 (h, w) or None
            0 and 255.

        Raises
        ------
        RasterioError, ValueError
            GDAL cannot encode it.
        """
        key = _signature(values, mask)
        if key is None:
            return self._encode(values, mask)
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = self._encode(values, mask)
            with self._lock:
                self._known[key] = known
                while len(self._known) > CACHE_SIZE:
                    self._known.popitem(last=False)
        return known

    def _encode(self, values: AnyArray, mask: AnyArray | None) -> EncodedBlock:
        values = np.ascontiguousarray(values)
        mask = None if mask is None else np.ascontiguousarray(mask)
        return EncodedBlock(self._pack(values, mask), block_checksum(values, mask))

    def _by_gdal(self, values: AnyArray, mask: AnyArray | None) -> tuple[bytes, ...]:
        height, width = values.shape[1:]
        size = {"height": height, "width": width}
        with gdal_env(writing=True, cache=None), MemoryFile(ext=".tif") as memory:
            with memory.open(**self._profile | size) as dataset:
                dataset.write(values)
                if mask is not None:
                    dataset.write_mask(mask)
            memory.seek(0)
            pieces = []
            for table in tile_tables(memory):
                offsets, sizes = table.offsets.read(memory), table.sizes.read(memory)
                for offset, length in zip(offsets.tolist(), sizes.tolist(), strict=True):
                    memory.seek(offset)
                    pieces.append(memory.read(length) if length else b"")
        return tuple(pieces)


def to_encodable(
    values: AnyArray, mask: AnyArray | None = None, alpha: AnyArray | None = None
) -> tuple[AnyArray, AnyArray | None]:
    """Return the pixels of a block in the form that a `BlockEncoder` takes.

    Parameters
    ----------
    values : (C, h, w)
    mask : (h, w), 0 for invalid, if the output has one
    alpha : (h, w), if the output has it

    Returns
    -------
    (C or C + 1, h, w), and uint8 (h, w) of 0 and 255 or None
        Contiguous, or one pixel that repeats (`georsr.radiometry.quantize`) if all that was given
        is.
    """
    height, width = values.shape[1:]
    one = all(is_broadcast(planes) for planes in (values, mask, alpha) if planes is not None)
    few = slice(1) if one else slice(None)
    pixels = values[:, few, few]
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[None, few, few]])
    shade = None if mask is None else np.where(mask[few, few] != 0, np.uint8(255), np.uint8(0))
    if not one:
        return np.ascontiguousarray(pixels), shade
    return broadcast_pixel(pixels, height, width), None if shade is None else broadcast_pixel(
        shade, height, width
    )


def _signature(values: AnyArray, mask: AnyArray | None) -> tuple[object, ...] | None:
    """Return what identifies a block of one value per band; None for any other block."""
    if not is_constant(values) or (mask is not None and not is_constant(mask)):
        return None
    corner = values[:, :1, :1].tobytes()
    return values.shape, corner, None if mask is None else int(mask[0, 0])


def encoders() -> int:
    """Return the number of threads that encode blocks: half of the processors, at most 8."""
    return max(1, min(8, available_cpus() // 2))
