"""Compute the georeferencing of a window of a raster, and of a finer grid of the same extent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import attrs
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from georsr.io.metadata import RasterInfo
from georsr.window import Window


def scale_transform(transform: Affine, scale: int) -> Affine:
    """Return the transform of a grid with ``scale`` times finer pixels and the same outer corners.

    This is correct for any affine transform: rotated, sheared or south-up. Dividing only the pixel
    sizes, as is often done, shifts rotated rasters. It is also correct for ``AREA_OR_POINT=Point``,
    because GDAL's transforms refer to corners and the half-pixel shift is applied in the file.
    """
    # transform * Affine.scale(1 / scale), written out because affine 3 renamed the operator
    a, b, c, d, e, f = tuple(transform)[:6]
    return Affine(a / scale, b / scale, c, d / scale, e / scale, f)


def window_metadata(info: RasterInfo, window: Window) -> RasterInfo:
    """Return the metadata of a window of a raster."""
    down, right, transform = window.top, window.left, info.transform
    if transform is not None:
        x, y = transform @ (right, down)
        a, b, _, d, e, _ = tuple(transform)[:6]
        transform = Affine(a, b, x, d, e, y)
    return replace(
        info,
        height=window.height,
        width=window.width,
        transform=transform,
        gcps=tuple(
            GroundControlPoint(g.row - down, g.col - right, g.x, g.y, g.z, g.id, g.info)
            for g in info.gcps
        ),
        rpcs=info.rpcs
        and attrs.evolve(
            info.rpcs, line_off=info.rpcs.line_off - down, samp_off=info.rpcs.samp_off - right
        ),
    )


def scale_gcps(gcps: Iterable[GroundControlPoint], scale: int) -> tuple[GroundControlPoint, ...]:
    """Return ground control points on a grid with ``scale`` times finer pixels.

    GDAL counts their rows and columns from the outer corner of the first pixel, so they are scaled
    without a shift.
    """
    return tuple(
        GroundControlPoint(
            row=gcp.row * scale,
            col=gcp.col * scale,
            x=gcp.x,
            y=gcp.y,
            z=gcp.z,
            id=gcp.id,
            info=gcp.info,
        )
        for gcp in gcps
    )


def scale_rpcs(rpcs: RPC, scale: int) -> RPC:
    """Return rational polynomial coefficients on a grid with ``scale`` times finer pixels.

    RPCs count lines and samples from the *centre* of the first pixel, half a pixel from its
    corner: ``off' = (off + 0.5) * scale - 0.5``.
    """
    return attrs.evolve(
        rpcs,
        line_off=(rpcs.line_off + 0.5) * scale - 0.5,
        samp_off=(rpcs.samp_off + 0.5) * scale - 0.5,
        line_scale=rpcs.line_scale * scale,
        samp_scale=rpcs.samp_scale * scale,
    )
