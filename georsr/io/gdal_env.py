"""Configure GDAL for one operation: its drivers, the names of its file systems, its block cache.

GDAL has about 150 drivers. Some read any file or URL that a document names, and some write while
they read (MRF and WMS fill a cache). An untrusted image must not reach these, so only the drivers
listed here are used. The user may add drivers; an image cannot.

Many files have blocks that are higher than a row of tiles, so that the next row needs the same
blocks again. The block cache keeps them decoded.
"""

from __future__ import annotations

# ruff: noqa: PTH116, PTH118, PTH120, PTH123
# A mosaic may have 10,000 files, and pathlib would take longer than the checks
import ctypes
import gzip
import os
import posixpath
import re
import stat
import sys
import tarfile
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.env import (
    ensure_env_with_credentials,
    get_gdal_config,
    getenv,
    hasenv,
    set_gdal_config,
)
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from georsr.errors import InputError, UsageError
from georsr.system import memory_limit

_ARCHIVE = re.compile(r"^/vsi(zip|tar|gzip|7z|rar)/")
_SUBDATASET = re.compile(
    r'^(?:NETCDF|HDF5|BAG|GPKG|NITF_IM:\d+|GTIFF_DIR:(?:off:)?\d+):"?([^"]+?)"?'
    r'(?::[^"/\\]*|://[^"]*)?$',
    re.IGNORECASE,
)
_PROJ_FILE = re.compile(
    r'(grids|\bfile|\bmodel|\binit)\s*=\s*("[^"]*|[^\s"<]*)[/\\]|'
    r'PROJ4_GRIDS"\s*,\s*"[^"]*[/\\]|PARAMETERFILE\s*[\[(]\s*"([^"]|"")*"\s*,\s*"[^"]*[/\\]|'
    r'"value"\s*:\s*"[^"]*[/\\]|ref\. system\s*:[^\n]*[/\\]',
    re.IGNORECASE,
)
_CRS = re.compile(
    r"[A-Z]\w+\s*[\[(]|\w+:(CRS)?\d[\d+,.]*$|urn:[\w:.,-]+$|[{+]|\w+=|(WGS|NAD|CRS)\d\d$|"
    r"https?://(www\.)?opengis\.net/(def/crs/|gml/srs/epsg\.xml#)[\w./-]*$|$",
    re.IGNORECASE,
)
_DOCUMENT = re.compile(
    rb"<VRTDataset|<GDALTileIndexDataset|<Capabilities|<TileMap|<Dimap_Document|<(\w+:)?xfdu|"
    rb"<level1Product|<(\w+:)?product\b|<kml\b|Product_Observational|PDS_VERSION_ID|"
    rb"ODL_VERSION_ID|IsisCube|\^(IMAGE|QUBE|Core)|DatasetHeader\s+Begin|PCIDSK  |AuxilaryTarget|"
    rb"OziExplorer|NOHRSC GIS/RS|ACQUISITION DATE|NDF_REVISION|BSB/|"
    rb"^(\xef\xbb\xbf)?\s*(<[?!a-z][\x20-\x3b\x3d\x3f-\x7e\s]*>|\{\s*\"|\[\w+\]\s)",
    re.IGNORECASE,
)


def gdal_path(path: str) -> str:
    """Convert names of rasterio such as ``file://A`` and ``zip://A!B`` to names of GDAL."""
    for scheme in ("zip", "tar", "gzip"):
        if path.startswith(f"{scheme}://"):
            archive, _, inside = path.removeprefix(f"{scheme}://").partition("!")
            return f"/vsi{scheme}/{archive}/{inside.lstrip('/')}".rstrip("/")
    return path.removeprefix("file://")


def subdataset_file(name: str) -> str | None:
    """Return the file of a subdataset name such as ``NETCDF:"a.nc":band``; None for other names."""
    match = _SUBDATASET.match(name)
    return match[1] if match else None


