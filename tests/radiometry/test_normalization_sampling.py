"""The sample of an array is that of a file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from georsr.radiometry.normalization import decimated_shape, sample_indices, sample_windows
from tests.rasters import make_raster, open_quietly


def sorted_pixels(values):
    return np.sort(values.reshape(len(values), -1), axis=1)


@pytest.mark.parametrize(
    ("shape", "most", "regime"),
    [
        ((40, 50), 2000, "whole"),
        ((40, 50), 1999, "decimated"),
        ((3, 700), 150, "decimated"),
        ((700, 1), 50, "decimated"),
        ((211, 307), 10_000, "decimated"),
        ((211, 307), 1100, "windows"),
        ((9, 4000), 256, "windows"),
        ((17, 1500), 400, "windows"),
    ],
)
@pytest.mark.parametrize("profile", [{}, {"interleave": "band", "compress": "deflate"}])
def test_sample_of_an_array_equals_that_of_its_file(shape, most, regime, profile, tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60_000, (2, *shape)).astype("uint16")
    with open_quietly(make_raster(tmp_path / "a.tif", image, **profile)) as reader:
        of_file = reader.sample(most).values
    rows, columns = sample_indices(*shape, most)
    of_array = image[:, rows][:, :, columns]
    np.testing.assert_array_equal(sorted_pixels(of_array), sorted_pixels(of_file))
    pixels = shape[0] * shape[1]
    assert regime == (
        "whole" if pixels <= most else "decimated" if pixels <= 16 * most else "windows"
    )


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 5000))
def test_sample_indices_lie_inside_and_have_the_wanted_number(height, width, most):
    rows, columns = sample_indices(height, width, most)
    for indices, length in ((rows, height), (columns, width)):
        assert (np.diff(indices) >= 0).all()
        assert 0 <= indices[0] <= indices[-1] < length
    if height * width > most:
        assert len(rows) * len(columns) <= max(most, 256)
        assert np.prod(decimated_shape(height, width, most)) <= most
    for window in sample_windows(height, width, most):
        assert window.bottom <= height
        assert window.right <= width
