"""The place a product goes to: may it be written, under what name meanwhile, and its sidecars."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import rasterio.shutil
from rasterio.drivers import raster_driver_extensions

from georsr.errors import OutputError, UsageError
from georsr.raster.env import gdal_env, is_remote

_VIRTUAL = re.compile(r"^(/vsi[a-z0-9_]+/|file://|zip://|tar://|gzip://)")
_SIDECARS = (".msk", ".msk.ovr", ".ovr", ".aux.xml")
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def is_virtual(dst: str) -> bool:
    """Whether ``dst`` is written by GDAL's virtual file systems, not by the operating system."""
    return dst.startswith("/vsi") or is_remote(dst)


def check_destination(
    dst: str | os.PathLike[str], src_paths: Iterable[str | os.PathLike[str]], overwrite: bool
) -> None:
    """Refuse a destination that cannot or must not be written; nothing is changed.

    Parameters
    ----------
    dst : str or path
    src_paths : iterable of str or path
        The sources, best with all of `RasterInfo.files`: the files behind a VRT count too.
    overwrite : bool
        An existing product may be replaced. A source never.

    Raises
    ------
    UsageError
        ``dst`` exists and must not be overwritten, is a source under whatever name, or a sidecar
        of an earlier product would be taken for one of the new product.
    OutputError
        The folder is missing or not writable, or ``dst`` is not a regular file.
    """
    name = os.fspath(dst)
    _refuse_source(name, [os.fspath(path) for path in src_paths])
    if is_virtual(name):
        with gdal_env(remote=True):
            if not overwrite and rasterio.shutil.exists(name):
                raise _exists(name)
        return
    path = local_path(name)
    if path.is_dir():
        raise OutputError(f"{name}: is a directory; name a file in it")
    if path.exists() and not path.is_file():
        raise OutputError(f"{name}: is not a regular file")
    if path.exists() and not overwrite:
        raise _exists(name)
    if not path.parent.is_dir():
        raise OutputError(f"{name}: there is no folder {path.parent}; create it first")
    _try_folder(path, name)
    stale = [sidecar for sidecar in sidecars(path) if sidecar.exists()]
    if stale and not overwrite:
        raise UsageError(
            f"{stale[0]}: is left from an earlier product and would be read with {name}; "
            "remove it, or use the `--overwrite` option"
        )


def check_format(dst: str | os.PathLike[str]) -> None:
    """Refuse a name that promises another format: programs that go by names would believe it.

    Raises
    ------
    UsageError
        Says what to call it.
    """
    name = os.fspath(dst)
    ending = Path(name).suffix
    meant = raster_driver_extensions().get(ending[1:].lower(), "GTiff")
    if meant != "GTiff":
        raise UsageError(
            f"{name}: {ending} is for files of format {meant}, and products are GeoTIFF: "
            f"call it {name.removesuffix(ending)}.tif"
        )


def local_path(dst: str) -> Path:
    """Where ``dst`` really is: the file behind a symbolic link is replaced, not the link."""
    return Path(dst).resolve()


def sidecars(path: Path) -> tuple[Path, ...]:
    """Files GDAL would read with ``path`` if they were there."""
    beside = tuple(path.with_name(path.name + suffix) for suffix in _SIDECARS)
    return (*beside, path.with_suffix(".tfw"))


@dataclass(frozen=True)
class Workplace:
    """Files that exist while a product is made, and no longer: hidden, in its folder.

    The same folder, because a rename is atomic within a file system only. Their names follow from
    the product's alone, so that a run that was interrupted is found again.

    Attributes
    ----------
    part : Path
        The unfinished product.
    cog : Path
        The cloud-optimised copy of it.
    journal : Path
        What of it is finished.
    lock : Path
        Held by the run that works on it.
    """

    part: Path
    cog: Path
    journal: Path
    lock: Path

    def leftovers(self) -> list[Path]:
        """Everything there is but the journal and the lock; GDAL's temporary files too."""
        stem = glob.escape(self.part.name.removesuffix(".tif"))
        return [
            path
            for path in sorted(self.part.parent.glob(stem + "*"))
            if path not in (self.journal, self.lock)
        ]


def workplace(dst: str) -> Workplace:
    """Where the product ``dst`` is made; for a virtual one that is a folder of the machine."""
    if is_virtual(dst):
        digest = hashlib.sha256(dst.encode()).hexdigest()[:12]
        where = Path(tempfile.gettempdir()) / f"{Path(dst).name[:100]}.{digest}"
    else:
        where = local_path(dst)
    name = where.name
    if len(name.encode()) > 200:  # names end at 255 bytes
        name = f"{name[:40]}.{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    part, cog, journal, lock = (
        where.with_name(f".{name}.part{end}") for end in (".tif", ".cog.tif", ".jsonl", ".lock")
    )
    return Workplace(part, cog, journal, lock)


def no_space(path: Path, reached: int) -> bool:
    """Whether the folder of ``path`` cannot take another file of half as much again as `reached`.

    Asked after a failure, because GDAL does not pass on why a write failed.
    """
    probe = path.with_name(path.name + ".probe")
    wanted = reached + reached // 2 + 2**20
    try:
        with probe.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, wanted)
            else:
                file.write(bytes(2**20))
                file.flush()
                os.fsync(file.fileno())
    except OSError as err:
        return is_full(err)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return False


def is_full(err: BaseException) -> bool:
    """Whether the system said that there is no room."""
    return isinstance(err, OSError) and err.errno in _FULL


def _exists(name: str) -> UsageError:
    return UsageError(
        f"{name}: file exists and won't be overwritten without use of the `--overwrite` option"
    )


def _try_folder(path: Path, name: str) -> None:
    """Make and remove a file: permission bits do not tell the truth on every file system."""
    probe = path.with_name(f".georsr-{secrets.token_hex(8)}.probe")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as err:
        why = err.strerror or err
        raise OutputError(f"{name}: the folder {path.parent} cannot be written to: {why}") from err


def _refuse_source(dst: str, sources: list[str]) -> None:
    targets = local_files(dst)
    for source in sources:
        if source == dst:
            raise _is_source(dst, source)
        for candidate in local_files(source):
            for target in targets:
                with suppress(OSError):
                    if target.samefile(candidate):
                        raise _is_source(dst, source)


def _is_source(dst: str, source: str) -> UsageError:
    return UsageError(f"{dst}: is the source {source} itself; write to another file")


def local_files(name: str) -> list[Path]:
    """Every existing file that ``name`` may mean: behind /vsi prefixes and in subdatasets."""
    while _VIRTUAL.match(name):
        name = _VIRTUAL.sub("", name, count=1)
    texts = [name, "/" + name, *re.split(r'[":,?=]', name)]
    found = []
    for text in filter(None, texts):
        path = Path(text)
        with suppress(OSError):  # a name too long to be one
            found += [part for part in (path, *path.parents) if part.is_file()]
    return found


def sync_path(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
