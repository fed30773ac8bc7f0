import numpy as np
import pytest

from georsr.errors import UsageError
from georsr.io.reader import choose_normalization, open_raster
from georsr.radiometry.normalization import (
    REACH,
    Normalization,
    fixed_normalization,
    normalization_of_sample,
    unscaled,
)
from tests.rasters import make_raster, ramp

DTYPES = ["uint8", "uint16", "int16", "int32", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalization_inverse_undoes_forward(dtype):
    values = ramp(dtype=dtype)
    stretch = Normalization((0.0, 1.0, -5.0), (255.0, 100.0, 50.0), "fixed")
    scaled = stretch.forward(values)
    assert scaled.dtype == np.float32
    expected = (values[1].astype(float) - 1) / 99
    np.testing.assert_allclose(scaled[1], expected, rtol=1e-6, atol=1e-7)
    back = stretch.inverse(scaled)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(np.rint(back), values)


def test_normalization_leaves_its_input_unchanged():
    values = ramp(1, dtype="float32")
    copy = values.copy()
    Normalization((0.0,), (10.0,), "fixed").inverse(
        Normalization((0.0,), (10.0,), "fixed").forward(values)
    )
    np.testing.assert_array_equal(values, copy)


def test_normalization_of_large_offsets_keeps_small_differences():
    values = np.array([[[1e9, 1e9 + 1, 1e9 + 2]]])
    scaled = Normalization((1e9,), (1e9 + 2,), "fixed").forward(values)
    np.testing.assert_array_equal(scaled, [[[0, 0.5, 1]]])
    whole = Normalization((2.0**30,), (2.0**30 + 2,), "fixed")
    np.testing.assert_array_equal(whole.forward((values - 1e9 + 2**30).astype("int32")), scaled)


@pytest.mark.parametrize("value", [0.0, 7.0, -3.5])
def test_normalization_of_a_constant_band_is_finite(value):
    values = np.full((1, 4, 5), value, "float32")
    stretch = normalization_of_sample(values, np.ones(values.shape, bool))
    assert stretch.lo == stretch.hi == (value,)
    scaled = stretch.forward(values)
    assert np.isfinite(scaled).all()
    np.testing.assert_array_equal(stretch.inverse(scaled), values)


def test_clip_with_remainder_sums_to_the_input():
    x = np.array([[[-0.5, 0.0, 0.25, 1.0, 3.0]]], "float32")
    stretch = Normalization((0.0,), (1.0,), "fixed")
    clipped, rest = stretch.clip_with_remainder(x)
    np.testing.assert_array_equal(clipped, [[[0, 0, 0.25, 1, 1]]])
    np.testing.assert_array_equal(clipped + rest, x)
    inside = x[..., 1:4]
    clipped, rest = stretch.clip_with_remainder(inside)
    assert rest is None
    np.testing.assert_array_equal(clipped, inside)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e17])
def test_to_stretch_is_an_option_that_gives_the_same_limits(value):
    found = Normalization((0.1, value), (1 / 3, value), "percentile")
    option = fixed_normalization("float64", 2, found.to_stretch())
    assert (option.lo, option.hi[0]) == (found.lo, found.hi[0])
    assert option.hi[1] == max(value + 1, np.nextafter(value, np.inf))


def test_normalization_json_round_trips():
    stretch = Normalization((0.1, -3.0), (1 / 3, 1e300), "percentile")
    assert Normalization.from_json(stretch.to_json()) == stretch


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"lo": [0], "hi": [1], "kind": "x", "more": 1}',
     '{"lo": [2], "hi": [1], "kind": "x"}', '{"lo": [0, 0], "hi": [1], "kind": "x"}'],
)  # fmt: skip
def test_from_json_malformed_text_is_refused(text):
    with pytest.raises(UsageError, match="not a stretch"):
        Normalization.from_json(text)


