"""Check the files that GDAL reads together with a raster, before it reads them.

Masks (``.msk``) and overviews (``.ovr``, ``.aux``) next to a raster, and the overview file that its
metadata may name, are opened by any driver of GDAL, even if the raster itself is restricted to some
drivers. Some drivers read URLs or write files, so only TIFFs (and Erdas Imagine for ``.aux``) are
accepted. HDF5 and netCDF-4 files with data in other files are refused.
"""
# ruff: noqa: PTH116, PTH208
# A mosaic may have 10,000 files, and pathlib would take longer than the checks

from __future__ import annotations

import html
import os
import posixpath
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from rasterio.errors import RasterioError

from georsr.errors import InputError, UsageError
from georsr.io.gdal_env import (
    ReadPolicy,
    containing_archive,
    is_regular,
    is_remote,
    join_path,
    may_name_other_files,
    names_proj_file,
    open_bytes,
    open_with_drivers,
    parent_folder,
    read_header,
    shorten,
    subdataset_file,
    suppress_rasterio_warnings,
    zip_names,
)

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def check_hdf5(path: str, policy: ReadPolicy) -> None:
    """Raise if an HDF5 or netCDF-4 file refers to other files; other formats are accepted.

    External data, external links and virtual data sets can name any local file, whose bytes become
    pixels. GDAL has no option against them (tested with GDAL 3.10), so the file is searched with
    h5py. ``path`` is the name of the file, or GDAL's name of a subdataset in it.

    Raises
    ------
    UsageError
        The file refers to another file.
    InputError
        The file cannot be read.
    """
    file = subdataset_file(path) or path
    if "HDF5" in policy.extra_drivers:
        return
    try:
        with open_bytes(file) as handle:
            if handle is None or not _is_hdf5(handle):
                return
            import h5py

            with h5py.File(handle if file.startswith("/vsi") else file, "r") as content:
                external = next(_external_files(content), None)
    except Exception as error:  # h5py and the archive modules raise many kinds of exceptions
        raise InputError(f"{file}: cannot be read as HDF5: {error}") from error
    if external is not None:
        raise UsageError(
            f"{file}: takes data from another file, {shorten(external)}; expected one that is "
            "complete by itself, as h5repack makes it; --allow-driver HDF5 if you trust it"
        )


def _is_hdf5(handle: Any) -> bool:
    """Return whether a file has the HDF5 signature, at its start or after a user block."""
    offset = 0
    while True:
        handle.seek(offset)
        start = handle.read(8)
        if start == _HDF5_SIGNATURE:
            return True
        if len(start) < 8:
            return False
        offset = max(512, 2 * offset)


def _external_files(content: Any) -> Iterator[str]:
    """Yield the names of the files that the data sets of an HDF5 file refer to."""
    import h5py

    groups, seen = [content], {content.id}
    while groups:
        group = groups.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield str(link.filename)
            if not isinstance(link, h5py.HardLink):
                continue  # a soft link is another name in this file
            item = group[name]
            if isinstance(item, h5py.Dataset):
                yield from (str(file) for file, *_ in item.external or ())
                if item.is_virtual:
                    yield from (source.file_name for source in item.virtual_sources())
            elif isinstance(item, h5py.Group) and item.id not in seen:
                seen.add(item.id)
                groups.append(item)


TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HFA_SIGNATURE = b"EHFA_HEADER_TAG"
NITF_SIGNATURES = (b"NITF", b"NSIF")
_TEXTS = (".aux.xml", ".prj", ".hdr", ".rdc")
"""Suffixes of text files that GDAL reads as metadata of a raster."""
_SIDECAR = re.compile(r"\.(ovr|msk|aux|aux\.xml|prj|hdr|rdc|r\d)$", re.IGNORECASE)
_METADATA_TAG = 42112
"""TIFF tag of GDAL's metadata, an XML document."""
_TIFF_ASCII = 2
"""Type of a TIFF field that holds text."""
_MAX_ENTRIES, _MAX_METADATA, _MAX_ITEMS = 65536, 2**24, 20_000


def can_list_sidecars(path: str) -> bool:
    """Return whether the folder of a raster can be listed, so that GDAL may look for sidecars.

    Files on a network cannot be listed; GDAL is then configured not to look for others.
    """
    return _listing(path) is not None


