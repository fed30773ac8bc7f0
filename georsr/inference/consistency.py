"""Make the output of a network consistent with its source, by back-projection.

Projection: the nearest image that a kernel downsamples to a given one.

Iterative back-projection (Irani and Peleg, CVGIP 53(3), 1991) adds to an image what shrinking it
leaves unexplained, again and again. Where every pixel counts its limit is known: with D the
shrinking, y + D' (D D')^-1 (x - D y) explains x exactly and is the image closest to y that does.
D acts on rows and columns separately, so that two small banded matrices are all it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from georsr.config import SRConfig
from georsr.models.arrays import (
    BLOCK,
    MAX_PRODUCTS,
    Array,
    BandedMatrix,
    Like,
    array_like,
    banded,
    contiguous,
    enlarge_nearest,
    like,
    namespace,
    transposed,
    upsample_bilinear,
)
from georsr.models.spec import SCENE, SOFTLY, ModelSpec
from georsr.radiometry.kernels import Kernel, parse_kernel
from georsr.window import AnyArray, BoolArray, FloatArray

DAMPING, DAMPING_OF_OPTICS = 0.03, 0.07
"""Weight of roughness in what is added back, relative to the kernel's own gain; means are not
damped. Optics let little of the finest detail through: what a network leaves unexplained there is
mostly noise, and would be amplified."""
PASSES = 3
"""Repetitions where some pixels do not count."""
NEGLIGIBLE = 1e-5
"""Of the inverse, what lies farther from the diagonal than all above this is left out."""


@lru_cache(maxsize=128)
def _downsampling(kernel: Kernel, size: int, scale: int, kind: Like) -> BandedMatrix:
    """Return the matrix that downsamples an axis: s * size -> size."""
    return banded(kernel.matrix(size * scale, scale).astype(np.float64), BLOCK, kind)


@lru_cache(maxsize=32)
def _pseudo_inverse(kernel: Kernel, size: int, scale: int, kind: Like) -> BandedMatrix:
    """Return the damped pseudo-inverse of downsampling: size -> s * size."""
    down = kernel.matrix(size * scale, scale).astype(np.float64)
    gram = _product(down, down.T)
    slope = np.diff(np.eye(size), axis=0)
    roughness = slope.T @ slope / 4
    damping = kernel.damping or (DAMPING_OF_OPTICS if kernel.kind == "psf" else DAMPING)
    inverse = _inverse(gram + damping * gram.sum(1).mean() * roughness)
    row, column = np.nonzero(np.abs(inverse) > NEGLIGIBLE * np.abs(inverse).max())
    apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    inverse[apart > np.abs(row - column).max()] = 0.0
    return banded(_product(down.T, inverse), BLOCK * scale, kind)


def _product(a: AnyArray, b: AnyArray) -> AnyArray:
    """Multiply two matrices in pieces for which BLAS takes one thread: more change its sums."""
    product = np.empty((len(a), b.shape[1]))
    side = max(1, math.isqrt(MAX_PRODUCTS // a.shape[1]))
    for top in range(0, len(a), side):
        for left in range(0, b.shape[1], side):
            rows, columns = slice(top, top + side), slice(left, left + side)
            product[rows, columns] = a[rows] @ b[:, columns]
    return product


def _inverse(matrix: AnyArray) -> AnyArray:
    """Invert a positive definite matrix by elimination, element by element.

    LAPACK's result depends on the number of threads.
    """
    size = len(matrix)
    both = np.hstack([matrix, np.eye(size)])
    for i in range(size):
        both[i] /= both[i, i]
        factors = both[:, i].copy()
        factors[i] = 0.0
        both -= factors[:, None] * both[i]
    return both[:, size:]


def downsample(fine: Array, kernel: Kernel, scale: int) -> Array:
    """Downsample an image with a kernel: (N, C, s * h, s * w) -> (N, C, h, w)."""
    height, width = (side // scale for side in fine.shape[-2:])
    kind = like(fine)
    rows, columns = (_downsampling(kernel, side, scale, kind) for side in (height, width))
    return transposed(columns(transposed(rows(fine))))


def back_project(
    fine: Array, coarse: Array, kernel: Kernel, valid: Array | None = None
) -> tuple[Array, Array]:
    """Change an image so that a kernel downsamples it to a given one.

    Parameters
    ----------
    fine
        (N, C, s * h, s * w) float32 or float64; its memory may become that of the result.
    coarse
        (N, C, h, w) of the same type: image that downsampling must give.
    kernel
        Kernel with which ``fine`` is downsampled.
    valid
        (N, C, h, w) bool, or None for all. Where False, neither ``coarse`` nor what ``fine`` holds
        there has any influence: kernels are cut to valid pixels and renormalised, as at the
        image's edge.

    Returns
    -------
    image
        (N, C, s * h, s * w); pixels that are not valid are unchanged.
    residual
        (N, C, h, w): ``coarse`` minus the downsampled ``fine``, before the correction; 0 where not
        valid.
    """
    xp = namespace(fine)
    height, width = coarse.shape[-2:]
    scale = fine.shape[-1] // width
    # a network's channels may lie pixel by pixel: every product would sort them again
    fine, coarse = contiguous(fine), contiguous(coarse)
    kind = like(fine)
    back_rows, back_columns = (
        _pseudo_inverse(kernel, side, scale, kind) for side in (height, width)
    )
    if valid is None:
        residual = coarse - downsample(fine, kernel, scale)
        added = transposed(back_columns(transposed(residual)))
        return back_rows.add_to(added, fine), residual
    counts = enlarge_nearest(xp.asarray(valid, dtype=fine.dtype), scale)
    share = xp.where(valid, downsample(counts, kernel, scale), 1.0)
    image, first = fine, None
    for _ in range(PASSES):
        shrunk = downsample(image * counts, kernel, scale)
        residual = xp.where(valid, coarse - shrunk / share, 0.0)
        first = residual if first is None else first
        image = image + counts * back_rows(transposed(back_columns(transposed(residual))))
    assert first is not None, "at least one pass"
    return image, first


SOFT = 2.0
"""Damping of consistency by networks that know noise: real pairs lose 0.01 dB by what it adds, and
0.1 dB by what the usual damping does."""


@dataclass(frozen=True)
class ConsistencyTarget:
    """What the output of a tile has to be downsampled to, apart from the network input."""

    remainder: FloatArray | None = None
    """(C, h, w): What the clip to 0..1 took away."""
    valid: BoolArray | None = None
    """(C, h, w): Where it matters; None: everywhere."""


def requested_kernel(spec: ModelSpec, config: SRConfig) -> str | None:
    """Return the name of the kernel to be consistent with, `SCENE`, or None for none.

    ``auto`` is consistent where the model declares a kernel, and, by a network that takes noise
    away, where noise does not dominate: see `skip_if_noisy`.

    Raises
    ------
    UsageError
        No such kernel.
    """
    if config.consistency == "off":
        return None
    if config.consistency_kernel is not None:
        return SCENE if config.consistency_kernel == "auto" else config.consistency_kernel
    if spec.kernel == SOFTLY:
        return SCENE
    return spec.kernel or ("bicubic" if config.consistency == "on" else None)


def skip_if_noisy(config: SRConfig) -> bool:
    """Return whether consistency is left out if noise dominates the scene."""
    return config.consistency == "auto" and config.consistency_kernel is None


def softened(kernel: Kernel | None, spec: ModelSpec, config: SRConfig) -> Kernel | None:
    """Return a kernel with the model's damping, unless the options ask for consistency."""
    if kernel is None or spec.kernel != SOFTLY or not skip_if_noisy(config):
        return kernel
    return replace(kernel, damping=SOFT)