def parent_folder(name: str) -> str:
    """Return the folder of a file, which may be a URL or lie in a virtual file system of GDAL."""
    if name.startswith("/vsi") or "://" in name:
        return name.rpartition("/")[0]
    return os.path.dirname(name) or "."


def join_path(folder: str, name: str) -> str:
    """Return the path of a file in a folder of any kind; an absolute name is returned unchanged."""
    if folder.startswith("/vsi") or "://" in folder:
        return posixpath.join(folder, name)
    return os.path.join(folder, name)


def containing_archive(name: str) -> str | None:
    """Return the local archive that contains a file of ``/vsizip/`` and the like, or None."""
    while _ARCHIVE.match(name):
        name = _ARCHIVE.sub("", name, count=1)
    if name.startswith("/vsi") or ".." in name.split("/"):
        return None
    path = Path(name)
    return next((str(part) for part in (path, *path.parents) if is_regular(str(part))), None)


def is_regular(name: str) -> bool:
    """Return whether a name is that of a regular local file."""
    try:
        return stat.S_ISREG(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


SENTINEL2 = "SENTINEL2"
"""Name of the driver that reads products of Sentinel-2."""
SENTINEL2_METADATA = re.compile(r"^(MTD_MSIL(1C|2A)|S2\w_\w{4}_MTD_SAFL(1C|2A)\w*)\.xml$")
"""Name of the metadata file of a product, since 2016 and before."""
SENTINEL2_SUBDATASET = re.compile(
    r"^SENTINEL2_L(1C|2A):(?P<metadata>.+):(?P<resolution>10|20|60)m:(?P<crs>EPSG_\d+)$"
)
"""GDAL's subdataset name of the bands of one resolution."""


def find_safe_metadata(path: str) -> str | None:
    """Return the path of the metadata of a Sentinel-2 product; None if ``path`` is not a product.

    A product is a SAFE folder, the metadata file in it, or a ``.zip`` archive of it.

    Raises
    ------
    InputError
        A SAFE folder has no metadata, or an archive is damaged.
    UsageError
        An archive holds no product or several.
    """
    location = Path(path)
    if SENTINEL2_METADATA.match(location.name) and (
        is_regular(path) or path.startswith("/vsi") or "://" in path
    ):
        return path
    if location.suffix.lower() == ".zip" and is_regular(path):
        return _find_in_archive(path)
    if not os.path.isdir(path):  # noqa: PTH112 (False for a name too long)
        return None
    names = sorted(
        child.name for child in location.iterdir() if SENTINEL2_METADATA.match(child.name)
    )
    if names:
        return str(location / names[0])
    other = re.match(r"S([13456])[A-Z_]", location.name)
    if other and location.suffix.upper() in (".SAFE", ".SEN3"):
        raise InputError(
            f"{path}: is a product of Sentinel-{other[1]}, expected one of Sentinel-2; name one of "
            "the rasters in it, such as measurement/*.tiff of Sentinel-1"
        )
    if location.suffix.upper() == ".SAFE":
        raise InputError(
            f"{path}: this SAFE folder has no MTD_MSIL1C.xml or MTD_MSIL2A.xml, expected in a "
            "product of Sentinel-2; download it again, or name one of the rasters in it"
        )
    return None


def _find_in_archive(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as an archive: {error}; it is damaged or incomplete, "
            "download it again"
        ) from error
    matches = [name for name in names if SENTINEL2_METADATA.match(PurePosixPath(name).name)]
    if len(matches) == 1:
        return f"/vsizip/{path}/{matches[0]}"
    if matches:
        raise UsageError(
            f"{path}: holds {len(matches)} products of Sentinel-2, expected one; name one of them, "
            f"such as /vsizip/{path}/{matches[0]}"
        )
    first = next((name for name in names if not name.endswith("/")), "NAME")
    raise UsageError(
        f"{path}: holds no product of Sentinel-2 (no MTD_MSIL1C.xml or MTD_MSIL2A.xml); name the "
        f"raster in it, such as /vsizip/{path}/{first}"
    )


@contextmanager
def open_bytes(file: str) -> Iterator[Any]:
    """Open a local file, or one in a local archive; yield None for other names."""
    if is_regular(file):
        with Path(file).open("rb") as handle:
            yield handle
        return
    kind, _, rest = file.removeprefix("/vsi").partition("/")
    archive = containing_archive(file) if kind in ("zip", "tar", "gzip") else None
    if archive is None or rest.startswith(("/vsi", "vsi")):
        yield None
        return
    inside = rest[rest.index(archive) + len(archive) :].strip("/")
    if kind == "gzip":
        with gzip.open(archive) as packed:
            yield packed
    elif kind == "zip":
        with (
            zipfile.ZipFile(archive) as zipped,
            zipped.open(_unique_member(inside, zip_names(zipped))) as member,
        ):
            yield member
    else:
        with tarfile.open(archive) as tarred:
            yield tarred.extractfile(_unique_member(inside, tarred.getnames()))


def zip_names(zipped: zipfile.ZipFile) -> list[str]:
    """Return the names in a ZIP archive; ValueError if GDAL may know a member by another name."""
    if any(b"\x75\x70" in member.extra for member in zipped.infolist()):
        raise ValueError("members of the archive have two names")  # Info-ZIP Unicode Path
    return zipped.namelist()


def _unique_member(name: str, names: Iterable[str]) -> str:
    """Return the member of an archive that GDAL may open as ``name``; there must be one."""
    matches = [other for other in names if _normalize_name(other) == _normalize_name(name)]
    if len(matches) != 1:
        raise ValueError(f"the archive holds {len(matches)} files of that name, expected 1")
    return matches[0]


def _normalize_name(name: str) -> str:
    return posixpath.normpath("/" + name.replace("\\", "/").lstrip("/")).casefold()


def read_header(name: str) -> bytes:
    """Return the first 1024 bytes of a local file, also in an archive; b"" if it is unreadable."""
    try:
        if not name.startswith("/vsi"):
            if not is_regular(name):
                return b""
            with open(name, "rb", buffering=0) as handle:
                return handle.read(1024)
        with open_bytes(name) as handle:
            return b"" if handle is None else bytes(handle.read(1024))
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError):
        return b""
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error):
        return b""


