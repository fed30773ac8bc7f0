"""Projection: the nearest image that a kernel shrinks to a given one.

Iterative back-projection (Irani and Peleg, CVGIP 53(3), 1991) adds to an image what shrinking it
leaves unexplained, again and again. Where every pixel counts its limit is known: with D the
shrinking, y + D' (D D')^-1 (x - D y) explains x exactly and is the image closest to y that does.
D acts on rows and columns separately, so that two small banded matrices are all it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from georsr.device import cpu_threads
from georsr.kernels import Kernel
from georsr.types import AnyArray

DAMPING, DAMPING_OF_OPTICS = 0.03, 0.07
"""Weight of roughness in what is added back, relative to the kernel's own gain; means are not
damped. Optics let little of the finest detail through: what a network leaves unexplained there is
mostly noise, and would be amplified."""
PASSES = 3
"""Repetitions where some pixels do not count."""
NEGLIGIBLE = 1e-5
"""Of the inverse, what lies farther from the diagonal than all above this is left out."""
BLOCK = 16
"""Coarse pixels that are made at a time. Sums stay so short that a library of linear algebra does
not cut them in pieces, by the number of threads, which would touch the last digit."""


@dataclass(frozen=True)
class Banded:
    """A banded matrix in blocks of rows, to be applied along the last axis but one.

    Attributes
    ----------
    weights : Tensor
        (blocks, rows, columns).
    columns : Tensor
        (blocks * columns,) which input each column of each block meets: successive ones.
    starts : tuple of int
        (blocks,) which input the first of them meets.
    length : int
        Rows of the matrix.
    """

    weights: Tensor
    columns: Tensor
    starts: tuple[int, ...]
    length: int

    def __call__(self, image: Tensor) -> Tensor:
        """(..., n, w) -> (..., length, w).

        A CPU makes block after block out of ``image`` as it lies there, where gathering it for all
        blocks, overlaps repeated, took half as long again; and by one thread, as a library of
        linear algebra shares a matrix out to several with another last digit. Other devices want
        few and large calls.
        """
        if image.device.type != "cpu":
            return self._at_once(image)
        planes = image.flatten(0, -3)
        made = image.new_empty(*image.shape[:-2], self.length, image.shape[-1])
        with cpu_threads(1):
            for weights, met, piece in self._blocks(planes, made):
                torch.bmm(weights, met, out=piece)
        return made

    def add_to(self, image: Tensor, total: Tensor) -> Tensor:
        """Add what `__call__` makes of ``image`` (..., n, w) to ``total`` (..., length, w).

        ``total`` is contiguous; it is changed, and returned.
        """
        if image.device.type != "cpu":
            return total.add_(self._at_once(image))
        with cpu_threads(1):
            for weights, met, piece in self._blocks(image.flatten(0, -3), total):
                piece.baddbmm_(weights, met)
        return total

    def _blocks(self, planes: Tensor, made: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each block its weights, the rows of (p, n, w) they meet, and those they make."""
        pieces = made.flatten(0, -3).split(self.weights.shape[1], dim=-2)
        count = self.weights.shape[2]
        for weights, start, piece in zip(self.weights, self.starts, pieces, strict=True):
            each = weights[: piece.shape[-2]].expand(len(planes), -1, -1)
            yield each, planes[:, start : start + count], piece

    def _at_once(self, image: Tensor) -> Tensor:
        blocks, rows, count = self.weights.shape
        gathered = image.index_select(-2, self.columns)
        *batch, _, width = image.shape
        made = self.weights @ gathered.reshape(*batch, blocks, count, width)
        return made.reshape(*batch, blocks * rows, width)[..., : self.length, :]


