"""Repeats: pixels that stand several times side by side, as nearest neighbour enlarges images."""

from __future__ import annotations

from georsr.types import AnyArray

MOST = 5
"""Times a pixel is looked for."""
ENOUGH = 12
"""Places where neighbours differ that tell a pattern from chance."""


def repeats_of(values: AnyArray) -> tuple[int, int] | None:
    """How often every pixel of an image stands below itself, and beside itself.

    Parameters
    ----------
    values
        (C, h, w), any dtype.

    Returns
    -------
    (int, int) or None
        Rows and columns, 1 for an image as it should be; None where too few neighbours differ to
        tell.
    """
    below, beside = _repeats(values), _repeats(values.swapaxes(1, 2))
    return None if below is None or beside is None else (below, beside)


def _repeats(values: AnyArray) -> int | None:
    """Along the rows of (C, h, w)."""
    changes = (values[:, 1:] != values[:, :-1]).any((0, 2)).nonzero()[0]
    if len(changes) < ENOUGH:
        return None
    return next(n for n in range(MOST, 0, -1) if n == 1 or len(set((changes % n).tolist())) == 1)
