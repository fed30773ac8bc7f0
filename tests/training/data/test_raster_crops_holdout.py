import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from georsr.training.data.raster_crops import divide_area, is_validation_block
from georsr.window import Window

sizes = st.integers(1, 60)


@settings(deadline=None)
@given(sizes, sizes, st.integers(2, 40), st.integers(0, 50))
def test_divide_area_covers_once_with_similar_blocks(height, width, side, offset):
    area = Window(offset, 2 * offset, height, width)
    blocks = divide_area(area, side)
    seen = np.zeros((height, width), int)
    for block in blocks:
        seen[block.relative_to(area).slices] += 1
    assert (seen == 1).all()
    for lengths in ({b.height for b in blocks}, {b.width for b in blocks}):
        assert max(lengths) - min(lengths) <= 1
    assert max(b.height for b in blocks) <= max(1.5 * side, min(height, side)) + 1


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5])
def test_is_validation_block_keeps_the_fraction_locally(share):
    chosen = np.array([is_validation_block(i, share) for i in range(5000)])
    assert chosen[0]
    for start in range(0, 4800, 97):
        assert abs(chosen[start : start + 200].mean() - share) < 0.02
    for columns in (7, 10, 20, 34):  # no column of the grid is given away, none spared for good
        by_column = chosen[: 5000 // columns * columns].reshape(-1, columns).mean(0)
        assert np.abs(by_column - share).max() < 0.05


def test_is_validation_block_with_fraction_zero_is_false():
    assert not any(is_validation_block(i, 0.0) for i in range(100))