def banded(matrix: AnyArray, rows: int, device: torch.device) -> Banded:
    """Cut a matrix (m, n) into blocks of ``rows`` rows."""
    m, n = matrix.shape
    blocks = -(-m // rows)
    full = np.zeros((blocks * rows, n))
    full[:m] = matrix
    pieces = full.reshape(blocks, rows, n)
    used = [np.flatnonzero(piece.any(0)) for piece in pieces]
    count = max(int(each[-1] - each[0]) + 1 for each in used)
    starts = np.array([min(int(each[0]), n - count) for each in used])
    columns = starts[:, None] + np.arange(count)
    weights = np.take_along_axis(pieces, columns[:, None, :], axis=2).astype(np.float32)
    return Banded(
        torch.from_numpy(weights).to(device),
        torch.from_numpy(columns.ravel()).to(device),
        tuple(starts.tolist()),
        m,
    )


@lru_cache(maxsize=128)
def _down(kernel: Kernel, size: int, scale: int, device: torch.device) -> Banded:
    """Shrinking, s * size -> size."""
    return banded(kernel.matrix(size * scale, scale).astype(np.float64), BLOCK, device)


@lru_cache(maxsize=32)
def _back(kernel: Kernel, size: int, scale: int, device: torch.device) -> Banded:
    """The damped pseudo-inverse of shrinking, size -> s * size."""
    down = kernel.matrix(size * scale, scale).astype(np.float64)
    gram = down @ down.T
    slope = np.diff(np.eye(size), axis=0)
    roughness = slope.T @ slope / 4
    damping = kernel.damping or (DAMPING_OF_OPTICS if kernel.kind == "psf" else DAMPING)
    inverse = np.linalg.inv(gram + damping * gram.sum(1).mean() * roughness)
    row, column = np.nonzero(np.abs(inverse) > NEGLIGIBLE * np.abs(inverse).max())
    apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    inverse[apart > np.abs(row - column).max()] = 0.0
    return banded(down.T @ inverse, BLOCK * scale, device)


def shrunk(fine: Tensor, kernel: Kernel, scale: int) -> Tensor:
    """What a kernel makes of an image: (N, C, s * h, s * w) -> (N, C, h, w)."""
    height, width = (side // scale for side in fine.shape[-2:])
    rows, columns = (_down(kernel, side, scale, fine.device) for side in (height, width))
    return columns(rows(fine).mT).mT


def project(
    fine: Tensor, coarse: Tensor, kernel: Kernel, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Make an image explain the one it was made from.

    Parameters
    ----------
    fine
        (N, C, s * h, s * w) float32; its memory may become that of the result.
    coarse
        (N, C, h, w) float32: what shrinking has to give.
    kernel
        What shrinks.
    valid
        (N, C, h, w) bool, or None for all. Where False, neither ``coarse`` nor what ``fine`` holds
        there has any influence: kernels are cut to valid pixels and renormalised, as at the
        image's edge.

    Returns
    -------
    image
        (N, C, s * h, s * w); pixels that are not valid are unchanged.
    residual
        (N, C, h, w): ``coarse`` less the shrunk ``fine``, before anything was added; 0 where not
        valid.
    """
    height, width = coarse.shape[-2:]
    scale = fine.shape[-1] // width
    # a network's channels may lie pixel by pixel: every product would sort them anew
    fine, coarse = fine.contiguous(), coarse.contiguous()
    back_rows, back_columns = (_back(kernel, side, scale, fine.device) for side in (height, width))
    if valid is None:
        residual = coarse - shrunk(fine, kernel, scale)
        return back_rows.add_to(back_columns(residual.mT).mT, fine), residual
    counts = valid.repeat_interleave(scale, 2).repeat_interleave(scale, 3).float()
    share = torch.where(valid, shrunk(counts, kernel, scale), 1.0)
    image, first = fine, None
    for _ in range(PASSES):
        residual = torch.where(valid, coarse - shrunk(image * counts, kernel, scale) / share, 0.0)
        first = residual if first is None else first
        image = image + counts * back_rows(back_columns(residual.mT).mT)
    assert first is not None, "at least one pass"
    return image, first