@pytest.mark.parametrize(
    ("dtype", "mode", "expected"),
    [
        ("uint8", "auto", (0, 255)),
        ("uint8", "dtype", (0, 255)),
        ("int16", "dtype", (-32768, 32767)),
        ("float32", "dtype", (0, 1)),
        ("uint16", "100,3000", (100, 3000)),
        ("uint16", "percentile:0,100", (1, 199)),
    ],
)
def test_choose_normalization_of_each_mode(tmp_path, dtype, mode, expected):
    with open_raster(make_raster(tmp_path / "a.tif", ramp(2, dtype=dtype))) as reader:
        stretch = choose_normalization(reader, mode)
    assert (stretch.lo, stretch.hi) == ((expected[0],) * 2, (expected[1],) * 2)


def test_choose_normalization_range_per_band(rgb):
    with open_raster(rgb) as reader:
        stretch = choose_normalization(reader, "0,1;-2,3;4.5,6")
        assert (stretch.lo, stretch.hi) == ((0, -2, 4.5), (1, 3, 6))
        with pytest.raises(UsageError, match="2 ranges for 3 bands"):
            choose_normalization(reader, "0,1;2,3")


@pytest.mark.parametrize(
    "mode", ["", "auto2", "1", "1,2,3", "2,1", "0,inf", "percentile:9", "percentile:50,20",
             "percentile:-1,99", "percentile:0,101"],
)  # fmt: skip
def test_choose_normalization_unknown_mode_is_refused(rgb, mode):
    with open_raster(rgb) as reader, pytest.raises(UsageError, match="known are auto"):
        choose_normalization(reader, mode)


def test_choose_normalization_percentiles_of_valid_pixels_only(tmp_path):
    data = np.linspace(100, 200, 2000, dtype="float32").reshape(1, 40, 50)
    data = np.concatenate([data, data * 10])
    data[:, :10] = -9999
    data[1, 11, 0] = np.nan
    with open_raster(make_raster(tmp_path / "a.tif", data, nodata=-9999)) as reader:
        stretch = choose_normalization(reader)
    low, high = np.percentile(data[0, 10:], (0.5, 99.5))
    assert (stretch.lo[0], stretch.hi[0]) == pytest.approx((low, high))
    assert stretch.lo[1] == pytest.approx(10 * low, rel=0.01)
    assert stretch.kind == "percentile"


def test_normalization_of_sample_almost_constant_uses_the_full_range():
    values = np.full((1, 40, 50), 3, "uint16")
    values[0, 0, 0] = 900
    stretch = normalization_of_sample(values, np.ones(values.shape, bool))
    assert (stretch.lo, stretch.hi) == ((3,), (900,))


def test_normalization_of_sample_without_valid_pixels_is_0_to_1():
    values = np.full((2, 4, 5), np.nan, "float32")
    stretch = normalization_of_sample(values, np.zeros(values.shape, bool))
    assert (stretch.lo, stretch.hi) == ((0, 0), (1, 1))


def test_normalization_of_sample_fill_values_do_not_set_the_range():
    rng = np.random.default_rng(0)
    values = rng.uniform(100, 900, (2, 5000)).astype("float32")
    valid = np.ones(values.shape, bool)
    expected = normalization_of_sample(values[:, 500:], valid[:, 500:])
    values[0, :500], values[1, :500] = -9999, 1e20
    said = []
    found = normalization_of_sample(values, valid, warn=said.append)
    assert found.lo == pytest.approx(expected.lo)
    assert found.hi == pytest.approx(expected.hi)
    assert len(said) == 1
    assert "-9999.0 (10 %), 1e+20 (10 %)" in said[0]


def test_out_of_reach_values_far_from_the_range():
    stretch = Normalization((0.0,), (1.0,), "fixed")
    values = np.array([[[0.5, -9999, 1e20, 4000, -4095, np.nan]]], "float32")
    expected = [[[False, True, True, False, False, False]]]
    np.testing.assert_array_equal(stretch.out_of_reach(values), expected)
    usable = stretch.usable(values, np.isfinite(values))
    np.testing.assert_array_equal(usable[0, 0], [True, False, False, True, True, False])
    assert stretch.out_of_reach(values[..., :1]) is None
    assert unscaled(1).out_of_reach(values) is None
    wide = Normalization((0.0,), (100.0,), "fixed")
    assert wide.out_of_reach(np.array([[[65535]]], "uint16")) is None


