"""List the finished blocks of an output in a journal, so that the same command can resume.

The journal is a file of JSON lines in the folder of the unfinished output. The first line holds the
key of the run. Each further line lists blocks that are on disk, and is itself on disk before work
continues. The last line identifies the finished file. Reading stops at the first truncated line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from georsr._files import atomic_write, jsonl_line, key_differences, open_regular, read_jsonl
from georsr.device import is_device_failure, is_out_of_memory
from georsr.errors import InputError, ModelError, UsageError
from georsr.writer.partial_tiff import BlockRecord, Header, OutputInfo
from georsr.writer.tiff import write_all
from georsr.writer.verify import VerificationError

log = logging.getLogger(__name__)

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
        ready = lines[-1].get("ready")
        if not isinstance(ready, dict):
            return None
        with suppress(OSError, KeyError, TypeError, ValueError):
            if _identity(Path(ready["path"])) == ready["identity"]:
                layers = ready["beside"]
                self.published_layers = None if layers is None else _output_info(layers)
                return _output_info(ready["written"])
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

    def reject(self, why: str) -> None:
        """Warn that an unfinished run is discarded, or raise if the options insist on it."""
        if self.resume:
            raise UsageError(f"{self.output}: cannot resume: {why}; omit --resume to start over")
        if self.resume is None and self.path.exists():
            log.warning("%s: ignoring an unfinished run: %s", self.output, why)

    def _reasons(self, head: Mapping[str, Any]) -> list[str]:
        """Return why a run with this first line cannot be resumed."""
        previous = head.get("key")
        if self.resume is False:
            return ["--no-resume"]
        if head.get("format") != FORMAT or not isinstance(previous, dict):
            return ["its journal was written by another version"]
        header = head.get("header")
        if not (
            isinstance(header, list)
            and len(header) == 2
            and _are_sizes([*header, head.get("tile")])
        ):
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

    def publishing(self, ready: Path, final: Path, written: OutputInfo) -> None:
        """Append the identity of the output, to recognise it once it is renamed."""
        layers = None if self.published_layers is None else asdict(self.published_layers)
        self._append(
            {
                "ready": {
                    "path": str(final),
                    "identity": _identity(ready),
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
