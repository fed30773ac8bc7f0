"""Varied crops: coarser scenes, other bands, other light, even ground; and nothing else moves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from georsr.errors import InputError, UsageError
from georsr.radiometry.degradation import BicubicDegradation, ImagingChain, bicubic_downsample
from georsr.training.data.source import open_source
from georsr.training.data.variation import Variation, add_even_surface, shrink
from georsr.training.recipe import DataSettings

NONE = Variation(whole=1, gray=0, colours=0, light=0, flat=0)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def image():
    return rng(5).integers(0, 256, (4, 80, 96), np.uint8)


def test_variation_none_is_a_window_of_the_image(image):
    crop = NONE.crop(image, 32, rng(1))
    places = np.lib.stride_tricks.sliding_window_view(image[0], (32, 32))
    found = np.argwhere((places == np.rint(crop[0] * 255)).all((2, 3)))
    assert len(found) == 1
    top, left = found[0]
    expected = image[:3, top : top + 32, left : left + 32] / np.float32(255)
    np.testing.assert_allclose(crop, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [16, 64, 200])
def test_variation_crop_has_size_and_range(image, size):
    variation = Variation(whole=0.2, flat=0.5)
    for seed in range(20):
        crop = variation.crop(image, size, rng(seed))
        assert crop.shape[0] in (1, 3)
        assert crop.shape[1:] == (size, size)
        assert crop.dtype == np.float32
        assert 0 <= crop.min() <= crop.max() <= 1


def test_variation_shrink_averages(image):
    crop = replace(NONE, whole=0, shrink=(2.0, 2.0)).crop(image[:3], 32, rng())
    assert crop.std() < 0.7 * (image / 255).std()  # white noise, averaged


def test_variation_of_small_images_mirrors():
    bands = rng().random((1, 40, 40), dtype=np.float32)
    made = shrink(bands, 2.0, 30, rng())
    np.testing.assert_array_equal(made[:, :, 20:], made[:, :, 19:9:-1])
    np.testing.assert_array_equal(made[:, 20:], made[:, 19:9:-1])


def test_variation_gray_has_one_band(image):
    seen = {replace(NONE, gray=1).crop(image, 8, rng(seed)).shape[0] for seed in range(10)}
    assert seen == {1}


def test_variation_colours_use_the_near_infrared():
    infrared = np.zeros((4, 16, 16), np.uint8)
    infrared[3] = 255
    made = [replace(NONE, colours=1).crop(infrared, 8, rng(seed)).max() for seed in range(20)]
    assert max(made) == 1


def test_variation_light_changes_contrast(image):
    dim = replace(NONE, light=1, contrast=(0.4, 0.4), gamma=(1.0, 1.0))
    assert dim.crop(image, 64, rng()).std() == pytest.approx(0.4 * (image / 255).std(), rel=0.05)


def test_add_even_surface_is_even():
    for seed in range(10):
        bands = rng(seed).random((3, 64, 64), dtype=np.float32)
        made = add_even_surface(bands, rng(seed))
        new = (made != bands).all(0)
        assert new.mean() > 0.05
        steps = np.abs(np.diff(made, axis=2))[:, new[:, 1:] & new[:, :-1]]
        assert np.quantile(steps, 0.5) < 0.01


def test_variation_depends_on_the_seed_only(image):
    assert np.array_equal(Variation().crop(image, 48, rng(3)), Variation().crop(image, 48, rng(3)))


@pytest.fixture
def data(tmp_path, write_image):
    for seed, part in enumerate(("train", "val")):
        write_image(tmp_path / "town" / part / "a.png", seed=10 * seed + 1)
    write_image(tmp_path / "loose" / "b.png", seed=2)
    write_image(tmp_path / "infrared" / "train" / "a.png", seed=3)
    roots = (str(tmp_path / "town"), str(tmp_path / "loose"))
    return DataSettings(
        root=roots, near_infrared=(str(tmp_path / "infrared"),), variation=Variation()
    )


def test_open_source_folder_without_parts_is_for_training(data):
    crops, pairs = open_source(data, ImagingChain(), scale=2, patch=12)
    assert (crops.count, len(pairs)) == (2, 1)


def test_varied_crops_have_sensor_descriptions(data):
    crops, _ = open_source(data, ImagingChain(), scale=2, patch=12)
    crop = crops.crop(rng())
    assert crop.lr.shape == (3, 12, 12)
    assert crop.hr.shape == (3, 24, 24)
    assert len(crop.sensor) == 4
    again = crops.crop(rng())
    assert np.array_equal(crop.lr, again.lr)
    assert np.array_equal(crop.hr, again.hr)
    crops, _ = open_source(data, BicubicDegradation(), scale=2, patch=12)
    crop = crops.crop(rng())
    assert crop.sensor is None


def test_varied_crops_lr_and_hr_are_aligned(data):
    crops, _ = open_source(replace(data, variation=NONE), BicubicDegradation(), scale=2, patch=16)
    for seed in range(8):
        crop = crops.crop(rng(seed))
        below = bicubic_downsample(crop.hr, 2)
        np.testing.assert_allclose(crop.lr[:, 3:-3, 3:-3], below[:, 3:-3, 3:-3], atol=1e-5)


def test_near_infrared_of_another_size_is_refused(data, write_image):
    write_image(Path(data.near_infrared[0]) / "train" / "a.png", size=(20, 20))
    with pytest.raises(InputError, match="is 20x20 pixels, expected the 48x48 of"):
        open_source(data, ImagingChain(), scale=2, patch=12)


def test_near_infrared_missing_folder_is_refused(data, tmp_path):
    missing = replace(data, near_infrared=(str(tmp_path / "nowhere"),))
    with pytest.raises(UsageError, match="no such folder; expected images of the near infrared"):
        open_source(missing, ImagingChain(), scale=2, patch=12)


def test_open_source_single_image_without_parts_is_refused(data):
    with pytest.raises(InputError, match="one image, expected two"):
        open_source(replace(data, root=data.root[1:]), ImagingChain(), scale=2, patch=12)


def test_open_source_folder_without_parts_holds_out_one_image_in_ten(tmp_path, write_image, caplog):
    caplog.set_level("INFO", "georsr")
    for number in range(12):
        write_image(tmp_path / "flat" / f"{number:02d}.png", seed=number)
    settings = DataSettings(root=(str(tmp_path / "flat"),))
    training, validation = open_source(settings, ImagingChain(), scale=2, patch=12)
    assert (training.count, len(validation)) == (10, 2)
    assert caplog.text.count("2 of its 12 images are held out for validation") == 1


def test_variation_settings_round_trip(data):
    mapping = data.to_dict()
    assert DataSettings.from_dict(mapping, "recipe") == data
    assert mapping["variation"]["shrink"] == [1.0, 4.0]
    assert DataSettings().to_dict()["variation"] is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flat": -1}, "variation: flat is -1, expected a fraction from 0 to 1"),
        ({"shrink": [0.5, 2]}, r"variation: shrink is \[0.5, 2\], expected lowest and highest"),
        ({"gray": 0.7, "colours": 0.7}, "gray and colours together is 1.4, expected a fraction"),
        ({"grey": 1}, "variation: unknown key 'grey'"),
    ],
)
def test_variation_bad_values_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        DataSettings.from_dict({"variation": values}, "data")
