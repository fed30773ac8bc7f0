import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from georsr.tiling.grid import make_grid
from georsr.tiling.partition import MAX_REPEATED_WORK, chunk_side, chunk_sizes
from georsr.window import Window

PLENTY = 2**60


@given(st.integers(1, 500), st.integers(1, 500))
def test_chunk_sizes_cover_the_axis(length, size):
    sizes = chunk_sizes(length, size)
    assert sum(sizes) == length
    assert set(sizes[:-1]) <= {size}
    assert 0 < sizes[-1] <= size


def test_chunk_sizes_last_one_is_smaller():
    assert chunk_sizes(10, 4) == (4, 4, 2)
    assert chunk_sizes(8, 4) == (4, 4)


@pytest.mark.parametrize(
    ("multiple", "pixel_bytes", "most", "side"),
    [
        (16, 3, PLENTY, 3808),  # (128 - 2 * 8) / (1.25 ** 0.5 - 1) * 4 = 3795.5, up to 16
        (16, 3, 3 * 1000**2, 992), (16, 3, 3 * 992**2, 992), (16, 3, 3 * 992**2 - 1, 976),
        (6, 3, 3 * 100**2, 96), (16, 3, 1, 16),
    ],
)  # fmt: skip
def test_chunk_side_is_that_worked_out_by_hand(multiple, pixel_bytes, most, side):
    plan = make_grid(9000, 9000, scale=4, tile=128, halo=8, overlap=16)
    assert chunk_side(plan, multiple, pixel_bytes, most) == side


@st.composite
def plans(draw):
    halo, overlap = draw(st.integers(0, 8)), draw(st.integers(0, 8))
    tile = 2 * halo + 3 * overlap + draw(st.integers(8, 40))
    height, width = draw(st.integers(1, 4000)), draw(st.integers(1, 4000))
    scale = draw(st.sampled_from([1, 2, 3, 4]))
    return make_grid(height, width, scale=scale, tile=tile, halo=halo, overlap=overlap)


@given(plans(), st.sampled_from([16, 64]))
def test_chunk_side_repeats_few_pixels(tile_grid, multiple):
    side = chunk_side(tile_grid, multiple, 1, PLENTY)
    assert side % multiple == side % tile_grid.scale == 0
    lr = side // tile_grid.scale
    made = 0
    borders = [math.ceil(n / lr) - 1 for n in (tile_grid.height, tile_grid.width)]
    for top in range(0, tile_grid.height, lr):
        for left in range(0, tile_grid.width, lr):
            height, width = min(lr, tile_grid.height - top), min(lr, tile_grid.width - left)
            made += len(tile_grid.subgrid(Window(top, left, height, width)))
    # a border lies in one tile, or in the overlap of two
    assert made <= (len(tile_grid.rows) + 2 * borders[0]) * (
        len(tile_grid.columns) + 2 * borders[1]
    )


@pytest.mark.parametrize("size", [3000, 7777, 20000])
def test_chunk_side_of_default_tiles_repeats_few_tiles(size):
    tile_grid = make_grid(size, size, scale=4, tile=192, halo=4, overlap=8)
    lr = chunk_side(tile_grid, 512, 3, PLENTY) // 4
    made = sum(
        len(tile_grid.subgrid(Window(top, left, min(lr, size - top), min(lr, size - left))))
        for top in range(0, size, lr)
        for left in range(0, size, lr)
    )
    assert len(tile_grid) <= made <= len(tile_grid) * (1 + MAX_REPEATED_WORK)


def test_chunk_side_is_bounded_by_memory():
    tile_grid = make_grid(9000, 9000, scale=4, tile=192, halo=4, overlap=8)
    assert chunk_side(tile_grid, 512, 3, 2**29) == 6656
    assert chunk_side(tile_grid, 512, 24, 2**29) == 4608
    assert 4608**2 * 24 <= 2**29
    assert chunk_side(tile_grid, 512, 24, 1) == 512


@pytest.mark.parametrize("multiple_of", [1, 8])
def test_subgrid_read_extent_is_that_of_its_tiles(multiple_of):
    tile_grid = make_grid(97, 130, scale=2, tile=32, halo=4, overlap=8, multiple_of=multiple_of)
    assert tile_grid.read_extent == Window(0, 0, 97, 130)
    rng = np.random.default_rng(0)
    for _ in range(30):
        top, left = int(rng.integers(97)), int(rng.integers(130))
        h, w = 1 + int(rng.integers(97 - top)), 1 + int(rng.integers(130 - left))
        part = tile_grid.subgrid(Window(top, left, h, w))
        reads = [
            tile.input_window.moved(top, left).intersection(tile_grid.read_extent) for tile in part
        ]
        reach = part.read_extent.moved(top, left)
        assert reach.top == min(read.top for read in reads)
        assert reach.left == min(read.left for read in reads)
        assert reach.bottom == max(read.bottom for read in reads)
        assert reach.right == max(read.right for read in reads)
