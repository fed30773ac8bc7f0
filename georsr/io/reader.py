"""Reading windows of a source raster, with the validity of every pixel.

Opening a source, and saying clearly why one cannot be opened or read.

Product: a raster that georsr made, opened without a word: what to say, its source has said.
"""

from __future__ import annotations

import copy
import os
import posixpath
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from georsr.errors import (
    BandWarning,
    GeoreferenceWarning,
    GeorsrError,
    GeorsrWarning,
    InputError,
    RadiometryWarning,
    UsageError,
)
from georsr.io.drivers import (
    NETWORK_DRIVERS,
    ReadPolicy,
    gdal_path,
    image_drivers,
    is_sqlite_with_log,
    open_with_drivers,
    read_header,
    subdataset_file,
)
from georsr.io.gdal_env import (
    CACHE_BYTES,
    absolute_path,
    estimate_block_cache,
    gdal_cachemax,
    gdal_env,
    root_cause,
    set_cache_request,
    suppress_rasterio_warnings,
)
from georsr.io.metadata import RasterInfo, describe, has_own_mask
from georsr.io.sampling import (
    MAX_DECIMATION,
    MAX_PIXELS,
    decimated_shape,
    sample_windows,
    sample_windows_in,
)
from georsr.io.sentinel2 import (
    DRIVER,
    SUBDATASET,
    check_band_files,
    check_image_files,
    find_safe_metadata,
    open_safe,
)
from georsr.io.sidecars import check_dataset, check_hdf5, check_sidecars, has_sidecars
from georsr.io.vrt import union_area, vrt_dst_windows
from georsr.io.vrt_sources import open_vrt
from georsr.radiometry.nodata import is_nodata
from georsr.window import AnyArray, BoolArray, PixelBlock, PixelSample, Window

_MISSING = re.compile(
    r"No such file or directory|does not exist in the file system|HTTP response code: 404"
)
# NETCDF:"a.nc":band, GTIFF_DIR:1:a.tif: two capitals at least, so that C: stays a drive
_SUBDATASET = re.compile(r"^[A-Z][A-Z0-9_]+:")
_TIFF = (".tif", ".tiff")
_DOCUMENTS = (
    (b"<VRTDataset", "VRT", "VRT"),
    (b"<MRF_META", "MRF", "MRF"),
    (b"<GDAL_WMS", "WMS", "WMS"),
    (b"<GDALTileIndexDataset", "GTI", "tile index (GTI)"),
)
"""What a document begins with, and the driver that would follow it."""


def open_source(path: str, allow_drivers: Sequence[str] | None = None) -> Any:
    """Open ``path`` for reading and give the rasterio dataset; the caller closes it.

    A product of Sentinel-2 (SAFE folder, its metadata, or an archive of it) is opened as one raster
    of its bands of 10 m and 20 m: see `georsr.io.sentinel2`.

    Only formats that refer to no other file are read (`georsr.io.drivers`), and a VRT, which
    must be called ``.vrt``, after its document and all its files have been checked
    (`georsr.io.vrt_sources`). A ``.tif`` is only ever given to the GeoTIFF driver.

    Parameters
    ----------
    path : str
        A file, an address, a name of GDAL's virtual file systems, or a subdataset.
    allow_drivers : sequence of str, optional
        Further GDAL drivers that may read it. ``VRT``: a VRT is trusted, under any name, and its
        files may lie anywhere on this machine.

    Raises
    ------
    UsageError
        Nothing is there, or it would make GDAL read what was not asked for.
    InputError
        Something is there, but it is not a readable raster.
    """
    policy = ReadPolicy(tuple(allow_drivers or ()))
    drivers = image_drivers(policy.extra_drivers)
    metadata = find_safe_metadata(path)
    if metadata is not None:
        return open_safe(path, metadata)
    name = gdal_path(path)
    if part := SUBDATASET.match(path):
        check_image_files(part["metadata"])
    check_sidecars(name, policy)
    try:
        if _is_vrt(name, policy):
            dataset = _open_vrt(name, policy)
        else:
            _check_kind(path, name, policy)
            with suppress_rasterio_warnings():
                dataset = open_with_drivers(path, _drivers_for(name, drivers, policy))
    except (RasterioError, ValueError, OSError) as error:
        if isinstance(error, GeorsrError):
            raise
        raise _open_error(path, error, policy) from error
    try:
        check_dataset(dataset, name, policy)
        if part:
            check_band_files(path, [dataset])
    except BaseException as error:
        dataset.close()
        if isinstance(error, RasterioError):
            raise InputError(f"{path}: cannot be read: {root_cause(error)}") from error
        raise
    return dataset