def fixed_kernel(name: str | None) -> Kernel | None:
    """Return the kernel of a name; None for none, or if it is estimated from the scene."""
    return None if name is None or name == SCENE else parse_kernel(name)


def enforce_consistency(
    output: Array, network_input: Array, targets: Sequence[ConsistencyTarget], kernel: Kernel
) -> tuple[Array, Array]:
    """Make the outputs of a network consistent with their inputs.

    Parameters
    ----------
    output
        (N, C, s * h, s * w) around 0..1; its memory may become that of the result.
    network_input
        (N, C, h, w) in 0..1: the input of the network.
    targets
        (N,) validity and remainder of each tile.
    kernel
        Kernel with which an output is downsampled.

    Returns
    -------
    output
        (N, C, s * h, s * w): consistent, with the remainder added.
    residual
        (N, C, h, w): source minus downsampled output, before the correction.
    """
    results = [
        _enforce(output[i : i + 1], network_input[i : i + 1], target, kernel)
        for i, target in enumerate(targets)
    ]
    if len(results) == 1:
        return results[0]
    outputs, residuals = zip(*results, strict=True)
    xp = namespace(output)
    return xp.concatenate(outputs), xp.concatenate(residuals)


def _enforce(
    output: Array, network_input: Array, target: ConsistencyTarget, kernel: Kernel
) -> tuple[Array, Array]:
    if target.remainder is not None:
        rest = array_like(output, target.remainder)[None]
        network_input = network_input + rest
        output = output + upsample_bilinear(rest, output.shape[-1] // network_input.shape[-1])
    if target.valid is None:
        return back_project(output, network_input, kernel)
    if (size := _corner(target.valid)) is not None:
        return _project_corner(output, network_input, kernel, size)
    return back_project(output, network_input, kernel, array_like(output, target.valid)[None])


def _corner(valid: BoolArray) -> tuple[int, int] | None:
    """Return height and width of the valid pixels if they are a rectangle at the top left."""
    height, width = (int(valid.any((0, axis)).sum()) for axis in (2, 1))
    whole = bool(valid[:, :height, :width].all())
    return (height, width) if whole and valid.sum() == len(valid) * height * width else None


def _project_corner(
    output: Array, network_input: Array, kernel: Kernel, size: tuple[int, int]
) -> tuple[Array, Array]:
    """Project the valid rectangle only: exact in one pass, where a mask takes several."""
    height, width = size
    scale = output.shape[-1] // network_input.shape[-1]
    residual = namespace(network_input).zeros_like(network_input)
    fine, coarse = (
        output[..., : height * scale, : width * scale],
        network_input[..., :height, :width],
    )
    fine[:], residual[..., :height, :width] = back_project(fine, coarse, kernel)
    return output, residual


def shrink_valid(
    image: FloatArray, valid: BoolArray, kernel: Kernel, scale: int
) -> tuple[FloatArray, BoolArray]:
    """Downsample an output; invalid pixels have no influence.

    Parameters
    ----------
    image, valid
        (C, H, W) float32, multiples of ``scale``; validity of complete source pixels.
    kernel, scale
        Kernel and factor of the downsampling.

    Returns
    -------
    low, valid
        (C, H / scale, W / scale); zero where not valid.
    """
    cells = valid[:, ::scale, ::scale]
    if valid.all():
        return downsample(image[None], kernel, scale)[0], cells
    planes = np.stack([np.where(valid, image, np.float32(0)), valid.astype(np.float32)])
    total, weight = downsample(planes, kernel, scale)
    # a valid source pixel has its own area under the kernel, which is most of its weight
    return np.where(cells, total / np.where(cells, weight, 1), np.float32(0)), cells