def check_dataset(dataset: Any, path: str, policy: ReadPolicy) -> None:
    """Check the files that GDAL may read because of the metadata of an open raster.

    It must be called before masks, overviews, files or pixels of the dataset are read. ``path`` is
    GDAL's name of the raster.

    Raises
    ------
    UsageError
        The raster refers to a file that must not be read.
    RasterioError
        A file cannot be read.
    InputError
        The file is incomplete.
    """
    named = dataset.get_tag_item("OVERVIEW_FILE", "OVERVIEWS")
    if named is not None and dataset.driver != "SENTINEL2":  # which names other bands as overviews
        _check_overview_file(named, path, policy)
    _check_crs(dataset, path)
    if dataset.driver == "HFA":
        _check_folder(dataset, path)
    if dataset.driver != "GTiff":
        from georsr.io.truncated import check_complete  # GDAL notices an early end of a GeoTIFF

        check_complete(dataset, path)


def _check_folder(dataset: Any, path: str) -> None:
    """Raise if the pixels or overviews of an Erdas Imagine file are in another folder."""
    for file in dataset.files:
        if not file.startswith("/vsi") and not _is_beside(file, path):
            raise UsageError(f"{path}: reads {shorten(file)}, expected files in its own folder")


def _check_crs(dataset: Any, path: str) -> None:
    """Raise if the CRS names a grid file by its path, which PROJ would open."""
    with suppress_rasterio_warnings():
        systems = [dataset.crs, dataset.gcps[1]]
    for crs in systems:
        if crs is not None and names_proj_file(_wkt(crs)):
            raise UsageError(
                f"{path}: its coordinate reference system names a grid file by its path, expected "
                "the plain name of one that PROJ has; assign another CRS, for example with "
                "gdal_edit.py -a_srs"
            )


def _wkt(crs: Any) -> str:
    try:
        return str(crs.to_wkt())
    except RasterioError:
        return str(crs)


def _check_overview_file(named: str, path: str, policy: ReadPolicy) -> None:
    """Check that the metadata item OVERVIEW_FILE names a TIFF next to the raster."""
    name = named.removeprefix(":::BASE:::")
    file = Path(name) if name == named else Path(path).parent / name
    try:
        same_folder = file.resolve().parent == Path(path).resolve().parent
    except (OSError, ValueError, RuntimeError):
        same_folder = False
    if not (same_folder and read_header(str(file)).startswith((*TIFF_SIGNATURES, HFA_SIGNATURE))):
        raise UsageError(
            f"{path}: its metadata name {shorten(named)} as the file of its overviews, expected "
            "a TIFF next to it; remove the item OVERVIEW_FILE of the domain OVERVIEWS"
        )
    check_tiff(str(file), policy)


def check_sidecars(path: str, policy: ReadPolicy) -> None:
    """Check masks, overviews and text files next to a raster, and the files next to those.

    It must be called before the raster is opened, because GDAL then reads some of them.

    Raises
    ------
    UsageError
        A file is not a TIFF, or refers to another file.
    """
    for file in _sidecars(path):
        kind = file.lower()
        if kind.endswith(_TEXTS):
            _check_text(file, path)
            continue
        if re.search(r"\.r\d$", kind):
            _check_reduced(file, path, policy)
            continue
        if kind.endswith(".aux") and not _begins(file, (HFA_SIGNATURE,)):
            continue  # GDAL does not read this file
        if not kind.endswith(".aux") and not _begins(file, TIFF_SIGNATURES):
            raise _not_tiff(file, path)
        if not _is_beside(file, path):
            raise UsageError(
                f"{file}: is a link to a file in another folder, expected the mask or overviews of "
                f"{path} in its folder; remove it"
            )
        try:
            check_tiff(file, policy)
        except RasterioError as error:
            raise _not_tiff(file, path) from error


def _check_text(file: str, path: str) -> None:
    """Raise if a text file next to a raster names a file of PROJ by its path."""
    if file.startswith("/vsi"):
        return  # the CRS that GDAL reads from it is checked later
    if not is_regular(file):
        raise UsageError(f"{file}: is not a regular file, expected metadata of {path}; remove it")
    document = Path(file).read_bytes()
    if (n_items := document.count(b"<MDI")) > _MAX_ITEMS:
        raise _too_much(file, f"{n_items} metadata items", _MAX_ITEMS)
    if names_proj_file(html.unescape(document.decode("latin-1"))):
        raise UsageError(
            f"{file}: its coordinate reference system names a file of PROJ by its path, expected "
            f"the plain name of one that PROJ has; remove it, and give {path} another CRS"
        )


