"""Files that georsr writes: made anew under a name of their own, complete before they are named.

A link, pipe or folder that somebody has laid in the place of such a file is never written through.

JSON lines: files that grow by whole lines, and are believed up to the first that is not
as it was written.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import secrets
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from georsr.errors import OutputError, UsageError

# a link fails to open instead of leading elsewhere; a pipe opens at once instead of when somebody
# else opens its other end; neither exists on Windows
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def check_regular(path: Path) -> None:
    """Refuse a path that is anything else than a regular file or free; links are not followed.

    Raises
    ------
    OutputError
        It is a symbolic link, directory, pipe, socket or device, or cannot be looked at.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be looked at: {error.strerror or error}") from error
    _check_mode(path, mode)


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((text for test, text in _KINDS if test(mode)), "of an unknown kind")
        raise OutputError(
            f"{path}: is {kind}, expected a regular file or none; georsr writes this file itself "
            "and never through anything else: remove it, or write to another place"
        )


def check_output_path(path: Path) -> None:
    """Refuse an output path that is no regular file: a link must lead to one.

    Raises
    ------
    OutputError
        It is a directory, pipe, socket or device, or a link that leads nowhere or to one of these.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a directory; name a file in it")
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise OutputError(
                f"{path}: is a symbolic link to {path.readlink()}, which does not exist; remove "
                "the link, or name the file that it is to lead to"
            ) from error
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be opened: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        raise OutputError(f"{path}: is not a regular file; write to another file")


def create_file(path: Path) -> IO[bytes]:
    """Create a file for reading and writing, where there is nothing yet, not even a link.

    Raises
    ------
    FileExistsError
        Something is there.
    """
    return path.open("x+b", buffering=0)


def open_regular(path: Path, mode: str = "rb") -> IO[bytes]:
    """Open an existing file that georsr made itself, for example to go on with it.

    Parameters
    ----------
    path : Path
    mode : str
        As of `open`, binary; never creates the file.

    Raises
    ------
    FileNotFoundError
        It does not exist.
    OutputError
        It is no regular file; or it is to be written and has several names (hard links), of which
        another one may be somebody's file.
    """
    check_regular(path)

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags & ~os.O_CREAT | _NO_FOLLOW)

    file: Any = open(path, mode, buffering=0, opener=opener)  # noqa: SIM115
    try:
        status = os.fstat(file.fileno())
        _check_mode(path, status.st_mode)
        if file.writable() and status.st_nlink > 1:
            raise OutputError(
                f"{path}: has {status.st_nlink} names (hard links), expected one; writing it "
                "would change the file of the other names: remove it, or copy it"
            )
    except BaseException:
        file.close()
        raise
    return file  # type: ignore[no-any-return]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield the path of a new empty file beside ``path``, which gets that name at the end.

    The file is in the same folder, because a rename is atomic within a file system only; it has a
    random name, at which nobody can lay a link beforehand. It is removed if the block fails.
    """
    fresh = path.with_name(f"{_temp_stem(path)}.{secrets.token_hex(8)}")
    create_file(fresh).close()
    try:
        yield fresh
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _temp_stem(path: Path) -> str:
    """As much of a name as leaves room for an ending: names have 255 bytes."""
    name = path.name if path.name.startswith(".") else f".{path.name}"
    return os.fsdecode(os.fsencode(name)[:225])


def remove_temp_files(path: Path) -> None:
    """Remove what `atomic_write` has left of ``path`` where it was killed.

    Call it only where no other process can be writing ``path``: with a lock.
    """
    stem = _temp_stem(path)
    for left in path.parent.glob(f"{glob.escape(stem)}.*"):
        if re.fullmatch(r"\.[0-9a-f]{16}", left.name[len(stem) :]):
            left.unlink(missing_ok=True)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that cannot or must not be written; nothing is changed.

    Raises
    ------
    UsageError
        The file exists and must not be overwritten.
    OutputError
        It is no regular file, or its folder is missing or cannot be written to.
    """
    check_output_path(path)
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path}: file exists and won't be overwritten without use of the `--overwrite` option"
        )
    check_parent_writable(path, str(path))


def check_parent_writable(path: Path, name: str) -> None:
    """Refuse a file whose folder is missing or cannot be written to; ``name`` is for the message.

    Raises
    ------
    OutputError
        Says which, and why.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{name}: there is no folder {path.parent}; create it first")
    try:
        # permission bits do not tell the truth on every file system; where the system can, this
        # file has no name, and nothing is left of it when the process is killed here
        tempfile.TemporaryFile(dir=path.parent, prefix=".georsr-", suffix=".probe").close()
    except OSError as error:
        why = error.strerror or error
        raise OutputError(
            f"{name}: the folder {path.parent} cannot be written to: {why}"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, in place of an existing file only when it is complete.

    Raises
    ------
    OutputError
        It could not be written; ``path`` is what it was.
    """
    try:
        with atomic_write(path) as fresh:
            fresh.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def private_temp_dir() -> Path:
    """Create or find the folder for temporary files that only this user can read and write.

    Their names follow from what is written, so that an interrupted run is found again; in a folder
    that all users share, others could lay links under these names.

    Raises
    ------
    OutputError
        The folder is another user's, or others may write to it.
    """
    shared = Path(tempfile.gettempdir())
    if sys.platform == "win32":  # where each user has a folder for temporary files
        return shared
    folder = shared / f"georsr-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from error
    owned = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not owned or stat.S_IMODE(status.st_mode) & 0o077:
        raise OutputError(
            f"{folder}: is not a folder that only you can write to, expected owner {os.getuid()} "
            "and mode 700; remove it, or set TMPDIR to a folder of yours"
        )
    return folder


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CHECKSUM = "crc32"
"""Name of the last value of a line: of the line without it."""
HASHED_KEYS = ("source",)
"""Parts of a key whose values say nothing to people."""


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield entries up to the first that is not whole.

    Raises
    ------
    OutputError
        Something else than a file of ours is in its place.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
    except FileNotFoundError:
        return
    for text in data.split(b"\n")[:-1]:
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            return
        # a line that was changed may still be JSON, and say what is not so
        if not isinstance(entry, dict) or jsonl_line(_without_checksum(entry)) != text + b"\n":
            return
        yield _without_checksum(entry)


def _without_checksum(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != CHECKSUM}


def jsonl_line(entry: Mapping[str, Any]) -> bytes:
    """An entry as it is appended."""
    text = json.dumps(entry, separators=(",", ":"))
    whole = {**entry, CHECKSUM: zlib.crc32(text.encode())}
    return json.dumps(whole, separators=(",", ":")).encode() + b"\n"


def key_differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """In what the keys of two runs differ, for people."""
    return [
        f"{name} was {theirs.get(name)}, is {ours.get(name)}"
        if name not in HASHED_KEYS
        else f"the {name} is not the same"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]
