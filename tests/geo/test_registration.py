"""Known shifts of band-limited texture, found again; scikit-image as a second opinion."""

import math
from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from skimage.registration import phase_cross_correlation

from georsr.errors import InputError, UsageError
from georsr.geo.registration import (
    common_windows,
    offset_between,
    phase_shift,
    scale_between,
    window_of_output,
)
from georsr.window import Window
from tests.rasters import UTM, make_raster, open_quietly, ramp


def texture(shape, dy=0.0, dx=0.0, seed=0):
    """Smooth random texture moved down and right by any distance: a sum of plane waves."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape, dtype=float)
    image = np.full(shape, 100.0)
    for _ in range(150):
        fy, fx = rng.uniform(-0.12, 0.12, 2)
        phase = 2 * np.pi * (fy * (y - dy) + fx * (x - dx)) + rng.uniform(0, 2 * np.pi)
        image += np.cos(phase) / (0.02 + np.hypot(fy, fx)) / 4
    return image


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, -0.5), (-1.37, 2.81), (0.02, 0.0), (7, -9.4)])
@pytest.mark.parametrize("shape", [(96, 96), (80, 133)])
def test_phase_shift_recovers_known_shifts(shift, shape):
    found = phase_shift(texture(shape, *shift), texture(shape))
    assert found == pytest.approx(shift, abs=0.02)


def test_phase_shift_ignores_noise_and_contrast():
    rng = np.random.default_rng(1)
    reference = texture((128, 128))
    moved = np.rint(0.7 * texture((128, 128), 0.6, -0.3) + rng.normal(0, 2, (128, 128)) + 20)
    assert phase_shift(moved, reference, scale=2) == pytest.approx((0.6, -0.3), abs=0.02)


def test_phase_shift_agrees_with_scikit_image():
    rng = np.random.default_rng(2)
    reference = rng.normal(100, 20, (128, 128))
    fy, fx = np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)
    moved = np.fft.ifft2(np.fft.fft2(reference) * np.exp(-2j * np.pi * (1.3 * fy - 0.8 * fx))).real
    theirs, _, _ = phase_cross_correlation(moved, reference, upsample_factor=100)
    ours = phase_shift(moved, reference)
    assert ours == pytest.approx(theirs, abs=0.02)
    assert ours == pytest.approx((1.3, -0.8), abs=0.02)


def test_phase_shift_ignores_invented_detail():
    rng = np.random.default_rng(3)
    truth = texture((128, 128), seed=4)
    checks = 30 * np.kron(rng.choice([-1, 1], (64, 64)), [[1, -1], [-1, 1]])
    found = phase_shift(truth + checks, truth, scale=4)
    assert found == pytest.approx((0, 0), abs=0.02)


def test_phase_shift_of_flat_images_is_nan():
    flat, other = np.full((32, 32), 7.0), texture((32, 32))
    assert all(math.isnan(v) for v in phase_shift(flat, other))
    with pytest.raises(ValueError, match="expected two alike"):
        phase_shift(other, other[1:])
    with pytest.raises(ValueError, match="at least"):
        phase_shift(other[:8], other[:8])


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    """A raster of 40 x 50 pixels of 10 m."""
    with open_quietly(make_raster(tmp_path_factory.mktemp("grid") / "a.tif", ramp(1))) as reader:
        return reader.info


def moved(info, column, row, width=50, height=40, pixel=1.0):
    """The same raster from another pixel on, of another size."""
    transform = UTM @ Affine.translation(column, row) @ Affine.scale(pixel)
    return replace(info, transform=transform, width=width, height=height)


@pytest.mark.parametrize(("column", "row"), [(0, 0), (7, -3), (7.009, 2.991), (-120, 44)])
def test_offset_between_is_row_and_column(column, row, info):
    assert offset_between(moved(info, column, row), info) == (round(row), round(column))


@pytest.mark.parametrize(
    "transform",
    [
        UTM @ Affine.translation(0.02, 0), UTM @ Affine.translation(0, 0.02),
        UTM @ Affine.translation(5.98, 0), UTM @ Affine.scale(1.0003, 1),
        UTM @ Affine.scale(1, 1.0003), UTM @ Affine(1, 3e-4, 0, 0, 1, 0),
        UTM @ Affine(1, 0, 0, 3e-4, 1, 0), UTM @ Affine.scale(0.5),
    ],
)  # fmt: skip
def test_offset_between_grids_a_hundredth_of_a_pixel_apart_is_refused(transform, info):
    with pytest.raises(UsageError, match=r"not on one pixel grid|has pixels of"):
        offset_between(replace(info, transform=transform), info)


@pytest.mark.parametrize(
    "transform", [UTM @ Affine.scale(1.0001, 1.0002), UTM @ Affine(1, 2e-4, 0, 1e-4, 1, 0)]
)
def test_offset_between_grids_that_differ_by_rounding_is_0(transform, info):
    assert offset_between(replace(info, transform=transform), info) == (0, 0)


def test_offset_between_without_geotransform_needs_one_size(info):
    bare = replace(info, transform=None)
    assert offset_between(bare, bare) == (0, 0)
    for other in (replace(info, height=41), replace(info, width=51)):
        for pair in ((bare, other), (other, bare)):
            with pytest.raises(UsageError, match="differ in size"):
                offset_between(*pair)
    with pytest.raises(UsageError, match="differ in CRS"):
        offset_between(replace(info, crs=CRS.from_epsg(4326)), info)


def test_common_windows_are_of_the_same_ground(info):
    other = moved(info, 10, -5, width=60, height=20)
    assert common_windows(other, info) == (Window(5, 0, 15, 40), Window(0, 10, 15, 40))
    assert common_windows(info, other) == (Window(0, 10, 15, 40), Window(5, 0, 15, 40))
    with pytest.raises(InputError, match="do not overlap"):
        common_windows(moved(info, 50, 0), info)


@pytest.mark.parametrize("scale", [1, 2, 8])
def test_scale_between_output_and_source(scale, info):
    size = {"width": 50 * scale, "height": 40 * scale}
    output = moved(info, 0, 0, pixel=1 / scale, **size)
    assert scale_between(output, info) == scale
    assert scale_between(replace(output, transform=None), info) == scale
    for column, row in ((0.02, 0), (0, 0.02), (-1, 0)):
        with pytest.raises(UsageError, match="same ground"):
            scale_between(moved(info, column, row, pixel=1 / scale, **size), info)
    with pytest.raises(UsageError, match="same ground"):
        scale_between(moved(info, 0, 0, pixel=1 / scale * 1.0003, **size), info)


@pytest.mark.parametrize(
    ("width", "height"), [(450, 360), (101, 80), (100, 81), (25, 20), (100, 120)]
)
def test_scale_between_other_sizes_is_refused(width, height, info):
    with pytest.raises(UsageError, match="enlarged 1 to 8 times"):
        scale_between(replace(info, width=width, height=height), info)


def test_window_of_output_is_the_part_that_it_covers(info):
    output = moved(info, 10, 5, width=60, height=40, pixel=0.5)
    assert window_of_output(output, info) == Window(5, 10, 20, 30)
    assert window_of_output(moved(info, 20, 20, 60, 40, 0.5), info) == Window(20, 20, 20, 30)
    assert window_of_output(info, info) == Window(0, 0, 40, 50)
    unknown = [
        moved(info, 21, 20, 60, 40, 0.5), moved(info, 20, 21, 60, 40, 0.5),
        moved(info, -1, 0, 60, 40, 0.5), moved(info, 10.02, 5, 60, 40, 0.5),
        moved(info, 10, 5.02, 60, 40, 0.5), moved(info, 0, 0, 61, 40, 0.5),
        moved(info, 0, 0, 60, 41, 0.5), moved(info, 0, 0, 60, 40, -0.5),
        moved(info, 0, 0, 60, 40, 3.0), replace(output, transform=None),
        replace(output, crs=CRS.from_epsg(4326)),
    ]  # fmt: skip
    assert [window_of_output(other, info) for other in unknown] == [None] * len(unknown)
    assert window_of_output(output, replace(info, transform=None)) is None


def test_phase_shift_of_the_smallest_images_and_scales():
    image = texture((16, 16))
    assert phase_shift(image, image) == pytest.approx((0, 0), abs=1e-9)
    with pytest.raises(ValueError, match="at least"):
        phase_shift(image[:, :15], image[:, :15])
    with pytest.raises(ValueError, match="expected two alike"):
        phase_shift(image[None], image[None])
    almost = np.full((16, 16), 1e12) + texture((16, 16))  # a range of 1e-10 of its values
    assert math.isnan(phase_shift(almost, image)[0])
