"""Reading windows of a source raster, with the validity of every pixel."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from georsr.errors import GeoreferenceWarning, GeorsrError, InputError
from georsr.raster.blockcache import block_cache, want, wanted_by_all
from georsr.raster.describe import describe, explicit_mask
from georsr.raster.env import CACHE_BYTES, absolute, cause, gdal_env, own_warnings
from georsr.raster.info import RasterInfo
from georsr.raster.mask import is_nodata
from georsr.raster.names import gdal_name
from georsr.raster.sampling import DECODED, MAX_PIXELS, decimated_shape, sample_windows
from georsr.raster.sidecars import has_sidecars
from georsr.raster.source import open_source
from georsr.raster.virtual import covered, virtual_places, windows_inside
from georsr.types import AnyArray, BoolArray, Window

log = logging.getLogger(__name__)

FORGIVEN = 1e-3
"""Share of a VRT that may lie between its files: of a pixel, where these are not of its grid."""


@dataclass(frozen=True)
class Patch:
    """Pixels of one window.

    Attributes
    ----------
    values : (C, h, w), data type of `RasterInfo.dtype`
        As stored: scale and offset are not applied.
    valid : bool (C, h, w)
        False for nodata, masked, fully transparent, NaN and infinite pixels.
    alpha : (h, w) or None
        The alpha band as stored, if the raster has one.
    """

    values: AnyArray
    valid: BoolArray
    alpha: AnyArray | None


@dataclass(frozen=True)
class Sample:
    """Pixels from all over the raster, for statistics: ``values`` and ``valid`` are (C, n)."""

    values: AnyArray
    valid: BoolArray


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
        bidx: tuple[int, ...] | None = None,
        nodata: float | None = None,
        allow_drivers: tuple[str, ...] | None = None,
        force: bool = False,
        alpha: str = "auto",
    ) -> None:
        self._options = (path, bidx, nodata, allow_drivers, force, alpha)
        self._remote = not has_sidecars(gdal_name(path))
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
        want(self, size)

    def _open(self) -> RasterInfo:
        with gdal_env(remote=self._remote):
            dataset = self._open_dataset()
            try:
                info = self._describe(dataset)
                with own_warnings():
                    flags = dataset.mask_flag_enums
                self.cache = block_cache(dataset, info.bidx)
            except BaseException as error:
                dataset.close()
                if isinstance(error, GeorsrError) or not isinstance(error, Exception):
                    raise
                # GDAL's own errors, which are none of rasterio's here
                raise InputError(f"{self._options[0]}: cannot be read: {cause(error)}") from error
        self._dataset = dataset
        # Files with a mask of their own for all bands answer the same for each: one is read
        masked = [n for n in info.bidx if explicit_mask(flags[n - 1])]
        shared = all(MaskFlags.per_dataset in flags[number - 1] for number in masked)
        self._one_mask = shared and len(masked) == info.count
        self._mask_bands = tuple(masked[:1] if self._one_mask else masked)
        return info

    def _open_dataset(self) -> Any:
        return open_source(self._options[0], self._options[3])

    def _describe(self, dataset: Any) -> RasterInfo:
        path, bidx, nodata, _, force, alpha = self._options
        try:
            return describe(dataset, path, bidx, nodata, force=force, alpha=alpha)
        except (RasterioError, ValueError, OSError) as error:
            if isinstance(error, GeorsrError):
                raise
            raise InputError(f"{path}: cannot be read: {cause(error)}; it is damaged") from error

    def _opened(self) -> Any:
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

    def read(self, window: Window) -> Patch:
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

    def sample(self, max_pixels: int = MAX_PIXELS) -> Sample:
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
        elif self.info.overviews or height * width <= DECODED * max_pixels:
            patches = [self._read(whole, decimated_shape(height, width, max_pixels))]
        else:
            patches = [self.read(window) for window in self._sample_windows(max_pixels)]
        count = self.info.count
        return Sample(
            np.concatenate([patch.values.reshape(count, -1) for patch in patches], axis=1),
            np.concatenate([patch.valid.reshape(count, -1) for patch in patches], axis=1),
        )

    def decimated(self, height: int, width: int) -> Patch:
        """The whole raster by nearest neighbour, from overviews where it has them.

        Parameters
        ----------
        height, width : int
            Of the result; at most the raster's.
        """
        return self._read(Window(0, 0, self.info.height, self.info.width), (height, width))

    def _places(self) -> list[Window]:
        """Where the rasters of a VRT lie; none for what is no VRT, or computes its pixels."""
        if self.info.driver != "VRT":
            return []
        return virtual_places(self._opened().tags(ns="xml:VRT").get("xml:VRT", ""))

    def gaps(self) -> float:
        """Share of the pixels that no raster of a VRT gives, if nothing tells them from data."""
        info = self.info
        places = self._places() if info.mask_kind == "none" else []
        return 1 - covered(places) / (info.height * info.width) if places else 0.0

    def _sample_windows(self, max_pixels: int) -> list[Window]:
        if places := self._places():  # a regular grid might meet nothing but gaps
            return windows_inside(places, max_pixels)
        return sample_windows(self.info.height, self.info.width, max_pixels)

    def _read(self, window: Window, shape: tuple[int, int]) -> Patch:
        region = RasterioWindow(window.left, window.top, window.width, window.height)
        dataset = self._opened()
        try:
            with gdal_env(remote=self._remote, cache=wanted_by_all()):
                values, alpha = self._values(dataset, region, shape)
                masks = [
                    dataset.read_masks(number, window=region, out_shape=shape) != 0
                    for number in self._mask_bands
                ]
        except (RasterioError, OSError, MemoryError) as err:
            if isinstance(err, MemoryError):
                raise
            raise InputError(
                f"{self.info.path}: {window} cannot be read: {cause(err)}; "
                "the file is damaged or incomplete"
            ) from err
        return Patch(values, self._valid(values, alpha, masks), alpha)

    def _values(
        self, dataset: Any, region: RasterioWindow, shape: tuple[int, int]
    ) -> tuple[AnyArray, AnyArray | None]:
        info = self.info
        wanted = list(info.bidx) + ([info.alpha_band] if info.alpha_band else [])
        if len({dataset.dtypes[number - 1] for number in wanted}) == 1:
            # one call for all bands decodes every block once
            every = dataset.read(wanted, window=region, out_shape=(len(wanted), *shape))
            return every[: info.count], every[info.count] if info.alpha_band else None
        values = np.empty((info.count, *shape), dtype=info.dtype)
        for i, number in enumerate(info.bidx):
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
            for i, selected in enumerate(self.info.bidx):
                if self._one_mask or selected == number:
                    valid[i] &= mask
        return valid

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._dataset is not None:
            with gdal_env(remote=self._remote):
                self._dataset.close()
            self._dataset = None
            want(self, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def selecting(self, bidx: tuple[int, ...]) -> RasterReader:
        """Another reader of the same raster, of other bands."""
        path, _, nodata, allow_drivers, force, alpha = self._options
        return RasterReader(path, bidx, nodata, allow_drivers, force, alpha)

    def reopened(self) -> Self:
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
        return self.__dict__ | {"_dataset": None, "_options": (absolute(path), *options)}

    def __repr__(self) -> str:
        return f"RasterReader({self.info.path!r}, bidx={self.info.bidx})"


def open_raster(
    path: str | os.PathLike[str],
    *,
    bidx: Sequence[int] | None = None,
    nodata: float | None = None,
    allow_drivers: Sequence[str] | None = None,
    force: bool = False,
    alpha: str = "auto",
) -> RasterReader:
    """Open a raster for reading.

    Parameters
    ----------
    path : str or path
        A GeoTIFF, or another image of a format in `georsr.raster.drivers.IMAGE_DRIVERS`; a
        ``.vrt`` of such images; ``/vsi...``, http(s) and s3 addresses, subdatasets.
    bidx : sequence of int, optional
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
        None if bidx is None else tuple(bidx),
        nodata,
        None if allow_drivers is None else tuple(allow_drivers),
        force,
        alpha,
    )
    if (share := reader.gaps()) > FORGIVEN:
        note = (
            f"{reader.info.path}: {100 * share:.2g} % of it lies in none of its files, and it has "
            "no nodata value: these gaps are read as black and treated as data; give it one "
            "(gdalbuildvrt -srcnodata), or say --nodata 0 or --flat-tiles"
        )
        reader.info = replace(reader.info, notes=(*reader.info.notes, note))
    info = reader.info
    for note in info.notes:
        log.warning("%s", note)
    located = info.crs is not None and info.transform is not None
    if not (located or info.gcps_crs is not None or info.rpcs is not None):
        lacking = "coordinate reference system" if info.crs is None else "geotransform"
        try:
            warnings.warn(
                f"{info.path}: has no {lacking}; the product will have none either",
                GeoreferenceWarning,
                stacklevel=2,
            )
        except GeoreferenceWarning:  # the caller turned warnings into errors
            reader.close()
            raise
    return reader
