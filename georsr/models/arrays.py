"""Operations on images that are NumPy arrays or torch tensors; NumPy arrays need no torch.

Matrix libraries share large products out to threads, which can touch the last digit of a sum.
Products are therefore computed in one thread (torch), or in pieces that are too small to be shared
out (NumPy), so that nothing depends on the number of threads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from georsr.device import cpu_threads
from georsr.radiometry.kernels import bicubic_weights
from georsr.window import AnyArray, FloatArray

Array: TypeAlias = Any
"""A NumPy array or a torch tensor."""
Like: TypeAlias = tuple[Any, Any]
"""Data type and device of an array; the device of a NumPy array is None."""

BLOCK = 16
"""Source pixels that `BandedMatrix` computes at a time."""
MAX_PRODUCTS = 2**18
"""Multiplications up to which OpenBLAS computes a matrix product in the calling thread."""


def namespace(array: Array) -> Any:
    """Return the module, numpy or torch, whose functions take an array."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def like(array: Array) -> Like:
    """Return data type and device of an array."""
    return array.dtype, None if isinstance(array, np.ndarray) else array.device


def array_like(array: Array, values: AnyArray) -> Array:
    """Return a NumPy array as an array of the kind, and on the device, of another."""
    if isinstance(array, np.ndarray):
        return values
    return namespace(array).from_numpy(values).to(array.device)


def empty(array: Array, shape: tuple[int, ...]) -> Array:
    """Return an uninitialised array of the kind, type and device of another."""
    if isinstance(array, np.ndarray):
        return np.empty(shape, array.dtype)
    return array.new_empty(shape)


def contiguous(array: Array) -> Array:
    """Return an array in row order; a copy unless it is."""
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array.contiguous()


