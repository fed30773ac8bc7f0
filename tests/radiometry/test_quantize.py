import numpy as np
import pytest

from georsr.radiometry.nodata import is_nodata, nodata_tolerance
from georsr.radiometry.quantize import (
    broadcast_pixel,
    invalid_pixels,
    is_broadcast,
    is_constant,
    quantize,
    quantize_alpha,
    replicate,
)

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32"]


def one(values, dtype, nodata=None, **options):
    values = np.asarray(values, "float32").reshape(1, 1, -1)
    return quantize(values, None, None, dtype, nodata, **options)[0, 0]


def test_replicate_repeats_pixels():
    array = np.array([[[1, 2], [3, 4]]])
    assert replicate(array, 2)[0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4],
                                               [3, 3, 4, 4]]  # fmt: skip
    assert replicate(array[0], 3).shape == (6, 6)
    assert replicate(array, 1).tolist() == array.tolist()


def test_quantize_rounds_and_clips():
    assert one([-3.2, 0.5, 1.5, 254.5, 255.6, 300, 1e9], "uint8").tolist() == [
        0, 0, 2, 254, 255, 255, 255,
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", INTEGERS)
def test_quantize_integer_limits_are_kept(dtype):
    limits = np.iinfo(dtype)
    got = one([-3e38, limits.min, limits.max, 3e38, np.inf, -np.inf], dtype)
    assert got.dtype == dtype
    assert got.tolist() == [limits.min, limits.min, *[limits.max] * 3, limits.min]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quantize_floats_are_unchanged(dtype):
    values = np.array([-1.25, 3e38, 0.1], "float32")
    got = one(values, dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, values.astype(dtype))


@pytest.mark.parametrize(
    ("nodata", "values", "expected"),
    [
        (0, [-5, 0, 0.4, 0.6], [1, 1, 1, 1]),
        (255, [254.4, 254.6, 255, 300], [254, 254, 254, 254]),
        (7, [6.4, 6.6, 7, 7.4, 7.6], [6, 6, 8, 8, 8]),
    ],
)
def test_quantize_valid_pixels_avoid_integer_nodata(nodata, values, expected):
    assert one(values, "uint8", nodata).tolist() == expected


@pytest.mark.parametrize(
    "nodata", [-9999.0, 0.0, 0.1, 3.4028234663852886e38, -3.4028234663852886e38]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quantize_valid_pixels_avoid_float_nodata(dtype, nodata):
    centre = np.float32(nodata)
    spacing = np.float32(abs(nodata)) * np.finfo("float32").eps or np.float32(1e-45)
    with np.errstate(over="ignore"):
        values = centre + np.arange(-3, 4, dtype="float32") * spacing
    values = values[np.isfinite(values)]
    got = one(values, dtype, nodata)
    assert np.isfinite(got).all()
    assert not is_nodata(got, nodata).any()
    reach = max(nodata_tolerance("float32", nodata), 1e-30)
    assert (np.abs(got.astype(float) - values.astype(float)) <= 1.05 * reach).all()


def test_quantize_values_away_from_nodata_are_unchanged():
    values = [-9998.0, 1, 2]
    np.testing.assert_array_equal(one(values, "float32", -9999.0), np.float32(values))
    np.testing.assert_array_equal(one(values, "float32", float("nan")), np.float32(values))


def case(source, dtype, nodata, masked=False):
    """Second pixel invalid; the network made 100 of both."""
    source = np.asarray(source).reshape(1, 1, 2)
    valid = np.array([[[True, False]]])
    values = np.full((1, 1, 2), 100, "float32")
    got = quantize(values, valid, source, dtype, nodata, masked=masked)
    assert got[0, 0, 0] == 100
    return got[0, 0, 1]


def test_quantize_invalid_pixels_keep_the_source_value():
    assert case(np.array([9, 0], "uint16"), "uint16", 0) == 0
    assert case(np.array([9, 33], "uint8"), "uint8", None, masked=True) == 33
    assert case(np.array([9, 33], "uint8"), "uint8", 5.0, masked=True) == 33
    assert case(np.array([9, 33], "uint8"), "uint8", None) == 33
    assert np.isnan(case(np.array([9, np.nan], "float32"), "float32", None))
    assert np.isnan(case(np.array([9, np.nan], "float32"), "float32", -9999.0))
    assert np.isinf(case(np.array([9, np.inf], "float32"), "float64", -9999.0))
    assert case(np.array([9, -9999], "float32"), "float32", -9999.0) == -9999


def test_quantize_invalid_pixels_become_nodata_if_not_representable():
    assert case(np.array([9, 33], "uint8"), "uint8", 0) == 0  # no mask to hide 33 any more
    assert case(np.array([9, 33], "uint8"), "uint16", 7) == 7
    assert case(np.array([9, np.nan], "float32"), "int16", -1) == -1
    assert case(np.array([9, np.nan], "float32"), "uint8", None, masked=True) == 0


def test_quantize_ignores_predictions_of_invalid_pixels():
    source = np.array([[[9.0, 0.0]]], "float32")
    valid = np.array([[[True, False]]])
    for junk in (np.nan, np.inf, -1e38):
        values = np.array([[[100, junk]]], "float32")
        for dtype in ("uint8", "int32", "float32"):
            got = quantize(values, valid, source, dtype, 0)
            assert got.tolist() == [[[100, 0]]]


def test_quantize_nodata_may_differ_per_band():
    values = np.full((2, 1, 1), 5, "float32")
    assert quantize(values, None, None, "uint8", [5, None]).ravel().tolist() == [6, 5]


def test_quantize_invalid_pixels_without_source_raises():
    with pytest.raises(ValueError, match="source_fill"):
        quantize(np.zeros((1, 1, 1), "float32"), np.zeros((1, 1, 1), bool), None, "uint8", 0)


def test_quantize_alpha_is_rescaled_to_the_data_type():
    alpha = np.array([[0, 1, 65535]], "uint16")
    assert quantize_alpha(alpha, "uint8").tolist() == [[0, 1, 255]]
    assert quantize_alpha(alpha, "uint16") is alpha
    assert quantize_alpha(np.array([[0, 255]], "uint8"), "uint16").tolist() == [[0, 65535]]
    assert quantize_alpha(np.array([[0, 255]], "uint8"), "float32").tolist() == [[0, 1]]
    assert quantize_alpha(np.array([[0, 1.0]], "float32"), "uint8").tolist() == [[0, 255]]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtypes", [("uint8", "uint8"), ("float32", "float32"),
                                    ("float32", "int16"), ("uint16", "float32")])  # fmt: skip
