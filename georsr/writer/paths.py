"""Check the paths of outputs; name their temporary files and sidecars; lock an output.

`check_outputs` alone decides which files a command must neither write nor remove.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import logging
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import unescape

import rasterio.shutil
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from rasterio.drivers import raster_driver_extensions

from georsr._files import (
    atomic_write_text,
    check_output_path,
    check_parent_writable,
    check_regular,
    open_regular,
    private_temp_dir,
    remove_temp_files,
)
from georsr.errors import OutputError, UsageError
from georsr.io.gdal_env import gdal_env, is_remote

_VIRTUAL = re.compile(r"^(/vsi[a-z0-9_]+/|file://|zip://|tar://|gzip://)")
_SIDECARS = (".msk", ".msk.ovr", ".ovr", ".aux.xml")
WORLD_FILE = ".tfw"
"""Suffix of the world file of a TIFF."""
_WORLD_FILES = (WORLD_FILE, ".TFW", ".tifw", ".TIFW", ".wld", ".WLD")
_SUFFIXES = (
    *(".aux", ".aux.xml", ".rrd", ".ovr", ".msk", ".msk.ovr"),  # statistics, overviews, masks
    *(
        ".wld",
        ".tfw",
        ".tifw",
        ".tiffw",
        ".jgw",
        ".jpgw",
        ".j2w",
        ".jp2w",
        ".pgw",
        ".prj",
        ".tab",
        ".gcp",
        ".points",
    ),  # georeferencing
    *(".rpb", "_rpc.txt", ".imd", ".til", ".att", ".eph", ".geo", ".xml"),  # satellite metadata
    *(".hdr", ".clr", ".stx", ".ige", ".lgo", ".qml", ".sld", ".qmd"),  # other formats and QGIS
)
"""Suffixes of files that are read together with a raster of the same base name."""
_MEMBER = re.compile(
    r"""<(?:SourceFilename|SourceDataset)\b(?:[^>]*?relativeToVRT\s*=\s*["'](\d)["'])?[^>]*>([^<]+)<"""
)
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def is_virtual(dst: str) -> bool:
    """Return whether ``dst`` is written by GDAL's virtual file systems."""
    return dst.startswith("/vsi") or is_remote(dst)


def check_destination(
    dst: str | os.PathLike[str], src_paths: Iterable[str | os.PathLike[str]], overwrite: bool
) -> None:
    """Refuse a destination that cannot or must not be written; nothing is changed.

    Parameters
    ----------
    dst : str or path
        Path of the output.
    src_paths : iterable of str or path
        Paths of the sources, preferably with all of `RasterInfo.files`.
    overwrite : bool
        Whether an existing output may be replaced. A source is never replaced.

    Raises
    ------
    UsageError
        ``dst`` exists and must not be overwritten, is a source under another name, or a sidecar of
        an earlier output would be read with the new output.
    OutputError
        The folder is missing or not writable, or ``dst`` is not a regular file.
    """
    name = os.fspath(dst)
    check_outputs(
        {"OUT": raster_outputs(name)}, {"source": [os.fspath(path) for path in src_paths]}
    )
    if is_virtual(name):
        with gdal_env(remote=True):
            if not overwrite and rasterio.shutil.exists(name):
                raise _exists(name)
        return
    check_output_path(Path(name))
    path = local_path(name)
    if os.path.exists(path) and not overwrite:  # noqa: PTH110 (False for a name too long)
        raise _exists(name)
    check_parent_writable(path, name)
    temp = temp_paths(name)
    for temp_path in (temp.part, temp.cog, temp.journal, temp.lock):
        check_regular(temp_path)
    stale = [sidecar for sidecar in sidecars(path) if os.path.lexists(sidecar)]
    if stale and not overwrite:
        raise UsageError(
            f"{stale[0]}: is left from an earlier output and would be read with {name}; "
            "remove it, or use --overwrite"
        )


def check_format(dst: str | os.PathLike[str]) -> None:
    """Refuse a file name whose extension is that of another format.

    Raises
    ------
    UsageError
        The extension belongs to another format; the message suggests a name.
    """
    name = os.fspath(dst)
    check_utf8(name)
    ending = Path(name).suffix
    meant = raster_driver_extensions().get(ending[1:].lower(), "GTiff")
    if meant != "GTiff":
        raise UsageError(
            f"{name}: {ending} is for files of format {meant}, and outputs are GeoTIFF: "
            f"call it {name.removesuffix(ending)}.tif"
        )


def check_utf8(name: str) -> None:
    """Refuse a file name that is not UTF-8.

    Raises
    ------
    UsageError
        Neither rasterio nor a JSON file can hold the name.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name}: the name is not UTF-8, which rasterio needs; choose another name"
        ) from error


def local_path(dst: str) -> Path:
    """Return the file behind a symbolic link, which is replaced instead of the link."""
    return Path(os.path.realpath(dst))


def sidecars(path: Path) -> tuple[Path, ...]:
    """Return the files that GDAL would read with the output ``path`` if they existed."""
    appended = tuple(path.with_name(path.name + suffix) for suffix in _SIDECARS)
    return (*appended, *(path.with_suffix(end) for end in _WORLD_FILES))


def replace_sidecars(path: Path, world_file: str | None = None) -> None:
    """Remove the sidecars of an earlier output at ``path``, and write those of the new one.

    `check_outputs` has checked their names. ``world_file`` is the text of the new world file.

    Raises
    ------
    OutputError
        The world file cannot be written.
    """
    for sidecar in sidecars(path):
        if os.path.lexists(sidecar) and (sidecar.is_symlink() or sidecar.is_file()):
            sidecar.unlink()
    if world_file is not None:
        remove_temp_files(path.with_suffix(WORLD_FILE))
        atomic_write_text(path.with_suffix(WORLD_FILE), world_file)


@dataclass(frozen=True)
class TempPaths:
    """Temporary files of an output, hidden in its folder.

    They are in the same folder because a rename is atomic only within a file system. Their names
    depend only on that of the output, so that an interrupted run can be resumed.
    """

    part: Path
    """Unfinished output."""
    cog: Path
    """Cloud-optimised copy of the output."""
    journal: Path
    """List of the finished blocks."""
    lock: Path
    """Lock file of the run that writes the output."""

    def leftovers(self) -> list[Path]:
        """Return every temporary file except journal and lock."""
        stem = glob.escape(self.part.name.removesuffix(".tif"))
        return [
            path
            for path in sorted(self.part.parent.glob(stem + "*"))
            if path != self.journal and not path.name.startswith(self.lock.name)
        ]


def temp_paths(dst: str) -> TempPaths:
    """Return the temporary files of the output ``dst``; those of a virtual one are local."""
    if is_virtual(dst):
        digest = hashlib.sha256(dst.encode()).hexdigest()[:12]
        base = private_temp_dir() / f"{Path(dst).name[:100]}.{digest}"
    else:
        base = local_path(dst)
    name = base.name
    if len(name.encode()) > 200:  # names are limited to 255 bytes
        name = f"{name[:40]}.{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    part, cog, journal, lock = (
        base.with_name(f".{name}.part{end}") for end in (".tif", ".cog.tif", ".jsonl", ".lock")
    )
    return TempPaths(part, cog, journal, lock)


def is_disk_full(path: Path, written: int) -> bool:
    """Return whether the file system cannot hold 1.5 times the bytes written so far.

    Called after a failed write, because GDAL does not report the cause.
    """
    required = written + written // 2 + 2**20
    try:
        with tempfile.TemporaryFile(
            dir=path.parent, prefix=f"{path.name}.", suffix=".probe", buffering=0
        ) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, required)
            else:
                file.write(bytes(2**20))
                os.fsync(file.fileno())
    except OSError as err:
        return is_enospc(err)
    return False


def is_enospc(err: BaseException) -> bool:
    """Return whether an error means that the disk is full."""
    return isinstance(err, OSError) and err.errno in _FULL


def _exists(name: str) -> UsageError:
    return UsageError(f"{name}: file exists and won't be overwritten without --overwrite")


def raster_outputs(dst: str) -> list[str | os.PathLike[str]]:
    """Return ``dst`` and all other paths that writing this output creates, replaces or removes."""
    temp = temp_paths(dst)
    paths: list[str | os.PathLike[str]] = [
        dst,
        temp.part,
        temp.cog,
        temp.journal,
        temp.lock,
        *temp.leftovers(),
    ]
    stale = () if is_virtual(dst) else sidecars(local_path(dst))
    paths += [path for path in stale if os.path.exists(path)]  # noqa: PTH110
    return paths


def check_outputs(
    outputs: Mapping[str, Iterable[str | os.PathLike[str]]], inputs: Mapping[str, Iterable[str]]
) -> None:
    """Refuse outputs that would replace or remove a file that the command reads, or each other.

    Parameters
    ----------
    outputs : mapping of str to iterable of path
        Argument or option, for messages -> the file it names, and all other paths that are
        created, replaced or removed because of it (`raster_outputs`).
    inputs : mapping of str to iterable of str
        Kind of file, for messages -> paths or URLs that the command reads. The files that a VRT
        refers to, and those that are read with a raster, are protected too.

    Raises
    ------
    UsageError
        Two names mean the same file, also as relative path, link or in other spelling.
    """
    files = _Inputs(inputs)
    written: dict[_Key, tuple[str, Path]] = {}
    named: dict[str, tuple[_Key, Path]] = {}
    for option, paths in outputs.items():
        name = ""
        for path in [os.fspath(item) for item in paths]:
            name = name or path
            files.check(name, path)
            if is_virtual(path):
                continue
            target = local_path(path)
            key = _key(target)
            named.setdefault(option, (key, target))
            other, _ = written.setdefault(key, (option, target))
            if other != option:
                raise UsageError(f"{other} and {option} are both {path}; name two files")
    for option, target in written.values():
        others = {key: path for name, (key, path) in named.items() if name != option}
        host = _host(target, others)
        if host is not None:
            raise UsageError(f"{option} {target}: would be read with {host}; name another file")


class _Inputs:
    """The files that a command reads."""

    def __init__(self, inputs: Mapping[str, Iterable[str]]) -> None:
        self.names = {name: kind for kind, names in inputs.items() for name in names}
        self.files: dict[_Identity, tuple[str, str]] = {}
        hosts: dict[_Key, Path] = {}
        covered: set[str] = set()  # the files of a mosaic are named by its VRT, and by its reader
        for name, kind in [*self.names.items()]:
            for path in () if name in covered else _all_files(name):
                covered.add(str(path))
                self.files.setdefault(_identity(path), (kind, name))
                hosts.setdefault(_key(local_path(str(path))), path)
        self.hosts = hosts

    def check(self, name: str, path: str) -> None:
        """Refuse to write or remove ``path`` for the output ``name`` if it is an input."""
        match = (self.names[path], path) if path in self.names else None
        for candidate in () if match else paths_behind_vsi(path):
            match = match or self.files.get(_identity(candidate))
        if match is not None and path == name:
            kind, source = match
            raise UsageError(f"{name}: is the {kind} {source} itself; write to another file")
        if match is not None:
            raise UsageError(
                f"{name}: writing it would replace or remove {path}, which belongs to the "
                f"{match[0]} {match[1]}; write under another name"
            )
        host = None if is_virtual(path) else _host(local_path(path), self.hosts)
        if host is not None:
            raise UsageError(
                f"{name}: {path} is or would be read with {host}; write under another name"
            )


_Identity = tuple[int, int]
_Key = tuple[_Identity | str, str]


def _identity(path: Path) -> _Identity:
    """Return device and inode, which all names of a file have in common."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _key(path: Path) -> _Key:
    """Return the key of a file that need not exist, independent of letter case."""
    try:
        folder: _Identity | str = _identity(path.parent)
    except OSError:
        folder = str(path.parent)
    return folder, path.name.casefold()


def _host(path: Path, rasters: Mapping[_Key, Path]) -> Path | None:
    """Return the raster with which GDAL or QGIS would read a file, by its name."""
    name = path.name.casefold()
    bases = {name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)}
    if not bases:
        return None
    folder = _key(path)[0]
    for (other, file), raster in rasters.items():
        if other == folder and file != name and {file, file.rpartition(".")[0]} & bases:
            return raster
    return None