def is_sqlite_with_log(name: str) -> bool:
    """Return whether a file is an SQLite database with a write-ahead log."""
    start = read_header(name)
    if not start.startswith(b"SQLite format 3\0"):
        return False
    return 2 in start[18:20] or any(os.path.lexists(f"{name}{end}") for end in ("-wal", "-shm"))


def may_name_other_files(name: str) -> bool:
    """Return whether GDAL may read a file as a document that names other files.

    GDAL's drivers recognize a file by its first 1024 bytes. Those of an image without a signature,
    and the comment of a JPEG, may contain anything.
    """
    return _DOCUMENT.search(read_header(name)) is not None


def names_proj_file(text: str) -> bool:
    """Return whether the text of a CRS names a grid or another file of PROJ by its path."""
    return ("/" in text or "\\" in text) and _PROJ_FILE.search(text) is not None


def is_plain_crs(text: str) -> bool:
    """Return False for text that GDAL would open as a file or URL to read a CRS."""
    return _CRS.match(text.strip()) is not None and not names_proj_file(text)


def shorten(text: str) -> str:
    """Return text as one line of at most 120 characters, for messages."""
    line = " ".join(text.split())
    return line if len(line) <= 120 else f"{line[:117]}..."


IMAGE_DRIVERS = (
    "GTiff",
    "LIBERTIFF",
    "JP2OpenJPEG",
    "JP2ECW",
    "JP2KAK",
    "JP2MrSID",
    "JP2Lura",
    "PNG",
    "JPEG",
    "JPEGXL",
    "WEBP",
    "GIF",
    "BIGGIF",
    "BMP",
    "HEIF",
    "AVIF",
    "ECW",
    "MrSID",
    "HFA",
    "NITF",
    "netCDF",
    "HDF5",
    "HDF5Image",
    "BAG",
    "GRIB",
    "GPKG",
    "MBTiles",
    "ENVI",
    "EHdr",
    "AAIGrid",
    "AIG",
    "GSAG",
    "GSBG",
    "GS7BG",
    "SAGA",
    "RST",
    "BT",
    "DTED",
    "SRTMHGT",
    "USGSDEM",
    "XYZ",
)
"""Drivers that may read a source, if this GDAL has them.

Besides these, VRT reads files named ``.vrt`` after `georsr.io.vrt` has checked them, and
SENTINEL2 reads Sentinel-2 products. The formats are listed in docs/reference/formats.md.
"""
NETWORK_DRIVERS = (
    "GTiff",
    "JP2OpenJPEG",
    "JP2ECW",
    "JP2KAK",
    "JP2MrSID",
    "JP2Lura",
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BIGGIF",
    "NITF",
    "GRIB",
    "MBTiles",
)
"""Drivers that do not look for masks and overviews next to a file if an option is set (measured).

Only these read a file on a network or in an archive that cannot be listed, because its neighbours
cannot be checked.
"""


