"""Write files atomically, and never through a link, pipe or folder in their place.

A file is written under a random name and renamed when it is complete. Files of JSON lines grow by
appending; each line has a checksum, and reading stops at the first line that is damaged.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import os
import re
import secrets
import stat
import sys
import tempfile
import types
import typing
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from georsr.errors import InputError, OutputError, UsageError

# Opening a link fails, and opening a pipe does not wait for its other end; not on Windows.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def check_regular(path: Path) -> None:
    """Raise if a path exists and is not a regular file; links are not followed.

    Raises
    ------
    OutputError
        The path is a symbolic link, directory, pipe, socket or device, or cannot be examined.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be examined: {error.strerror or error}") from error
    _check_mode(path, mode)


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((text for test, text in _KINDS if test(mode)), "of an unknown kind")
        raise OutputError(
            f"{path}: is {kind}, expected a regular file or none; remove it, or write to another "
            "path"
        )


def check_output_path(path: Path) -> None:
    """Raise if an output path exists and is neither a regular file nor a link to one.

    Raises
    ------
    OutputError
        The path is a directory, pipe, socket or device, a link to one of these, or a broken link.
    """
    if os.path.isdir(path):  # noqa: PTH112 (False for a name too long)
        raise OutputError(f"{path}: is a directory; name a file in it")
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise OutputError(
                f"{path}: is a symbolic link to {path.readlink()}, which does not exist; remove "
                "the link, or write to its target"
            ) from error
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be opened: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        raise OutputError(f"{path}: is not a regular file; write to another file")


def create_file(path: Path) -> IO[bytes]:
    """Create a file for reading and writing at a path that does not exist, not even as a link.

    Raises
    ------
    FileExistsError
        The path exists.
    """
    return path.open("x+b", buffering=0)


def open_regular(path: Path, mode: str = "rb") -> IO[bytes]:
    """Open an existing regular file that georsr wrote, for example to resume it.

    Parameters
    ----------
    path : Path
        The file; it is not created.
    mode : str
        Binary mode of `open`.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    OutputError
        The path is not a regular file, or it is opened for writing and has hard links: writing
        would change a file of another name.
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
    """Yield the path of an empty file that is renamed to ``path`` when the block succeeds.

    The file lies in the folder of ``path``, because renaming is atomic only within a file system.
    Its name is random, so that no link can be put there beforehand. If the block fails, it is
    removed.
    """
    temporary = path.with_name(f"{_temp_stem(path)}.{secrets.token_hex(8)}")
    create_file(temporary).close()
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temp_stem(path: Path) -> str:
    """Return the start of a temporary file's name; names are limited to 255 bytes."""
    name = path.name if path.name.startswith(".") else f".{path.name}"
    return os.fsdecode(os.fsencode(name)[:225])


def remove_temp_files(path: Path) -> None:
    """Remove temporary files of ``path`` that a killed process left.

    Call it only while holding a lock, so that no other process is writing ``path``.
    """
    stem = _temp_stem(path)
    for file in path.parent.glob(f"{glob.escape(stem)}.*"):
        if re.fullmatch(r"\.[0-9a-f]{16}", file.name[len(stem) :]):
            file.unlink(missing_ok=True)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise if a file cannot be written, or exists and must not be overwritten.

    Raises
    ------
    UsageError
        The file exists and ``overwrite`` is False.
    OutputError
        The path is not a regular file, or its folder is missing or not writable.
    """
    check_output_path(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: file exists and won't be overwritten without --overwrite")
    check_parent_writable(path, str(path))


def check_parent_writable(path: Path, name: str) -> None:
    """Raise if the folder of a file is missing or not writable; ``name`` is for the message.

    Raises
    ------
    OutputError
        The folder is missing or not writable.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{name}: the folder {path.parent} does not exist; create it first")
    try:
        # Permission bits are not reliable on every file system. This file has no name, or loses it
        # at once where the file system needs one; the next run of an output removes such a name.
        prefix = f".{path.name[:50]}.part."
        tempfile.TemporaryFile(dir=path.parent, prefix=prefix, suffix=".probe").close()
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{name}: the folder {path.parent} cannot be written to: {reason}"
        ) from error


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `atomic_write_bytes` does; lines end in a line feed."""
    atomic_write_bytes(path, text.encode())


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file; an existing one is replaced only when the new one is complete.

    Raises
    ------
    OutputError
        It cannot be written; ``path`` is unchanged.
    """
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def private_temp_dir() -> Path:
    """Return the folder for temporary files, which only this user can read and write.

    The names of the files are derived from the output's, so that an interrupted run can be resumed.
    In a folder shared by all users, others could put links under these names.

    Raises
    ------
    OutputError
        The folder cannot be created, belongs to another user, or others may write to it.
    """
    shared = Path(tempfile.gettempdir())
    if sys.platform == "win32":  # each user has a folder for temporary files
        return shared
    folder = shared / f"georsr-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {error.strerror or error}") from error
    owned = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not owned or stat.S_IMODE(status.st_mode) & 0o077:
        raise OutputError(
            f"{folder}: others can write to this folder, expected owner {os.getuid()} and "
            "mode 700; remove it, or set TMPDIR to a folder of your own"
        )
    return folder


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_duplicates(paths: Sequence[Path], others: Sequence[Path]) -> dict[Path, Path]:
    """Return the files whose bytes are those of one of ``others``, each with that one."""
    sizes = {path.stat().st_size for path in paths} & {path.stat().st_size for path in others}

    def contents(files: Sequence[Path]) -> dict[Path, str]:
        return {path: sha256(path) for path in files if path.stat().st_size in sizes}

    known = {digest: path for path, digest in contents(others).items()}
    return {path: known[d] for path, d in contents(paths).items() if d in known}


