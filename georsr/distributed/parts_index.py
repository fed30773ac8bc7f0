"""Keep a folder of parts: a journal while parts are written, an index once they are published.

The journal has one JSON object a line: the key of the run, then each finished part. The index lists
the parts of the published output. The names of parts contain a digest of the key, so that parts of
another run are never taken for those of this one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, get_type_hints

from georsr._files import (
    atomic_write_bytes,
    atomic_write_text,
    check_regular,
    has_type,
    jsonl_line,
    key_differences,
    open_regular,
    read_jsonl,
)
from georsr.errors import OutputError, UsageError, worded
from georsr.writer.encoder import write_all
from georsr.writer.paths import Lock, local_path

log = logging.getLogger(__name__)

FORMAT = 1
INDEX, JOURNAL, LOCK = "index.json", ".parts.jsonl", ".parts.lock"
SCRATCH = ".georsr-"
"""Prefix of the folders in which parts are written."""
_PART_NAME = re.compile(r"r\d{4,}_c\d{4,}_[0-9a-f]{8}\.tif")


@dataclass(frozen=True)
class FinishedPart:
    """A verified part in the folder."""

    number: int
    """Index in the grid of parts."""
    name: str
    """Name of the file."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Checksum of the file."""
    blocks: str
    """CRC-32 of the pixels of every block, row by row, eight hexadecimal digits each."""


