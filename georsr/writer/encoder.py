"""Encode one block of an output, in memory.

GDAL encodes blocks that `georsr.writer.deflate` cannot: it writes a block as a GeoTIFF of one tile
in memory, with the creation options of the output, and the bytes of the tile are read from that
file. So every codec of GDAL can be used, any number of threads can encode, and georsr itself
writes to the disk. If GDAL wrote the file, a full disk could go unnoticed, and a file whose process
is killed before closing it would be empty.
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
"""Largest number of cached constant blocks: a few of them make up most of a sparse mosaic."""

_PLACEHOLDER_TRANSFORM = Affine(1, 0, 0, 0, -1, 1)
"""A geotransform for blocks in memory: rasterio warns about files without one."""


@dataclass(frozen=True)
class EncodedBlock:
    """A block as it is stored in the file.

    Attributes
    ----------
    tiles : tuple of bytes
        One tile with all bands, or one per band with INTERLEAVE=BAND; then that of the mask, if
        the output has one. An empty tile is omitted from a sparse file.
    checksum : int
        `block_checksum` of the pixels.
    """

    tiles: tuple[bytes, ...]
    checksum: int


class BlockEncoder:
    """Encodes the blocks of a layout; several threads may call it."""

    def __init__(self, layout: OutputLayout) -> None:
        no_georeference = {"crs": None, "transform": _PLACEHOLDER_TRANSFORM}
        self._profile: dict[str, Any] = layout.profile() | no_georeference
        self._encode_tiles: Encode = make_encoder(layout) or self._encode_with_gdal
        self._cache: OrderedDict[tuple[object, ...], EncodedBlock] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, values: AnyArray, mask: AnyArray | None) -> EncodedBlock:
        """Encode one block.

        Parameters
        ----------
        values : (count, h, w)
            All bands of the file including alpha, in the output's data type.
        mask : uint8 (h, w) or None
            0 for invalid and 255 for valid pixels.

        Raises
        ------
        RasterioError, ValueError
            GDAL cannot encode the block.
        """
        key = _signature(values, mask)
        if key is None:
            return self._encode(values, mask)
        with self._lock:
            block = self._cache.get(key)
        if block is None:
            block = self._encode(values, mask)
            with self._lock:
                self._cache[key] = block
                while len(self._cache) > CACHE_SIZE:
                    self._cache.popitem(last=False)
        return block

    def _encode(self, values: AnyArray, mask: AnyArray | None) -> EncodedBlock:
        values = np.ascontiguousarray(values)
        mask = None if mask is None else np.ascontiguousarray(mask)
        return EncodedBlock(self._encode_tiles(values, mask), block_checksum(values, mask))

    def _encode_with_gdal(self, values: AnyArray, mask: AnyArray | None) -> tuple[bytes, ...]:
        height, width = values.shape[1:]
        size = {"height": height, "width": width}
        with gdal_env(writing=True, cache=None), MemoryFile(ext=".tif") as memory:
            with memory.open(**self._profile | size) as dataset:
                dataset.write(values)
                if mask is not None:
                    dataset.write_mask(mask)
            memory.seek(0)
            tiles = []
            for table in tile_tables(memory):
                offsets, sizes = table.offsets.read(memory), table.sizes.read(memory)
                for offset, length in zip(offsets.tolist(), sizes.tolist(), strict=True):
                    memory.seek(offset)
                    tiles.append(memory.read(length) if length else b"")
        return tuple(tiles)


def to_encodable(
    values: AnyArray, mask: AnyArray | None = None, alpha: AnyArray | None = None
) -> tuple[AnyArray, AnyArray | None]:
    """Return the pixels of a block in the form that a `BlockEncoder` takes.

    Parameters
    ----------
    values : (C, h, w)
        Pixels of the bands.
    mask : (h, w), optional
        0 for invalid pixels; if the output has a mask.
    alpha : (h, w), optional
        Alpha band; if the output has one.

    Returns
    -------
    (C or C + 1, h, w), and uint8 (h, w) of 0 and 255 or None
        Contiguous arrays, or broadcast pixels (`georsr.radiometry.quantize`) if all given arrays
        are broadcast.
    """
    height, width = values.shape[1:]
    broadcast = all(is_broadcast(planes) for planes in (values, mask, alpha) if planes is not None)
    part = slice(1) if broadcast else slice(None)
    pixels = values[:, part, part]
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[None, part, part]])
    mask_bytes = (
        None if mask is None else np.where(mask[part, part] != 0, np.uint8(255), np.uint8(0))
    )
    if not broadcast:
        return np.ascontiguousarray(pixels), mask_bytes
    if mask_bytes is not None:
        mask_bytes = broadcast_pixel(mask_bytes, height, width)
    return broadcast_pixel(pixels, height, width), mask_bytes


def _signature(values: AnyArray, mask: AnyArray | None) -> tuple[object, ...] | None:
    """Return the cache key of a block with one value per band; None for any other block."""
    if not is_constant(values) or (mask is not None and not is_constant(mask)):
        return None
    corner = values[:, :1, :1].tobytes()
    return values.shape, corner, None if mask is None else int(mask[0, 0])


def encoders() -> int:
    """Return the number of threads that encode blocks: half of the processors, at most 8."""
    return max(1, min(8, available_cpus() // 2))
