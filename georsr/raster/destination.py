"""The place a product goes to: may it be written, under what name meanwhile, and its sidecars."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import rasterio.shutil

from georsr.errors import OutputError, UsageError
from georsr.raster.env import gdal_env, is_remote

_VIRTUAL = re.compile(r"^(/vsi[a-z0-9_]+/|file://|zip://|tar://|gzip://)")
_SIDECARS = (".msk", ".msk.ovr", ".ovr", ".aux.xml")


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


def local_path(dst: str) -> Path:
    """Where ``dst`` really is: the file behind a symbolic link is replaced, not the link."""
    return Path(dst).resolve()


def sidecars(path: Path) -> tuple[Path, ...]:
    """Files GDAL would read with ``path`` if they were there."""
    beside = tuple(path.with_name(path.name + suffix) for suffix in _SIDECARS)
    return (*beside, path.with_suffix(".tfw"))


def temporary_path(dst: str) -> Path:
    """Name for the unfinished product: unique to this writer and in the folder of ``dst``.

    The same folder, because a rename is atomic within a file system only; unique, because file
    locks do nothing on many cluster file systems. A virtual ``dst`` gets a local one.
    """
    where = Path(tempfile.gettempdir()) / Path(dst).name if is_virtual(dst) else local_path(dst)
    name = where.name[:120]  # names end at 255 bytes
    return where.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.part.tif")


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
        return err.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return False


def _exists(name: str) -> UsageError:
    return UsageError(
        f"{name}: file exists and won't be overwritten without use of the `--overwrite` option"
    )


def _try_folder(path: Path, name: str) -> None:
    """Make and remove a file: permission bits do not tell the truth on every file system."""
    probe = temporary_path(str(path))
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as err:
        why = err.strerror or err
        raise OutputError(f"{name}: the folder {path.parent} cannot be written to: {why}") from err


def _refuse_source(dst: str, sources: list[str]) -> None:
    targets = _local_files(dst)
    for source in sources:
        if source == dst:
            raise _is_source(dst, source)
        for candidate in _local_files(source):
            for target in targets:
                with suppress(OSError):
                    if target.samefile(candidate):
                        raise _is_source(dst, source)


def _is_source(dst: str, source: str) -> UsageError:
    return UsageError(f"{dst}: is the source {source} itself; write to another file")


def _local_files(name: str) -> list[Path]:
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
