import numpy as np
import pytest

from georsr.radiometry.nodata import (
    can_represent,
    dataset_mask,
    erode_mask,
    fill_invalid,
    find_fill_values,
    is_nodata,
    nearest_float,
    nodata_tolerance,
    valid_pixels,
)


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


@pytest.mark.parametrize(
    ("dtype", "nodata", "value", "expected"),
    [
        ("float32", -3.4e38, -3.4028234663852886e38, True),  # written down with two digits
        ("float32", float(np.float32(-3.4e38)), -3.4028234663852886e38, True),  # as GDAL gives it
        ("float32", -3.40282e38, -3.4028234663852886e38, True),
        ("float32", -1.7976931348623157e308, -3.4028234663852886e38, True),
        ("float64", -1.79769e308, -1.7976931348623157e308, True),
        ("float32", 9.96921e36, 9.969209968386869e36, True),
        ("float32", 1e30, 1.01e30, False),
        ("float32", -3.4028234663852886e38, -3.4028234663852886e38, True),
        ("float32", -3.4028234663852886e38, -3.4027e38, False),  # a value of its own
        ("float32", -3.4028235e38, -3.4028e38, False),
        ("float32", -1.7976931348623157e308, -3.4027e38, False),
        ("float32", -3.4028234663852886e38, -3.4e38, True),  # nodata in two digits
        (
            "float32",
            -3.4028234663852886e38,
            np.nextafter(np.float32(-3.4e38), np.float32(0)),
            False,
        ),
        ("float32", -3.4028234663852886e38, -3.39e38, False),
        ("float32", 9.969209968386869e36, 1e37, False),
        ("float32", -np.inf, -3.4028234663852886e38, True),  # GDAL reads -1.79769e308 as -inf
        ("float32", -np.inf, -3.4028232635611926e38, False),
        ("float32", -np.inf, 3.4028234663852886e38, False),
        ("float32", np.inf, 3.4028234663852886e38, True),
        ("float64", -np.inf, -1.7976931348623157e308, True),
        ("float64", -np.inf, -3.4028234663852886e38, False),
        ("float32", -9999, -9999.01, False),
        ("float32", 0.1, np.float32(0.1), True),
    ],
)
def test_is_nodata_rounded_value_counts(dtype, nodata, value, expected):
    assert can_represent(dtype, nearest_float(dtype, nodata))
    assert is_nodata(np.array([value], dtype), nodata)[0] == expected


def test_can_represent_largest_float_written_rounded_up():
    assert can_represent("float32", -3.4028235e38)
    assert can_represent("float32", 3.4029e38)
    assert not can_represent("float32", 1e39)


def data(dtype="float32", n=4000, low=300.0, high=2500.0):
    return np.random.default_rng(0).uniform(low, high, n).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "fills"),
    [
        ("float32", [-9999.0]),
        ("float32", [1e20]),
        ("float32", [9.969209968386869e36]),
        ("float32", [-3.4028234663852886e38]),
        ("float32", [-9999.0, 1e20]),
        ("float32", [-9999.0, -9998.0]),
        ("float64", [-1.7976931348623157e308]),
        ("int16", [-32768]),
        ("uint16", [65535]),
        ("uint16", [65535, 65534, 65533]),
        ("uint32", [4294967295]),
        ("int32", [-2147483648, 2147483647]),
    ],
)
def test_find_fill_values_isolated_repeated_ends_are_found(dtype, fills):
    pixels = data(dtype)
    for i, fill in enumerate(fills):
        pixels[i :: 10 + i] = fill
    found, rest = find_fill_values(pixels)
    assert sorted(found) == sorted(float(np.dtype(dtype).type(fill)) for fill in fills)
    np.testing.assert_array_equal(rest, pixels[~np.isin(pixels, np.array(fills, dtype))])


def test_find_fill_values_most_pixels_are_fill():
    pixels = data()
    pixels[200:] = -9999
    found, rest = find_fill_values(pixels)
    assert found == [-9999.0]
    assert rest.size == 200


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([], "float32"),
        np.full(1000, 7, "uint16"),
        np.repeat([0, 255], 500).astype("uint8"),  # two values are no image with fill
        np.r_[np.zeros(3000), data(n=1000, low=0.1, high=5)].astype("float32"),  # rain
        np.minimum(data("uint16", low=20_000, high=90_000), 65_535),  # saturated
        np.r_[data(), -9999].astype("float32"),  # a single pixel
        np.random.default_rng(0).lognormal(0, 2, 4000).astype("float32"),
    ],
)
def test_find_fill_values_ordinary_data_has_none(pixels):
    found, rest = find_fill_values(pixels)
    assert found == []
    np.testing.assert_array_equal(rest, pixels)


def test_find_fill_values_resampled_fill_is_no_measurement():
    pixels = np.r_[data(), np.linspace(-3e38, -1e37, 50)].astype("float32")
    found, rest = find_fill_values(pixels)
    assert found == []
    np.testing.assert_array_equal(rest, pixels[:4000])


def test_fill_invalid_float64_keeps_small_differences_on_a_large_offset():
    values = 3e9 + np.arange(64.0).reshape(1, 8, 8)
    valid = np.ones(values.shape, bool)
    valid[0, 3:5, 3:5] = False
    values[~valid] = -1e300
    filled = fill_invalid(values, valid)
    np.testing.assert_array_equal(filled[valid], values[valid])
    assert np.abs(filled[~valid] - (3e9 + 31.5)).max() < 8


