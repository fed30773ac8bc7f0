"""Product: a raster that georsr made, opened without a word: what to say, its source has said."""

from __future__ import annotations

import os

from georsr.raster.reader import RasterReader


def open_product(
    path: str | os.PathLike[str], *, bidx: tuple[int, ...] | None = None
) -> RasterReader:
    """Open a product, or its layers, for reading.

    Unlike `georsr.raster.reader.open_raster` it warns of nothing, and takes a band that says it is
    alpha for transparency: georsr writes no other.

    Parameters
    ----------
    path : str or path
    bidx : tuple of int, optional
        Band numbers from 1; default all but the alpha band.

    Raises
    ------
    UsageError
        Missing file, or bands that do not exist.
    InputError
        Not a raster, or damaged.
    """
    return RasterReader(os.fspath(path), bidx, force=True, alpha="mask")
