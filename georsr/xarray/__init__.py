"""The xarray accessor ``georsr``: ``import georsr.xarray``, then ``da.georsr.super_resolve()``.

Importing this module registers the accessor, as with rioxarray. That imports neither torch nor a
model; the first call does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

import xarray as xr

from georsr.radiometry.nodata import valid_pixels
from georsr.radiometry.normalization import normalization_of_sample, sample_indices
from georsr.xarray.coords import grid_info

if TYPE_CHECKING:
    from collections.abc import Mapping

    from georsr.config import ArrayOptions
    from georsr.models.io import Model

T = TypeVar("T", xr.DataArray, xr.Dataset)


class Accessor(Generic[T]):
    """Super-resolves the DataArray or Dataset that it is an attribute of."""

    def __init__(self, xarray_object: T) -> None:
        self._object: T = xarray_object

    def super_resolve(
        self,
        model: str | Model | None = None,
        scale: int | None = None,
        *,
        chunks: int | Mapping[Any, int] | None = None,
        band_dim: str = "band",
        **options: Unpack[ArrayOptions],
    ) -> T:
        """Return the array or dataset at ``scale`` times the resolution.

        The pixels are those of `georsr.super_resolve` of the file, bit by bit on the CPU; where the
        normalization is estimated from a sample of the pixels, only if the file has no overviews
        and is no mosaic or VRT, which are sampled otherwise if they are large.

        A Dask array gives a Dask array: nothing is read before it is computed, and computing a
        part computes the chunks it touches. The result depends neither on chunks nor on the
        scheduler.

        The variables of a Dataset are the bands, in their order: ``ds[["red", "green", "blue"]]``.
        They need the same dimensions, data type and nodata. If they have a dimension of bands, or
        the model treats every band alike, each variable is super-resolved by itself. Variables
        without rows and columns are kept; those with only one of the two are left out.

        Parameters
        ----------
        model
            Built-in name, weights file, or an open model; None takes the default. Workers open it
            by name or path, and check that it is the same.
        scale
            Factor; None takes the model's own, 4 by default.
        chunks
            Chunk sizes of the result along rows and columns, in its pixels: one number, or one
            for each dimension, multiples of the scale; -1 for all. A chunk has all bands of one
            scene. The tiles at its border are computed for both neighbours: chunks of n tiles
            along an axis cost (1 + 1/n)**2 times the work. By default chunks are whole blocks of
            ``blocksize``, just so large that this is below 1.25, but at most 512 MiB. If an array
            is in memory, giving chunks makes the result lazy.
        band_dim
            Dimension of the bands. Without it the array has one band. Every index along dimensions
            other than bands, rows and columns is a scene, which is super-resolved by itself.
        **options
            Options of :class:`georsr.config.SRConfig` that are not about files. ``stretch`` is
            estimated for every scene: if that needs a sample of its pixels, it is read whenever
            a part of the scene is computed. Give the result of ``da.georsr.stretch()`` to
            read it once, and to treat all scenes alike. ``num_threads`` is the number of threads of
            a process, in which one chunk is computed at a time.

        Returns
        -------
        DataArray or Dataset
            With the dimensions, name, attributes, nodata and encoding of the source. Coordinates
            of rows, columns and CRS are those of the finer grid; others are kept unless they lie
            along rows or columns. Attributes ``GEORSR_*`` record model and options. What is
            estimated from pixels (stretch, kernel, sensor) is not among them: a lazy array knows it
            only when it is computed. The tags of a file by :func:`georsr.super_resolve` have it.

        Raises
        ------
        TypeError
            There is no such option.
        GeorsrError
            The message is one line: what is wrong, got, expected, and what to do. Errors of the
            source, the model and the device are raised when pixels are computed.

        Warns
        -----
        GeoreferenceWarning
            The array has no CRS or no geotransform.
        """
        from georsr.xarray.arrays import parse_request, super_resolve

        request = parse_request(model, scale, chunks, band_dim, options)
        return super_resolve(self._object, request)


@xr.register_dataset_accessor("georsr")  # type: ignore[no-untyped-call]
class DatasetAccessor(Accessor[xr.Dataset]):
    """Super-resolves a Dataset, as ``ds.georsr``."""


@xr.register_dataarray_accessor("georsr")  # type: ignore[no-untyped-call]
class ArrayAccessor(Accessor[xr.DataArray]):
    """Super-resolves a DataArray, as ``da.georsr``."""

    def stretch(
        self, mode: str = "auto", *, band_dim: str = "band", nodata: float | None = None
    ) -> str:
        """Estimate the range of every band from a sample of the pixels, for the option ``stretch``.

        Parameters
        ----------
        mode
            ``auto``, ``dtype`` or ``percentile[:P,Q]``, as for :meth:`super_resolve`.
        band_dim
            Dimension of the bands.
        nodata
            Value of invalid pixels; None: what the array declares.

        Returns
        -------
        str
            Values that map to 0 and 1, ``LO,HI`` for every band, separated by ``;``; all scenes
            are taken together.
        """
        info = grid_info(self._object, band_dim, nodata)
        bands = () if info.band is None else (info.band,)
        ordered = self._object.transpose(*bands, *info.scenes, info.y, info.x)
        rows, columns = sample_indices(ordered.sizes[info.y], ordered.sizes[info.x])
        values = ordered.isel({info.y: rows, info.x: columns}).values
        values = values.reshape(len(values) if bands else 1, -1)
        estimate = normalization_of_sample(values, valid_pixels(values, *info.source_nodata), mode)
        return estimate.to_stretch()