def _check_reduced(file: str, path: str, policy: ReadPolicy) -> None:
    """Check a NITF of reduced resolution, which GDAL opens together with its raster."""
    if not read_header(path).startswith(NITF_SIGNATURES) or file in policy.checked:
        return
    policy.checked.add(file)
    if not read_header(file).startswith(NITF_SIGNATURES) or may_name_other_files(file):
        raise UsageError(
            f"{file}: GDAL would read it as overviews of {path}, but it is not a NITF; remove it"
        )
    check_sidecars(file, policy)


def _begins(file: str, signatures: tuple[bytes, ...]) -> bool:
    """Return whether a file begins with a signature; True for a file in an archive."""
    return file.startswith("/vsi") or read_header(file).startswith(signatures)


def _is_beside(file: str, path: str) -> bool:
    """Return whether a file lies in the folder of a raster, links resolved."""
    if file.startswith("/vsi"):
        return True
    folder = Path(file).resolve().parent
    return folder in (Path(path).parent.resolve(), Path(path).resolve().parent)


def _not_tiff(file: str, path: str) -> UsageError:
    return UsageError(
        f"{file}: GDAL would read it as mask or overviews of {path}, but it is "
        "not a TIFF; remove it"
    )


def check_tiff(file: str, policy: ReadPolicy) -> None:
    """Check the files that a TIFF refers to, which GDAL opens together with a raster.

    Raises
    ------
    UsageError
        The TIFF refers to a file that must not be read.
    RasterioError
        The file is neither a TIFF nor an Erdas Imagine file.
    """
    if file in policy.checked:
        return
    policy.checked.add(file)
    check_sidecars(file, policy)
    if _may_name_overviews(file):
        with suppress_rasterio_warnings(), open_with_drivers(file, ["GTiff", "HFA"]) as dataset:
            check_dataset(dataset, file, policy)


def _may_name_overviews(file: str) -> bool:
    """Return False if neither the first directory of a TIFF nor its .aux.xml names overviews.

    Opening a file with GDAL takes a millisecond, and a mosaic may have 10,000 files.
    """
    texts = [name for name in _sidecars(file) if name.lower().endswith(".aux.xml")]
    try:
        for text in texts:
            if _names_overviews(Path(text).read_bytes()):
                return True
        with Path(file).open("rb") as handle:
            return _names_overviews(_gdal_metadata(handle))
    except InputError:
        raise
    except (OSError, ValueError, struct.error, OverflowError):
        return True


def check_metadata_size(file: str) -> None:
    """Raise InputError for a TIFF whose metadata GDAL would read for minutes.

    Its time grows with the square of the number of items.
    """
    with suppress(ValueError, struct.error, OverflowError), Path(file).open("rb") as handle:
        _gdal_metadata(handle)


def _names_overviews(document: bytes) -> bool:
    return "OVERVIEW_FILE" in html.unescape(document.decode("latin-1")).upper()