def test_fill_invalid_largest_floats_stay_finite():
    for dtype in ("float32", "float64"):
        values = np.full((1, 9, 9), np.finfo(dtype).max)
        negative = np.full((1, 9, 9), -np.finfo(dtype).max)
        values[0, ::2] *= -1
        valid = np.ones(values.shape, bool)
        valid[0, 4, 4] = False
        for all_values in (values, negative):
            assert np.isfinite(fill_invalid(all_values.astype(dtype), valid)).all()


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("float32", 1e39, 3.4028234663852886e38), ("float32", -1e39, -3.4028234663852886e38),
        ("float64", 1e39, 1e39), ("float32", float("inf"), float("inf")), ("float32", 0.5, 0.5),
    ],
)  # fmt: skip
def test_nearest_float_is_finite_if_the_value_is(dtype, value, expected):
    assert nearest_float(dtype, value) == expected


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("int16", -9999.0, 0.0), ("float32", float("nan"), 0.0), ("float32", float("inf"), 0.0),
        ("float32", 8.0, 16 * 2.0**-23 * 8), ("float64", -8.0, 16 * 2.0**-52 * 8),
        ("float32", 1e30, 4e-3 * float(np.float32(1e30))), ("float32", 0.0, 0.0),
        ("float32", -1e39, 16 * 2.0**-23 * 3.4028234663852886e38),
        ("float32", -3.40e38, 4e-3 * float(np.float32(3.4e38))),
        ("float32", -3.4028e38, 2e34),
        ("float32", 0.99e30, 16 * 2.0**-23 * 0.99e30),
    ],
)  # fmt: skip
def test_nodata_tolerance_is_16_epsilons_or_a_fraction_of_huge_values(dtype, nodata, expected):
    assert nodata_tolerance(dtype, nodata) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("nodata", "steps", "expected"), [(1024.0, 4, True), (1024.0, 5, False), (-1024.0, 4, True)]
)
def test_is_nodata_within_4_epsilons(nodata, steps, expected):
    value = np.float32(nodata + steps * 2.0**-23 * 1024)
    assert is_nodata(np.array([value]), nodata)[0] == expected


def filled(n, count, dtype="float64", fill=-9999.0, different=200):
    """Return ``n`` pixels of 300 to 499, of which ``count`` are a fill value."""
    pixels = 300 + np.arange(n) % different
    pixels[:count] = fill
    return pixels.astype(dtype)


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (filled(4000, 16), True), (filled(4000, 15), False),  # at least 16
        (filled(40_000, 40), True), (filled(40_000, 39), False),  # and one in a thousand
        (filled(400, 40, different=16), True), (filled(400, 40, different=15), False),
        (filled(4000, 40, fill=101), True), (filled(4000, 40, fill=102), False),
    ],
)  # fmt: skip
def test_find_fill_values_needs_many_pixels_far_from_an_image(pixels, found):
    """The middle 99 % of the data span 198; a fill value is farther away than that from 300."""
    fills, rest = find_fill_values(pixels)
    assert bool(fills) == found
    assert len(rest) == ((pixels >= 300).sum() if found else len(pixels))


@pytest.mark.parametrize(("count", "found"), [(8, 8), (9, 0)])
def test_find_fill_values_finds_up_to_8_beside_each_other(count, found):
    pixels = filled(8000, 0)
    for i in range(count):
        pixels[i * 20 : (i + 1) * 20] = -9999 + i
    fills, _ = find_fill_values(pixels)
    assert len(fills) == found


def test_find_fill_values_those_of_most_pixels_come_first():
    pixels = filled(8000, 40)
    pixels[40:120], pixels[120:180] = 1e6, -9998
    assert find_fill_values(pixels)[0] == [1e6, -9998.0, -9999.0]


@pytest.mark.parametrize(("factor", "kept"), [(0.99, True), (1.01, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_find_fill_values_outliers_begin_a_million_ranges_away(sign, factor, kept):
    pixels = np.linspace(0, 10, 4001)  # 8 from the 10th to the 90th percentile
    far = 5 + sign * factor * 8e6
    _, rest = find_fill_values(np.r_[pixels, far])
    assert len(rest) == 4001 + kept
    assert find_fill_values(np.full(5, 7.0))[1].size == 5


@pytest.mark.parametrize("border", [True, False])
def test_erode_mask_removes_a_square_around_invalid_pixels(border):
    valid = np.ones((2, 7, 9), bool)
    valid[0, 3, 4] = False
    eroded = erode_mask(valid, 2, border=border)
    inside = np.zeros((7, 9), bool)
    inside[2:-2, 2:-2] = True
    expected = np.ones((2, 7, 9), bool) if border else np.stack([inside, inside])
    expected[0, 1:6, 2:7] = False
    np.testing.assert_array_equal(eroded, expected)
    np.testing.assert_array_equal(erode_mask(valid[0], 0), valid[0])
    assert erode_mask(valid[1], 2).all()


def test_valid_pixels_of_several_nodata_values():
    values = np.array([1.0, -9999.0, 7.0, np.inf])
    assert valid_pixels(values, -9999.0, None, 7.0).tolist() == [True, False, False, False]
