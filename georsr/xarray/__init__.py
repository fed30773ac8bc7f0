"""The accessor ``georsr`` of xarray: ``import georsr.xarray``, then ``da.georsr.super_resolve()``.

xarray does not look for accessors by itself: like rioxarray's, this one is there once its module is
imported. That takes neither torch nor a network; the first call does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from georsr.io.sampling import sample_indices
from georsr.radiometry.nodata import valid_pixels
from georsr.radiometry.normalization import normalization_of_sample
from georsr.xarray.coords import grid_info

if TYPE_CHECKING:
    from collections.abc import Mapping

    from georsr.models.io import Model


@xr.register_dataarray_accessor("georsr")  # type: ignore[no-untyped-call]
class ArrayAccessor:
    """What georsr does with a DataArray, as ``da.georsr``."""

    def __init__(self, array: xr.DataArray) -> None:
        self._array = array

    def super_resolve(
        self,
        model: str | Model | None = None,
        scale: int | None = None,
        *,
        chunks: int | Mapping[Any, int] | None = None,
        band_dim: str = "band",
        **options: Any,
    ) -> xr.DataArray:
        """The array at ``scale`` times the resolution: the pixels that a file would get.

        A Dask array gives a Dask array: nothing is read before it is asked for, and asking for a
        part computes the chunks it touches. The result depends neither on chunks nor on scheduler.
        Its pixels are those of `georsr.super_resolve` of the file, bit by bit on the CPU; where
        ``stretch`` is found from a sample, only if that file has no overviews and is no mosaic or
        VRT, which are sampled otherwise if they are large.

        Parameters
        ----------
        model
            Built-in name, weights file, or an open model; None takes the default. Workers open it
            by name or path, and check that it is the same.
        scale
            Factor; None takes the model's own, 4 by default.
        chunks
            Of the result along rows and columns, in its pixels: one number, or one for each
            dimension, multiples of the scale; -1 for all. A chunk has all bands of one scene. The
            tiles at its border are computed for both neighbours: chunks of n tiles along an axis
            cost (1 + 1/n)**2 times the work. By default they are whole blocks of ``blocksize``,
            just so large that this is below 1.25, but of at most 512 MiB. Given for an array in
            memory, the result is lazy.
        band_dim
            Dimension of the bands. Without it the array is of one band. All dimensions besides it,
            rows and columns are mapped over: every scene is super-resolved by itself.
        **options
            Those of :class:`georsr.config.SRConfig` that are not about files. ``stretch`` is found
            for every scene: from a sample of its pixels, where that is needed, which is read
            whenever a part of the scene is computed; give what :meth:`stretch` says to read it
            once, and to treat all scenes alike. ``jobs`` counts threads of a process, in which one
            chunk is computed at a time.

        Returns
        -------
        DataArray
            With the dimensions, name, attributes, nodata and encoding of the source. Coordinates
            of rows, columns and CRS are those of the finer grid; others are kept unless they lie
            along rows or columns. ``GEORSR_*`` attributes say what made it.

        Raises
        ------
        GeorsrError
            One line saying what, where, got, expected, and what to do. Errors of the source, the
            model and the device come when pixels are computed.

        Warns
        -----
        GeoreferenceWarning
            The array has no CRS or no geotransform.
        """
        from georsr.xarray.arrays import parse_request, super_resolve_dataarray

        request = parse_request(model, scale, chunks, band_dim, options)
        return super_resolve_dataarray(self._array, request)

    def stretch(
        self, mode: str = "auto", *, band_dim: str = "band", nodata: float | None = None
    ) -> str:
        """What maps to 0..1, as text for the option ``stretch``; reads a sample of the pixels.

        Parameters
        ----------
        mode
            ``auto``, ``dtype`` or ``percentile[:P,Q]``, as for :meth:`super_resolve`.
        band_dim
            Dimension of the bands.
        nodata
            Overrides what the array says.

        Returns
        -------
        str
            ``LO,HI`` for every band, with ``;`` between; all scenes are taken together.
        """
        info = grid_info(self._array, band_dim, nodata)
        bands = () if info.band is None else (info.band,)
        ordered = self._array.transpose(*bands, *info.scenes, info.y, info.x)
        rows, columns = sample_indices(ordered.sizes[info.y], ordered.sizes[info.x])
        values = ordered.isel({info.y: rows, info.x: columns}).values
        values = values.reshape(len(values) if bands else 1, -1)
        found = normalization_of_sample(values, valid_pixels(values, info.nodata), mode)
        ranges = [
            (lo, hi if lo < hi else lo + 1)  # a constant band is only shifted
            for lo, hi in zip(found.lo, found.hi, strict=True)
        ]
        return ";".join(f"{lo!r},{hi!r}" for lo, hi in ranges)


@xr.register_dataset_accessor("georsr")  # type: ignore[no-untyped-call]
class DatasetAccessor:
    """What georsr does with a Dataset, as ``ds.georsr``."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def super_resolve(
        self,
        model: str | Model | None = None,
        scale: int | None = None,
        *,
        chunks: int | Mapping[Any, int] | None = None,
        band_dim: str = "band",
        **options: Any,
    ) -> xr.Dataset:
        """The dataset at ``scale`` times the resolution.

        Its variables are the bands, in their order: ``ds[["red", "green", "blue"]]``. They need
        the same dimensions, data type and nodata. If they have bands of their own, or the model
        treats every band alike, each variable is super-resolved by itself. Variables without rows
        and columns are carried along; those with only one of them are left out.

        Parameters
        ----------
        model, scale, chunks, band_dim, **options
            As for :meth:`ArrayAccessor.super_resolve`.

        Returns
        -------
        Dataset

        Raises
        ------
        GeorsrError
            As :meth:`ArrayAccessor.super_resolve`, and if variables do not fit each other.
        """
        from georsr.xarray.arrays import parse_request, super_resolve_dataset

        request = parse_request(model, scale, chunks, band_dim, options)
        return super_resolve_dataset(self._dataset, request)