def _is_vrt(name: str, policy: ReadPolicy) -> bool:
    if name.startswith("vrt://") or _suffix(name) == ".vrt":
        return True
    return policy.trusts_vrt and read_header(name).lstrip().startswith(b"<VRTDataset")


def _open_vrt(name: str, policy: ReadPolicy) -> Any:
    """Open a VRT, or ``vrt://FILE?OPTIONS``, whose file is opened by itself first."""
    if not name.startswith("vrt://"):
        return open_vrt(name, policy)
    file, _, options = name.removeprefix("vrt://").partition("?")
    if re.search(r"(^|&)sd(_name)?=", options, re.IGNORECASE):  # which a file may name elsewhere
        raise UsageError(f"{name}: has the option sd, expected the name of the subdataset itself")
    open_source(file, policy.extra_drivers).close()
    with suppress_rasterio_warnings():
        return rasterio.open(name, driver="VRT")


def _check_kind(path: str, name: str, policy: ReadPolicy) -> None:
    """Refuse what is not to be opened at all: pipes and devices, HDF5 with external data."""
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError):
        mode = 0
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is a pipe or a device, expected a file")
    if policy.extra_drivers or _suffix(name) not in _TIFF:
        check_hdf5(name, policy)
    if "GPKG" not in policy.extra_drivers and is_sqlite_with_log(subdataset_file(name) or name):
        raise InputError(
            f"{path}: is a database of SQLite in WAL mode, which cannot be read without writing "
            f"beside it; turn that off first: sqlite3 {path} 'PRAGMA journal_mode=DELETE'"
        )


def _drivers_for(name: str, drivers: list[str], policy: ReadPolicy) -> list[str]:
    if SUBDATASET.match(name):
        return ["SENTINEL2"]
    if _suffix(name) in _TIFF:
        return ["GTiff", *(driver for driver in policy.extra_drivers if driver != "GTiff")]
    if not has_sidecars(name):
        return [name for name in drivers if name in NETWORK_DRIVERS or name in policy.extra_drivers]
    return drivers


def _suffix(path: str) -> str:
    if _SUBDATASET.match(path) or path.startswith("vrt://"):
        return ""
    return Path(path.split("?", 1)[0]).suffix.lower()


def _open_error(path: str, err: Exception, policy: ReadPolicy) -> Exception:
    said = root_cause(err)
    if isinstance(err, UnicodeEncodeError):
        return UsageError(f"{path}: its name is not UTF-8, which rasterio needs; rename the file")
    if _MISSING.search(said):
        return UsageError(f"{path}: no such file")
    try:
        if Path(path).is_dir():
            return InputError(f"{path}: is a directory, not a raster that GDAL can read")
        if Path(path).is_file():
            start = read_header(path)
            if not start:
                with Path(path).open("rb") as file:  # says why it cannot be read
                    if not file.read(1):
                        return InputError(f"{path}: the file is empty")
            if path.lower().endswith(".vrt"):
                return InputError(f"{path}: cannot be read: {said}")
            _refuse_document(path, start, policy)
    except OSError as reason:
        return InputError(f"{path}: cannot be read: {reason.strerror or reason}")
    return InputError(
        f"{path}: not a raster of a format that georsr reads: {said}; other formats of GDAL are "
        "read with --allow-driver NAME"
    )


