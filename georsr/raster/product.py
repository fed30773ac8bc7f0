"""Product: a raster that georsr made, opened without a word: what to say, its source has said."""

from __future__ import annotations

import os
from collections.abc import Sequence

from georsr.raster.reader import RasterReader


def open_product(
    path: str | os.PathLike[str],
    *,
    bidx: tuple[int, ...] | None = None,
    allow_drivers: Sequence[str] = (),
) -> RasterReader:
    """Open a product, or its layers, for reading.

    Unlike `georsr.raster.reader.open_raster` it warns of nothing, and takes a band that says it is
    alpha for transparency: georsr writes no other.

    Parameters
    ----------
    path : str or path
    bidx : tuple of int, optional
        Band numbers from 1; default all but the alpha band.
    allow_drivers : sequence of str
        As for `georsr.raster.reader.open_raster`: ``VRT`` where its parts may lie in any folder.

    Raises
    ------
    UsageError
        Missing file, or bands that do not exist.
    InputError
        Not a raster, or damaged.
    """
    allowed = tuple(allow_drivers) or None
    return RasterReader(os.fspath(path), bidx, allow_drivers=allowed, force=True, alpha="mask")