@cache
def registered_drivers() -> frozenset[str]:
    """Return the short names of the drivers of this GDAL."""
    with rasterio.Env() as env:
        return frozenset(env.drivers())


def image_drivers(extra: Sequence[str] = ()) -> list[str]:
    """Return the drivers that may read a source: `IMAGE_DRIVERS` and those the user allows.

    Raises
    ------
    UsageError
        This GDAL has no driver of a name in ``extra``.
    """
    known = registered_drivers()
    for name in extra:
        if name not in known:
            raise UsageError(
                f"--allow-driver {name}: this GDAL has no such driver; expected a short name such "
                "as VRT or Zarr, as `rio env --formats` lists them"
            )
    return [name for name in dict.fromkeys((*IMAGE_DRIVERS, *extra)) if name in known]


def network_drivers() -> list[str]:
    """Return the drivers of `NETWORK_DRIVERS` that this GDAL has."""
    return [name for name in NETWORK_DRIVERS if name in registered_drivers()]


@ensure_env_with_credentials  # type: ignore[untyped-decorator]
def open_with_drivers(path: str, drivers: Sequence[str]) -> DatasetReader:
    """Open a raster for reading with one of several drivers, which `rasterio.open` cannot.

    ``drivers`` has their short names. RasterioIOError is raised if none of them can read it.
    """
    return DatasetReader(path, driver=list(drivers))


@dataclass
class ReadPolicy:
    """Which formats may be read, and which files have been checked already."""

    extra_drivers: Sequence[str] = ()
    """GDAL drivers that the user allows beyond `IMAGE_DRIVERS`. With ``VRT`` among them, VRTs may
    have any name and refer to files anywhere on this machine."""
    checked: set[str] = field(default_factory=set)
    """Names of the files that have been checked."""
    real_paths: dict[str, str] = field(default_factory=dict)
    """Folder name -> its path with links resolved."""

    @property
    def trusts_vrt(self) -> bool:
        """Return whether the user trusts VRTs."""
        return "VRT" in self.extra_drivers


CACHE_BYTES = 64 * 2**20
"""Default size of the block cache; that of GDAL is 5 % of the machine's memory."""

_REMOTE = re.compile(r"^(?!file://)[a-z][a-z0-9+]*://|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs)")

# `warnings.catch_warnings` changes process-wide state: if two threads are inside it at once, the
# filters of one of them may never be removed.
_FILTERS = threading.RLock()


def is_remote(path: str) -> bool:
    """Return whether ``path`` is on a network."""
    return bool(_REMOTE.search(path.removeprefix("vrt://")))


def absolute_path(path: str) -> str:
    """Return the absolute path of a local file; other names are returned unchanged."""
    if not is_remote(path) and os.path.exists(path):  # noqa: PTH110 (not /vsizip/...)
        return str(Path(path).absolute())
    return path


