"""Refuse HDF5 and netCDF-4 files whose data lie in other files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from georsr.errors import InputError, UsageError
from georsr.raster.drivers import Trust
from georsr.raster.names import bytes_of, file_of_subdataset, one_line

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def check_hdf5(path: str, trust: Trust) -> None:
    """Refuse an HDF5 or netCDF-4 file that refers to other files; files of other formats pass.

    External data, external links and virtual data sets can name any file of the machine, whose
    bytes become pixels. GDAL has no switch against them (measured with GDAL 3.10), so the file is
    looked through with h5py.

    Parameters
    ----------
    path
        Of the file, or GDAL's name of a subdataset in it.
    trust

    Raises
    ------
    UsageError
        What it refers to.
    InputError
        It cannot be read.
    """
    file = file_of_subdataset(path) or path
    if "HDF5" in trust.extra:
        return
    try:
        with bytes_of(file) as handle:
            if handle is None or not _is_hdf5(handle):
                return
            import h5py

            with h5py.File(handle if file.startswith("/vsi") else file, "r") as content:
                elsewhere = next(_external_files(content), None)
    except Exception as error:  # h5py and the readers of archives raise what they like
        raise InputError(f"{file}: cannot be read as HDF5: {error}") from error
    if elsewhere is not None:
        raise UsageError(
            f"{file}: takes data from another file, {one_line(elsewhere)}; expected one that is "
            "complete by itself, as h5repack makes it; --allow-driver HDF5 if you trust it"
        )


def _is_hdf5(handle: Any) -> bool:
    """Return whether a file has the signature of HDF5, at its start or after a user block."""
    offset = 0
    while True:
        handle.seek(offset)
        start = handle.read(8)
        if start == _SIGNATURE:
            return True
        if len(start) < 8:
            return False
        offset = max(512, 2 * offset)


def _external_files(content: Any) -> Iterator[str]:
    """Yield the names of files that the data sets of an HDF5 file refer to."""
    import h5py

    groups, seen = [content], {content.id}
    while groups:
        group = groups.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield str(link.filename)
            if not isinstance(link, h5py.HardLink):
                continue  # a soft link leads to another name in this file
            item = group[name]
            if isinstance(item, h5py.Dataset):
                yield from (str(file) for file, *_ in item.external or ())
                if item.is_virtual:
                    yield from (source.file_name for source in item.virtual_sources())
            elif isinstance(item, h5py.Group) and item.id not in seen:
                seen.add(item.id)
                groups.append(item)
