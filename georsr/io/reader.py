"""Open a raster, read windows of it with the validity of each pixel, choose its normalization."""

from __future__ import annotations

import copy
import math
import os
import posixpath
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
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
    ResourceError,
    UsageError,
    worded,
)
from georsr.io.gdal_env import (
    CACHE_BYTES,
    NETWORK_DRIVERS,
    SENTINEL2,
    SENTINEL2_SUBDATASET,
    ReadPolicy,
    absolute_path,
    estimate_block_cache,
    find_safe_metadata,
    gdal_cachemax,
    gdal_env,
    gdal_path,
    image_drivers,
    is_sqlite_with_log,
    open_files_limit,
    open_with_drivers,
    read_header,
    root_cause,
    set_cache_request,
    subdataset_file,
    suppress_rasterio_warnings,
)
from georsr.io.metadata import (
    BandInfo,
    RasterInfo,
    SourceNodata,
    describe,
    has_own_mask,
    window_metadata,
)
from georsr.io.sidecars import (
    can_list_sidecars,
    check_dataset,
    check_hdf5,
    check_metadata_size,
    check_sidecars,
)
from georsr.radiometry.nodata import valid_pixels
from georsr.radiometry.normalization import (
    MAX_DECIMATION,
    MAX_PIXELS,
    Normalization,
    decimated_shape,
    fixed_normalization,
    normalization_of_sample,
    sample_indices,
    sample_windows,
    sample_windows_in,
)
from georsr.tiling.grid import spread_starts
from georsr.window import AnyArray, BoolArray, PixelBlock, PixelSample, Window

_MISSING = re.compile(
    r"No such file or directory|does not exist in the file system|HTTP response code: 404"
)
# NETCDF:"a.nc":band, GTIFF_DIR:1:a.tif; at least two capitals, because C: is a drive
_SUBDATASET = re.compile(r"^[A-Z][A-Z0-9_]+:")
_TIFF = (".tif", ".tiff")
_DOCUMENTS = (
    (b"<VRTDataset", "VRT", "VRT"),
    (b"<MRF_META", "MRF", "MRF"),
    (b"<GDAL_WMS", "WMS", "WMS"),
    (b"<GDALTileIndexDataset", "GTI", "tile index (GTI)"),
)
"""Start of a document, the driver that reads it, and its name in messages."""


def open_source(path: str, allow_drivers: Sequence[str] | None = None) -> Any:
    """Open a raster and return the rasterio dataset, which the caller must close.

    A Sentinel-2 product (SAFE folder, its metadata or an archive of it) is opened as one raster of
    its 10 m and 20 m bands, see `georsr.io.sentinel2`.

    Only formats that cannot refer to other files are read (`georsr.io.gdal_env`), and VRTs named
    ``.vrt`` whose document and files pass the checks of `georsr.io.vrt`. A ``.tif`` is read
    by the GeoTIFF driver only. ``path`` and ``allow_drivers`` are those of `open_raster`.

    Raises
    ------
    UsageError
        The file does not exist, or GDAL would read other files because of it.
    InputError
        The file is not a readable raster.
    """
    policy = ReadPolicy(tuple(allow_drivers or ()))
    drivers = image_drivers(policy.extra_drivers)
    metadata = find_safe_metadata(path)
    if metadata is not None:
        from georsr.io.sentinel2 import open_safe  # few sources are products of Sentinel-2

        return open_safe(path, metadata)
    name = gdal_path(path)
    if part := SENTINEL2_SUBDATASET.match(path):
        from georsr.io.sentinel2 import check_band_files, check_image_files

    try:
        if part:
            check_image_files(part["metadata"])
        check_sidecars(name, policy)
        if _is_vrt(name, policy):
            dataset = _open_vrt(name, policy)
        else:
            _check_file(path, name, policy)
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
        if isinstance(error, RasterioError | UnicodeDecodeError):
            raise InputError(f"{path}: cannot be read: {root_cause(error)}") from error
        raise
    return dataset


def _is_vrt(name: str, policy: ReadPolicy) -> bool:
    if name.startswith("vrt://") or _suffix(name) == ".vrt":
        return True
    return policy.trusts_vrt and read_header(name).lstrip().startswith(b"<VRTDataset")