@pytest.mark.parametrize("dtype", ["uint32", "int32", "float64"])
def test_normalization_wide_types_come_back_exactly(dtype):
    values = (np.arange(1000).reshape(1, 10, 100) + 2_000_000_000).astype(dtype)
    stretch = normalization_of_sample(values, np.ones(values.shape, bool))
    back = stretch.inverse(stretch.forward(values), dtype=np.float64)
    np.testing.assert_allclose(back, values.astype(np.float64), atol=1e-3, rtol=0)
    plain = unscaled(1)
    np.testing.assert_array_equal(plain.inverse(plain.forward(values), dtype=np.float64), values)


def test_inverse_beyond_the_type_becomes_its_largest_value():
    x = np.array([[[1e30, -1e30, 0.5]]], "float32")
    stretch = Normalization((0.0,), (1e10,), "fixed")
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(stretch.inverse(x), np.float32([[[largest, -largest, 5e9]]]))


@pytest.mark.parametrize(
    ("lo", "hi"),
    [((), ()), ((0.0,), (1.0, 2.0)), ((2.0,), (1.0,)), ((float("nan"),), (1.0,)),
     ((0.0,), (float("inf"),)), ((0.0, 5.0), (1.0, 4.0))],
)  # fmt: skip
def test_normalization_impossible_limits_are_refused(lo, hi):
    with pytest.raises(ValueError, match="lo"):
        Normalization(lo, hi, "fixed")
    assert Normalization((3.0,), (3.0,), "fixed").hi == (3.0,)


def test_unscaled_divides_by_16_and_is_exact():
    plain = unscaled(2)
    assert (plain.lo, plain.hi, plain.kind) == ((0.0, 0.0), (16.0, 16.0), "none")
    values = np.array([[[32.0, 1.0]], [[-4.0, 7.0]]])
    scaled = plain.forward(values)
    assert scaled.dtype == np.float64
    np.testing.assert_array_equal(scaled, values / 16)
    assert plain.forward(values.astype("int16")).dtype == np.float32
    far = np.array([[[-9.0, 9.0]]], "float32")
    assert plain.clip_with_remainder(far) == (far, None)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int32"])
def test_out_of_reach_begins_4096_ranges_from_the_limits(dtype):
    """The range is 0 to 2: values from -8192 to 8194 are in reach."""
    assert REACH == 4096
    stretch = Normalization((0.0,), (2.0,), "fixed")
    values = np.array([[[-8193, -8192, 8194, 8195]]], dtype)
    assert stretch.out_of_reach(values).ravel().tolist() == [True, False, False, True]
    assert stretch.out_of_reach(values[..., 1:3]) is None
    valid = np.array([[[True, True, False, True]]])
    assert stretch.usable(values, valid).ravel().tolist() == [False, True, False, False]
    assert stretch.usable(values[..., 1:3], valid[..., 1:3]) is not None


def test_out_of_reach_of_each_band_has_its_own_range():
    stretch = Normalization((0.0, 1000.0), (1.0, 1001.0), "fixed")
    values = np.full((2, 1, 2), [-3500.0, 5000.0])
    beyond = stretch.out_of_reach(values)
    assert beyond.tolist() == [[[False, True]], [[True, False]]]


def test_forward_filled_fills_only_where_it_must():
    stretch = Normalization((0.0,), (10.0,), "fixed")
    values = np.array([[[5, 5, 90]]], "uint8")
    usable = np.array([[[True, True, False]]])
    np.testing.assert_array_equal(stretch.forward_filled(values, usable), [[[0.5, 0.5, 0.5]]])
    np.testing.assert_array_equal(stretch.forward_filled(values, usable | True), [[[0.5, 0.5, 9]]])