@dataclass(frozen=True)
class BandedMatrix:
    """A banded matrix in blocks of rows, to be applied along the last axis but one."""

    weights: Array
    """(blocks, rows, columns)."""
    columns: Array
    """(blocks * columns,) which input each column of each block meets: successive ones."""
    starts: tuple[int, ...]
    """(blocks,) which input the first of them meets."""
    length: int
    """Rows of the matrix."""

    def __call__(self, image: Array) -> Array:
        """Multiply an image: (..., n, w) -> (..., length, w).

        A CPU makes block after block out of ``image`` as it lies there, where gathering it for all
        blocks, overlaps repeated, took half as long again. Other devices want few and large calls.
        """
        if isinstance(image, np.ndarray):
            output = np.empty((*image.shape[:-2], self.length, image.shape[-1]), image.dtype)
            for weights, rows, piece in self._pieces(image, output):
                np.matmul(weights, rows, out=piece)
            return output
        if image.device.type != "cpu":
            return self.multiply_at_once(image)
        torch = namespace(image)
        planes = image.flatten(0, -3)
        product = image.new_empty(*image.shape[:-2], self.length, image.shape[-1])
        with cpu_threads(1):
            for weights, met, piece in self._blocks(planes, product):
                torch.bmm(weights, met, out=piece)
        return product

    def add_to(self, image: Array, total: Array) -> Array:
        """Add the product with ``image`` (..., n, w) to ``total`` (..., length, w).

        ``total`` is contiguous; it is changed, and returned.
        """
        if isinstance(image, np.ndarray):
            for weights, rows, piece in self._pieces(image, total):
                piece += weights @ rows
            return total
        if image.device.type != "cpu":
            return total.add_(self.multiply_at_once(image))
        with cpu_threads(1):
            for weights, met, piece in self._blocks(image.flatten(0, -3), total):
                piece.baddbmm_(weights, met)
        return total

    def _pieces(
        self, image: FloatArray, output: FloatArray
    ) -> Iterator[tuple[FloatArray, FloatArray, FloatArray]]:
        """Yield weights, rows of NumPy images (..., n, w), and the part of the output they give."""
        _, size, count = self.weights.shape
        step = max(1, MAX_PRODUCTS // (size * count))
        for i, (weights, start) in enumerate(zip(self.weights, self.starts, strict=True)):
            rows = slice(i * size, min((i + 1) * size, self.length))
            for left in range(0, image.shape[-1], step):
                columns = slice(left, left + step)
                yield (
                    weights[: rows.stop - rows.start],
                    image[..., start : start + count, columns],
                    output[..., rows, columns],
                )

    def _blocks(self, planes: Array, output: Array) -> Iterator[tuple[Array, Array, Array]]:
        """Yield for each block its weights, its rows of (p, n, w), and the rows it writes."""
        pieces = output.flatten(0, -3).split(self.weights.shape[1], dim=-2)
        count = self.weights.shape[2]
        for weights, start, piece in zip(self.weights, self.starts, pieces, strict=True):
            each = weights[: piece.shape[-2]].expand(len(planes), -1, -1)
            yield each, planes[:, start : start + count], piece

    def multiply_at_once(self, image: Array) -> Array:
        """Multiply as one large call, as devices other than a CPU do."""
        blocks, rows, count = self.weights.shape
        gathered = image.index_select(-2, self.columns)
        *batch, _, width = image.shape
        product = self.weights @ gathered.reshape(*batch, blocks, count, width)
        return product.reshape(*batch, blocks * rows, width)[..., : self.length, :]


def banded(matrix: AnyArray, rows: int, kind: Like = (np.float32, None)) -> BandedMatrix:
    """Cut a matrix (m, n) into blocks of ``rows`` rows, for images of a type and device."""
    m, n = matrix.shape
    blocks = -(-m // rows)
    full = np.zeros((blocks * rows, n))
    full[:m] = matrix
    pieces = full.reshape(blocks, rows, n)
    used = [np.flatnonzero(piece.any(0)) for piece in pieces]
    count = max(int(each[-1] - each[0]) + 1 for each in used)
    starts = np.array([min(int(each[0]), n - count) for each in used])
    columns = starts[:, None] + np.arange(count)
    weights: Array = np.take_along_axis(pieces, columns[:, None, :], axis=2)
    indexes: Array = columns.ravel()
    dtype, device = kind
    if device is None:
        weights = weights.astype(dtype)
    else:
        torch = sys.modules["torch"]
        weights = torch.from_numpy(weights).to(dtype).to(device)
        indexes = torch.from_numpy(indexes).to(device)
    return BandedMatrix(weights, indexes, tuple(starts.tolist()), m)


def transposed(image: Array) -> Array:
    """Return (..., h, w) as (..., w, h), a view."""
    return image.swapaxes(-1, -2)


def upsample_bilinear(image: Array, scale: int) -> Array:
    """Interpolate bilinearly: (..., h, w) -> (..., s * h, s * w), edges continued.

    The outer corners of the grids coincide. It is computed element by element, so that the result
    depends neither on vector width nor on the number of threads.
    """
    return transposed(_upsample_rows(transposed(_upsample_rows(image, scale)), scale))


def _upsample_rows(image: Array, scale: int) -> Array:
    xp = namespace(image)
    *planes, height, width = image.shape
    before = xp.concatenate([image[..., :1, :], image[..., :-1, :]], -2)
    after = xp.concatenate([image[..., 1:, :], image[..., -1:, :]], -2)
    phases = []
    for phase in range(scale):
        offset = (phase + 0.5) / scale - 0.5
        neighbour = before if offset < 0 else after
        phases.append(image + (neighbour - image) * abs(offset))
    return xp.stack(phases, -2).reshape(*planes, scale * height, width)


@lru_cache(maxsize=32)
def _bicubic_matrix(size: int, scale: int) -> BandedMatrix:
    """Return the matrix that enlarges an axis: size -> s * size, edge pixels repeated."""
    matrix = np.zeros((size, scale, size))
    for position in range(size):
        for tap, weights in enumerate(bicubic_weights(scale).T):
            matrix[position, :, min(max(position + tap - 2, 0), size - 1)] += weights
    return banded(matrix.reshape(size * scale, size), BLOCK * scale)


def enlarge_bicubic(image: Array, scale: int) -> Array:
    """Enlarge by bicubic interpolation: (N, C, h, w) -> (N, C, s * h, s * w), float32."""
    if not isinstance(image, np.ndarray):
        from georsr.models.interpolation import Bicubic

        return Bicubic(scale).to(image.device)(image).float()
    rows, columns = (_bicubic_matrix(size, scale) for size in image.shape[-2:])
    return rows(transposed(columns(transposed(image))))


ROWS = 32
"""Rows of pixels that `interpolate_bicubic` enlarges at a time on a CPU, to stay in its cache."""


def interpolate_bicubic(image: Array, scale: int) -> Array:
    """Enlarge as `enlarge_bicubic` does, in float64, rounded once to the type of ``image``.

    It is computed element by element, so that NumPy arrays and tensors give the same bytes.
    """
    xp = namespace(image)
    *planes, height, width = image.shape
    weights = bicubic_weights(scale).tolist()
    output = empty(image, (*planes, scale * height, scale * width))
    padded = xp.asarray(_repeat_edges(image), dtype=xp.float64)
    on_cpu = isinstance(image, np.ndarray) or image.device.type == "cpu"
    step = ROWS if on_cpu else height
    for top in range(0, height, step):
        rows = padded[..., top : top + step + 4, :]
        taller = empty(padded, (*planes, scale * (rows.shape[-2] - 4), width + 4))
        for phase in range(scale):
            taller[..., phase::scale, :] = _weighted_sum(rows, weights[phase])
        taller = transposed(taller)
        strip = transposed(output[..., scale * top : scale * (top + step), :])
        for phase in range(scale):
            strip[..., phase::scale, :] = _weighted_sum(taller, weights[phase])
    return output


def _repeat_edges(image: Array) -> Array:
    """Repeat the outer pixels twice beyond each edge: (..., h, w) -> (..., h + 4, w + 4)."""
    for _ in range(2):
        first, last = image[..., :1, :], image[..., -1:, :]
        rows = namespace(image).concatenate([first, first, image, last, last], -2)
        image = transposed(rows)
    return image


def _weighted_sum(image: Array, weights: list[float]) -> Array:
    """Return the sum of rows i + k times ``weights[k]``, for each i at which all rows exist."""
    length = image.shape[-2] - len(weights) + 1
    first, *others = (k for k, weight in enumerate(weights) if weight)
    total = image[..., first : first + length, :] * weights[first]
    for k in others:
        total += image[..., k : k + length, :] * weights[k]
    return total


def enlarge_nearest(image: Array, scale: int) -> Array:
    """Repeat every pixel ``scale`` times along each axis: (..., h, w) -> (..., s * h, s * w)."""
    if isinstance(image, np.ndarray):
        return image.repeat(scale, -2).repeat(scale, -1)
    return image.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


@lru_cache(maxsize=32)
def _bilinear_matrix(size: int, length: int) -> BandedMatrix:
    """Return the matrix that resizes an axis bilinearly: size -> length."""
    positions = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
    distance = np.abs(positions[:, None] - np.arange(size)[None, :])
    return banded(np.maximum(1 - distance, 0), 4 * BLOCK)


def resize_bilinear(maps: Array, size: tuple[int, int]) -> Array:
    """Interpolate bilinearly: (N, G, h, w) -> (N, G, *size); outer corners coincide."""
    if not isinstance(maps, np.ndarray):
        torch = namespace(maps)
        return torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)
    rows = _bilinear_matrix(maps.shape[-2], size[0])
    columns = _bilinear_matrix(maps.shape[-1], size[1])
    return rows(transposed(columns(transposed(maps))))


def box_mean(image: Array, size: int) -> Array:
    """Return the mean over the square of ``size`` pixels around each pixel, inside the image.

    (N, C, h, w) -> (N, C, h, w); ``size`` is odd.
    """
    if not isinstance(image, np.ndarray):
        pool = namespace(image).nn.functional.avg_pool2d
        return pool(image, size, 1, size // 2, count_include_pad=False)
    ones = np.ones((1, 1, *image.shape[-2:]), np.float32)
    return box_sum(image, size // 2) / box_sum(ones, size // 2)


def box_sum(image: FloatArray, radius: int) -> FloatArray:
    """Sum over the square of ``radius`` pixels around each pixel of (..., h, w).

    Pixels are added in a fixed order: a running sum would depend on where the window begins.
    """
    for axis in (image.ndim - 2, image.ndim - 1):
        length = image.shape[axis]
        padding = [(0, 0)] * image.ndim
        padding[axis] = (radius, radius)
        padded = np.pad(image, padding)
        total = np.zeros_like(image)
        for step in range(2 * radius + 1):
            total += padded.take(range(step, step + length), axis)
        image = total
    return image
