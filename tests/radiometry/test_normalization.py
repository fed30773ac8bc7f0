import numpy as np
import pytest

from georsr.errors import UsageError
from georsr.io.reader import choose_normalization, open_raster
from georsr.radiometry.normalization import Normalization, normalization_of_sample, unscaled
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
