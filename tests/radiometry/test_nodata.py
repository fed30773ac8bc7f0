import numpy as np
import pytest

from georsr.radiometry.nodata import can_represent, dataset_mask, is_nodata, valid_pixels


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("uint8", 255, True), ("uint8", 256, False), ("uint8", -1, False), ("uint8", 0.5, False),
        ("uint8", float("nan"), False), ("int16", -32768, True), ("uint32", 2**32 - 1, True),
        ("float32", 1e39, False), ("float32", float("nan"), True), ("float64", 1e39, True),
        ("float32", -3.4028234663852886e38, True), ("int32", float("inf"), False),
    ],
)  # fmt: skip
def test_can_represent_value_in_data_type(dtype, value, expected):
    assert can_represent(dtype, value) is expected


def test_is_nodata_compares_nan_and_infinity():
    assert is_nodata(np.array([0, 7], "uint8"), 7).tolist() == [False, True]
    assert is_nodata(np.array([0, np.nan], "float32"), float("nan")).tolist() == [False, True]
    assert is_nodata(np.array([0, np.inf], "float32"), float("inf")).tolist() == [False, True]
    values = np.array([0.1, 0.1000002, -0.1], "float32")
    assert is_nodata(values, 0.1).tolist() == [True, False, False]
    assert is_nodata(np.array([0, 1e-40], "float32"), 0.0).tolist() == [True, False]


def test_dataset_mask_needs_all_bands_valid():
    valid = np.array([[[True, True]], [[True, False]]])
    assert dataset_mask(valid).tolist() == [[255, 0]]
    assert dataset_mask(valid).dtype == np.uint8


def test_valid_pixels_are_finite_and_not_nodata():
    values = np.array([1, np.nan, np.inf, -9999], "float32")
    assert valid_pixels(values, None).tolist() == [True, False, False, True]
    assert valid_pixels(values, -9999).tolist() == [True, False, False, False]
    assert valid_pixels(np.array([0, 3], "uint8"), 0).tolist() == [False, True]
    assert valid_pixels(np.array([0, 3], "uint8"), None).all()