class PartsFolder:
    """Folder of parts, with its lock and its journal; a context manager.

    Parameters
    ----------
    path : Path
        Path of the folder, which is created if its parent exists.
    output : str
        Path of the VRT over the parts.
    key : mapping of str to str
        What the parts depend on; finished parts are used if their run had the same key.
    resume : bool, optional
        True: fail unless there are finished parts of this run. False: use none. None: use those
        that there are.

    Attributes
    ----------
    finished : dict of int to FinishedPart
        Finished parts by number, also those of an earlier run.
    published : bool
        Whether an earlier run was killed after it had published the output.
    """

    def __init__(
        self, path: Path, output: str, key: Mapping[str, str], resume: bool | None = None
    ) -> None:
        self.path, self.output, self.key = path, local_path(output), dict(key)
        self.resume = resume
        self.digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:8]
        self.published = self._created = False
        self.finished: dict[int, FinishedPart] = {}
        self._lock = parts_lock(path)
        self._journal: Any = None

    def __enter__(self) -> Self:
        try:
            self._created = not self.path.exists()
            self.path.mkdir(exist_ok=True)
            for name in (JOURNAL, INDEX):
                check_regular(self.path / name)
            self._lock.acquire()
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{self.path}: cannot be created or written to: {error.strerror or error}"
            ) from error
        try:
            self._load()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        kept = self.resume is not False and bool(self.finished)
        if self._journal is not None:
            with suppress(OSError):
                self._journal.close()
                self._remove_scratch()
                if error is not None and not kept:
                    (self.path / JOURNAL).unlink(missing_ok=True)
                    self._remove_parts(keep=self._indexed_names())
            if error is not None and kept:
                error.add_note(
                    worded(
                        f"{len(self.finished)} parts are finished and kept in {self.path}: rerun "
                        "the same command to resume"
                    )
                )
        self._lock.release()
        if self._created:
            with suppress(OSError):  # it is empty only if nothing was kept
                self.path.rmdir()

    def part_name(self, row: int, column: int) -> str:
        """Return the file name of a part, from its row and column in the grid of parts."""
        return f"r{row:04}_c{column:04}_{self.digest}.tif"

    def _load(self) -> None:
        """Read what an earlier run has finished; raise if it must not be used or replaced."""
        head, entries = self._read()
        if head is None:
            reasons = ["no unfinished run found"] if self.resume else []
        else:
            self._check_owner(head)
            reasons = self._differences(head)
        if reasons and self.resume:
            raise UsageError(
                f"{self.path}: cannot resume: {'; '.join(reasons)}; omit --resume to start over"
            )
        if reasons:
            log.warning("%s: ignoring parts of another run: %s", self.path, "; ".join(reasons))
            return
        for entry in entries:
            if entry.get("published"):
                self.published = self.output.exists()
            with suppress(TypeError, KeyError, ValueError):
                self.finished[entry["part"]["number"]] = _finished_part(entry["part"])
        log.info("%s: journal lists %d finished parts", self.path, len(self.finished))

    def _read(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Return the first entry of the journal and the others; without a journal of the index."""
        if lines := list(read_jsonl(self.path / JOURNAL)):
            return lines[0], lines[1:]
        try:
            index = self._read_index()
            return dict(index["georsr"]), [{"part": part} for part in index["parts"]]
        except KeyError as error:
            raise UsageError(
                f"{self.path / INDEX}: was not written by georsr; choose another folder"
            ) from error
        except FileNotFoundError:
            return None, []
        except (ValueError, TypeError):
            log.warning("%s: is damaged: all parts are written again", self.path / INDEX)
            return None, []

    def _check_owner(self, head: Mapping[str, Any]) -> None:
        try:
            other = (self.path / str(head.get("product"))).resolve()
            foreign = other != self.output and other.exists()
        except (OSError, ValueError):  # no path at all
            return
        if foreign:
            raise UsageError(
                f"{self.path}: holds the parts of {other}; choose another folder, or remove both"
            )

    def _differences(self, head: Mapping[str, Any]) -> list[str]:
        """Return why the parts of an earlier run cannot be used."""
        if self.resume is False:
            return ["--no-resume"]
        key = head.get("key")
        if head.get("format") != FORMAT or not isinstance(key, dict):
            return ["they are of another version"]
        return key_differences(key, self.key)

    def _head(self) -> dict[str, Any]:
        output = Path(os.path.relpath(self.output, self.path.resolve())).as_posix()
        return {"format": FORMAT, "product": output, "key": self.key}

    def keep_only(self, names: Mapping[int, str]) -> None:
        """Forget finished parts of other numbers or names than those of a run."""
        parts = self.finished.items()
        self.finished = {n: part for n, part in parts if names.get(n) == part.name}

    def start(self) -> None:
        """Remove the parts that no output has, and begin the journal."""
        self._remove_scratch()
        indexed = self._indexed_names()
        self._remove_parts(keep=None if indexed is None else indexed | self._finished_names)
        entries: list[Mapping[str, Any]] = [{"part": asdict(p)} for p in self.finished.values()]
        if self.published:
            entries.append({"published": True})
        lines = b"".join(map(jsonl_line, [self._head(), *entries]))
        atomic_write_bytes(self.path / JOURNAL, lines)
        self._journal = open_regular(self.path / JOURNAL, "ab")

    def add(self, part: FinishedPart) -> None:
        """Record a part that is in the folder."""
        if self.finished.get(part.number) != part:
            self.finished[part.number] = part
            self._append({"part": asdict(part)})

    def write_index(self) -> None:
        """Write the index, immediately before the output is published."""
        parts = [asdict(self.finished[number]) for number in sorted(self.finished)]
        self._append({"published": True})
        text = json.dumps({"georsr": self._head(), "parts": parts})
        atomic_write_text(self.path / INDEX, text)

    def close(self) -> None:
        """Remove the parts of earlier outputs, and the journal."""
        self._remove_parts(keep=self._finished_names)
        (self.path / JOURNAL).unlink(missing_ok=True)

    @property
    def _finished_names(self) -> set[str]:
        return {part.name for part in self.finished.values()}

    def _indexed_names(self) -> set[str] | None:
        """Return the names of the published parts; None if the index cannot be read."""
        try:
            return {part["name"] for part in self._read_index()["parts"]}
        except FileNotFoundError:
            return set()
        except (ValueError, KeyError, TypeError):
            return None

    def _read_index(self) -> Any:
        with open_regular(self.path / INDEX) as file:
            try:
                return json.loads(file.read())
            except RecursionError as error:
                raise ValueError(f"{file.name}: is nested too deeply") from error

    def _remove_parts(self, keep: set[str] | None) -> None:
        """Remove parts; none if it is not known which to keep."""
        if keep is None:
            return
        for path in self.path.iterdir():
            if _PART_NAME.fullmatch(path.name) and path.name not in keep:
                path.unlink(missing_ok=True)

    def _remove_scratch(self) -> None:
        for path in self.path.glob(SCRATCH + "*"):
            shutil.rmtree(path, ignore_errors=True)
        for name in (JOURNAL, f".{INDEX}"):  # of a run that was killed while it wrote them
            for path in self.path.glob(f"{name}.*"):
                path.unlink(missing_ok=True)

    def _append(self, entry: Mapping[str, Any]) -> None:
        try:
            write_all(self._journal, jsonl_line(entry))
            os.fsync(self._journal.fileno())
        except OSError as error:
            raise OutputError(f"{self.path / JOURNAL}: cannot be written: {error}") from error


def _finished_part(fields: Mapping[str, Any]) -> FinishedPart:
    """Return the part that a line describes; raises an error for anything else."""
    part = FinishedPart(**fields)
    hints = get_type_hints(FinishedPart)
    if not all(has_type(value, hints[name]) for name, value in fields.items()) or part.bytes < 0:
        raise TypeError("not a part")
    if len(bytes.fromhex(part.blocks)) % 4:
        raise ValueError("not the checksums of blocks")
    return part


def parts_journal(folder: str | os.PathLike[str]) -> Path:
    """Return the path of the journal, which exists until the output is published."""
    return Path(folder) / JOURNAL


def parts_lock(folder: str | os.PathLike[str]) -> Lock:
    """Return the lock of a folder of parts."""
    return Lock(Path(folder) / LOCK, os.fspath(folder))


def parts_outputs(folder: str | os.PathLike[str]) -> list[Path]:
    """List the files in a folder that writing parts creates, replaces or removes."""
    folder = Path(folder)
    own = [folder / name for name in (INDEX, JOURNAL, LOCK)]
    existing = folder.iterdir() if folder.is_dir() else ()
    return [*own, *(path for path in existing if _PART_NAME.fullmatch(path.name))]