@pytest.mark.parametrize("nodata", [None, 7])
def test_quantize_without_valid_pixels_needs_no_values(dtypes, nodata, masked):
    rng = np.random.default_rng(0)
    source = rng.integers(0, 9, (2, 5, 6)).astype(dtypes[0])
    if dtypes[0] == "float32":
        source[0, 1, 2], source[1, 3, 3] = np.nan, np.inf
    fine = replicate(source, 3)
    expected = quantize(
        rng.random(fine.shape, dtype=np.float32), np.zeros(fine.shape, bool), fine,
        dtypes[1], nodata, masked=masked,
    )  # fmt: skip
    got = replicate(invalid_pixels(source, dtypes[1], nodata, masked=masked), 3)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nodata", [-9999.0, 512.0])
def test_quantize_float_beside_nodata_moves_by_the_tolerance(dtype, nodata):
    step = nodata_tolerance(dtype, nodata)
    values = nodata + np.array([-1.0, -0.5, 0, 0.5, 1.0]) * step
    made = quantize(values.reshape(1, 1, -1), None, None, dtype, nodata)[0, 0]
    expected = nodata + np.array([-1.0, -1, 1, 1, 1]) * step
    np.testing.assert_array_equal(made, expected.astype(dtype))


@pytest.mark.parametrize("nodata", [3.4028234663852886e38, -3.4028234663852886e38])
def test_quantize_nodata_at_the_end_of_the_range_moves_inward(nodata):
    step = np.float32(nodata_tolerance("float32", nodata))
    inward = np.float32(nodata) - np.float32(np.sign(nodata)) * step
    assert one([nodata, 1.0], "float32", nodata).tolist() == [inward, 1.0]
    half = np.float32(nodata) / 4  # not at the end: to both sides
    values = np.array([half, np.nextafter(half, np.float32(-np.inf))])
    step = np.float32(nodata_tolerance("float32", float(half)))
    assert one(values, "float32", float(half)).tolist() == [half + step, half - step]


@pytest.mark.parametrize(("dtype", "nodata"), [("int16", -32768), ("int16", 32767), ("uint8", 0)])
def test_quantize_integer_nodata_at_the_end_moves_inward(dtype, nodata):
    inward = nodata + (1 if nodata <= 0 else -1)
    assert one([nodata, nodata * 2, 5], dtype, nodata).tolist() == [inward, inward, 5]


def test_quantize_alpha_that_is_not_0_stays_visible():
    assert quantize_alpha(np.array([[0, 1, 128, 129]], "uint16"), "uint8").tolist() == [
        [0, 1, 1, 1]
    ]
    assert quantize_alpha(np.array([[0.0, 0.5, 2.0, -1.0]]), "uint8").tolist() == [[0, 128, 255, 1]]
    assert quantize_alpha(np.array([[0, 51]], "uint8"), "float64").tolist() == [[0, 0.2]]


@pytest.mark.parametrize(
    ("pixels", "constant"),
    [
        ([[5, 5], [5, 5]], True), ([[5, 5], [5, 6]], False), ([[5, 6], [5, 5]], False),
        ([[5, 5], [6, 5]], False), ([[6, 5, 5], [5, 5, 5], [5, 5, 5]], False),
        ([[5, 5, 5], [5, 6, 5], [5, 5, 5]], False), ([[np.nan, np.nan]], True),
        ([[0.0, -0.0]], False),
    ],
)  # fmt: skip
def test_is_constant_compares_all_pixels(pixels, constant):
    array = np.array([pixels], "float32")
    assert is_constant(array) == constant
    assert is_broadcast(array) is False
    doubled = replicate(array, 2)
    assert is_broadcast(doubled) == constant
    np.testing.assert_array_equal(doubled, array.repeat(2, -1).repeat(2, -2))


def test_broadcast_pixel_repeats_the_first_of_each_plane():
    planes = np.array([[[1, 2]], [[3, 4]]])
    assert broadcast_pixel(planes, 2, 3).tolist() == [[[1] * 3] * 2, [[3] * 3] * 2]
    assert broadcast_pixel(planes, 2, 3).flags.writeable is False


def test_invalid_pixels_without_a_mask_become_nodata():
    source, nothing = np.array([[[33]]], "uint8"), np.zeros((1, 1, 1), bool)
    assert invalid_pixels(source, "uint8", 7).tolist() == [[[7]]]
    assert quantize(np.zeros((1, 1, 1)), nothing, source, "uint8", 7).tolist() == [[[7]]]


@pytest.mark.parametrize("sign", [1, -1])
def test_quantize_nodata_below_half_of_the_range_moves_to_both_sides(sign):
    nodata = float(np.float32(0.4 * sign * 3.4028234663852886e38))
    step = np.float32(nodata_tolerance("float32", nodata))
    values = np.float32(nodata) + np.array([0, -0.5], "float32") * step
    assert one(values, "float32", nodata).tolist() == [nodata + step, nodata - step]