VRT_POOL = 100
"""Files of a VRT that GDAL keeps open at once."""


def open_files_limit() -> int:
    """Return the number of files that this process may open (``ulimit -n``)."""
    if sys.platform == "win32":
        return 8192
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


_CACHE_LOCK = threading.Lock()
_cache_users, _cache_before = 0, 0


@contextmanager
def _restored_cache_size() -> Iterator[None]:
    """Restore the size of GDAL's block cache after the last of simultaneous operations.

    The size is that of the process. ``rasterio.Env`` restores what it has found, which may be the
    size that an operation in another thread has set.
    """
    global _cache_users, _cache_before
    with _CACHE_LOCK:
        if _cache_users == 0:
            _cache_before = get_gdal_config("GDAL_CACHEMAX")
        _cache_users += 1
    try:
        yield
    finally:
        with _CACHE_LOCK:
            _cache_users -= 1
            if _cache_users == 0 and get_gdal_config("GDAL_CACHEMAX") != _cache_before:
                set_gdal_config("GDAL_CACHEMAX", _cache_before)


@contextmanager
def gdal_env(
    *, remote: bool = False, writing: bool = False, cache: int | None = CACHE_BYTES
) -> Iterator[None]:
    """Set the GDAL environment for one operation, inside a ``with`` statement.

    The configuration is per thread, and a thread does not inherit that of another one. Entering and
    leaving takes about 25 microseconds, so each operation has its own environment.

    Parameters
    ----------
    remote : bool
        Whether the source is on a network. Folders are then not listed, and failed requests are
        retried. Options in an enclosing ``rasterio.Env`` take precedence.
    writing : bool
        Whether an output is written or verified. ``.aux.xml`` files are then neither written nor
        read, because an old one would change the output. The ``.aux.xml`` of a source may hold its
        CRS, so this must be False for sources.
    cache : int or None
        Size of GDAL's block cache in bytes. All threads share the cache, and a smaller size drops
        blocks at once. None leaves the size unchanged, for other threads than the reader's.
    """
    options: dict[str, object] = {}
    if cache is not None:
        options["GDAL_CACHEMAX"] = cache  # rasterio passes an int on as bytes
    if (limit := open_files_limit()) < 4 * VRT_POOL:
        options["GDAL_MAX_DATASET_POOL_SIZE"] = max(2, limit // 4)
    if remote:
        options |= {
            "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
            "GDAL_HTTP_MAX_RETRY": "3",
            "GDAL_HTTP_RETRY_DELAY": "0.5",
        }
    if hasenv():
        enclosing = getenv()
        options = {name: value for name, value in options.items() if name not in enclosing}
    options |= {
        "GDAL_VRT_ENABLE_PYTHON": "NO",
        "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "NONE",  # effective from GDAL 3.11 on
        "GDAL_TIFF_INTERNAL_MASK": "YES",
        # a whole PNG is otherwise read without noticing that the file ends early
        "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    }
    if writing:
        options["GDAL_PAM_ENABLED"] = "NO"
    keep = _restored_cache_size() if "GDAL_CACHEMAX" in options else nullcontext()
    with keep, rasterio.Env(**options):
        yield


@contextmanager
def suppress_rasterio_warnings() -> Iterator[None]:
    """Ignore those warnings of rasterio for which georsr issues its own warnings or errors."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", NodataShadowWarning)
        yield


@contextmanager
def silent_libtiff() -> Iterator[None]:
    """Suppress libtiff's own messages on stderr; GDAL raises the errors.

    GDAL handles the errors of files it opens, but libtiff's functions for writing report to a
    handler of the process, which prints them. If libtiff is not a separate library but part of
    GDAL, nothing is changed.
    """
    handlers = []
    with suppress(OSError):  # only Linux lists the loaded libraries
        loaded = Path("/proc/self/maps").read_text()
        for path in sorted(set(re.findall(r"/.*/libtiff[^/]*\.so[^/]*$", loaded, re.MULTILINE))):
            with suppress(OSError, AttributeError):
                handler = ctypes.CDLL(path).TIFFSetErrorHandler
                handler.restype, handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
                handlers.append((handler, handler(None)))
    try:
        yield
    finally:
        for handler, before in handlers:
            handler(before)


def root_cause(err: BaseException) -> str:
    """Return the message of the deepest cause of an error, usually GDAL's, as one line."""
    while err.__cause__ is not None or err.__context__ is not None:
        err = err.__cause__ or err.__context__ or err
    return " ".join(str(err).split()) or type(err).__name__


CACHED_ROWS = 1024
"""Largest number of rows that the next rows of tiles read again."""
SLOW_FORMATS = (".jp2", ".j2k", ".j2c", ".jpx", ".jpf")
"""Suffixes of JPEG 2000 files, which are slow to decode."""
MAX_CACHE_BYTES, CACHE_MEMORY_DIVISOR = 512 * 2**20, 8
"""Limits of the cache for slow files: bytes, and the divisor of the memory."""

cache_requests: WeakKeyDictionary[object, int] = WeakKeyDictionary()


def set_cache_request(reader: object, size: int) -> None:
    """Record how many bytes a reader needs in the cache; 0 when it is closed."""
    with _CACHE_LOCK:
        if size:
            cache_requests[reader] = size
        else:
            cache_requests.pop(reader, None)


def gdal_cachemax() -> int:
    """Return the size of the cache that all open readers of the process share."""
    with _CACHE_LOCK:
        sizes = list(cache_requests.values()) or [CACHE_BYTES]
    return max(max(sizes), min(sum(sizes), MAX_CACHE_BYTES))


def estimate_block_cache(dataset: Any, bands: Sequence[int]) -> int:
    """Estimate how many bytes of decoded blocks of a dataset to keep.

    For files that are slow to decode or on a network, alone or in a VRT, the cache holds two rows
    of blocks, as many as a row of tiles reads. GDAL drops the least recently used block first, so a
    smaller cache would drop each block before it is read again. Narrow GeoTIFFs get less than
    `CACHE_BYTES`, so that a tall raster does not fill memory. ``bands`` are numbers from 1.
    """
    virtual = dataset.driver == "VRT"
    # the sources of a VRT are decoded band by band, other files with all bands at once
    dtypes = [dataset.dtypes[n - 1] for n in bands] if virtual else dataset.dtypes
    row = dataset.width * sum(np.dtype(dtype).itemsize for dtype in dtypes)
    slow = next((name for name in dataset.files if _is_slow(name)), None)
    if slow is not None:
        two_rows = 2 * (_block_height(slow) if virtual else _max_block_height(dataset)) * row
        limit = max(CACHE_BYTES, min(MAX_CACHE_BYTES, memory_limit() // CACHE_MEMORY_DIVISOR))
        return int(max(CACHE_BYTES, two_rows if two_rows <= limit else 0))
    if dataset.driver != "GTiff":  # other drivers do not report their true blocks
        return CACHE_BYTES
    rows = CACHED_ROWS + 2 * _max_block_height(dataset)
    return int(max(CACHE_BYTES // 4, min(CACHE_BYTES, rows * row)))


def _is_slow(path: str) -> bool:
    return is_remote(path) or PurePath(path).suffix.lower() in SLOW_FORMATS


def _max_block_height(dataset: Any) -> int:
    return max(int(height) for height, _ in dataset.block_shapes)


def _block_height(path: str) -> int:
    try:
        with suppress_rasterio_warnings(), open_with_drivers(path, image_drivers()) as dataset:
            return _max_block_height(dataset)
    except (RasterioError, OSError):  # reading the file raises an error later
        return 0


@cache
def wgs84() -> CRS:
    """Return EPSG:4326; not a constant, because it needs the database of PROJ."""
    return CRS.from_epsg(4326)