_SYSTEM_NAMES = {"__macosx", "@eadir", "thumbs.db", "$recycle.bin", "system volume information"}
"""Files and folders that operating systems and file servers add, in lower case."""


def is_hidden(path: Path, root: Path) -> bool:
    """Return whether a file in or below ``root`` is hidden, or belongs to the operating system.

    Names that begin with a dot are unfinished outputs, or what macOS stores next to each file on a
    foreign disk (``._scene.tif``).
    """
    names = path.relative_to(root).parts
    return any(
        (name.startswith(".") and name != "..") or name.lower() in _SYSTEM_NAMES for name in names
    )


def refuse_pipe(path: Path) -> None:
    """Raise UsageError for a pipe, socket or device: reading one may wait or never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path}: is a pipe or a device, expected a file")


def read_list(path: Path) -> list[str]:
    """Read a text file with one entry per line; lines that begin with ``#`` are comments.

    UTF-8, or UTF-16 with a byte order mark, as Windows PowerShell writes it. Lines may end as in
    any system.

    Raises
    ------
    UsageError
        There is no such file.
    InputError
        The file cannot be read as text.
    """
    refuse_pipe(path)
    try:
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a list: {error}") from error
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text)]
    return [line for line in lines if line and not line.startswith("#")]


CHECKSUM = "crc32"
"""Key of the last value of a line, the checksum of the line without it."""
HASHED_KEYS = ("source",)
"""Keys whose values are hashes, which messages leave out."""


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a file of JSON lines up to the first damaged line.

    Raises
    ------
    OutputError
        The path is not a regular file.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
    except FileNotFoundError:
        return
    for text in data.split(b"\n")[:-1]:
        try:
            entry = json.loads(text)
            # a changed line may still be valid JSON
            if not isinstance(entry, dict) or jsonl_line(_without_checksum(entry)) != text + b"\n":
                return
        except (ValueError, RecursionError):
            return
        yield _without_checksum(entry)


def _without_checksum(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != CHECKSUM}


def jsonl_line(entry: Mapping[str, Any]) -> bytes:
    """Return the line of an entry, with its checksum."""
    text = json.dumps(entry, separators=(",", ":"))
    checked = {**entry, CHECKSUM: zlib.crc32(text.encode())}
    return json.dumps(checked, separators=(",", ":")).encode() + b"\n"


def key_differences(recorded: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """Describe the differences between the keys of a recorded run and of the current one."""
    return [
        f"{name} was {recorded.get(name)}, is {current.get(name)}"
        if name not in HASHED_KEYS
        else f"the {name} has changed"
        for name in sorted({*recorded, *current})
        if recorded.get(name) != current.get(name)
    ]


def has_type(value: Any, kind: Any) -> bool:
    """Return whether a value parsed from JSON has the annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin in (types.UnionType, typing.Union):
        return any(has_type(value, member) for member in arguments)
    if origin is tuple:
        any_length = arguments[-1] is Ellipsis
        return (
            isinstance(value, list)
            and (any_length or len(value) == len(arguments))
            and all(has_type(item, arguments[0]) for item in value)
        )
    if origin is dict:
        return isinstance(value, dict) and all(has_type(v, arguments[1]) for v in value.values())
    if isinstance(value, bool):
        return kind in (bool, Any)
    return kind is Any or isinstance(value, (int, float) if kind is float else kind)
