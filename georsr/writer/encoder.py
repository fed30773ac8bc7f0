"""Encode blocks of an output as tiles of a TIFF file, in memory.

DEFLATE, the default, is encoded by ISA-L. It takes a third of the time of GDAL's encoder, the
slowest step of a run after the network, for files that are 1 to 2 % larger
(``benchmarks/speed/encoding.py``). The bytes of a tile before compression follow TIFF 6.0, section
14, for differences of integers, and TIFF Technical Note 3 for those of floating-point numbers. A
mask has one bit per pixel and no predictor.

GDAL encodes all other creation options: it writes a block as a GeoTIFF of one tile in memory, and
the bytes of the tile are found in that file by its tables of tiles (TIFF 6.0, section 15, and
BigTIFF). So every codec of GDAL can be used, any number of threads can encode, and georsr itself
writes to the disk. If GDAL wrote the file, a full disk could go unnoticed, and a file whose process
is killed before closing it would be empty.
"""

from __future__ import annotations

import struct
import sys
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.io import MemoryFile

from georsr.io.gdal_env import gdal_env
from georsr.radiometry.quantize import broadcast_pixel, is_broadcast, is_constant
from georsr.system import available_cpus
from georsr.window import AnyArray
from georsr.writer.layout import DEFLATE_LEVEL, OutputLayout

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


TILE_OFFSETS, TILE_SIZES = 324, 325
Numbers = npt.NDArray[np.uint64]

_INTEGERS = {3: "u2", 4: "u4", 16: "u8"}
"""numpy types of TIFF's SHORT, LONG and LONG8."""


@dataclass(frozen=True)
class Field:
    """An array of integers in a TIFF file."""

    position: int
    """Offset in the file in bytes."""
    count: int
    """Number of integers."""
    dtype: np.dtype[np.generic]
    """Type of the integers, with byte order."""

    @property
    def largest(self) -> int:
        """Largest number that fits into the field."""
        return int(2 ** (8 * self.dtype.itemsize)) - 1

    def read(self, file: IO[bytes]) -> Numbers:
        """Read the numbers, (count,)."""
        data = read_at(file, self.position, self.count * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).astype(np.uint64)

    def write(self, file: IO[bytes], numbers: Numbers) -> None:
        """Replace the numbers; none may be greater than `largest`."""
        file.seek(self.position)
        write_all(file, numbers.astype(self.dtype).tobytes())


@dataclass(frozen=True)
class TileTable:
    """Offsets and sizes of the tiles of one image (one directory) of the file."""

    offsets: Field
    sizes: Field


def tile_tables(file: IO[bytes]) -> list[TileTable]:
    """Return the tables of every image in a tiled TIFF file, in file order.

    Raises
    ------
    ValueError
        The file is not a TIFF, or is damaged or truncated.
    """
    tables = []
    for fields in _directories(file):
        if TILE_OFFSETS in fields:
            sizes = fields.get(TILE_SIZES)
            if sizes is None or sizes.count != fields[TILE_OFFSETS].count:
                raise ValueError("the TIFF file has no size for each of its tiles")
            tables.append(TileTable(fields[TILE_OFFSETS], sizes))
    return tables


def _directories(file: IO[bytes]) -> Iterator[dict[int, Field]]:
    """Yield the integer arrays of each directory, by tag."""
    start = read_at(file, 0, 4)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None:
        raise ValueError("not a TIFF file")
    (version,) = struct.unpack(order + "H", start[2:])
    if version not in (42, 43):
        raise ValueError(f"not a TIFF file: version {version}")
    big = version == 43
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    address = struct.Struct(order + ("Q" if big else "I"))
    entry_count = struct.Struct(order + ("Q" if big else "H"))
    (position,) = address.unpack(read_at(file, 8 if big else 4, address.size))
    visited = set()
    while position:
        if position in visited:
            raise ValueError("the directories of the TIFF file go in circles")
        visited.add(position)
        (entries,) = entry_count.unpack(read_at(file, position, entry_count.size))
        fields = {}
        for i in range(entries):
            tag, kind, count, value = entry.unpack(read_exactly(file, entry.size))
            if kind not in _INTEGERS:
                continue
            dtype = np.dtype(order + _INTEGERS[kind])
            offset = position + entry_count.size + (i + 1) * entry.size - len(value)
            if count * dtype.itemsize > len(value):  # otherwise the entry itself holds the numbers
                (offset,) = address.unpack(value)
            fields[tag] = Field(offset, count, dtype)
        yield fields
        end = position + entry_count.size + entries * entry.size
        (position,) = address.unpack(read_at(file, end, address.size))


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write all bytes to an unbuffered file, which may accept fewer per call."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def read_at(file: IO[bytes], position: int, size: int) -> bytes:
    """Read ``size`` bytes from ``position`` on; raise ValueError if the file has fewer."""
    try:
        file.seek(position)
        return read_exactly(file, size)
    except (OverflowError, MemoryError) as error:  # numbers of a damaged file
        raise ValueError("the TIFF file ends too early") from error


def read_exactly(file: IO[bytes], size: int) -> bytes:
    """Read ``size`` bytes; raise ValueError if the file has fewer."""
    data = file.read(size)
    if len(data) != size:
        raise ValueError("the TIFF file ends too early")
    return data


CACHE_SIZE = 16
"""Largest number of cached constant blocks: a few of them make up most of a sparse mosaic."""

_PLACEHOLDER_TRANSFORM = Affine(1, 0, 0, 0, -1, 1)
"""A geotransform for blocks in memory: rasterio warns about files without one."""


@dataclass(frozen=True)
class EncodedBlock:
    """A block as it is stored in the file."""

    tiles: tuple[bytes, ...]
    """One tile with all bands, or one per band with INTERLEAVE=BAND; then that of the mask, if the
    output has one. An empty tile is omitted from a sparse file."""
    checksum: int
    """`block_checksum` of the pixels."""


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


def block_checksum(values: AnyArray, mask: AnyArray | None) -> int:
    """Return the crc32 of one block: all bands (count, h, w), then the mask (h, w)."""
    checksum = crc32(np.ascontiguousarray(values).data)
    return checksum if mask is None else crc32(np.ascontiguousarray(mask).data, checksum)


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
