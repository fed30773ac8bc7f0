"""The order of blocks is that in which a register finishes them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from georsr.tiling.grid import make_grid
from georsr.tiling.partition import completion_order
from georsr.tiling.stitch import BlockAssembler, TileStitcher


def finished(tile_grid, block, top=0):
    stitcher = TileStitcher(tile_grid, 1)
    size = (tile_grid.out_height, tile_grid.out_width)
    blocks = BlockAssembler(*size, 1, np.dtype("uint8"), block, top)
    s = tile_grid.scale
    for tile in tile_grid:
        made = tile.output_window
        pixels = np.zeros((1, s * made.height, s * made.width), np.float32)
        window, values = stitcher.add(tile, pixels)
        for complete, _ in blocks.add(window, values.astype("uint8")):
            yield complete.top // block, complete.left // block


@given(
    st.integers(1, 120),
    st.integers(1, 120),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 4),
    st.sampled_from([16, 48, 128]),
)
def test_completion_order_equals_that_of_the_stitcher(height, width, scale, halo, overlap, block):
    tile_grid = make_grid(height, width, scale=scale, tile=24, halo=halo, overlap=overlap)
    order = list(completion_order(tile_grid, block))
    assert order == list(finished(tile_grid, block))
    middle = order[len(order) // 2][0]
    rest = [place for place in order if place[0] >= middle]
    assert list(completion_order(tile_grid, block, middle)) == rest