def _all_files(name: str) -> Iterator[Path]:
    """Yield the files behind a name, and those that VRT files refer to, recursively."""
    waiting, seen = [name], {name}
    while waiting:
        name = waiting.pop()
        is_file = os.path.isfile(name)  # noqa: PTH113  False for a name that is too long
        for path in [Path(name)] if is_file else paths_behind_vsi(name):
            yield path
            members = _members(path) if path.suffix.lower() == ".vrt" else ()
            waiting += [member for member in members if member not in seen]
            seen.update(members)


def _members(vrt: Path) -> list[str]:
    """Return the names of the files that a VRT document refers to."""
    with suppress(OSError):
        text = vrt.read_text(encoding="utf-8", errors="replace")
        return [
            str(vrt.parent / unescape(member)) if relative == "1" else unescape(member)
            for relative, member in _MEMBER.findall(text)
        ]
    return []


def paths_behind_vsi(name: str) -> list[Path]:
    """Return every existing file that ``name`` may refer to, also behind /vsi prefixes."""
    while _VIRTUAL.match(name):
        name = _VIRTUAL.sub("", name, count=1)
    texts = dict.fromkeys((name, "/" + name, *re.split(r'[":,?=]', name)))
    files = []
    for path in map(Path, filter(None, texts)):
        with suppress(OSError):  # the name is too long
            parents = () if path.parent.is_dir() else path.parents  # of a folder, none is a file
            files += [part for part in (path, *parents) if part.is_file()]
    return files


