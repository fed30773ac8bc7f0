"""The one place that decides how GDAL is configured, and for how long.

Block cache: how much of a source GDAL keeps decoded while rows of tiles are read from it.

A row of tiles is lower than a block of many files, so the next row wants the same blocks again.
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
"""Block cache while georsr reads or writes; GDAL's own default is 5 % of the machine's memory."""

_REMOTE = re.compile(r"^(?!file://)[a-z][a-z0-9+]*://|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs)")

# `warnings.catch_warnings` swaps process-wide state: two threads inside it at once can leave the
# filters of one of them behind for good.
_FILTERS = threading.RLock()


def is_remote(path: str) -> bool:
    """Whether ``path`` names something reached over a network."""
    return bool(_REMOTE.search(path.removeprefix("vrt://")))


def absolute_path(path: str) -> str:
    """The name under which another process finds a file; what is no file keeps its name."""
    if not is_remote(path) and Path(path).exists():  # else it is no file: /vsizip and the like
        return str(Path(path).absolute())
    return path


def gdal_env(
    *, remote: bool = False, writing: bool = False, cache: int | None = CACHE_BYTES
) -> rasterio.Env:
    """Give the scoped GDAL environment for one operation; use it in a ``with`` statement.

    Entering and leaving costs some 25 microseconds, so every call into GDAL gets its own: the
    configuration is per thread and no thread inherits what another one set.

    Parameters
    ----------
    remote : bool
        The source is on a network: do not list folders, retry failed requests. An option the
        caller set in an enclosing ``rasterio.Env`` wins over these.
    writing : bool
        A product is written or verified: no ``.aux.xml`` is written or read (a stale one would
        be mixed into the product). Never for sources, whose ``.aux.xml`` may hold their CRS.
    cache : int or None
        Bytes of GDAL's block cache. There is one for all threads, and it is cut down as soon as one
        of them asks for less: None, where others may be reading, leaves it as it is.
    """
    options: dict[str, object] = {}
    if cache is not None:
        options["GDAL_CACHEMAX"] = cache  # rasterio hands an int on as bytes
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
        "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "NONE",  # heeded by GDAL 3.11 and later
        "GDAL_TIFF_INTERNAL_MASK": "YES",
    }
    if writing:
        options["GDAL_PAM_ENABLED"] = "NO"
    return rasterio.Env(**options)


@contextmanager
def suppress_rasterio_warnings() -> Iterator[None]:
    """Silence the warnings of rasterio for which georsr raises or warns in its own words."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", NodataShadowWarning)
        yield


def root_cause(err: BaseException) -> str:
    """One line: what GDAL said first, the deepest cause of ``err``."""
    while err.__cause__ is not None or err.__context__ is not None:
        err = err.__cause__ or err.__context__ or err
    return " ".join(str(err).split()) or type(err).__name__


CACHED_ROWS = 1024
"""Rows that tiles read again soon, at most."""
SLOW_FORMATS = (".jp2", ".j2k", ".j2c", ".jpx", ".jpf")
"""Files of JPEG 2000, which is costly to decode again for every row of tiles."""
MAX_CACHE_BYTES, CACHE_MEMORY_FRACTION = 512 * 2**20, 8
"""Bytes that are kept of files that are slow to read, and the share of the memory, at most."""

_cache_requests: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_CACHE_LOCK = threading.Lock()


def set_cache_request(reader: object, size: int) -> None:
    """Note how many bytes a reader wants kept; none once it is closed."""
    with _CACHE_LOCK:
        if size:
            _cache_requests[reader] = size
        else:
            _cache_requests.pop(reader, None)


def gdal_cachemax() -> int:
    """What GDAL is to keep: all open readers of a process share its one cache."""
    with _CACHE_LOCK:
        sizes = list(_cache_requests.values()) or [CACHE_BYTES]
    return max(max(sizes), min(sum(sizes), MAX_CACHE_BYTES))


def estimate_block_cache(dataset: Any, bands: Sequence[int]) -> int:
    """Bytes worth keeping of an open dataset.

    Of what is decoded slowly or comes over a network, alone or in a VRT, two rows of blocks are
    kept, as many as a row of tiles touches: the block that was used longest ago goes first, so
    with less each would be gone before it is wanted again. Of narrow GeoTIFFs less is kept than
    `CACHE_BYTES`: a tall raster is not to fill memory.

    Parameters
    ----------
    dataset
        Of rasterio.
    bands
        That are read, from 1.
    """
    virtual = dataset.driver == "VRT"
    # files of their own have blocks of their own; others are decoded all bands at once
    together = [dataset.dtypes[n - 1] for n in bands] if virtual else dataset.dtypes
    row = dataset.width * sum(np.dtype(dtype).itemsize for dtype in together)
    slow = next((name for name in dataset.files if _is_slow(name)), None)
    if slow is not None:
        wanted = 2 * (_block_height(slow) if virtual else _max_block_height(dataset)) * row
        room = max(CACHE_BYTES, min(MAX_CACHE_BYTES, memory_limit() // CACHE_MEMORY_FRACTION))
        return int(max(CACHE_BYTES, wanted if wanted <= room else 0))
    if dataset.driver != "GTiff":  # others do not say truly how they are cut into blocks
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
    except (RasterioError, OSError):  # reading it will say why
        return 0
