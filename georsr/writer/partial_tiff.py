"""Write a GeoTIFF block by block, so that it survives being killed at any moment.

GDAL writes the header of the whole file, without a pixel; encoded blocks are then appended, and the
header's table of tiles is filled in at the end. What was appended is on disk after `sync`, and a
file that was cut off is made whole by `reopen` with the list of what had been synchronised. The
bytes depend on the order of blocks alone, not on how often or where the work was interrupted.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import numpy as np
import numpy.typing as npt
import rasterio

from georsr._files import atomic_write, open_regular
from georsr.errors import OutputError
from georsr.io.gdal_env import gdal_env, suppress_rasterio_warnings
from georsr.writer.encoder import EncodedBlock
from georsr.writer.layout import OutputLayout
from georsr.writer.tiff import Numbers, TileTable, read_exactly, tile_tables, write_all
from georsr.writer.verify import Checksums, to_rasterio_window


@dataclass(frozen=True)
class Header:
    """Size and checksum of the file before its first block.

    Attributes
    ----------
    size : int
        Bytes.
    checksum : int
        crc32 of them, where tables that are filled in last count as zeros.
    """

    size: int
    checksum: int


@dataclass(frozen=True)
class BlockRecord:
    """A block that is in the file.

    Attributes
    ----------
    row, column : int
        Of the block.
    checksum : int
        Of its pixels.
    sizes : tuple of int
        Bytes of its pieces; blocks lie in the file in the order of this list, without gaps.
    encoded : int
        crc32 of these bytes.
    """

    row: int
    column: int
    checksum: int
    sizes: tuple[int, ...]
    encoded: int


@dataclass(frozen=True)
class OutputInfo:
    """A published file.

    Attributes
    ----------
    path : str
    bytes : int
        Size of the file.
    seconds : float
        Spent in `RasterWriter.seal`: closing, verifying, COG.
    checksum : str
        crc32 over the crc32 of every block in row-major order, eight hexadecimal digits: the
        same pixels in the same block size give the same checksum in any encoding.
    """

    path: str
    bytes: int
    seconds: float
    checksum: str


log = logging.getLogger(__name__)


class PartFile:
    """An unfinished GeoTIFF; use `create` or `reopen`, from one thread at a time.

    Attributes
    ----------
    end : int
        Size of the file so far.
    header : Header
        What stands before its first block; of a file that was created.
    done : bool (block rows, block columns)
        Which blocks are in it.
    checksums : uint32 (block rows, block columns)
    """

    def __init__(self, path: Path, file: IO[bytes], layout: OutputLayout) -> None:
        self.path = path
        self.header: Header
        self._file = file
        self._columns = layout.blocks_shape[1]
        self._lost: dict[tuple[int, int], tuple[int, BlockRecord]] = {}
        self._tables: list[tuple[TileTable, Numbers, Numbers]] = [
            (table, table.offsets.read(file), table.sizes.read(file)) for table in tile_tables(file)
        ]
        blocks = layout.blocks_shape[0] * layout.blocks_shape[1]
        images = 1 + layout.mask
        if len(self._tables) != images or any(len(t[1]) % blocks for t in self._tables):
            raise ValueError(f"GDAL made a header of {len(self._tables)} images, expected {images}")
        self._blocks = blocks
        self._pieces = sum(len(offsets) for _, offsets, _ in self._tables) // blocks
        for _, offsets, sizes in self._tables:
            offsets[:], sizes[:] = 0, 0
        self.end = file.seek(0, os.SEEK_END)
        self.done: npt.NDArray[np.bool_] = np.zeros(layout.blocks_shape, bool)
        self.checksums: Checksums = np.zeros(layout.blocks_shape, np.uint32)

    @classmethod
    def create(cls, path: Path, layout: OutputLayout) -> Self:
        """Begin a new file at ``path``, replacing what is there."""
        profile = layout.profile() | {"SPARSE_OK": "TRUE"}
        env, quiet = gdal_env(writing=True), suppress_rasterio_warnings()
        # GDAL follows links: it gets a name at which nobody has laid one
        with (
            atomic_write(path) as fresh,
            env,
            quiet,
            rasterio.open(fresh, "w", **profile) as dataset,
        ):
            layout.describe(dataset)
            if layout.mask:
                corner = next(layout.blocks())[2]
                empty = np.zeros((corner.height, corner.width), np.uint8)
                dataset.write_mask(empty, window=to_rasterio_window(corner))
        part = cls._opened(path, layout)
        part.header = part.header_of(part.end)
        return part

    @classmethod
    def reopen(
        cls, path: Path, layout: OutputLayout, header: Header, blocks: Iterable[BlockRecord]
    ) -> Self:
        """Reopen a file; every byte of it is read and compared with its checksum.

        A damaged header is made again, damaged blocks are not among those that are `done`.

        Parameters
        ----------
        path : Path
        layout : ProductLayout
            As at creation.
        header : Header
            As it was at creation.
        blocks : iterable of Finished
            Those that were synchronised, in their order; anything beyond them is cut off.

        Raises
        ------
        ValueError, OSError
            The file is not what the list says.
        """
        part = cls._with_header(path, layout, header)
        try:
            part.end = header.size
            for block in blocks:
                place = part.end
                part._record(block)
                part._lost.pop((block.row, block.column), None)
                if not part._holds(place, block):
                    part._lost[block.row, block.column] = place, block
                    part.done[block.row, block.column] = False
            part._file.truncate(part.end)
        except BaseException:
            part.close()
            raise
        return part

    @classmethod
    def _with_header(cls, path: Path, layout: OutputLayout, header: Header) -> Self:
        """Open a file, after repairing its header if necessary."""
        try:
            part = cls._opened(path, layout)
            if part.header_of(header.size) == header:
                return part
            part.close()
        except ValueError:
            log.debug("%s: its header cannot be read", path, exc_info=True)
        log.warning("%s: its header was damaged, and is made again", path)
        fresh = path.with_name(f"{path.stem}.header{path.suffix}")
        try:
            again = cls.create(fresh, layout)
            again.close()
            if again.header != header:
                raise ValueError(f"{path}: has another header than this run gives it")
            with open_regular(path, "r+b") as file:
                write_all(file, fresh.read_bytes())
        finally:
            fresh.unlink(missing_ok=True)
        return cls._opened(path, layout)

    def header_of(self, size: int) -> Header:
        """Return the first bytes of the file, with the tables that come last as zeros."""
        self._file.seek(0)
        data = bytearray(read_exactly(self._file, size))
        for table, _, _ in self._tables:
            for field in (table.offsets, table.sizes):
                end = field.position + field.count * field.dtype.itemsize
                data[field.position : end] = bytes(end - field.position)
        return Header(size, zlib.crc32(data))

    def _holds(self, place: int, block: BlockRecord) -> bool:
        """Return whether the bytes of a block have their checksum."""
        self._file.seek(place)
        try:
            pieces = [read_exactly(self._file, size) for size in block.sizes]
        except ValueError:
            return False
        return _checksum(pieces) == block.encoded

    @classmethod
    def _opened(cls, path: Path, layout: OutputLayout) -> Self:
        file = open_regular(path, "r+b")
        try:
            return cls(path, file, layout)
        except BaseException:
            file.close()
            raise

    def append(self, row: int, column: int, block: EncodedBlock) -> BlockRecord | None:
        """Write one block; a full disk raises OSError.

        Returns
        -------
        Finished or None
            None: it is where the same one had been before it was damaged.
        """
        sizes = tuple(map(len, block.tiles))
        finished = BlockRecord(row, column, block.checksum, sizes, _checksum(block.tiles))
        place, lost = self._lost.pop((row, column), (self.end, None))
        again = lost == finished
        self._file.seek(place if again else self.end)
        for piece in block.tiles:
            write_all(self._file, piece)
        if again:
            self.done[row, column] = True
            return None
        self._record(finished)
        return finished

    def _record(self, block: BlockRecord) -> None:
        """Enter the position of the block at the end of the file into the tables."""
        inside = 0 <= block.row < len(self.done) and 0 <= block.column < self._columns
        if not inside or len(block.sizes) != self._pieces:
            raise ValueError(f"{self.path} has no such block: {block}")
        index = block.row * self._columns + block.column
        sizes = iter(block.sizes)
        for table, offsets, lengths in self._tables:
            for i in range(index, len(offsets), self._blocks):
                length = next(sizes)
                if self.end > table.offsets.largest or length > table.sizes.largest:
                    raise OutputError(
                        f"{self.path}: grows beyond 4 GiB, which a classic TIFF cannot hold; "
                        "leave the creation option BIGTIFF away"
                    )
                offsets[i], lengths[i] = (self.end, length) if length else (0, 0)
                self.end += length
        self.done[block.row, block.column] = True
        self.checksums[block.row, block.column] = block.checksum

    def sync(self) -> None:
        """Wait until everything appended is on disk."""
        os.fsync(self._file.fileno())

    def finalize(self) -> None:
        """Write the tables and close: the file is then a complete TIFF."""
        for table, offsets, sizes in self._tables:
            table.offsets.write(self._file, offsets)
            table.sizes.write(self._file, sizes)
        self.sync()
        self.close()

    def close(self) -> None:
        """Close the file, which remains."""
        with suppress(OSError):
            self._file.close()


def _checksum(pieces: Iterable[bytes]) -> int:
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return checksum
