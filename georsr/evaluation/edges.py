"""Measure sharpness and ringing on straight edges, and noise on flat blocks, without truth.

This is the slanted-edge method of ISO 12233 on edges of the scene, as for on-orbit MTF (Kohm,
"Modulation transfer function measurement method and results for the OrbView-3 high resolution
imaging satellite", ISPRS 2004): pixels near a straight edge, ordered by their distance from it,
sample its profile much more finely than the grid does. Edges are found once, in the source, and
measured at the same places in every image. All lengths are in source pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from georsr.inference.blur_and_noise import BLOCK, FLAT_FRACTION, detrend_blocks, split_blocks
from georsr.radiometry.kernels import correlate
from georsr.radiometry.nodata import erode_mask
from georsr.window import AnyArray, BoolArray


def plane_residual(image: AnyArray, size: int) -> AnyArray:
    """Compute the standard deviation of each block of an image about its best plane.

    Takes (H, W) of any real type and returns (H // size, W // size) float64 in the image's units,
    for size^2 - 3 degrees of freedom; ``size`` is at least 2.
    """
    residual = detrend_blocks(image, size)
    return np.asarray(np.sqrt(np.square(residual).sum(-1) / (size * size - 3)))


def flat_blocks(reference: AnyArray, valid: BoolArray, scale: int) -> BoolArray:
    """Find the flattest blocks of an image, and return one flag for each block.

    Blocks with an invalid pixel do not count, nor do those without any variation, which are
    saturated or filled and have no noise to measure.

    Parameters
    ----------
    reference, valid
        (H, W) on the output's grid, and whether a pixel counts.
    scale
        Pixels per source pixel: a block has ``BLOCK * scale`` pixels along each axis.
    """
    deviation = plane_residual(reference, BLOCK * scale)
    min_deviation = 1e-6 * float(np.ptp(reference[valid])) if valid.any() else 0.0
    usable = split_blocks(valid, BLOCK * scale).all(-1) & (deviation > min_deviation)
    if not usable.any():
        return usable
    return np.asarray(usable & (deviation <= np.quantile(deviation[usable], FLAT_FRACTION)))


MAX_EDGES = 100
"""Largest number of edges."""
HALF_LENGTH = 5.0
"""Half the length of an edge."""
HALF_WIDTH = 6.0
"""Distance from the edge up to which its profile is taken."""
PLATEAU = 3.0
"""From this distance to `HALF_WIDTH` the profile must be level; nearer it may rise and ring."""
BIN = 0.25
"""Width of a sample of the profile, divided by the scale of the image."""
MAX_GAP = 0.5
"""Largest gap between samples near the edge; an edge along the grid may leave a larger one."""
RADIUS = math.ceil(math.hypot(HALF_LENGTH, HALF_WIDTH))
SEGMENTS = 5
"""Segments of an edge whose positions must be on a line."""
MAX_CURVATURE = 0.2
"""Largest r.m.s. distance of the segments from their line."""
MAX_PLATEAU_DEVIATION = 0.15
"""Largest standard deviation of a plateau, as a fraction of the edge's step."""
MIN_COHERENCE = 0.7
"""Smallest (l1 - l2) / (l1 + l2) of the structure tensor of a candidate."""
MIN_STEP = 0.15
"""Smallest step, as a fraction of the range between the image's 2nd and 98th percentile."""
MAX_CANDIDATES = 2000


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
    plateau_deviation: float
    """Larger standard deviation of the two plateaus, as a fraction of the step."""


def find_edges(image: AnyArray, valid: BoolArray | None = None) -> list[Edge]:
    """Find up to `MAX_EDGES` straight, isolated edges between level ground, strongest first.

    Takes (h, w) on the source's grid, any real type, and which pixels count; None: all.
    """
    image = image.astype(np.float64)
    if min(image.shape) <= 2 * RADIUS + 1:
        return []
    valid = np.ones(image.shape, bool) if valid is None else valid
    if not valid.any():
        return []
    low, high = np.percentile(image[valid], (2, 98))
    gradient = _gradient(np.where(valid, image, low))
    edges: list[Edge] = []
    for row, column in _candidates(np.hypot(*gradient), erode_mask(valid, RADIUS, border=False)):
        if any(math.hypot(e.row - row, e.column - column) < 2 * HALF_LENGTH for e in edges):
            continue
        edge = _coherent_edge(gradient, row, column)
        edge = None if edge is None else _accept(image, edge, MIN_STEP * (high - low))
        if edge is not None:
            edges.append(edge)
            if len(edges) == MAX_EDGES:
                break
    return edges


def measure_edge(image: AnyArray, edge: Edge, scale: int = 1) -> tuple[float, float] | None:
    """Measure the width and the ringing of one edge.

    Parameters
    ----------
    image
        (s * h, s * w), on a grid ``scale`` times finer than the edge's.
    edge
        Edge from :func:`find_edges`; its exact position and direction are fitted again.
    scale
        Pixels of ``image`` per source pixel.

    Returns
    -------
    (width, overshoot) or None
        10-90 % rise distance in source pixels (2.563 sigma for a gaussian blur), and how far the
        profile goes beyond its plateaus, mean of both sides, in percent of the step. None if the
        edge cannot be measured in this image.
    """
    fitted = _fit(image, edge, scale)
    profile = None if fitted is None else _profile(image, fitted[0], scale)
    if profile is None:
        return None
    distance, level = profile.distance, profile.level
    near = np.abs(distance) <= PLATEAU
    if np.diff(distance[np.abs(distance) <= 1.5]).max(initial=0.0) > MAX_GAP:
        return None
    ends = _crossing(distance, level, 0.1, -1), _crossing(distance, level, 0.9, 1)
    if ends[0] is None or ends[1] is None:
        return None
    beyond = max(level[near].max() - 1, 0.0), max(-level[near].min(), 0.0)
    return ends[1] - ends[0], 50.0 * sum(beyond)


def measure_edges(image: AnyArray, edges: Sequence[Edge], scale: int = 1) -> AnyArray:
    """Measure every edge by `measure_edge`: (len(edges), 2), NaN for None."""
    pixels = image.astype(np.float64)
    unmeasured = (math.nan, math.nan)
    rows = [measure_edge(pixels, edge, scale) or unmeasured for edge in edges]
    return np.array(rows, np.float64).reshape(len(edges), 2)


def _gradient(image: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Compute the derivatives (dy, dx) of the image smoothed by a gaussian of sigma 1."""
    x = np.arange(-4.0, 5.0)
    smooth = np.exp(-0.5 * x * x)
    smooth /= smooth.sum()
    slope = x * smooth
    padded = np.pad(image, 4, mode="edge")
    return (
        correlate(correlate(padded, smooth, 1), slope, 0),
        correlate(correlate(padded, smooth, 0), slope, 1),
    )


def _candidates(magnitude: AnyArray, allowed: BoolArray) -> list[tuple[int, int]]:
    """Find local maxima of the gradient (of 5 along either axis), steepest first."""
    peak = np.zeros(magnitude.shape, bool)
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(magnitude, 5, axis=axis).max(-1)
        middle = [slice(None), slice(None)]
        middle[axis] = slice(2, -2)
        peak[tuple(middle)] |= magnitude[tuple(middle)] == windows
    rows, columns = np.nonzero(peak & allowed & (magnitude > 0))
    order = np.argsort(-magnitude[rows, columns], kind="stable")[:MAX_CANDIDATES]
    return [(int(rows[i]), int(columns[i])) for i in order]


def _coherent_edge(gradient: tuple[AnyArray, AnyArray], row: int, column: int) -> Edge | None:
    """Return the edge through a pixel, if the gradients around it have one direction."""
    radius = int(HALF_LENGTH)
    around = slice(row - radius, row + radius + 1), slice(column - radius, column + radius + 1)
    gy, gx = gradient[0][around], gradient[1][around]
    yy, xx, yx = (gy * gy).sum(), (gx * gx).sum(), (gy * gx).sum()
    if math.hypot(yy - xx, 2 * yx) < MIN_COHERENCE * (yy + xx):
        return None
    angle = 0.5 * math.atan2(2 * yx, xx - yy)
    normal = (math.sin(angle), math.cos(angle))
    if normal[0] * gradient[0][row, column] + normal[1] * gradient[1][row, column] < 0:
        normal = (-normal[0], -normal[1])
    return Edge(row, column, normal)


def _accept(image: AnyArray, edge: Edge, min_step: float) -> Edge | None:
    """Return the fitted edge, if it is straight, strong and between level plateaus."""
    fitted = _fit(image, edge, 1)
    if fitted is None or fitted[1] > MAX_CURVATURE:
        return None
    profile = _profile(image, fitted[0], 1)
    if (
        profile is None
        or profile.step < min_step
        or profile.plateau_deviation > MAX_PLATEAU_DEVIATION
    ):
        return None
    return fitted[0]


def _patch(image: AnyArray, edge: Edge, scale: int) -> tuple[AnyArray, AnyArray, AnyArray] | None:
    """Return pixels round an edge, distance from it and position along it; None outside."""
    centre = (np.array([edge.row, edge.column]) + 0.5) * scale - 0.5
    first = np.floor(centre - RADIUS * scale).astype(int)
    last = np.ceil(centre + RADIUS * scale).astype(int)
    if first.min() < 0 or (last >= image.shape).any():
        return None
    y = ((np.arange(first[0], last[0] + 1) - centre[0]) / scale)[:, None]
    x = (np.arange(first[1], last[1] + 1) - centre[1]) / scale
    ny, nx = edge.normal
    return image[first[0] : last[0] + 1, first[1] : last[1] + 1], y * ny + x * nx, x * ny - y * nx


def _fit(image: AnyArray, edge: Edge, scale: int) -> tuple[Edge, float] | None:
    """Shift and rotate an edge to its position in an image; return it and its r.m.s. curvature.

    As in ISO 12233, the position of a segment is the centroid of its squared slope.
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
        segment = ((along[inside] + HALF_LENGTH) * SEGMENTS / (2 * HALF_LENGTH)).astype(int)
        segment = np.minimum(segment, SEGMENTS - 1)  # the sum may round up to the end
        total = np.bincount(segment, weight, SEGMENTS)
        if total.min() <= 0:
            return None
        position = np.bincount(segment, weight * offset, SEGMENTS) / total
        middle = (np.arange(SEGMENTS) + 0.5) * 2 * HALF_LENGTH / SEGMENTS - HALF_LENGTH
        tilt, start = np.polyfit(middle, position, 1)
        residual = float(np.sqrt(np.mean(np.square(position - start - tilt * middle))))
        edge = _shift_and_rotate(edge, float(start), math.atan(tilt))
    return edge, residual


def _shift_and_rotate(edge: Edge, offset: float, angle: float) -> Edge:
    """Shift along the normal, then rotate so that a line rising along the edge becomes level."""
    ny, nx = edge.normal
    normal = (
        ny * math.cos(angle) + nx * math.sin(angle),
        nx * math.cos(angle) - ny * math.sin(angle),
    )
    return replace(
        edge, row=edge.row + offset * ny, column=edge.column + offset * nx, normal=normal
    )


def _profile(image: AnyArray, edge: Edge, scale: int) -> Profile | None:
    """Return the profile across an edge; None outside the image or where it does not rise."""
    patch = _patch(image, edge, scale)
    if patch is None:
        return None
    values, distance, along = patch
    inside = (np.abs(along) <= HALF_LENGTH) & (np.abs(distance) < HALF_WIDTH)
    bins = ((distance[inside] + HALF_WIDTH) * scale / BIN).astype(int)
    counts = np.bincount(bins)
    filled = counts > 0
    # the mean distance in a bin, not its centre, belongs to the mean level: a ramp stays a ramp
    position = np.bincount(bins, distance[inside])[filled] / counts[filled]
    level = np.bincount(bins, values[inside])[filled] / counts[filled]
    dark, bright = level[position < -PLATEAU], level[position > PLATEAU]
    step = float(bright.mean() - dark.mean())
    if step <= 0:
        return None
    deviation = float(max(dark.std(), bright.std())) / step
    return Profile(position, (level - dark.mean()) / step, step, deviation)


def _crossing(distance: AnyArray, level: AnyArray, target: float, direction: int) -> float | None:
    """Return where the profile, followed from the edge to one side, first crosses a level."""
    at = int(np.abs(distance).argmin())
    while 0 <= at < len(level) and (level[at] - target) * direction < 0:
        at += direction
    before = at - direction
    if not (0 <= at < len(level) and 0 <= before < len(level)):
        return None
    if abs(distance[at]) > PLATEAU:
        return None
    fraction = (target - level[before]) / (level[at] - level[before])
    return float(distance[before] + fraction * (distance[at] - distance[before]))
