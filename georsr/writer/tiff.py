"""Read and write the tables of tiles of a TIFF file: TIFF 6.0, section 15, and BigTIFF.

Only these tables are read and written here; everything else in the file is GDAL's.
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
"""numpy's names for TIFF's SHORT, LONG and LONG8."""


@dataclass(frozen=True)
class Field:
    """An array of integers in a file.

    Attributes
    ----------
    position : int
        Byte at which it starts.
    count : int
    dtype : numpy dtype, with byte order
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
        return np.frombuffer(exactly(file, self.count * self.dtype.itemsize), self.dtype).astype(
            np.uint64
        )

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
        Not a tiled TIFF, or cut off.
    """
    return [
        TileTable(fields[TILE_OFFSETS], fields[TILE_SIZES])
        for fields in _directories(file)
        if TILE_OFFSETS in fields
    ]


def _directories(file: IO[bytes]) -> Iterator[dict[int, Field]]:
    """Yield the integer arrays of each directory, by tag."""
    file.seek(0)
    start = exactly(file, 4)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None:
        raise ValueError("not a TIFF file")
    (version,) = struct.unpack(order + "H", start[2:])
    if version not in (42, 43):
        raise ValueError(f"not a TIFF file: version {version}")
    big = version == 43
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    address = struct.Struct(order + ("Q" if big else "I"))
    many = struct.Struct(order + ("Q" if big else "H"))
    file.seek(8 if big else 4)
    (position,) = address.unpack(exactly(file, address.size))
    while position:
        file.seek(position)
        (entries,) = many.unpack(exactly(file, many.size))
        fields = {}
        for i in range(entries):
            tag, kind, count, value = entry.unpack(exactly(file, entry.size))
            if kind not in _INTEGERS:
                continue
            dtype = np.dtype(order + _INTEGERS[kind])
            where = position + many.size + (i + 1) * entry.size - len(value)
            if count * dtype.itemsize > len(value):  # else the numbers are in the entry itself
                (where,) = address.unpack(value)
            fields[tag] = Field(where, count, dtype)
        yield fields
        file.seek(position + many.size + entries * entry.size)
        (position,) = address.unpack(exactly(file, address.size))


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write to an unbuffered file, which may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def exactly(file: IO[bytes], size: int) -> bytes:
    """Read so many bytes; ValueError if there are fewer."""
    data = file.read(size)
    if len(data) != size:
        raise ValueError("the TIFF file ends too early")
    return data