def _gdal_metadata(handle: BinaryIO) -> bytes:
    """Return GDAL's metadata in the first directory of a TIFF; ValueError if it is malformed.

    The layout is that of TIFF 6.0, section 2, and of BigTIFF.
    """
    start = handle.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or start[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        raise ValueError("not a TIFF")
    big = b"+" in start[2:4]
    offset = struct.unpack(order + "Q", start[8:16])[0] if big else 0
    offset = offset or struct.unpack(order + "I", start[4:8])[0]
    handle.seek(offset)
    count = struct.unpack(order + ("Q" if big else "H"), handle.read(8 if big else 2))[0]
    size = 20 if big else 12
    if count > _MAX_ENTRIES:
        raise ValueError("too many entries")
    entries = handle.read(count * size)
    metadata = b""
    for entry in (entries[i * size : (i + 1) * size] for i in range(count)):
        tag, kind = struct.unpack(order + "HH", entry[:4])
        if tag != _METADATA_TAG:
            continue
        if kind != _TIFF_ASCII:
            raise ValueError("metadata are not stored as text")
        length = struct.unpack(order + ("Q" if big else "I"), entry[4 : 12 if big else 8])[0]
        value = entry[12 if big else 8 :]
        if length > len(value):
            if length > _MAX_METADATA:
                raise _too_much(handle.name, f"{length} bytes of metadata", _MAX_METADATA)
            handle.seek(struct.unpack(order + ("Q" if big else "I"), value)[0])
            value = handle.read(length)
        metadata += value
    if (n_items := metadata.count(b"<Item")) > _MAX_ITEMS:
        raise _too_much(handle.name, f"{n_items} metadata items", _MAX_ITEMS)
    return metadata


def _too_much(file: str, got: str, limit: int) -> InputError:
    return InputError(
        f"{file}: has {got}, expected at most {limit}; make a copy without them: "
        "`gdal_translate -co COPY_SRC_MDD=NO`"
    )


def _sidecars(path: str) -> list[str]:
    """Return the files next to ``path`` that GDAL reads with it."""
    listing = _listing(path)
    if not listing:  # the common case in a mosaic
        return []
    path = subdataset_file(path) or path
    folder, name = parent_folder(path), PurePath(path).name.lower()
    wanted = {f"{name}{end}" for end in (".ovr", ".msk", ".aux", ".aux.xml", ".hdr")}
    wanted |= {f"{PurePath(name).stem}{end}" for end in (".aux", ".prj", ".hdr", ".rdc")}
    reduced = range(10) if read_header(path).startswith(NITF_SIGNATURES) else ()
    wanted |= {f"{stem}.r{n}" for n in reduced for stem in (name, PurePath(name).stem)}
    sidecars = [other for key in sorted(wanted - {name}) for other in listing.get(key, ())]
    return [join_path(folder, other) for other in sidecars]


def _listing(path: str) -> Mapping[str, Sequence[str]] | None:
    """Return the sidecar files in the folder of ``path``, by their lower-case names.

    None on file systems without listings: GDAL must not look for sidecars there. An empty mapping
    if the folder cannot be read: there is nothing to check.
    """
    if is_remote(path):
        return None
    path = subdataset_file(path) or path
    try:
        if not path.startswith("/vsi"):
            folder = parent_folder(path)
            return _list_folder(folder, os.stat(folder).st_mtime_ns)
        if path.startswith("/vsigzip/") and not path.startswith("/vsigzip//vsi"):
            folder = parent_folder(path.removeprefix("/vsigzip")) or "/"
            return _list_folder(folder, os.stat(folder).st_mtime_ns)
        archive = re.fullmatch(r"/vsi(zip|tar)/(?!/?vsi|{)(.+)", path)
        file = archive and containing_archive(path)
        if not archive or not file or path.endswith(file):
            return None
        inside = path.removeprefix(f"/vsi{archive[1]}/").removeprefix(file).strip("/")
        names = _list_archive(archive[1], file, Path(file).stat().st_mtime_ns)
        return names.get(posixpath.dirname(inside), {})
    except (OSError, ValueError, zipfile.BadZipFile, tarfile.TarError):
        return {} if not path.startswith("/vsi") else None


@lru_cache(maxsize=16)
def _list_folder(folder: str, changed: int) -> dict[str, list[str]]:
    """Return the sidecar files in a local folder; ``changed`` makes the cache notice changes."""
    return _by_lower_name(os.listdir(folder))


@lru_cache(maxsize=16)
def _list_archive(kind: str, archive: str, changed: int) -> dict[str, dict[str, list[str]]]:
    """Return the sidecar files in each folder of an archive."""
    if kind == "zip":
        with zipfile.ZipFile(archive) as zipped:
            names = zip_names(zipped)
    else:
        with tarfile.open(archive) as tarred:
            names = tarred.getnames()
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, member = name.replace("\\", "/").removeprefix("./").rpartition("/")
        folders.setdefault(folder, []).append(member)
    return {folder: _by_lower_name(members) for folder, members in folders.items()}


def _by_lower_name(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of sidecar files by their lower-case names, as GDAL finds them."""
    sidecars: dict[str, list[str]] = {}
    for name in names:
        if _SIDECAR.search(name):
            sidecars.setdefault(name.lower(), []).append(name)
    return sidecars
