"""Read and write the tables of tiles of a TIFF file: TIFF 6.0, section 15, and BigTIFF.

GDAL writes everything else in the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

TILE_OFFSETS, TILE_SIZES = 324, 325
Numbers = npt.NDArray[np.uint64]

_INTEGERS = {3: "u2", 4: "u4", 16: "u8"}
"""numpy types of TIFF's SHORT, LONG and LONG8."""


@dataclass(frozen=True)
class Field:
    """An array of integers in a TIFF file.

    Attributes
    ----------
    position : int
        Offset in the file in bytes.
    count : int
        Number of integers.
    dtype : numpy dtype
        Type of the integers, with byte order.
    """

    position: int
    count: int
    dtype: np.dtype[np.generic]

    @property
    def largest(self) -> int:
        """Largest number that fits into the field."""
        return int(2 ** (8 * self.dtype.itemsize)) - 1

    def read(self, file: IO[bytes]) -> Numbers:
        """Read the numbers, (count,)."""
        file.seek(self.position)
        return np.frombuffer(
            read_exactly(file, self.count * self.dtype.itemsize), self.dtype
        ).astype(np.uint64)

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
        The file is not a TIFF, or is truncated.
    """
    return [
        TileTable(fields[TILE_OFFSETS], fields[TILE_SIZES])
        for fields in _directories(file)
        if TILE_OFFSETS in fields
    ]


def _directories(file: IO[bytes]) -> Iterator[dict[int, Field]]:
    """Yield the integer arrays of each directory, by tag."""
    file.seek(0)
    start = read_exactly(file, 4)
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
    file.seek(8 if big else 4)
    (position,) = address.unpack(read_exactly(file, address.size))
    while position:
        file.seek(position)
        (entries,) = entry_count.unpack(read_exactly(file, entry_count.size))
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
        file.seek(position + entry_count.size + entries * entry.size)
        (position,) = address.unpack(read_exactly(file, address.size))


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write all bytes to an unbuffered file, which may accept fewer per call."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def read_exactly(file: IO[bytes], size: int) -> bytes:
    """Read ``size`` bytes; raise ValueError if the file has fewer."""
    data = file.read(size)
    if len(data) != size:
        raise ValueError("the TIFF file ends too early")
    return data
