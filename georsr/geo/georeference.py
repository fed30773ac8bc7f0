"""Georeferencing of a part of a grid, and of a finer grid over the same ground: pure functions."""

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
    """Transform of the finer grid: the outer corners stay where they are.

    Right for every affine, rotated, sheared or south-up; dividing only the pixel sizes, as is
    often done, moves rotated rasters. It holds for ``AREA_OR_POINT=Point`` too, because GDAL
    gives and takes corner-based transforms and does the half-pixel shift in the file itself.
    """
    # transform * Affine.scale(1 / scale), spelled out: affine 3 renamed the operator
    a, b, c, d, e, f = tuple(transform)[:6]
    return Affine(a / scale, b / scale, c, d / scale, e / scale, f)


def window_metadata(info: RasterInfo, window: Window) -> RasterInfo:
    """What a raster says about itself, for a window of it."""
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
    """Ground control points on the finer grid.

    GDAL counts their rows and columns from the outer corner of the first pixel, so they scale
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
    """Rational polynomial coefficients on the finer grid.

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