def _open_vrt(name: str, policy: ReadPolicy) -> Any:
    """Open a VRT, or ``vrt://FILE?OPTIONS`` after its file has been checked."""
    if not name.startswith("vrt://"):
        from georsr.io.vrt import open_vrt  # its checks are for VRTs only

        return open_vrt(name, policy)
    file, _, options = name.removeprefix("vrt://").partition("?")
    # the file may name a subdataset elsewhere
    if re.search(r"(^|&)sd(_name)?=", options, re.IGNORECASE):
        raise UsageError(f"{name}: has the option sd; use the name of the subdataset instead")
    open_source(file, policy.extra_drivers).close()
    with suppress_rasterio_warnings():
        return rasterio.open(name, driver="VRT")


def _check_file(path: str, name: str, policy: ReadPolicy) -> None:
    """Raise for pipes, devices, HDF5 with external data, and SQLite in WAL mode."""
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError):
        mode = 0
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is a pipe or a device, expected a file")
    if stat.S_ISREG(mode):
        check_metadata_size(name)
    if policy.extra_drivers or _suffix(name) not in _TIFF:
        check_hdf5(name, policy)
    if "GPKG" not in policy.extra_drivers and is_sqlite_with_log(subdataset_file(name) or name):
        raise InputError(
            f"{path}: is an SQLite database in WAL mode, which cannot be read without writing "
            f"files; turn WAL mode off first: sqlite3 {path} 'PRAGMA journal_mode=DELETE'"
        )


def _drivers_for(name: str, drivers: list[str], policy: ReadPolicy) -> list[str]:
    if SENTINEL2_SUBDATASET.match(name):
        return ["SENTINEL2"]
    if _suffix(name) in _TIFF:
        return ["GTiff", *(driver for driver in policy.extra_drivers if driver != "GTiff")]
    if not can_list_sidecars(name):
        return [name for name in drivers if name in NETWORK_DRIVERS or name in policy.extra_drivers]
    return drivers


def _suffix(path: str) -> str:
    if _SUBDATASET.match(path) or path.startswith("vrt://"):
        return ""
    return Path(path.split("?", 1)[0]).suffix.lower()


def _open_error(path: str, err: Exception, policy: ReadPolicy) -> Exception:
    cause = root_cause(err)
    if isinstance(err, UnicodeEncodeError):
        return UsageError(
            f"{path}: the file name is not UTF-8, which rasterio needs; rename the file"
        )
    if _MISSING.search(cause):
        return UsageError(f"{path}: no such file")
    try:
        if Path(path).is_dir():
            return InputError(f"{path}: is a directory, not a raster that GDAL can read")
        if Path(path).is_file():
            start = read_header(path)
            if not start:
                with Path(path).open("rb") as file:  # raises an error with the reason
                    if not file.read(1):
                        return InputError(f"{path}: the file is empty")
            if path.lower().endswith(".vrt"):
                cause = cause.removeprefix(f"{path}: ")
                return InputError(f"{path}: cannot be read: {cause}")
            _refuse_document(path, start, policy)
    except OSError as reason:
        return InputError(f"{path}: cannot be read: {reason.strerror or reason}")
    cause = cause.replace(f"'{path}' ", "").replace(f"{path}: ", "").rstrip(".")
    return InputError(
        f"{path}: not a raster of a format that georsr reads: {cause}; for other formats of "
        "GDAL use --allow-driver NAME"
    )


def _refuse_document(path: str, start: bytes, policy: ReadPolicy) -> None:
    """Raise if a file begins like a GDAL document, which can name other files."""
    for signature, driver, name in _DOCUMENTS:
        if signature in start and driver not in policy.extra_drivers:
            raise UsageError(
                f"{path}: is a {name} document under another name; it could refer to any file or "
                f"URL; use --allow-driver {driver} if you trust it"
            )


_POOLED_DRIVERS = ("VRT", SENTINEL2)
_FAILED_FILES: set[str] = set()
"""Rasters of these drivers that could not be read, and their files.

GDAL keeps a VRT's file that it failed to open in a pool, which lives as long as any VRT is open in
the process. Every later read of the file, through any VRT, returns zeros without an error (tested
with GDAL 3.10).
"""
PROBE_SIZE, PROBES_PER_AXIS = 64, 3
"""Size of the windows in which overviews are compared with pixels, and their number per axis."""
MAX_UNCOVERED_FRACTION = 1e-3
"""Fraction of a VRT without files that is ignored; files off the pixel grid leave such gaps."""


