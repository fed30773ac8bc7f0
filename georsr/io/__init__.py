"""Read rasters: one, or several as a mosaic."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from georsr._files import is_hidden, read_list
from georsr.errors import GeorsrWarning, UsageError

if TYPE_CHECKING:
    from georsr.io.metadata import SourceNodata
    from georsr.io.reader import RasterReader

SUFFIXES = (".tif", ".tiff", ".jp2", ".j2k", ".img", ".ntf", ".vrt")
"""Suffixes of the files in a folder that are read as rasters."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
"""Suffixes that are read, too, if a folder has nothing else: beside rasters they are previews."""
BY_NAME = (".nc", ".h5", ".hdf", ".grib", ".grb", ".gpkg", ".mbtiles", ".jxl", ".zip", ".safe")
"""Suffixes of further rasters, archives and products, which are read if they are named."""
MAX_NAMED = 8
"""Largest number of files that a warning names."""


def open_sources(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    indexes: Sequence[int] | None = None,
    nodata: SourceNodata = None,
    allow_drivers: Sequence[str] | None = None,
    force: bool = False,
    alpha: str = "auto",
    stack: bool = False,
) -> RasterReader:
    """Open one raster, or several as a mosaic.

    Parameters
    ----------
    sources : path or sequence of paths
        Rasters, folders of rasters, or ``@FILE`` for a text file with one path per line.
    indexes, nodata, allow_drivers, force, alpha
        As for `open_raster`.
    stack : bool
        Read several rasters on one grid as the bands of one raster instead of a mosaic.

    Raises
    ------
    UsageError
        A file is missing, or the rasters are not on one grid or differ in other properties.
    InputError
        A file is not a raster, or is damaged.
    """
    paths = expand_sources(sources)
    if len(paths) > 1:
        from georsr.io.mosaic import open_mosaic  # most sources are one raster

        return open_mosaic(paths, indexes, nodata, allow_drivers, alpha, stack)
    from georsr.io.reader import open_raster  # importing the package opens nothing

    return open_raster(
        paths[0],
        indexes=indexes,
        nodata=nodata,
        allow_drivers=allow_drivers,
        force=force,
        alpha=alpha,
    )


def expand_sources(sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the paths of the rasters in ``sources``, which `open_sources` describes.

    Raises
    ------
    UsageError
        There is none, or a list of files does not exist.
    """
    source_list = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    named = [os.fspath(source) for source in source_list]
    paths = [path for source in named for path in _expand(source, named)]
    if not paths:
        raise UsageError("no input raster; name at least one file")
    return paths


def _expand(source: str, named: Sequence[str]) -> list[str]:
    """Return the paths of a raster, a folder of rasters or a list of files.

    Nothing is said of files in a folder that are among ``named`` themselves.
    """
    if source.startswith("@"):
        return read_list(Path(source[1:]))
    folder = Path(source)
    if not os.path.isdir(folder):  # noqa: PTH112 (False for a name too long)
        return [source]
    entries = sorted(path for path in folder.iterdir() if not is_hidden(path, folder))
    files = [path for path in entries if path.is_file()]
    from georsr.io.gdal_env import find_safe_metadata  # training on images needs no GDAL

    product = find_safe_metadata(source)  # the picture in it is a quicklook
    for suffixes in (SUFFIXES,) if product else (SUFFIXES, PICTURES):
        if rasters := [path for path in files if path.suffix.lower() in suffixes]:
            known = {*rasters, *map(Path, named)}
            _warn_of_left_out(source, [path for path in entries if path not in known])
            return [str(path) for path in rasters]
    if not entries:
        raise UsageError(f"no raster in folder {source}: it is empty")
    return [source]


def _warn_of_left_out(folder: str, paths: Sequence[Path]) -> None:
    """Warn of files and folders that would be read if they were named."""
    left_out = [path for path in paths if path.suffix.lower() in PICTURES + BY_NAME]
    left_out += [
        path for path in paths if any(child.suffix.lower() in SUFFIXES for child in path.glob("*"))
    ]
    if not left_out:
        return
    names = [path.name for path in left_out]
    if len(names) > MAX_NAMED:
        names[MAX_NAMED:] = [f"and {len(names) - MAX_NAMED} more"]
    warnings.warn(
        f"{folder}: {len(left_out)} left out beside its rasters: {', '.join(names)}; pictures "
        "there are usually previews, other formats and folders are not searched; to super-resolve "
        f"one, name it: {left_out[0]}",
        GeorsrWarning,
        stacklevel=2,
    )
