"""Trying a layout out in memory before any work is done."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError

from georsr.errors import UsageError
from georsr.raster.env import cause, gdal_env, own_warnings

if TYPE_CHECKING:
    from georsr.raster.layout import ProductLayout


def rehearse(layout: ProductLayout) -> None:
    """Make a tiny product in memory, so that GDAL refuses now what it would refuse later.

    GDAL only warns about unknown options and values and goes on without them.
    """
    stem = f"/vsimem/georsr-{secrets.token_hex(8)}"
    paths = [f"{stem}.tif", f"{stem}.cog.tif"]
    profile = layout.profile() | {"width": 16, "height": 16}
    with gdal_env(writing=True), own_warnings(), _gdal_warnings() as said:
        try:
            with rasterio.open(paths[0], "w", **profile) as dataset:
                layout.describe(dataset)
                dataset.write(np.zeros((layout.count, 16, 16), layout.dtype))
            if layout.cog_options is not None:
                rasterio.shutil.copy(paths[0], paths[1], driver="COG", **layout.cog_options)
        except (RasterioError, OSError, ValueError, TypeError) as err:
            raise _refused(cause(err)) from err
        except Exception as err:
            if not type(err).__name__.startswith("CPLE_"):
                raise
            raise _refused(cause(err)) from err
        finally:
            for path in paths:
                if rasterio.shutil.exists(path):
                    rasterio.shutil.delete(path)
    if said:
        raise _refused(said[0])


def _refused(why: str) -> UsageError:
    return UsageError(f"the product cannot be written like this: {why}; check creation options")


@contextmanager
def _gdal_warnings() -> Iterator[list[str]]:
    """Collect what GDAL says about creation options on this thread; rasterio only logs it."""
    said: list[str] = []
    me = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.thread == me and ("NotSupported" in text or "IllegalArg" in text):
                said.append(text)

    logger = logging.getLogger("rasterio._env")
    collector, level = Collector(logging.WARNING), logger.level
    logger.addHandler(collector)
    if not logger.isEnabledFor(logging.WARNING):
        logger.setLevel(logging.WARNING)
    try:
        yield said
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
