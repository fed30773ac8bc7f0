"""Configure GDAL for one operation, and size its block cache for the open readers.

Many files have blocks that are higher than a row of tiles, so that the next row needs the same
blocks again. The block cache keeps them decoded.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import rasterio
from rasterio.env import getenv, hasenv
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError

from georsr.io.drivers import image_drivers, open_with_drivers
from georsr.system import memory_limit

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
    if not is_remote(path) and Path(path).exists():  # not a name such as /vsizip/...
        return str(Path(path).absolute())
    return path


def gdal_env(
    *, remote: bool = False, writing: bool = False, cache: int | None = CACHE_BYTES
) -> rasterio.Env:
    """Return the GDAL environment for one operation, to be used in a ``with`` statement.

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
        blocks at once. None leaves the size unchanged, for threads beside a reader.
    """
    options: dict[str, object] = {}
    if cache is not None:
        options["GDAL_CACHEMAX"] = cache  # rasterio passes an int on as bytes
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
    }
    if writing:
        options["GDAL_PAM_ENABLED"] = "NO"
    return rasterio.Env(**options)


@contextmanager
def suppress_rasterio_warnings() -> Iterator[None]:
    """Ignore those warnings of rasterio for which georsr issues its own warnings or errors."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", NodataShadowWarning)
        yield


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

_cache_requests: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_CACHE_LOCK = threading.Lock()


def set_cache_request(reader: object, size: int) -> None:
    """Record how many bytes a reader needs in the cache; 0 when it is closed."""
    with _CACHE_LOCK:
        if size:
            _cache_requests[reader] = size
        else:
            _cache_requests.pop(reader, None)


def gdal_cachemax() -> int:
    """Return the size of the cache that all open readers of the process share."""
    with _CACHE_LOCK:
        sizes = list(_cache_requests.values()) or [CACHE_BYTES]
    return max(max(sizes), min(sum(sizes), MAX_CACHE_BYTES))


def estimate_block_cache(dataset: Any, bands: Sequence[int]) -> int:
    """Estimate how many bytes of decoded blocks of a dataset to keep.

    For files that are slow to decode or on a network, alone or in a VRT, the cache holds two rows
    of blocks, as many as a row of tiles reads. GDAL drops the least recently used block first, so a
    smaller cache would drop each block before it is read again. Narrow GeoTIFFs get less than
    `CACHE_BYTES`, so that a tall raster does not fill memory.

    Parameters
    ----------
    dataset
        Open rasterio dataset.
    bands
        Numbers of the bands that are read, from 1.
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