def test_inverse_writes_into_the_array_that_is_given():
    x = np.array([[[0.5, 1.0]]], "float32")
    moved = Normalization((3.0,), (5.0,), "fixed")
    assert moved.inverse(x, out=x) is x
    assert x.ravel().tolist() == [4.0, 5.0]
    wide = moved.inverse(x, out=x, dtype=np.float64)  # of another type: not written into
    assert wide.dtype == np.float64
    assert x.ravel().tolist() == [4.0, 5.0]
    assert moved.inverse(x, dtype="float64").ravel().tolist() == [11.0, 13.0]


def test_scale_difference_has_no_offset():
    stretch = Normalization((100.0, 0.0), (104.0, 1.0), "fixed")
    difference = np.array([[[0.5]], [[0.5]]], "float32")
    scaled = stretch.scale_difference(difference)
    assert (scaled.ravel().tolist(), scaled.dtype) == ([2.0, 0.5], np.float32)
    assert stretch.scale_difference(np.ones((2, 3), "float32")).tolist() == [[4.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("span", [0.0, 1e-46])
def test_normalization_of_no_range_is_shifted_alone(span):
    stretch = Normalization((0.0,), (span,), "fixed")
    np.testing.assert_array_equal(stretch.forward(np.full((1, 1, 1), 3.0)), 3.0)
    small = Normalization((0.0,), (2.0**-149,), "fixed")
    np.testing.assert_array_equal(small.forward(np.full((1, 1, 1), 2.0**-149)), 1.0)


@pytest.mark.parametrize(
    ("values", "clipped"), [([0.0, 1.0], False), ([-1e-7, 1.0], True), ([0.0, 1.001], True)]
)
def test_clip_with_remainder_returns_values_inside_as_they_are(values, clipped):
    x = np.array([[values]], "float32")
    inside, rest = Normalization((0.0,), (1.0,), "fixed").clip_with_remainder(x)
    assert (inside is x, rest is None) == (not clipped, not clipped)
    empty = np.zeros((1, 0, 3), "float32")
    assert Normalization((0.0,), (1.0,), "fixed").clip_with_remainder(empty) == (empty, None)


def test_fixed_normalization_of_each_mode():
    assert fixed_normalization("float64", 2, "dtype") == Normalization(
        (0.0,) * 2, (1.0,) * 2, "dtype"
    )
    assert fixed_normalization("uint8", 1, "auto") == Normalization((0.0,), (255.0,), "dtype")
    assert fixed_normalization("uint16", 1, "auto") is None
    assert fixed_normalization("uint8", 1, "percentile:0,100") is None
    assert fixed_normalization("uint8", 2, "1,3").kind == "fixed"
    with pytest.raises(UsageError, match="needs the scale and offset of a file"):
        fixed_normalization("uint16", 1, "reflectance:0,1")
    for mode in ("3,3", "percentile:5,5", "0,1;2,2"):
        with pytest.raises(UsageError, match="known are auto"):
            fixed_normalization("uint16", 2, mode)


def test_normalization_of_sample_limits_have_a_finite_difference():
    largest = np.finfo("float64").max
    values = np.linspace(-largest / 2, largest / 2, 4000)[None]
    found = normalization_of_sample(values, np.ones(values.shape, bool), "percentile:0,100")
    assert (found.lo, found.hi) == ((-largest / 4,), (largest / 4,))


def test_normalization_of_sample_names_three_values_and_counts_the_others():
    values = np.random.default_rng(0).uniform(100, 900, (1, 8000))
    for i, fill in enumerate((-9999, -9998, -9997, -9996, 1e20)):
        values[0, i * 200 : i * 200 + 100 + 10 * i] = fill
    said = []
    normalization_of_sample(values, np.ones(values.shape, bool), warn=said.append)
    assert "1e+20 (1.8 %), -9996.0 (1.6 %), -9997.0 (1.5 %) and 2 more values lie far" in said[0]
    values[0, :400] = 500
    normalization_of_sample(values, np.ones(values.shape, bool), warn=said.append)
    assert " more values" not in said[1]
