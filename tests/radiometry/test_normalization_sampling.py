"""The sample of an array is that of a file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from georsr.radiometry.normalization import (
    decimated_shape,
    sample_indices,
    sample_windows,
    sample_windows_in,
)
from georsr.window import Window
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


@pytest.mark.parametrize(
    ("size", "most", "shape"),
    [
        ((40, 50), 1999, (39, 49)), ((3, 700), 150, (1, 150)), ((700, 1), 50, (50, 1)),
        ((211, 307), 10_000, (82, 120)), ((10, 10), 100, (10, 10)), ((1, 50), 7, (1, 7)),
        ((50, 1), 7, (7, 1)), ((700, 3), 150, (150, 1)),
    ],
)  # fmt: skip
def test_decimated_shape_keeps_the_proportions(size, most, shape):
    assert decimated_shape(*size, most) == shape


def test_sample_windows_are_16_by_16():
    windows = sample_windows(300, 20, 16**2 * 4**2)
    assert len(windows) == 16 * 16
    assert [w.left for w in windows[:16]] == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16]
    assert {(w.height, w.width) for w in windows} == {(4, 4)}
    assert (windows[16].top, windows[-1].top) == (20, 296)
    assert sample_windows(3, 2, 16**2 * 4**2) == [Window(0, 0, 3, 2)]
    assert {(w.height, w.width) for w in sample_windows(99, 99, 255)} == {(1, 1)}


def test_sample_windows_in_few_rasters_are_grids():
    windows = sample_windows_in([Window(0, 0, 40, 40), Window(100, 50, 7, 90)], 1000)
    assert windows[0] == Window(0, 0, 2, 2)  # 22 pixels a side for each, in a grid of 11 by 11
    assert [w.left for w in windows[:11]] == [0, 4, 8, 11, 15, 19, 23, 27, 30, 34, 38]
    assert windows[11 * 11].top == 100
    assert windows[-1] == Window(105, 138, 2, 2)
    assert sum(w.height * w.width for w in windows) <= 1000
    assert sample_windows_in([Window(5, 6, 1, 1)], 1000) == [Window(5, 6, 1, 1)]


def test_sample_windows_in_many_rasters_are_their_middles():
    windows = sample_windows_in([Window(i, 0, 9, 9) for i in range(600)], 2560)
    assert len(windows) == 256
    assert windows[:3] == [Window(3, 3, 3, 3), Window(5, 3, 3, 3), Window(7, 3, 3, 3)]
    assert windows[-1] == Window(600, 3, 3, 3)  # of raster 597


def test_sample_indices_are_those_under_the_centres():
    rows, columns = sample_indices(4, 5, 6)
    assert (rows.tolist(), columns.tolist()) == ([1, 3], [1, 3])
    assert [len(axis) for axis in sample_indices(4, 5, 20)] == [4, 5]
    rows, columns = sample_indices(40, 60, 64)
    assert rows.tolist() == [0, 3, 5, 8, 10, 13, 16, 18, 21, 23, 26, 29, 31, 34, 36, 39]
    assert columns[:4].tolist() == [0, 4, 8, 12]
    # up to 16 times the sample every pixel is read, beyond that windows
    assert [len(axis) for axis in sample_indices(32, 32, 64)] == [8, 8]
    assert [len(axis) for axis in sample_indices(33, 32, 64)] == [16, 16]
