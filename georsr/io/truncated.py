"""Find files that do not hold what their header says, in formats whose pixels GDAL makes up.

GDAL reports an early end of GeoTIFF, JPEG 2000 and most other files itself.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import IO, Any

from georsr.errors import InputError
from georsr.io.gdal_env import subdataset_file

RAW_DRIVERS = ("ENVI", "EHdr")
FIRST_BYTES = {
    b"PCIDSK": "PCIDSK",
    b"Object = IsisCube": "ISIS",
    b"LBLSIZE=": "VICAR",
    b"RSW\0": "RMF",
    b"MTW\0": "RMF",
    b"<?xml": "XML",
    b"\x89HDF": "HDF5",
}
"""First bytes of a file -> its format. With the header of a raw raster beside it, GDAL takes the
file for that raster."""
SQLITE_DRIVERS = ("GPKG", "MBTiles")
NETCDF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
"""Type of netCDF classic -> bytes of a value."""
MAX_SKIPPED = 2**24
"""Bytes of a name or attribute in a netCDF header, at most."""


def check_complete(dataset: Any, path: str) -> None:
    """Raise an error if a file on this machine does not hold what its header says.

    Parameters
    ----------
    dataset
        Open rasterio dataset.
    path
        GDAL's name of the raster.

    Raises
    ------
    InputError
        The file is too short, or of another format than that of the header beside it.
    """
    file = Path(subdataset_file(path) or path)
    try:
        actual = file.stat().st_size
        expected = _expected_bytes(dataset, file)
        kind = _other_format(file) if dataset.driver in RAW_DRIVERS else None
    except (OSError, ValueError, EOFError, struct.error):  # no file here, or a damaged header
        return
    if actual < expected:
        raise InputError(
            f"{path}: the file is incomplete: it has {actual:,} bytes, its header describes "
            f"{expected:,}; copy or download it again"
        )
    if kind is not None:
        raise InputError(
            f"{path}: this is a file of the format {kind}, expected the plain numbers that the "
            f"header beside it describes; convert it: gdal_translate -of GTiff {file.name} out.tif"
        )


def _other_format(file: Path) -> str | None:
    """Return the format that the first bytes of a file tell; None if they tell none."""
    with file.open("rb") as source:
        start = source.read(max(map(len, FIRST_BYTES)))
    return next((name for magic, name in FIRST_BYTES.items() if start.startswith(magic)), None)


def _expected_bytes(dataset: Any, file: Path) -> int:
    """Return how many bytes a file has at least; 0 for formats that are not looked at."""
    if dataset.driver in RAW_DRIVERS:
        return _raw_bytes(dataset)
    with file.open("rb") as source:
        if dataset.driver in SQLITE_DRIVERS:
            return _sqlite_bytes(source.read(100))
        if dataset.driver == "netCDF":
            return _netcdf_bytes(source)
        if dataset.driver == "JPEG" and dataset.dtypes[0] != "uint8":
            content = source.read()
            end_is_missing = content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")
            return len(content) + 2 * end_is_missing
    return 0


def _raw_bytes(dataset: Any) -> int:
    if dataset.tags(ns="ENVI").get("file_compression", "0") != "0":
        return 0
    offset = dataset.tags(ns="ENVI").get("header_offset", "0")
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "")
    per_value = int(bits) if bits.isdecimal() else 8 * _item_size(dataset.dtypes[0])
    values: int = dataset.width * dataset.height * dataset.count
    return (int(offset) if offset.isdecimal() else 0) + values * per_value // 8


def _item_size(dtype: str) -> int:
    return int("".join(filter(str.isdecimal, dtype)) or 8) // 8


def _sqlite_bytes(header: bytes) -> int:
    """Return pages times their size, from https://sqlite.org/fileformat.html, section 1.3."""
    page, changes, pages, valid_for = (
        *struct.unpack(">H", header[16:18]),
        *struct.unpack(">II", header[24:32]),
        *struct.unpack(">I", header[92:96]),
    )
    return (65536 if page == 1 else page) * pages if changes == valid_for else 0


def _netcdf_bytes(source: IO[bytes]) -> int:
    """Return where the last value of a netCDF classic file ends.

    The header is that of https://docs.unidata.ucar.edu/nug/current/file_format_specifications.html.
    """
    magic = source.read(4)
    if magic[:3] != b"CDF" or magic[3] not in (1, 2, 5):
        return 0
    header = _NetcdfHeader(source, version=magic[3])
    records = header.number()
    lengths = []
    for _ in header.items():
        header.skip(header.number())
        lengths.append(header.number())
    header.skip_attributes()
    end, record_end, record = 0, 0, 0
    for _ in header.items():
        header.skip(header.number())
        shape = [lengths[header.number() % len(lengths)] for _ in range(header.number())]
        header.skip_attributes()
        size = header.item_size()
        header.number()
        begin = header.offset()
        if shape and shape[0] == 0:  # its values lie in the records
            size *= math.prod(shape[1:])
            record_end = max(record_end, begin + size)
            record += size
        else:
            end = max(end, begin + size * math.prod(shape))
    if record and 0 < records < header.streaming:
        end = max(end, record_end + (records - 1) * record)
    return end


class _NetcdfHeader:
    """Reads the fields of a netCDF classic header, one after another."""

    def __init__(self, source: IO[bytes], version: int) -> None:
        self._source = source
        self._number = ">Q" if version == 5 else ">I"
        self._offset = ">I" if version == 1 else ">Q"
        self.streaming = 2 ** (8 * struct.calcsize(self._number)) - 1
        """Number of records that stands for: not known."""

    def _unpack(self, form: str) -> int:
        value: int = struct.unpack(form, self._source.read(struct.calcsize(form)))[0]
        return value

    def number(self) -> int:
        return self._unpack(self._number)

    def offset(self) -> int:
        return self._unpack(self._offset)

    def item_size(self) -> int:
        return NETCDF_SIZES.get(self._unpack(">I"), 1)

    def items(self) -> range:
        """Read the head of a list; returns a range over its items."""
        self._unpack(">I")
        return range(self.number())

    def skip(self, size: int) -> None:
        """Skip bytes, filled up to a multiple of four."""
        size = -(-size // 4) * 4
        if size > MAX_SKIPPED or len(self._source.read(size)) < size:
            raise EOFError

    def skip_attributes(self) -> None:
        for _ in self.items():
            self.skip(self.number())
            size = self.item_size()
            self.skip(size * self.number())
