"""Block: what a writer takes at a time, checked against the layout of its product."""

from __future__ import annotations

from georsr.raster.layout import ProductLayout
from georsr.types import AnyArray, Window


def check_block(
    dst: str,
    layout: ProductLayout,
    window: Window,
    values: AnyArray,
    mask: AnyArray | None,
    alpha: AnyArray | None,
) -> None:
    """Refuse what `RasterWriter.write` cannot take: see there."""
    size = layout.blocksize
    aligned = window.top % size == 0 and window.left % size == 0
    ends = (window.bottom, layout.height), (window.right, layout.width)
    aligned &= all(end == edge or (end % size == 0 and end < edge) for end, edge in ends)
    if not aligned or min(window.height, window.width) < 1 or min(window.top, window.left) < 0:
        raise ValueError(
            f"{dst}: {window} is not made of whole blocks of {size} in a product of "
            f"{layout.height} rows and {layout.width} columns"
        )
    shape = (window.height, window.width)
    for name, array, needed, expected in (
        ("values", values, True, (len(layout.bands), *shape)),
        ("mask", mask, layout.mask, shape),
        ("alpha", alpha, layout.alpha, shape),
    ):
        if (array is not None) != needed:
            raise ValueError(f"{dst}: {name} {'is missing' if needed else 'has no place'}")
        if array is not None and array.shape != expected:
            raise ValueError(f"{dst}: {name} of shape {array.shape}, expected {expected}")
        if array is not None and name != "mask" and array.dtype != layout.dtype:
            # casting here would wrap around silently; `quantise` rounds and clips
            raise ValueError(f"{dst}: {name} are {array.dtype}, expected {layout.dtype}")