class RasterReader:
    """Reader of a raster, which `open_raster` returns.

    A reader is pickled as its path and options. The unpickled reader opens the file at the first
    read. An instance may be used by one thread only. No file is written next to the source.

    Attributes
    ----------
    info : RasterInfo
        Metadata of the raster and of the selected bands.
    """

    info: RasterInfo

    def __init__(
        self,
        path: str,
        indexes: tuple[int, ...] | None = None,
        nodata: SourceNodata = None,
        allow_drivers: tuple[str, ...] | None = None,
        force: bool = False,
        alpha: str = "auto",
    ) -> None:
        self._options = (path, indexes, nodata, allow_drivers, force, alpha)
        self._remote = not can_list_sidecars(gdal_path(path))
        self._dataset: Any = None
        self._mask_bands: dict[int, list[int]] = {}
        """Number of a band with a mask -> positions of the selected bands with this mask."""
        self._cache = CACHE_BYTES
        self.info = self._open()

    @property
    def rasters(self) -> tuple[RasterInfo, ...]:
        """Metadata of each raster that is read: of this one, or of those in a mosaic."""
        return (self.info,)

    @property
    def cache(self) -> int:
        """Return the size in bytes of the block cache for this reader."""
        return self._cache

    @cache.setter
    def cache(self, size: int) -> None:
        self._cache = size
        set_cache_request(self, size)

    def _open(self) -> RasterInfo:
        with gdal_env(remote=self._remote):
            dataset = self._open_dataset()
            try:
                self._check_pooled_files(dataset)
                info = self._describe(dataset)
                with suppress_rasterio_warnings():
                    flags = dataset.mask_flag_enums
                self.cache = estimate_block_cache(dataset, info.indexes)
            except BaseException as error:
                dataset.close()
                if isinstance(error, GeorsrError) or not isinstance(error, Exception):
                    raise
                # GDAL's errors here are not those of rasterio
                raise InputError(
                    f"{self._options[0]}: cannot be read: {root_cause(error)}"
                ) from error
        self._dataset = dataset
        masked = [i for i, n in enumerate(info.indexes) if has_own_mask(flags[n - 1])]
        shared = all(MaskFlags.per_dataset in flags[info.indexes[i] - 1] for i in masked)
        self._mask_bands = {}
        for i in masked:  # a mask of all bands is read once
            number = info.indexes[0 if shared and len(masked) == info.count else i]
            self._mask_bands.setdefault(number, []).append(i)
        return info

    def _check_pooled_files(self, dataset: Any) -> None:
        """Read a pixel of a VRT of one file: querying overviews would hide errors."""
        self._check_failed_files(dataset)
        if dataset.driver != "VRT":
            return
        document = dataset.tags(ns="xml:VRT").get("xml:VRT", "")
        if document.count("<DstRect") > dataset.count:  # GDAL queries no overviews of several files
            return
        from georsr.io.vrt import vrt_dst_windows

        windows = vrt_dst_windows(document)
        top, left = (windows[0].top, windows[0].left) if windows else (0, 0)
        try:
            for number in dataset.indexes:
                dataset.read(number, window=((top, top + 1), (left, left + 1)))
        except RasterioError as error:
            self._record_failed_files(dataset, error)
            raise

    def _record_failed_files(self, dataset: Any, error: Exception) -> None:
        """Record a raster, and the files that an error names or else all, in `_FAILED_FILES`."""
        if dataset.driver in _POOLED_DRIVERS:
            files, cause = dataset.files, root_cause(error)
            named = [file for file in files if posixpath.basename(file) in cause]
            _FAILED_FILES.update((self._options[0], *(named or files)))

    def _check_failed_files(self, dataset: Any) -> None:
        """Raise if GDAL would read zeros from a raster; see `_FAILED_FILES`."""
        path = self._options[0]
        if not _FAILED_FILES or dataset.driver not in _POOLED_DRIVERS:
            return
        if not _FAILED_FILES.isdisjoint((path, *dataset.files)):
            raise InputError(
                f"{path}: one of its files could not be read before, and GDAL does not open it "
                "again in this process; repair the file, then start a new process or worker"
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
            now, before = self._open(), self.info
            if (now.width, now.height, now.dtype) != (before.width, before.height, before.dtype):
                self.close()
                raise InputError(
                    f"{before.path}: has changed since it was first opened: "
                    f"{now.width} x {now.height} {now.dtype}, "
                    f"was {before.width} x {before.height} {before.dtype}; start again"
                )
        return self._dataset

    def read(self, window: Window) -> PixelBlock:
        """Read the selected bands in a window.

        Parameters
        ----------
        window : Window
            Window inside the raster.

        Raises
        ------
        InputError
            A block of the file is missing or damaged.
        ValueError
            The window is empty or not inside the raster.
        """
        if window.intersection(Window(0, 0, self.info.height, self.info.width)) != window:
            raise ValueError(
                f"{self.info.path}: {window} is not inside the raster of "
                f"{self.info.height} rows and {self.info.width} columns"
            )
        return self._read(window, (window.height, window.width))

    def invalid_block(self, height: int, width: int) -> PixelBlock:
        """Return pixels of which none is valid, as a window outside of the raster has."""
        info = self.info
        values = np.zeros((info.count, height, width), info.dtype)
        alpha = np.zeros((height, width), info.dtype) if info.alpha_band else None
        return PixelBlock(values, np.zeros(values.shape, bool), alpha)

    def sample(self, max_pixels: int = MAX_PIXELS) -> PixelSample:
        """Read a sample of pixels spread over the raster, the same at every call.

        A raster of at most ``max_pixels`` is read completely. A larger one is read from an overview
        or decimated. If it is too large for that and has no overviews, the sample is a grid of
        small windows at full resolution.

        Parameters
        ----------
        max_pixels : int
            Largest number of pixels per band.
        """
        height, width = self.info.height, self.info.width
        extent = Window(0, 0, height, width)
        if height * width <= max_pixels:
            patches = [self.read(extent)]
        elif self.info.overviews or height * width <= MAX_DECIMATION * max_pixels:
            patches = self._decimated(decimated_shape(height, width, max_pixels), max_pixels)
        else:
            patches = [self.read(window) for window in self._sample_windows(max_pixels)]
        count = self.info.count
        return PixelSample(
            np.concatenate([patch.values.reshape(count, -1) for patch in patches], axis=1),
            np.concatenate([patch.valid.reshape(count, -1) for patch in patches], axis=1),
        )

    def _decimated(self, shape: tuple[int, int], max_pixels: int) -> list[PixelBlock]:
        """Read the complete raster decimated to (rows, columns), or other pixels of as many.

        Overviews of another version of the file, or empty ones, are not used.
        """
        height, width = self.info.height, self.info.width
        if not self._overviews_differ(shape):
            return [self._read(Window(0, 0, height, width), shape)]
        warn_once(
            self,
            f"{self.info.path}: its overviews do not show its pixels, as those of an older version "
            "do, and are not used; build them again with gdaladdo",
            RadiometryWarning,
        )
        if height * width > MAX_DECIMATION * max_pixels:
            return [self.read(window) for window in self._sample_windows(max_pixels)]
        rows, columns = sample_indices(height, width, max_pixels)
        patches = []
        for chunk in np.array_split(rows, max(1, height // 256)):
            block = self.read(Window(chunk[0], 0, chunk[-1] - chunk[0] + 1, width))
            crop = np.ix_(np.arange(self.info.count), chunk - chunk[0], columns)
            patches.append(PixelBlock(block.values[crop], block.valid[crop], None))
        return patches

    def _overviews_differ(self, shape: tuple[int, int]) -> bool:
        """Return whether a raster decimated to (rows, columns) differs from its own pixels.

        Some windows are compared: a decimated pixel lies between those around it, but for the
        overshoot of a resampling kernel and lossy compression.
        """
        sizes = self.info.height, self.info.width
        factors = [size // length for size, length in zip(sizes, shape, strict=True)]
        if max(factors) < 2:
            return False
        counts = [
            min(size // f, max(4, PROBE_SIZE // f)) for size, f in zip(sizes, factors, strict=True)
        ]
        height, width = (count * f for count, f in zip(counts, factors, strict=True))
        outside = []
        for top in spread_starts(sizes[0], height, PROBES_PER_AXIS):
            for left in spread_starts(sizes[1], width, PROBES_PER_AXIS):
                window = Window(top, left, height, width)
                coarse = self._read(window, (counts[0], counts[1]))
                outside.append(_outside_fraction(coarse, self.read(window)))
        return max(outside) > 0.5 or float(np.mean(outside)) > 0.05

    def read_decimated(self, height: int, width: int, window: Window | None = None) -> PixelBlock:
        """Read a window, decimated by nearest neighbour, from overviews if there are any.

        Parameters
        ----------
        height, width : int
            Size of the result, at most that of the window.
        window : Window, optional
            Window inside the raster; by default all of it.
        """
        return self._read(
            window or Window(0, 0, self.info.height, self.info.width), (height, width)
        )

    def _vrt_windows(self) -> list[Window]:
        """Return the windows of the files of a VRT; none for other rasters."""
        if self.info.driver != "VRT":
            return []
        from georsr.io.vrt import vrt_dst_windows

        return vrt_dst_windows(self._get_dataset().tags(ns="xml:VRT").get("xml:VRT", ""))

    def uncovered_fraction(self) -> float:
        """Return the fraction of a VRT that no file covers, if these pixels are not invalid."""
        info = self.info
        windows = self._vrt_windows() if info.mask_kind == "none" else []
        if not windows:
            return 0.0
        from georsr.io.vrt import union_area

        return 1 - union_area(windows) / (info.height * info.width)

    def _sample_windows(self, max_pixels: int) -> list[Window]:
        if windows := self._vrt_windows():  # windows of a regular grid might all be in gaps
            return sample_windows_in(windows, max_pixels)
        return sample_windows(self.info.height, self.info.width, max_pixels)

    def _read(self, window: Window, shape: tuple[int, int]) -> PixelBlock:
        region = RasterioWindow(window.left, window.top, window.width, window.height)
        dataset = self._get_dataset()
        self._check_failed_files(dataset)
        try:
            with gdal_env(remote=self._remote, cache=gdal_cachemax()):
                values, alpha = self._values(dataset, region, shape)
                masks = [
                    dataset.read_masks(number, window=region, out_shape=shape) != 0
                    for number in self._mask_bands
                ]
        except (RasterioError, UnicodeDecodeError, OSError) as err:
            reason = root_cause(err)
            if "Too many open files" in reason:
                raise ResourceError(
                    f"{self.info.path}: too many files are open at once (this process may open "
                    f"{open_files_limit()}); raise the limit, for example with ulimit -n 1024"
                ) from err
            self._record_failed_files(dataset, err)
            raise InputError(
                f"{self.info.path}: {window} cannot be read: {reason}; "
                "the file is damaged or incomplete"
            ) from err
        return PixelBlock(values, self._valid(values, alpha, masks), alpha)

    def _values(
        self, dataset: Any, region: RasterioWindow, shape: tuple[int, int]
    ) -> tuple[AnyArray, AnyArray | None]:
        info = self.info
        numbers = list(info.indexes) + ([info.alpha_band] if info.alpha_band else [])
        if len({dataset.dtypes[number - 1] for number in numbers}) == 1:
            # one call for all bands decodes each block once
            bands = dataset.read(numbers, window=region, out_shape=(len(numbers), *shape))
            return bands[: info.count], bands[info.count] if info.alpha_band else None
        values = np.empty((info.count, *shape), dtype=info.dtype)
        for i, number in enumerate(info.indexes):
            values[i] = dataset.read(number, window=region, out_shape=shape)
        if info.alpha_band is None:
            return values, None
        return values, dataset.read(info.alpha_band, window=region, out_shape=shape)

    def _valid(
        self, values: AnyArray, alpha: AnyArray | None, masks: Sequence[BoolArray]
    ) -> BoolArray:
        bands = self.info.bands
        valid = np.stack(
            [valid_pixels(v, band.nodata) for v, band in zip(values, bands, strict=True)]
        )
        if alpha is not None:
            valid &= alpha != 0
        for positions, mask in zip(self._mask_bands.values(), masks, strict=True):
            for i in positions:
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

    def __exit__(self, *exception: object) -> None:
        self.close()

    def with_bands(self, indexes: tuple[int, ...]) -> RasterReader:
        """Return another reader of the raster, with other bands."""
        path, _, nodata, allow_drivers, force, alpha = self._options
        return RasterReader(path, indexes, nodata, allow_drivers, force, alpha)

    def cropped(self, window: Window) -> RasterReader:
        """Return another reader, of a part of the raster as if it were all of it."""
        path, _, *options = self._options
        return CroppedReader(window, path, self.info.indexes, *options)

    def reopen(self) -> Self:
        """Open the raster again, and return a new reader with its present metadata.

        Raises
        ------
        InputError, UsageError
            The raster cannot be opened any more, or not in this process.
        """
        fresh = copy.copy(self)  # copied through __getstate__, as if it had been pickled
        fresh.info = fresh._open()
        return fresh

    def __getstate__(self) -> dict[str, Any]:
        path, *options = self._options  # another process may have another working folder
        return self.__dict__ | {"_dataset": None, "_options": (absolute_path(path), *options)}

    def __repr__(self) -> str:
        return f"RasterReader({self.info.path!r}, indexes={self.info.indexes})"


def _outside_fraction(coarse: PixelBlock, fine: PixelBlock) -> float:
    """Return the fraction of the coarse pixels that the fine pixels around them do not explain."""
    bands, rows, columns = coarse.values.shape
    cells = (bands, rows, fine.values.shape[1] // rows, columns, fine.values.shape[2] // columns)
    values, valid = fine.values.astype(np.float64).reshape(cells), fine.valid.reshape(cells)
    low = _neighbourhoods(values.min((2, 4), where=valid, initial=np.inf)).min((3, 4))
    high = _neighbourhoods(values.max((2, 4), where=valid, initial=-np.inf)).max((3, 4))
    all_valid = _neighbourhoods(np.asarray(valid.all((2, 4)))).all((3, 4))
    known = np.isfinite(low)
    if not known.any():
        return float(coarse.valid.mean())
    tolerance = 0.02 * (high[known].max() - low[known].min())
    with np.errstate(invalid="ignore"):
        margin = 0.25 * (high - low) + tolerance
        inside = (coarse.values >= low - margin) & (coarse.values <= high + margin)
    return float(np.where(coarse.valid, ~(known & inside), all_valid).mean())


def _neighbourhoods(cells: AnyArray) -> AnyArray:
    """Return each cell with its eight neighbours, edges repeated: (C, h, w) -> (C, h, w, 3, 3)."""
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1)), "edge")
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))


class CroppedReader(RasterReader):
    """Reader of a window of a raster; see `RasterReader.cropped`."""

    def __init__(self, window: Window, *options: Any) -> None:
        self._window = window
        super().__init__(*options)

    def _describe(self, dataset: Any) -> RasterInfo:
        return window_metadata(super()._describe(dataset), self._window)

    def _read(self, window: Window, shape: tuple[int, int]) -> PixelBlock:
        return super()._read(window.moved(self._window.top, self._window.left), shape)

    def _sample_windows(self, max_pixels: int) -> list[Window]:
        return sample_windows(self.info.height, self.info.width, max_pixels)


def open_raster(
    path: str | os.PathLike[str],
    *,
    indexes: Sequence[int] | None = None,
    nodata: SourceNodata = None,
    allow_drivers: Sequence[str] | None = None,
    force: bool = False,
    alpha: str = "auto",
) -> RasterReader:
    """Open a raster for reading.

    Parameters
    ----------
    path : str or path
        GeoTIFF, or another image of a format in `georsr.io.gdal_env.IMAGE_DRIVERS`; a ``.vrt`` of
        such images; a name such as ``/vsi...``, an http(s) or s3 URL, or a subdataset.
    indexes : sequence of int, optional
        Band numbers from 1; default all but the alpha band, which becomes alpha of the output.
    nodata : float, optional
        Nodata value that overrides that of the file; NaN is possible for floats.
    allow_drivers : sequence of str, optional
        Additional GDAL drivers. With ``VRT``, a VRT may have any name, and its files may lie
        anywhere on this machine.
    force : bool
        Whether to accept palette indices and bit masks.
    alpha : {"auto", "mask", "data"}
        How to treat a band that is declared to be alpha: as alpha (``mask``), as data (such as near
        infrared), or as its values suggest (``auto``).

    Returns
    -------
    RasterReader
        Reader, which is also a context manager that closes the file.

    Raises
    ------
    UsageError
        A file or band does not exist, the data are not an image, or the pixel size is 0.
    InputError
        The file is not a raster, or is damaged.

    Warns
    -----
    BandWarning
        The role of a band was assumed, or its name cannot be read.
    GeoreferenceWarning
        The raster has no georeferencing, so the output will have none either.
    RadiometryWarning
        The raster has gaps that are not declared to be invalid.
    """
    reader = RasterReader(
        os.fspath(path),
        None if indexes is None else tuple(indexes),
        nodata,
        None if allow_drivers is None else tuple(allow_drivers),
        force,
        alpha,
    )
    issues: list[tuple[str, type[GeorsrWarning]]] = [
        (note, BandWarning) for note in reader.info.notes
    ]
    if (uncovered := reader.uncovered_fraction()) > MAX_UNCOVERED_FRACTION:
        note = worded(
            f"{reader.info.path}: {100 * uncovered:.2g} % of it is not covered by its files, and "
            "it has no nodata value: these gaps are read as black pixels; set a nodata value "
            "(gdalbuildvrt -srcnodata), or use --nodata 0"
        )
        issues.append((note, RadiometryWarning))
        reader.info = replace(reader.info, notes=(*reader.info.notes, note))
    issues += [(text, GeoreferenceWarning) for text in georeference_notes(reader.info)]
    try:
        for text, category in issues:
            warnings.warn(text, category, stacklevel=2)
    except GeorsrWarning:  # the caller turned warnings into errors
        reader.close()
        raise
    return reader


def georeference_notes(info: RasterInfo) -> tuple[str, ...]:
    """Return the text of the warning that a raster has no georeferencing, if it has none."""
    georeferenced = info.crs is not None and info.transform is not None
    if georeferenced or info.gcps_crs is not None or info.rpcs is not None:
        return ()
    missing = "coordinate reference system" if info.crs is None else "geotransform"
    return (f"{info.path}: has no {missing}; the output will have none either",)


def warn_once(reader: RasterReader, text: str, category: type[GeorsrWarning]) -> None:
    """Warn about a source, once, and record the text for the report."""
    text = worded(text)
    if text not in reader.info.notes:
        reader.info = replace(reader.info, notes=(*reader.info.notes, text))
        warnings.warn(text, category, stacklevel=3)


def open_output(
    path: str | os.PathLike[str],
    *,
    indexes: tuple[int, ...] | None = None,
    allow_drivers: Sequence[str] = (),
) -> RasterReader:
    """Open an output of georsr, or its quality layers, for reading.

    Parameters and errors are those of `open_raster`, but it issues no warnings, and an alpha band
    is always alpha. With the driver ``VRT``, the parts of the output may lie in any folder.
    """
    allowed = tuple(allow_drivers) or None
    return RasterReader(os.fspath(path), indexes, allow_drivers=allowed, force=True, alpha="mask")


DEFAULT_REFLECTANCE = (0.0, 0.3)
"""Reflectance that becomes 0 and 1. Most land surfaces lie in it in the visible spectrum; larger
values are preserved, but the network does not see them."""
LANDSAT_C2_SCALE = (2.75e-5, -0.2)
"""Scale and offset of Landsat Collection 2 surface reflectance (USGS, LSDS-1619, table 6-1)."""


def choose_normalization(reader: RasterReader, mode: str = "auto") -> Normalization:
    """Choose the normalization of a raster.

    Parameters
    ----------
    reader : RasterReader
        Reader of the raster, with the bands to be normalized.
    mode : str
        - ``auto``: 0..255 for uint8, otherwise percentiles 0.5 and 99.5 of the valid pixels;
        - ``dtype``: the full range of an integer type, 0..1 for floats;
        - ``LO,HI``: fixed limits for all bands, or ``LO,HI;LO,HI;...`` with a pair per band;
        - ``reflectance`` or ``reflectance:LO,HI``: limits in reflectance, 0 and 0.3 by default;
        - ``percentile`` or ``percentile:LOW,HIGH``: percentiles of the valid pixels of each band.

    Returns
    -------
    Normalization
        If the percentiles of a band coincide, its minimum and maximum are used; a constant band
        has ``lo == hi``; a band without a valid pixel in the sample has the limits 0 and 1.

    Raises
    ------
    UsageError
        ``mode`` is none of these, or the reflectance of a band is not known.

    Warns
    -----
    RadiometryWarning
        Many pixels have a value that looks like nodata and is not declared; percentiles leave it
        out.
    """
    info = reader.info
    if mode.partition(":")[0] == "reflectance":
        return Normalization(*reflectance_limits(info, mode), "reflectance")
    fixed = fixed_normalization(info.dtype, info.count, mode)
    if fixed is not None:
        return fixed

    def warn(text: str) -> None:
        warn_once(reader, f"{info.path}: {text}, use --nodata", RadiometryWarning)

    sample = reader.sample()
    return normalization_of_sample(sample.values, sample.valid, mode, warn)


def reflectance_limits(info: RasterInfo, mode: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute the file values of each band that become 0 and 1.

    Reflectance is ``stored * scale + offset``. Scale and offset are those of the band, else those
    in the tags of a Sentinel-2 product (QUANTIFICATION_VALUE, BOA_ADD_OFFSET), else those of
    Landsat Collection 2 if the band or a file of one band has one of its names: SR_B4, or
    LC09_..._SR_B4, with or without extension. ``mode`` is as for `choose_normalization`.

    Returns
    -------
    lo, hi : tuple of float
        Stored values, one for each band.

    Raises
    ------
    UsageError
        The limits are invalid, or scale and offset of a band are not known.
    """
    low, high = _parse_limits(mode)
    factors = [_scale_and_offset(info, band) for band in info.bands]
    return (
        tuple((low - offset) / scale for scale, offset in factors),
        tuple((high - offset) / scale for scale, offset in factors),
    )


def _parse_limits(mode: str) -> tuple[float, float]:
    _, colon, limits = mode.partition(":")
    if not colon:
        return DEFAULT_REFLECTANCE
    try:
        low, high = (float(part) for part in limits.split(","))
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"stretch {mode!r}: expected reflectance:LO,HI with LO less than HI")
    return low, high


def _scale_and_offset(info: RasterInfo, band: BandInfo) -> tuple[float, float]:
    if (band.scale, band.offset) != (1.0, 0.0):
        if band.scale > 0:
            return band.scale, band.offset
        raise UsageError(f"{info.path}: band {band.number} has scale {band.scale:g}, expected > 0")
    tags = dict(info.tags.get("", {}))
    quantities = [value for key, value in tags.items() if key.endswith("QUANTIFICATION_VALUE")]
    try:
        scale = 1.0 / float(quantities[0])
        all_tags = tags | dict(band.tags.get("", {}))  # GDAL's driver has the offset in each band
        added = float(all_tags.get("BOA_ADD_OFFSET", all_tags.get("RADIO_ADD_OFFSET", "0")))
    except (IndexError, ValueError, ZeroDivisionError):
        pass
    else:
        return scale, added * scale
    single = len(info.selectable_bands) == 1
    name = band.description or (PurePath(info.path).name if single else "")
    if re.match(r"SR_B\d", name):
        return LANDSAT_C2_SCALE
    if band.dtype.startswith("float"):
        return 1.0, 0.0
    if re.search(r"_SR_B\d(\.\w+)?$", name, re.IGNORECASE):
        return LANDSAT_C2_SCALE
    raise UsageError(
        f"{info.path}: band {band.number} has no scale and offset, so its reflectance is not "
        "known: set those of the product (gdal_edit.py -scale SCALE -offset OFFSET; Sentinel-2: "
        "0.0001 and -0.1, before baseline 04.00 0.0001 and 0; Landsat Collection 2: 0.0000275 and "
        "-0.2), or use --stretch LO,HI in file values"
    )
