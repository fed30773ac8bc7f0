"""Write a GeoTIFF block by block, with a journal, so that it survives being killed at any moment.

GDAL writes the header of the file, without pixels. Encoded blocks are then appended, and the table
of tiles in the header is filled in at the end. Appended blocks are on disk after `sync`. `reopen`
repairs a truncated file, given the list of its synchronised blocks. The bytes of the file depend
only on the order of the blocks, not on how often or where the work was interrupted.

The journal lists the finished blocks, so that the same command can resume. It is a file of JSON
lines in the folder of the unfinished output. The first line holds the key of the run. Each further
line lists blocks that are on disk, and is itself on disk before work continues. The last line
identifies the finished file. Reading stops at the first truncated line. `georsr.writer.writer`
resumes; `georsr.jobs.job.run_key` says what must be equal; outputs in parts have an index of their
own, `georsr.distributed.parts_index`.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
import rasterio

from georsr._files import atomic_write, jsonl_line, key_differences, open_regular, read_jsonl
from georsr.device import is_device_failure, is_out_of_memory
from georsr.errors import InputError, ModelError, OutputError, UsageError
from georsr.io.gdal_env import gdal_env, silent_libtiff, suppress_rasterio_warnings
from georsr.writer.encoder import (
    EncodedBlock,
    Numbers,
    TileTable,
    read_at,
    read_exactly,
    tile_tables,
    write_all,
)
from georsr.writer.layout import OutputLayout
from georsr.writer.verify_and_publish import Checksums, VerificationError, to_rasterio_window


@dataclass(frozen=True)
class Header:
    """Size and checksum of the file before its first block."""

    size: int
    """Size in bytes."""
    checksum: int
    """crc32 of the header, with zeros for the tables that are filled in at the end."""


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
    """A published file."""

    path: str
    bytes: int
    """Size of the file."""
    seconds: float
    """Time spent in `RasterWriter.seal`: closing, verifying, conversion to COG."""
    checksum: str
    """crc32 over the crc32 of every block in row-major order, eight hexadecimal digits: the same
    pixels in the same block size give the same checksum in any encoding."""


log = logging.getLogger(__name__)


class PartialTiff:
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
        blocks = layout.blocks_count
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
        # GDAL follows symbolic links: it writes to a new name, at which none can exist
        with (
            atomic_write(path) as fresh,
            gdal_env(writing=True),
            suppress_rasterio_warnings(),
            silent_libtiff(),
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
        data = bytearray(read_at(self._file, 0, size))
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


FORMAT = 2

Key = Mapping[str, str]
"""Everything that must be equal for a run to resume another one: name -> value."""


class Journal:
    """The journal of one output; used by the writer, which holds the lock of the output.

    Parameters
    ----------
    path : Path
        Path of the journal.
    output : str
        Name of the output, for messages.
    key : mapping
        Everything that the output depends on.
    tile : int
        Tile size in source pixels; smaller than in the options after running out of memory.
    resume : bool, optional
        None: resume if possible. True: resume or fail. False: start over, keep nothing on failure.
    remote : bool
        Whether the source is remote, so that a later attempt to read it may succeed.
    """

    def __init__(
        self,
        path: Path,
        output: str,
        key: Key,
        tile: int,
        *,
        resume: bool | None = None,
        remote: bool = False,
    ) -> None:
        self.path, self.output, self.key, self.tile = path, output, key, tile
        self.resume, self.remote = resume, remote
        self.kept = False
        """Whether the unfinished output is kept for another run."""
        self.published_layers: OutputInfo | None = None
        """Quality layers of the output; they are published before it."""
        self._file: Any = None

    def previous_tile_size(self) -> int | None:
        """Return the tile size of an unfinished run that this one can resume."""
        head = next(read_jsonl(self.path), None)
        return None if head is None or self._reasons(head) else int(head["tile"])

    def completed_output(self) -> OutputInfo | None:
        """Return the output if an earlier run published it and was killed afterwards.

        The ``path`` of the result is the path of the published output.
        """
        lines = list(read_jsonl(self.path))
        if not lines or self.resume is False or self._reasons(lines[0]):
            return None
        publication = lines[-1].get("ready")
        if not isinstance(publication, dict):
            return None
        with suppress(OSError, KeyError, TypeError, ValueError):
            if _identity(Path(publication["path"])) == publication["identity"]:
                layers = publication["beside"]
                self.published_layers = None if layers is None else _output_info(layers)
                return _output_info(publication["written"])
        return None

    def load(self) -> tuple[Header, Sequence[BlockRecord]] | None:
        """Return the header and the finished blocks of a run that this one can resume."""
        lines = read_jsonl(self.path)
        head = next(lines, None)
        if head is None:
            self.reject("no unfinished run found")
            return None
        reasons = self._reasons(head)
        if not reasons and head["tile"] != self.tile:
            reasons = [f"its tiles have {head['tile']} pixels, now {self.tile}"]
        if reasons:
            self.reject("; ".join(reasons))
            return None
        blocks: list[BlockRecord] = []
        for entry in lines:
            try:
                blocks += [_block(numbers) for numbers in entry["blocks"]]
            except (KeyError, ValueError, TypeError):
                break
        log.info("%s: resuming with %d finished blocks", self.output, len(blocks))
        header = Header(*head["header"])
        self._rewrite(header, blocks)
        return header, blocks

    def reject(self, reason: str) -> None:
        """Warn that an unfinished run is discarded, or raise if the options require it."""
        if self.resume:
            raise UsageError(f"{self.output}: cannot resume: {reason}; omit --resume to start over")
        if self.resume is None and self.path.exists():
            log.warning("%s: ignoring an unfinished run: %s", self.output, reason)

    def _reasons(self, head: Mapping[str, Any]) -> list[str]:
        """Return why a run with this first line cannot be resumed."""
        previous = head.get("key")
        if self.resume is False:
            return ["--no-resume"]
        if head.get("format") != FORMAT or not isinstance(previous, dict):
            return ["its journal was written by another version"]
        header, tile = head.get("header"), head.get("tile")
        if not isinstance(header, list) or len(header) != 2 or not _are_sizes([*header, tile]):
            return ["its journal is damaged"]
        return key_differences(previous, self.key)

    def _rewrite(self, header: Header, blocks: Sequence[BlockRecord]) -> None:
        """Replace the journal by one with only the given entries."""
        with atomic_write(self.path) as fresh, fresh.open("wb") as file:
            head = {
                "georsr": "journal of an unfinished output; rerun the same command to resume",
                "format": FORMAT,
                "key": dict(self.key),
                "tile": self.tile,
                "header": [header.size, header.checksum],
            }
            file.write(jsonl_line(head))
            if blocks:
                file.write(jsonl_line(_entry(blocks)))
            file.flush()
            os.fsync(file.fileno())
        self.close()
        self._file = open_regular(self.path, "ab")

    def begin(self, header: Header) -> None:
        """Start the journal of a new file."""
        self._rewrite(header, [])

    def add(self, blocks: Sequence[BlockRecord]) -> None:
        """Append blocks that are on disk."""
        self._append(_entry(blocks))

    def publishing(self, verified: Path, final: Path, written: OutputInfo) -> None:
        """Append the identity of the output, to recognise it once it is renamed."""
        layers = None if self.published_layers is None else asdict(self.published_layers)
        self._append(
            {
                "ready": {
                    "path": str(final),
                    "identity": _identity(verified),
                    "written": asdict(written),
                    "beside": layers,
                }
            }
        )

    def _append(self, entry: Mapping[str, Any]) -> None:
        write_all(self._file, jsonl_line(entry))
        os.fsync(self._file.fileno())

    def should_keep(self, error: BaseException) -> bool:
        """Return whether to keep the unfinished output because a later run may succeed."""
        if self.resume is False or isinstance(error, VerificationError):
            self.kept = False
        elif isinstance(error, InputError):
            self.kept = self.remote
        elif isinstance(error, ModelError):
            cause = error.__cause__
            self.kept = cause is not None and (is_device_failure(cause) or is_out_of_memory(cause))
        else:
            self.kept = True
        return self.kept

    def remove(self) -> None:
        """Remove the journal."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, which remains."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()


def _entry(blocks: Sequence[BlockRecord]) -> dict[str, Any]:
    return {"blocks": [[b.row, b.column, b.checksum, b.encoded, *b.sizes] for b in blocks]}


def _are_sizes(values: Sequence[object]) -> bool:
    """Return whether all values are whole numbers that fit into 63 bits."""
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _block(numbers: Any) -> BlockRecord:
    """Return the block that `_entry` wrote; raises ValueError or TypeError for anything else."""
    row, column, checksum, encoded, *sizes = numbers
    if not _are_sizes(numbers) or max(checksum, encoded) >= 2**32:
        raise ValueError("not a block")
    return BlockRecord(row, column, checksum, tuple(sizes), encoded)


def _output_info(values: Any) -> OutputInfo:
    """Return what `Journal.publishing` wrote; raises TypeError for anything else."""
    written = OutputInfo(**values)
    kinds = {"path": str, "bytes": int, "seconds": float, "checksum": str}
    if not all(type(getattr(written, name)) is kind for name, kind in kinds.items()):
        raise TypeError("not an output")
    return written


def _identity(path: Path) -> list[int]:
    """Return inode, size and modification time, which a file keeps when it is renamed."""
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]
