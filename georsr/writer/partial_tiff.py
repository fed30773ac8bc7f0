"""Write a GeoTIFF block by block, so that it survives being killed at any moment.

GDAL writes the header of the file, without pixels. Encoded blocks are then appended, and the table
of tiles in the header is filled in at the end. Appended blocks are on disk after `sync`. `reopen`
repairs a truncated file, given the list of its synchronised blocks. The bytes of the file depend
only on the order of the blocks, not on how often or where the work was interrupted.
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
        Size in bytes.
    checksum : int
        crc32 of the header, with zeros for the tables that are filled in at the end.
    """

    size: int
    checksum: int


@dataclass(frozen=True)
class BlockRecord:
    """A block that was written to the file.

    Attributes
    ----------
    row, column : int
        Block row and block column.
    checksum : int
        Checksum of the pixels.
    sizes : tuple of int
        Sizes in bytes of the block's tiles, which follow each other in the file without gaps.
    encoded : int
        crc32 of the encoded bytes.
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
        Time spent in `RasterWriter.seal`: closing, verifying, conversion to COG.
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
    """An unfinished GeoTIFF, opened by `create` or `reopen`; not thread-safe.

    Attributes
    ----------
    end : int
        Size of the file so far.
    header : Header
        Header of the file; only after `create`.
    done : bool (block rows, block columns)
        True for blocks that are in the file.
    checksums : uint32 (block rows, block columns)
        Checksums of the blocks that are in the file.
    """

    def __init__(self, path: Path, file: IO[bytes], layout: OutputLayout) -> None:
        self.path = path
        self.header: Header
        self._file = file
        self._columns = layout.blocks_shape[1]
        self._damaged: dict[tuple[int, int], tuple[int, BlockRecord]] = {}
        self._tables: list[tuple[TileTable, Numbers, Numbers]] = [
            (table, table.offsets.read(file), table.sizes.read(file)) for table in tile_tables(file)
        ]
        blocks = layout.blocks_shape[0] * layout.blocks_shape[1]
        images = 1 + layout.mask
        if len(self._tables) != images or any(len(t[1]) % blocks for t in self._tables):
            raise ValueError(f"GDAL made a header of {len(self._tables)} images, expected {images}")
        self._blocks = blocks
        self._tiles_per_block = sum(len(offsets) for _, offsets, _ in self._tables) // blocks
        for _, offsets, sizes in self._tables:
            offsets[:], sizes[:] = 0, 0
        self.end = file.seek(0, os.SEEK_END)
        self.done: npt.NDArray[np.bool_] = np.zeros(layout.blocks_shape, bool)
        self.checksums: Checksums = np.zeros(layout.blocks_shape, np.uint32)

    @classmethod
    def create(cls, path: Path, layout: OutputLayout) -> Self:
        """Create a new file at ``path``, replacing an existing one."""
        profile = layout.profile() | {"SPARSE_OK": "TRUE"}
        env, quiet = gdal_env(writing=True), suppress_rasterio_warnings()
        # GDAL follows symbolic links: it writes to a new name, at which none can exist
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
        part = cls._open(path, layout)
        part.header = part.header_of(part.end)
        return part

    @classmethod
    def reopen(
        cls, path: Path, layout: OutputLayout, header: Header, blocks: Iterable[BlockRecord]
    ) -> Self:
        """Reopen a file and compare all of its bytes with their checksums.

        A damaged header is written again; damaged blocks are not marked as `done`.

        Parameters
        ----------
        path : Path
        layout : OutputLayout
            Layout with which the file was created.
        header : Header
            Header of the file at creation.
        blocks : iterable of BlockRecord
            Synchronised blocks, in the order of the file, which is truncated after the last one.

        Raises
        ------
        ValueError, OSError
            The file does not match the list of blocks, or cannot be read.
        """
        part = cls._with_header(path, layout, header)
        try:
            part.end = header.size
            for block in blocks:
                start = part.end
                part._record(block)
                part._damaged.pop((block.row, block.column), None)
                if not part._is_intact(start, block):
                    part._damaged[block.row, block.column] = start, block
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
            part = cls._open(path, layout)
            if part.header_of(header.size) == header:
                return part
            part.close()
        except ValueError:
            log.debug("%s: its header cannot be read", path, exc_info=True)
        log.warning("%s: the header is damaged and is written again", path)
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
        return cls._open(path, layout)

    def header_of(self, size: int) -> Header:
        """Return size and checksum of the first ``size`` bytes, with zeros for the tables."""
        self._file.seek(0)
        data = bytearray(read_exactly(self._file, size))
        for table, _, _ in self._tables:
            for field in (table.offsets, table.sizes):
                end = field.position + field.count * field.dtype.itemsize
                data[field.position : end] = bytes(end - field.position)
        return Header(size, zlib.crc32(data))

    def _is_intact(self, start: int, block: BlockRecord) -> bool:
        """Return whether the bytes of a block match their checksum."""
        self._file.seek(start)
        try:
            tiles = [read_exactly(self._file, size) for size in block.sizes]
        except ValueError:
            return False
        return _checksum(tiles) == block.encoded

    @classmethod
    def _open(cls, path: Path, layout: OutputLayout) -> Self:
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
        BlockRecord or None
            None if the block replaced its damaged copy, which is already listed.
        """
        sizes = tuple(map(len, block.tiles))
        record = BlockRecord(row, column, block.checksum, sizes, _checksum(block.tiles))
        start, damaged = self._damaged.pop((row, column), (self.end, None))
        repairs = damaged == record
        self._file.seek(start if repairs else self.end)
        for tile in block.tiles:
            write_all(self._file, tile)
        if repairs:
            self.done[row, column] = True
            return None
        self._record(record)
        return record

    def _record(self, block: BlockRecord) -> None:
        """Add a block at the end of the file to the tables."""
        inside = 0 <= block.row < len(self.done) and 0 <= block.column < self._columns
        if not inside or len(block.sizes) != self._tiles_per_block:
            raise ValueError(f"{self.path} has no such block: {block}")
        index = block.row * self._columns + block.column
        sizes = iter(block.sizes)
        for table, offsets, lengths in self._tables:
            for i in range(index, len(offsets), self._blocks):
                length = next(sizes)
                if self.end > table.offsets.largest or length > table.sizes.largest:
                    raise OutputError(
                        f"{self.path}: grows beyond 4 GiB, which a classic TIFF cannot hold; "
                        "omit the creation option BIGTIFF"
                    )
                offsets[i], lengths[i] = (self.end, length) if length else (0, 0)
                self.end += length
        self.done[block.row, block.column] = True
        self.checksums[block.row, block.column] = block.checksum

    def sync(self) -> None:
        """Wait until everything appended is on disk."""
        os.fsync(self._file.fileno())

    def finalize(self) -> None:
        """Write the tables and close the file, which is then a complete TIFF."""
        for table, offsets, sizes in self._tables:
            table.offsets.write(self._file, offsets)
            table.sizes.write(self._file, sizes)
        self.sync()
        self.close()

    def close(self) -> None:
        """Close the file, which remains."""
        with suppress(OSError):
            self._file.close()


def _checksum(tiles: Iterable[bytes]) -> int:
    """Return the crc32 of the tiles of a block."""
    checksum = 0
    for tile in tiles:
        checksum = zlib.crc32(tile, checksum)
    return checksum
