"""The one place that decides how GDAL is configured, and for how long."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rasterio
from rasterio.env import getenv, hasenv
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning

CACHE_BYTES = 64 * 2**20
"""Block cache while georsr reads or writes; GDAL's own default is 5 % of the machine's memory."""

_REMOTE = re.compile(r"^(?!file://)[a-z][a-z0-9+]*://|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs)")

# `warnings.catch_warnings` swaps process-wide state: two threads inside it at once can leave the
# filters of one of them behind for good.
_FILTERS = threading.RLock()


def is_remote(path: str) -> bool:
    """Whether ``path`` names something reached over a network."""
    return bool(_REMOTE.search(path.removeprefix("vrt://")))


def absolute(path: str) -> str:
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
def own_warnings() -> Iterator[None]:
    """Silence the warnings of rasterio for which georsr raises or warns in its own words."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", NodataShadowWarning)
        yield


def cause(err: BaseException) -> str:
    """One line: what GDAL said first, the deepest cause of ``err``."""
    while err.__cause__ is not None or err.__context__ is not None:
        err = err.__cause__ or err.__context__ or err
    return " ".join(str(err).split()) or type(err).__name__
