"""Block cache: how much of a source GDAL keeps decoded while rows of tiles are read from it.

A row of tiles is lower than a block of many files, so the next row wants the same blocks again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from rasterio.errors import RasterioError

from georsr.machine import memory_limit
from georsr.raster.drivers import image_drivers, open_with
from georsr.raster.env import CACHE_BYTES, is_remote, own_warnings

KEPT_ROWS = 1024
"""Rows that tiles read again soon, at most."""
SLOW = (".jp2", ".j2k", ".j2c", ".jpx", ".jpf")
"""Files of JPEG 2000, which is costly to decode again for every row of tiles."""
MOST, SHARE = 512 * 2**20, 8
"""Bytes that are kept of files that are slow to read, and the share of the memory, at most."""

_wanted: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_lock = threading.Lock()


def want(reader: object, size: int) -> None:
    """Note how many bytes a reader wants kept; none once it is closed."""
    with _lock:
        if size:
            _wanted[reader] = size
        else:
            _wanted.pop(reader, None)


def wanted_by_all() -> int:
    """What GDAL is to keep: all open readers of a process share its one cache."""
    with _lock:
        sizes = list(_wanted.values()) or [CACHE_BYTES]
    return max(max(sizes), min(sum(sizes), MOST))


def block_cache(dataset: Any, bands: Sequence[int]) -> int:
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
        wanted = 2 * (_block_height(slow) if virtual else _highest(dataset)) * row
        room = max(CACHE_BYTES, min(MOST, memory_limit() // SHARE))
        return int(max(CACHE_BYTES, wanted if wanted <= room else 0))
    if dataset.driver != "GTiff":  # others do not say truly how they are cut into blocks
        return CACHE_BYTES
    rows = KEPT_ROWS + 2 * _highest(dataset)
    return int(max(CACHE_BYTES // 4, min(CACHE_BYTES, rows * row)))


def _is_slow(path: str) -> bool:
    return is_remote(path) or PurePath(path).suffix.lower() in SLOW


def _highest(dataset: Any) -> int:
    return max(int(height) for height, _ in dataset.block_shapes)


def _block_height(path: str) -> int:
    try:
        with own_warnings(), open_with(path, image_drivers()) as dataset:
            return _highest(dataset)
    except (RasterioError, OSError):  # reading it will say why
        return 0
