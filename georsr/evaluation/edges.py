"""Sharpness without truth: the width of straight edges, and how much they ring.

The slanted-edge idea of ISO 12233 on edges found in the scene itself (as for on-orbit MTF: Kohm,
"Modulation transfer function measurement method and results for the OrbView-3 high resolution
imaging satellite", ISPRS 2004): pixels beside a straight edge, ordered by their distance from it,
sample its profile far more finely than the grid does. Edges are found once, on the source, and
measured at the same places in every product. All lengths are in source pixels.

Noise on flat ground: what is left of small blocks after a plane is taken away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from georsr.inference.kernel_estimation import BLOCK, FLAT_FRACTION, detrend_blocks, split_blocks
from georsr.radiometry.nodata import erode_mask
from georsr.window import AnyArray, BoolArray


def plane_residual(image: AnyArray, size: int) -> AnyArray:
    """Standard deviation about the best plane, block by block.

    Parameters
    ----------
    image
        (H, W), any real dtype.
    size
        Height and width of a block in pixels, at least 2.

    Returns
    -------
    ndarray
        (H // size, W // size) float64 in the image's units, with size^2 - 3 degrees of freedom.
    """
    residual = detrend_blocks(image, size)
    return np.asarray(np.sqrt(np.square(residual).sum(-1) / (size * size - 3)))


def flat_blocks(reference: AnyArray, valid: BoolArray, scale: int) -> BoolArray:
    """Which blocks of the reference are flat: (H, W) twice -> one flag for each block.

    Blocks with an invalid pixel do not count, nor do those without any variation, which are
    saturated or filled and tell nothing of noise.

    Parameters
    ----------
    reference
        Image on the product's grid.
    valid
        Where it counts.
    scale
        Pixels per source pixel: a block has ``BLOCK * scale`` pixels along each axis.
    """
    spread = plane_residual(reference, BLOCK * scale)
    least = 1e-6 * float(np.ptp(reference[valid])) if valid.any() else 0.0
    usable = split_blocks(valid, BLOCK * scale).all(-1) & (spread > least)
    if not usable.any():
        return usable
    return np.asarray(usable & (spread <= np.quantile(spread[usable], FLAT_FRACTION)))


HALF_LENGTH = 5.0
"""Of an edge, along it."""
FLANK = 6.0
"""How far its profile reaches to either side."""
PLATEAU = 3.0
"""From here to `FLANK` the profile must be level; within, it may rise and ring."""
BIN = 0.25
"""Width of a sample of the profile, divided by the scale of the product."""
WIDEST_GAP = 0.5
"""Between samples of the profile near the edge; an edge along the grid may leave wider ones."""
REACH = math.ceil(math.hypot(HALF_LENGTH, FLANK))
SEGMENTS = 5
"""Pieces of an edge whose positions must lie on a line."""
STRAIGHT = 0.2
"""Largest r.m.s. distance of the pieces from their line."""
FLAT = 0.15
"""Largest standard deviation of a plateau, as a share of the edge's step."""
COHERENT = 0.7
"""Smallest (l1 - l2) / (l1 + l2) of the structure tensor of a candidate."""
STRONG = 0.15
"""Smallest step, as a share of the range between the image's 2nd and 98th percentile."""
MOST_CANDIDATES = 2000


@dataclass(frozen=True)
class Edge:
    """A straight edge on the source's grid; the centre of its first pixel is (0, 0)."""

    row: float
    column: float
    normal: tuple[float, float]
    """Unit vector (y, x) from the dark to the bright side."""


@dataclass(frozen=True)
class Profile:
    """Grey levels across an edge, averaged along it."""

    distance: AnyArray
    """(n,) source pixels from the edge, ascending, positive on the bright side."""
    level: AnyArray
    """(n,) 0 on the dark and 1 on the bright plateau."""
    step: float
    """Bright minus dark, in the image's units."""
    flatness: float
    """Larger standard deviation of the two plateaus, as a share of the step."""


def find_edges(image: AnyArray, valid: BoolArray | None = None, limit: int = 100) -> list[Edge]:
    """Straight, isolated, strong edges with level ground on both sides, strongest first.

    Parameters
    ----------
    image
        (h, w) on the source's grid, any real dtype.
    valid
        (h, w), False where the image does not count; None: everywhere.
    limit
        Most edges returned.
    """
    image = image.astype(np.float64)
    if min(image.shape) <= 2 * REACH + 1:
        return []
    good = np.ones(image.shape, bool) if valid is None else valid
    if not good.any():
        return []
    low, high = np.percentile(image[good], (2, 98))
    gradient = _gradient(np.where(good, image, low))
    found: list[Edge] = []
    for row, column in _candidates(np.hypot(*gradient), erode_mask(good, REACH, border=False)):
        if any(math.hypot(e.row - row, e.column - column) < 2 * HALF_LENGTH for e in found):
            continue
        edge = _oriented(gradient, row, column)
        edge = None if edge is None else _accepted(image, edge, STRONG * (high - low))
        if edge is not None:
            found.append(edge)
            if len(found) == limit:
                break
    return found


def measure_edge(image: AnyArray, edge: Edge, scale: int = 1) -> tuple[float, float] | None:
    """Width and ringing of one edge.

    Parameters
    ----------
    image
        (s * h, s * w), a product on a grid ``scale`` times finer than the edge's.
    edge
        From :func:`find_edges`; its exact place and direction are fitted anew.
    scale
        Pixels of ``image`` per source pixel.

    Returns
    -------
    width, overshoot
        10-90 % rise distance in source pixels (2.563 sigma for a gaussian blur), and how far the
        profile goes beyond its plateaus, mean of both sides, in percent of the step. None where
        the edge cannot be measured in this image.
    """
    fitted = _fitted(image, edge, scale)
    profile = None if fitted is None else _profile(image, fitted[0], scale)
    if profile is None:
        return None
    distance, level = profile.distance, profile.level
    near = np.abs(distance) <= PLATEAU
    if np.diff(distance[np.abs(distance) <= 1.5]).max(initial=0.0) > WIDEST_GAP:
        return None
    ends = _crossing(distance, level, 0.1, -1), _crossing(distance, level, 0.9, 1)
    if ends[0] is None or ends[1] is None:
        return None
    beyond = max(level[near].max() - 1, 0.0), max(-level[near].min(), 0.0)
    return ends[1] - ends[0], 50.0 * sum(beyond)


def measure_edges(image: AnyArray, edges: Sequence[Edge], scale: int = 1) -> AnyArray:
    """Width and overshoot of every edge, (len(edges), 2), as `measure_edge`; NaN for None."""
    pixels = image.astype(np.float64)
    unmeasured = (math.nan, math.nan)
    rows = [measure_edge(pixels, edge, scale) or unmeasured for edge in edges]
    return np.array(rows, np.float64).reshape(len(edges), 2)


def _gradient(image: AnyArray, sigma: float = 1.0) -> tuple[AnyArray, AnyArray]:
    """Derivatives (dy, dx) of the image smoothed by a gaussian."""
    x = np.arange(-4, 5) / sigma
    smooth = np.exp(-0.5 * x * x)
    smooth /= smooth.sum()
    slope = x / sigma * smooth
    padded = np.pad(image, 4, mode="edge")
    return (
        _along(_along(padded, smooth, 1), slope, 0),
        _along(_along(padded, smooth, 0), slope, 1),
    )


def _along(image: AnyArray, taps: AnyArray, axis: int) -> AnyArray:
    """Correlate one axis with ``taps``, valid part only."""
    length = image.shape[axis] - len(taps) + 1
    parts = (np.take(image, range(i, i + length), axis) * tap for i, tap in enumerate(taps))
    return np.asarray(sum(parts))


def _candidates(magnitude: AnyArray, allowed: BoolArray) -> list[tuple[int, int]]:
    """Local maxima of the gradient (of 5 along either axis), steepest first."""
    peak = np.zeros(magnitude.shape, bool)
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(magnitude, 5, axis=axis).max(-1)
        middle = [slice(None), slice(None)]
        middle[axis] = slice(2, -2)
        peak[tuple(middle)] |= magnitude[tuple(middle)] == windows
    rows, columns = np.nonzero(peak & allowed & (magnitude > 0))
    order = np.argsort(-magnitude[rows, columns], kind="stable")[:MOST_CANDIDATES]
    return [(int(rows[i]), int(columns[i])) for i in order]


def _oriented(gradient: tuple[AnyArray, AnyArray], row: int, column: int) -> Edge | None:
    """The edge through a pixel, if the gradients round it point one way."""
    reach = int(HALF_LENGTH)
    here = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
    gy, gx = gradient[0][here], gradient[1][here]
    yy, xx, yx = (gy * gy).sum(), (gx * gx).sum(), (gy * gx).sum()
    if math.hypot(yy - xx, 2 * yx) < COHERENT * (yy + xx):
        return None
    angle = 0.5 * math.atan2(2 * yx, xx - yy)
    normal = (math.sin(angle), math.cos(angle))
    if normal[0] * gradient[0][row, column] + normal[1] * gradient[1][row, column] < 0:
        normal = (-normal[0], -normal[1])
    return Edge(row, column, normal)


def _accepted(image: AnyArray, edge: Edge, smallest_step: float) -> Edge | None:
    fitted = _fitted(image, edge, 1)
    if fitted is None or fitted[1] > STRAIGHT:
        return None
    profile = _profile(image, fitted[0], 1)
    if profile is None or profile.step < smallest_step or profile.flatness > FLAT:
        return None
    return fitted[0]


def _patch(image: AnyArray, edge: Edge, scale: int) -> tuple[AnyArray, AnyArray, AnyArray] | None:
    """Pixels round an edge: (values, distance from it, position along it), or None outside."""
    centre = (np.array([edge.row, edge.column]) + 0.5) * scale - 0.5
    first = np.floor(centre - REACH * scale).astype(int)
    last = np.ceil(centre + REACH * scale).astype(int)
    if first.min() < 0 or (last >= image.shape).any():
        return None
    y = ((np.arange(first[0], last[0] + 1) - centre[0]) / scale)[:, None]
    x = (np.arange(first[1], last[1] + 1) - centre[1]) / scale
    ny, nx = edge.normal
    return image[first[0] : last[0] + 1, first[1] : last[1] + 1], y * ny + x * nx, x * ny - y * nx


def _fitted(image: AnyArray, edge: Edge, scale: int) -> tuple[Edge, float] | None:
    """Move and turn an edge to where the image has it; also the r.m.s. deviation from a line.

    The position of each piece of the edge is the centroid of its squared slope, as ISO 12233 has
    it for each line of its chart.
    """
    residual = math.inf
    for _ in range(3):
        patch = _patch(image, edge, scale)
        if patch is None:
            return None
        values, distance, along = patch
        gy, gx = np.gradient(values)
        slope = np.maximum(gy * edge.normal[0] + gx * edge.normal[1], 0)
        inside = (np.abs(distance) <= 2.5) & (np.abs(along) < HALF_LENGTH)
        weight, offset = slope[inside] ** 2, distance[inside]
        piece = ((along[inside] + HALF_LENGTH) * SEGMENTS / (2 * HALF_LENGTH)).astype(int)
        piece = np.minimum(piece, SEGMENTS - 1)  # the sum may round up to the end
        total = np.bincount(piece, weight, SEGMENTS)
        if total.min() <= 0:
            return None
        position = np.bincount(piece, weight * offset, SEGMENTS) / total
        middle = (np.arange(SEGMENTS) + 0.5) * 2 * HALF_LENGTH / SEGMENTS - HALF_LENGTH
        tilt, start = np.polyfit(middle, position, 1)
        residual = float(np.sqrt(np.mean(np.square(position - start - tilt * middle))))
        edge = _moved(edge, float(start), math.atan(tilt))
    return edge, residual


def _moved(edge: Edge, offset: float, turn: float) -> Edge:
    """Shift along the normal, then turn so that a line rising along the edge becomes level."""
    ny, nx = edge.normal
    normal = (
        ny * math.cos(turn) + nx * math.sin(turn),
        nx * math.cos(turn) - ny * math.sin(turn),
    )
    return replace(
        edge, row=edge.row + offset * ny, column=edge.column + offset * nx, normal=normal
    )


def _profile(image: AnyArray, edge: Edge, scale: int) -> Profile | None:
    patch = _patch(image, edge, scale)
    if patch is None:
        return None
    values, distance, along = patch
    inside = (np.abs(along) <= HALF_LENGTH) & (np.abs(distance) < FLANK)
    bins = ((distance[inside] + FLANK) * scale / BIN).astype(int)
    counts = np.bincount(bins)
    filled = counts > 0
    # the mean distance in a bin, not its centre, goes with the mean level: straight parts stay so
    position = np.bincount(bins, distance[inside])[filled] / counts[filled]
    level = np.bincount(bins, values[inside])[filled] / counts[filled]
    dark, bright = level[position < -PLATEAU], level[position > PLATEAU]
    step = float(bright.mean() - dark.mean())
    if step <= 0:
        return None
    flatness = float(max(dark.std(), bright.std())) / step
    return Profile(position, (level - dark.mean()) / step, step, flatness)


def _crossing(distance: AnyArray, level: AnyArray, wanted: float, side: int) -> float | None:
    """Where the profile, followed from the edge to one side, first reaches a level."""
    at = int(np.abs(distance).argmin())
    while 0 <= at < len(level) and (level[at] - wanted) * side < 0:
        at += side
    before = at - side
    if not (0 <= at < len(level) and 0 <= before < len(level)):
        return None
    if abs(distance[at]) > PLATEAU:
        return None
    share = (wanted - level[before]) / (level[at] - level[before])
    return float(distance[before] + share * (distance[at] - distance[before]))