def _refuse_document(path: str, start: bytes, policy: ReadPolicy) -> None:
    """Refuse a file that begins as a document of GDAL which names other files."""
    for mark, driver, what in _DOCUMENTS:
        if mark in start and driver not in policy.extra_drivers:
            raise UsageError(
                f"{path}: is a {what} document under another name; it could point at any file or "
                f"address. Use --allow-driver {driver} if you trust it"
            )


_DRIVERS_OF_POOL = ("VRT", DRIVER)
_UNREADABLE: set[str] = set()
"""Rasters of these drivers that could not be read once, and their files.

GDAL keeps a file of a VRT that it failed to open, with the failure, in a pool that lives as long as
any VRT is open in the process. Every later read of it, of whatever VRT, gives zeros and no error
(measured with GDAL 3.10).
"""
MAX_UNCOVERED_FRACTION = 1e-3
"""Share of a VRT that may lie between its files: of a pixel, where these are not of its grid."""


class RasterReader:
    """A source raster; made by `open_raster`.

    It pickles as path and options and opens the file again where it is unpickled, at the first
    read. Read from one thread per instance. Nothing is ever written beside the source.

    Attributes
    ----------
    info : RasterInfo
        The raster and the selected bands.
    """

    info: RasterInfo

    def __init__(
        self,
        path: str,
        indexes: tuple[int, ...] | None = None,
        nodata: float | None = None,
        allow_drivers: tuple[str, ...] | None = None,
        force: bool = False,
        alpha: str = "auto",
    ) -> None:
        self._options = (path, indexes, nodata, allow_drivers, force, alpha)
        self._remote = not has_sidecars(gdal_path(path))
        self._dataset: Any = None
        self._mask_bands: tuple[int, ...] = ()
        self._one_mask = False
        self._cache = CACHE_BYTES
        self.info = self._open()

    @property
    def cache(self) -> int:
        """Bytes of decoded blocks that GDAL may keep while it is read."""
        return self._cache

    @cache.setter
    def cache(self, size: int) -> None:
        self._cache = size
        set_cache_request(self, size)

    def _open(self) -> RasterInfo:
        with gdal_env(remote=self._remote):
            dataset = self._open_dataset()
            try:
                self._check_files_of_pool(dataset)
                info = self._describe(dataset)
                with suppress_rasterio_warnings():
                    flags = dataset.mask_flag_enums
                self.cache = estimate_block_cache(dataset, info.indexes)
            except BaseException as error:
                dataset.close()
                if isinstance(error, GeorsrError) or not isinstance(error, Exception):
                    raise
                # GDAL's own errors, which are none of rasterio's here
                raise InputError(
                    f"{self._options[0]}: cannot be read: {root_cause(error)}"
                ) from error
        self._dataset = dataset
        # Files with a mask of their own for all bands answer the same for each: one is read
        masked = [n for n in info.indexes if has_own_mask(flags[n - 1])]
        shared = all(MaskFlags.per_dataset in flags[number - 1] for number in masked)
        self._one_mask = shared and len(masked) == info.count
        self._mask_bands = tuple(masked[:1] if self._one_mask else masked)
        return info

    def _check_files_of_pool(self, dataset: Any) -> None:
        """Read a pixel of a VRT of one file: asking for overviews opens it and hides its errors."""
        self._refuse_unreadable(dataset)
        if dataset.driver != "VRT":
            return
        document = dataset.tags(ns="xml:VRT").get("xml:VRT", "")
        if document.count("<DstRect") > dataset.count:  # GDAL asks none of several files
            return
        places = vrt_dst_windows(document)
        top, left = (places[0].top, places[0].left) if places else (0, 0)
        try:
            for number in dataset.indexes:
                dataset.read(number, window=((top, top + 1), (left, left + 1)))
        except RasterioError as error:
            self._remember_unreadable(dataset, error)
            raise

    def _remember_unreadable(self, dataset: Any, error: Exception) -> None:
        """Remember a raster and the files that an error names, or all of them; `_UNREADABLE`."""
        if dataset.driver in _DRIVERS_OF_POOL:
            files, cause = dataset.files, root_cause(error)
            named = [file for file in files if posixpath.basename(file) in cause]
            _UNREADABLE.update((self._options[0], *(named or files)))

    def _refuse_unreadable(self, dataset: Any) -> None:
        """Refuse a raster of which GDAL would give zeros; see `_UNREADABLE`."""
        path = self._options[0]
        if not _UNREADABLE or dataset.driver not in _DRIVERS_OF_POOL:
            return
        if not _UNREADABLE.isdisjoint((path, *dataset.files)):
            raise InputError(
                f"{path}: a file of it could not be read before, and GDAL does not open it again "
                "in this process; mend the file, then start a new process or worker"
            )

    def _open_dataset(self) -> Any:
        return open_source(self._options[0], self._options[3])

    def _describe(self, dataset: Any) -> RasterInfo:
        path, indexes, nodata, _, force, alpha = self._options
        try:
            return describe(dataset, path, indexes, nodata, force=force, alpha=alpha)
        except (RasterioError, ValueError, OSError) as error:
            if isinstance(error, GeorsrError):
                raise
            raise InputError(
                f"{path}: cannot be read: {root_cause(error)}; it is damaged"
            ) from error

    def _get_dataset(self) -> Any:
        if self._dataset is None:
            now = self._open()
            then = self.info
            if (now.width, now.height, now.dtype) != (then.width, then.height, then.dtype):
                self.close()
                raise InputError(
                    f"{then.path}: has changed since it was first opened: "
                    f"{now.width} x {now.height} {now.dtype}, "
                    f"was {then.width} x {then.height} {then.dtype}; start again"
                )
        return self._dataset

    def read(self, window: Window) -> PixelBlock:
        """Read the selected bands.

        Parameters
        ----------
        window : Window
            Inside the raster.

        Raises
        ------
        InputError
            A block of the file is missing or damaged.
        ValueError
            The window is empty or reaches outside the raster.
        """
        if (
            min(window.height, window.width) < 1
            or min(window.top, window.left) < 0
            or window.bottom > self.info.height
            or window.right > self.info.width
        ):
            raise ValueError(
                f"{self.info.path}: {window} is not inside the raster of "
                f"{self.info.height} rows and {self.info.width} columns"
            )
        return self._read(window, (window.height, window.width))

    def sample(self, max_pixels: int = MAX_PIXELS) -> PixelSample:
        """Pixels spread over the whole raster, the same ones at every call.

        A raster of at most ``max_pixels`` is read whole. A larger one is read from an overview,
        or decimated if it is small enough to be decoded whole; otherwise a regular grid of small
        windows at full resolution stands for it.

        Parameters
        ----------
        max_pixels : int
            Most pixels per band in the sample.
        """
        height, width = self.info.height, self.info.width
        whole = Window(0, 0, height, width)
        if height * width <= max_pixels:
            patches = [self.read(whole)]
        elif self.info.overviews or height * width <= MAX_DECIMATION * max_pixels:
            patches = [self._read(whole, decimated_shape(height, width, max_pixels))]
        else:
            patches = [self.read(window) for window in self._sample_windows(max_pixels)]
        count = self.info.count
        return PixelSample(
            np.concatenate([patch.values.reshape(count, -1) for patch in patches], axis=1),
            np.concatenate([patch.valid.reshape(count, -1) for patch in patches], axis=1),
        )

    def read_decimated(self, height: int, width: int) -> PixelBlock:
        """The whole raster by nearest neighbour, from overviews where it has them.

        Parameters
        ----------
        height, width : int
            Of the result; at most the raster's.
        """
        return self._read(Window(0, 0, self.info.height, self.info.width), (height, width))

    def _vrt_windows(self) -> list[Window]:
        """Where the rasters of a VRT lie; none for what is no VRT, or computes its pixels."""
        if self.info.driver != "VRT":
            return []
        return vrt_dst_windows(self._get_dataset().tags(ns="xml:VRT").get("xml:VRT", ""))

    def uncovered_fraction(self) -> float:
        """Share of the pixels that no raster of a VRT gives, if nothing tells them from data."""
        info = self.info
        places = self._vrt_windows() if info.mask_kind == "none" else []
        return 1 - union_area(places) / (info.height * info.width) if places else 0.0

    def _sample_windows(self, max_pixels: int) -> list[Window]:
        if places := self._vrt_windows():  # a regular grid might meet nothing but gaps
            return sample_windows_in(places, max_pixels)
        return sample_windows(self.info.height, self.info.width, max_pixels)

    def _read(self, window: Window, shape: tuple[int, int]) -> PixelBlock:
        region = RasterioWindow(window.left, window.top, window.width, window.height)
        dataset = self._get_dataset()
        self._refuse_unreadable(dataset)
        try:
            with gdal_env(remote=self._remote, cache=gdal_cachemax()):
                values, alpha = self._values(dataset, region, shape)
                masks = [
                    dataset.read_masks(number, window=region, out_shape=shape) != 0
                    for number in self._mask_bands
                ]
        except (RasterioError, OSError, MemoryError) as err:
            if isinstance(err, MemoryError):
                raise
            self._remember_unreadable(dataset, err)
            raise InputError(
                f"{self.info.path}: {window} cannot be read: {root_cause(err)}; "
                "the file is damaged or incomplete"
            ) from err
        return PixelBlock(values, self._valid(values, alpha, masks), alpha)

    def _values(
        self, dataset: Any, region: RasterioWindow, shape: tuple[int, int]
    ) -> tuple[AnyArray, AnyArray | None]:
        info = self.info
        wanted = list(info.indexes) + ([info.alpha_band] if info.alpha_band else [])
        if len({dataset.dtypes[number - 1] for number in wanted}) == 1:
            # one call for all bands decodes every block once
            every = dataset.read(wanted, window=region, out_shape=(len(wanted), *shape))
            return every[: info.count], every[info.count] if info.alpha_band else None
        values = np.empty((info.count, *shape), dtype=info.dtype)
        for i, number in enumerate(info.indexes):
            values[i] = dataset.read(number, window=region, out_shape=shape)
        if info.alpha_band is None:
            return values, None
        return values, dataset.read(info.alpha_band, window=region, out_shape=shape)

    def _valid(
        self, values: AnyArray, alpha: AnyArray | None, masks: Sequence[BoolArray]
    ) -> BoolArray:
        valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
        for i, band in enumerate(self.info.bands):
            if band.nodata is not None:
                valid[i] &= ~is_nodata(values[i], band.nodata)
        if alpha is not None:
            valid &= alpha != 0
        for number, mask in zip(self._mask_bands, masks, strict=True):
            for i, selected in enumerate(self.info.indexes):
                if self._one_mask or selected == number:
                    valid[i] &= mask
        return valid

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._dataset is not None:
            with gdal_env(remote=self._remote):
                self._dataset.close()
            self._dataset = None
            set_cache_request(self, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def with_bands(self, indexes: tuple[int, ...]) -> RasterReader:
        """Another reader of the same raster, of other bands."""
        path, _, nodata, allow_drivers, force, alpha = self._options
        return RasterReader(path, indexes, nodata, allow_drivers, force, alpha)

    def reopen(self) -> Self:
        """The same raster in a reader of its own, described as it is now and here.

        Raises
        ------
        InputError, UsageError
            It cannot be opened any more, or not in this process.
        """
        fresh = copy.copy(self)  # by way of __getstate__, as if it had been pickled
        fresh.info = fresh._open()
        return fresh

    def __getstate__(self) -> dict[str, Any]:
        path, *options = self._options  # the other process may be in another folder
        return self.__dict__ | {"_dataset": None, "_options": (absolute_path(path), *options)}

    def __repr__(self) -> str:
        return f"RasterReader({self.info.path!r}, indexes={self.info.indexes})"


def open_raster(
    path: str | os.PathLike[str],
    *,
    indexes: Sequence[int] | None = None,
    nodata: float | None = None,
    allow_drivers: Sequence[str] | None = None,
    force: bool = False,
    alpha: str = "auto",
) -> RasterReader:
    """Open a raster for reading.

    Parameters
    ----------
    path : str or path
        A GeoTIFF, or another image of a format in `georsr.io.drivers.IMAGE_DRIVERS`; a
        ``.vrt`` of such images; ``/vsi...``, http(s) and s3 addresses, subdatasets.
    indexes : sequence of int, optional
        Band numbers from 1; default all but the alpha band, which is carried as alpha.
    nodata : float, optional
        Overrides what the file says; NaN is possible for floats.
    allow_drivers : sequence of str, optional
        Further GDAL drivers. ``VRT``: a VRT is trusted, whatever it is called and wherever on this
        machine its files lie.
    force : bool
        Take indices of a palette, and bit masks, for what they are not.
    alpha : {"auto", "mask", "data"}
        What a band is that says it is alpha: transparency, or an image, such as near infrared that
        a program called so; ``auto`` looks at it.

    Returns
    -------
    RasterReader
        Also a context manager that closes the file.

    Raises
    ------
    UsageError
        Missing file, bands that do not exist, data that is not continuous, degenerate pixels.
    InputError
        Not a raster, or damaged.

    Warns
    -----
    GeoreferenceWarning
        The raster does not say where on Earth it lies; the product will not either.
    """
    reader = RasterReader(
        os.fspath(path),
        None if indexes is None else tuple(indexes),
        nodata,
        None if allow_drivers is None else tuple(allow_drivers),
        force,
        alpha,
    )
    found: list[tuple[str, type[GeorsrWarning]]] = [
        (note, BandWarning) for note in reader.info.notes
    ]
    if (share := reader.uncovered_fraction()) > MAX_UNCOVERED_FRACTION:
        note = (
            f"{reader.info.path}: {100 * share:.2g} % of it lies in none of its files, and it has "
            "no nodata value: these gaps are read as black and treated as data; give it one "
            "(gdalbuildvrt -srcnodata), or use --nodata 0 or --skip-constant-tiles"
        )
        found.append((note, RadiometryWarning))
        reader.info = replace(reader.info, notes=(*reader.info.notes, note))
    info = reader.info
    located = info.crs is not None and info.transform is not None
    if not (located or info.gcps_crs is not None or info.rpcs is not None):
        lacking = "coordinate reference system" if info.crs is None else "geotransform"
        text = f"{info.path}: has no {lacking}; the output will have none either"
        found.append((text, GeoreferenceWarning))
    try:
        for text, category in found:
            warnings.warn(text, category, stacklevel=2)
    except GeorsrWarning:  # the caller turned warnings into errors
        reader.close()
        raise
    return reader


def open_output(
    path: str | os.PathLike[str],
    *,
    indexes: tuple[int, ...] | None = None,
    allow_drivers: Sequence[str] = (),
) -> RasterReader:
    """Open a product, or its layers, for reading.

    Unlike `georsr.io.reader.open_raster` it warns of nothing, and takes a band that says it is
    alpha for transparency: georsr writes no other.

    Parameters
    ----------
    path : str or path
    indexes : tuple of int, optional
        Band numbers from 1; default all but the alpha band.
    allow_drivers : sequence of str
        As for `georsr.io.reader.open_raster`: ``VRT`` where its parts may lie in any folder.

    Raises
    ------
    UsageError
        Missing file, or bands that do not exist.
    InputError
        Not a raster, or damaged.
    """
    allowed = tuple(allow_drivers) or None
    return RasterReader(os.fspath(path), indexes, allow_drivers=allowed, force=True, alpha="mask")
