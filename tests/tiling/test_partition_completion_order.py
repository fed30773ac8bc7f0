"""The order of blocks is that in which a register finishes them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from georsr.tiling.grid import make_grid
from georsr.tiling.partition import completion_order
from georsr.tiling.stitch import BlockAssembler, TileStitcher


def finished(plan, block, top=0):
    stitcher = TileStitcher(plan, 1)
    size = (plan.out_height, plan.out_width)
    blocks = BlockAssembler(*size, 1, np.dtype("uint8"), block, top)
    s = plan.scale
    for tile in plan:
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
    plan = make_grid(height, width, scale=scale, tile=24, halo=halo, overlap=overlap)
    order = list(completion_order(plan, block))
    assert order == list(finished(plan, block))
    middle = order[len(order) // 2][0]
    rest = [place for place in order if place[0] >= middle]
    assert list(completion_order(plan, block, middle)) == rest
