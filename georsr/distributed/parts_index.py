"""PartsFolder: parts of a product in a folder, and what is known of those that are finished.

While work goes on, a journal of JSON lines: the first says what is being made, each other one names
a part that lies there. Once the product is published, an index of all of them. The names of parts
contain a digest of what is being made: those of another run are never taken for this one's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from georsr._files import (
    atomic_write,
    check_regular,
    jsonl_line,
    key_differences,
    open_regular,
    read_jsonl,
)
from georsr.errors import OutputError, UsageError
from georsr.writer.lock import Lock
from georsr.writer.paths import local_path
from georsr.writer.tiff import write_all

log = logging.getLogger(__name__)

FORMAT = 1
INDEX, JOURNAL, LOCK = "index.json", ".parts.jsonl", ".parts.lock"
SCRATCH = ".georsr-"
"""What folders of unfinished parts begin with."""
_PART = re.compile(r"r\d{4,}_c\d{4,}_[0-9a-f]{8}\.tif")


@dataclass(frozen=True)
class FinishedPart:
    """A part that lies in the folder.

    Attributes
    ----------
    number : int
        In the grid of parts.
    name : str
        Of the file.
    bytes : int
    sha256 : str
        Of the file.
    blocks : str
        crc32 of the pixels of every block, row by row, eight hexadecimal digits each.
    """

    number: int
    name: str
    bytes: int
    sha256: str
    blocks: str


class PartsFolder:
    """A context manager that holds the folder's lock.

    Parameters
    ----------
    path : Path
        Of the folder; it is made if its parent is there.
    product : str
        Path of the VRT over the parts.
    key : mapping of str to str
        What is being made, and of what: the same as of an earlier run if that is gone on with.
    resume : bool, optional
        None: resume if possible. True: resume or fail. False: start over.
    """

    def __init__(
        self, path: Path, product: str, key: Mapping[str, str], resume: bool | None = None
    ) -> None:
        self.path, self.product, self.key, self.resume = (
            path,
            local_path(product),
            dict(key),
            resume,
        )
        self.digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:8]
        self.published = False
        """Whether an earlier run had published the product and was killed while tidying up."""
        self.finished: dict[int, FinishedPart] = {}
        self._lock = parts_lock(path)
        self._file: Any = None
        self._made = self.begun = False
        self.useless = False
        """Whether nobody can go on with what is there: the source has changed."""

    def __enter__(self) -> Self:
        try:
            self._made = not self.path.exists()
            self.path.mkdir(exist_ok=True)
            for name in (JOURNAL, INDEX):
                check_regular(self.path / name)
            self._lock.acquire()
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{self.path}: cannot be made or written to: {error.strerror or error}"
            ) from error
        try:
            self._recall()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
                self._remove_scratch()
                if error is not None and not self.kept:
                    (self.path / JOURNAL).unlink(missing_ok=True)
                    self._remove_parts(but=self._indexed())
        self._lock.release()
        if self._made:
            with suppress(OSError):  # it is empty only if nothing was kept
                self.path.rmdir()

    @property
    def kept(self) -> bool:
        """Whether another run can go on with what is there."""
        return self.resume is not False and bool(self.finished) and not self.useless

    def name(self, row: int, column: int) -> str:
        """File of a part, by its place in the grid."""
        return f"r{row:04}_c{column:04}_{self.digest}.tif"

    def _recall(self) -> None:
        """Find out what an earlier run has left."""
        head, lines = self._left()
        if head is None:
            if self.resume:
                raise UsageError(
                    f"{self.path}: cannot resume: no unfinished run found; omit --resume to "
                    "start over"
                )
            return
        self._check_owner(head)
        reasons = self._reasons(head)
        if reasons and self.resume:
            raise UsageError(
                f"{self.path}: cannot resume: {'; '.join(reasons)}; omit --resume to start over"
            )
        if reasons:
            log.warning("%s: parts of another run are not used: %s", self.path, "; ".join(reasons))
            return
        for entry in lines:
            if entry.get("published"):
                self.published = self.product.exists()
            with suppress(TypeError, KeyError):
                part = FinishedPart(**entry["part"])
                if _PART.fullmatch(part.name):  # else it would name a file elsewhere
                    self.finished[part.number] = part
        log.info("%s: %d parts are said to be finished", self.path, len(self.finished))

    def _left(self) -> tuple[dict[str, Any] | None, Iterator[dict[str, Any]]]:
        """Head and entries of the journal, else of the index."""
        lines = read_jsonl(self.path / JOURNAL)
        head = next(lines, None)
        if head is not None:
            return head, lines
        try:
            index = self._index()
            head, parts = index["georsr"], index["parts"]
            return dict(head), ({"part": part} for part in list(parts))
        except FileNotFoundError:
            return None, iter(())
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, KeyError):
                raise UsageError(
                    f"{self.path / INDEX}: was not made by georsr; choose another folder"
                ) from error
            log.warning("%s: is damaged: all parts are made anew", self.path / INDEX)
            return None, iter(())

    def _check_owner(self, head: Mapping[str, Any]) -> None:
        other = (self.path / str(head.get("product"))).resolve()
        if other != self.product and other.exists():
            raise UsageError(
                f"{self.path}: holds the parts of {other}; choose another folder, or remove both"
            )

    def _reasons(self, head: Mapping[str, Any]) -> list[str]:
        """Why what was left is of no use for this run."""
        if self.resume is False:
            return ["--no-resume"]
        theirs = head.get("key")
        if head.get("format") != FORMAT or not isinstance(theirs, dict):
            return ["they are of another version"]
        return key_differences(theirs, self.key)

    def _head(self) -> dict[str, Any]:
        product = Path(os.path.relpath(self.product, self.path.resolve())).as_posix()
        return {"format": FORMAT, "product": product, "key": self.key}

    def start(self) -> None:
        """Make ready for parts: what no product is made of goes."""
        self.begun = True
        self._remove_scratch()
        indexed = self._indexed()
        self._remove_parts(but=None if indexed is None else indexed | self._names)
        noted: list[Mapping[str, Any]] = [{"part": asdict(p)} for p in self.finished.values()]
        if self.published:
            noted.append({"published": True})
        with atomic_write(self.path / JOURNAL) as fresh:
            fresh.write_bytes(b"".join(map(jsonl_line, [self._head(), *noted])))
        self._file = open_regular(self.path / JOURNAL, "ab")

    def add(self, part: FinishedPart) -> None:
        """Note a part that lies in the folder."""
        if self.finished.get(part.number) != part:
            self.finished[part.number] = part
            self._append({"part": asdict(part)})

    def write_index(self) -> None:
        """Write the index: the product is about to be published."""
        parts = [asdict(self.finished[number]) for number in sorted(self.finished)]
        with atomic_write(self.path / INDEX) as fresh:
            fresh.write_text(json.dumps({"georsr": self._head(), "parts": parts}), encoding="utf-8")
            self._append({"published": True})

    def close(self) -> None:
        """Remove the parts of earlier products, and forget the journal."""
        self._remove_parts(but=self._names)
        (self.path / JOURNAL).unlink(missing_ok=True)

    @property
    def _names(self) -> set[str]:
        return {part.name for part in self.finished.values()}

    def _indexed(self) -> set[str] | None:
        """Names of the parts of a published product; None if that is not known."""
        try:
            index = self._index()
            return {part["name"] for part in index["parts"]}
        except FileNotFoundError:
            return set()
        except (ValueError, KeyError, TypeError):
            return None

    def _index(self) -> Any:
        with open_regular(self.path / INDEX) as file:
            return json.loads(file.read())

    def _remove_parts(self, but: set[str] | None) -> None:
        """Remove parts; none where there may be others of use."""
        if but is None:
            return
        for path in self.path.iterdir():
            if _PART.fullmatch(path.name) and path.name not in but:
                path.unlink(missing_ok=True)

    def _remove_scratch(self) -> None:
        for path in self.path.glob(SCRATCH + "*"):
            shutil.rmtree(path, ignore_errors=True)
        for name in (JOURNAL, f".{INDEX}"):  # of a run that was killed while it wrote them
            for path in self.path.glob(f"{name}.*"):
                path.unlink(missing_ok=True)

    def _append(self, entry: Mapping[str, Any]) -> None:
        try:
            write_all(self._file, jsonl_line(entry))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path / JOURNAL}: cannot be written: {error}") from error


def parts_journal(folder: str | os.PathLike[str]) -> Path:
    """Where a run into a folder keeps its journal, until its product is published."""
    return Path(folder) / JOURNAL


def parts_lock(folder: str | os.PathLike[str]) -> Lock:
    """Lock of a folder of parts."""
    return Lock(Path(folder) / LOCK, os.fspath(folder))


def parts_outputs(folder: str | os.PathLike[str]) -> list[Path]:
    """List what writing parts into a folder makes, replaces or removes there."""
    folder = Path(folder)
    own = [folder / name for name in (INDEX, JOURNAL, LOCK)]
    there = folder.iterdir() if folder.is_dir() else ()
    return [*own, *(path for path in there if _PART.fullmatch(path.name))]