def sync_path(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems that cannot lock files."""


class Lock:
    """An exclusive lock on a name, held from `acquire` to `release`, or to the end of this
    object or of the process.

    It is a lock of the operating system on a small file, which ends with its process. On a file
    system without locks, a second file with the process id (``.pid``) is used instead; it is
    ignored once that process has ended.

    Parameters
    ----------
    path : Path
        Lock file; removed by `release`.
    output : str
        Path of the output, for messages.
    """

    def __init__(self, path: Path, output: str) -> None:
        self.path, self.output = path, output
        self._held: BaseFileLock | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        OutputError
            Another run holds the lock, or ``path`` is not a lock file.
        """
        check_regular(self.path)
        try:
            self._held = self._acquire_file_lock()
        except Timeout as error:
            raise self._refusal(Path(error.lock_file)) from error
        except OSError as error:
            raise OutputError(
                f"{self.output}: cannot be locked: {self.path}: {error.strerror or error}"
            ) from error
        try:
            self._write_owner()
        except BaseException:
            self.release()
            raise

    def _acquire_file_lock(self) -> BaseFileLock:
        native = FileLock(self.path, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            native.acquire()
        except Timeout:
            raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            soft = SoftFileLock(f"{self.path}.pid", timeout=0, thread_local=False)
            soft.acquire()
            return soft
        return native

    def _write_owner(self) -> None:
        """Write the owner into the lock file, for the messages of other runs."""
        text = json.dumps({"pid": os.getpid(), "host": platform.node()})
        try:
            with open_regular(self.path, "r+b") as file:
                file.truncate(0)
                file.write(text.encode())
        except OutputError:
            raise
        except OSError:  # Windows does not allow writing to a locked file; a disk may be full
            log.debug("%s: cannot be written", self.path, exc_info=True)

    def _refusal(self, path: Path) -> OutputError:
        by = ""
        with suppress(OSError, ValueError, TypeError, KeyError), open_regular(self.path) as file:
            owner = json.loads(file.read(4096))
            by = f" (process {int(owner['pid'])} on {owner['host']})"
        return OutputError(
            f"{self.output}: another run is writing it{by}; wait for it, or write to another "
            "file. "
            f"If that run is long gone, remove {path}"
        )

    def clean(self) -> None:
        """Remove the lock file of a run that was killed."""
        if self.path.exists():
            with suppress(OutputError):
                self.acquire()
                self.release()

    def release(self) -> None:
        """Release the lock, if it is held."""
        held, self._held = self._held, None
        if held is not None:
            # remove it while it is locked: a waiting run then sees that the file has no name
            with suppress(OSError):  # Windows does not remove open files
                self.path.unlink()
            held.release()
