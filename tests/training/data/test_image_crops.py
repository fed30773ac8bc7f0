import logging
import pickle

import numpy as np
import pytest

from georsr.errors import InputError
from georsr.io.image_datasets import open_dataset, read_image
from georsr.radiometry.degradation import (
    BicubicDegradation,
    SensorDegradation,
    degrade_image,
    degrade_pair,
)
from georsr.training.data.crops import flip_rotate
from georsr.training.data.image_crops import ImageCrops, ImagePairs

BLUR = SensorDegradation(mtf=(0.2, 0.2), noise=(0.0, 0.0))


@pytest.fixture
def folder(tmp_path, write_image):
    for i in range(3):
        write_image(tmp_path / "data" / "field" / f"{i}.png", (38, 45), seed=i)
        write_image(tmp_path / "data" / "town" / f"{i}.png", (40, 32), seed=10 + i)
    return open_dataset(tmp_path / "data")


def rng(*seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("memory", [1e9, 0])
@pytest.mark.parametrize("degradation", [BicubicDegradation(), BLUR])
@pytest.mark.parametrize("scale", [2, 4])
def test_image_crops_are_crops_of_the_degraded_image(folder, degradation, scale, memory):
    """At every edge, in every orientation, and whether or not the image is kept in memory."""
    source = ImageCrops(folder, degradation, scale, 8, memory=memory)
    wholes = [degrade_pair(read_image(image.path), scale)[0] for image in folder]
    seen = set()
    for i in range(60):
        crop = source.crop(rng(3, i))
        for number, hr in enumerate(wholes):
            lr = degrade_image(hr, degradation, scale, rng())
            place = find(crop.lr * 255, lr, source.patch)
            if place is None:
                continue
            element, top, left = place
            fine = hr[:, scale * top :, scale * left :][:, : 8 * scale, : 8 * scale]
            np.testing.assert_allclose(crop.hr * 255, flip_rotate(fine, element), atol=1e-3)
            assert crop.label == number // 3
            seen |= {("image", number), ("element", element)}
            seen |= {"top"} if top == 0 else set()
            seen |= {"right"} if left == lr.shape[2] - 8 else set()
            break
        else:
            pytest.fail(f"crop {i} is not in any image")
    assert len(seen) == 6 + 8 + 2


def find(wanted, image, patch):
    """(element, top, left) of an 8-bit crop in an image; one level off is rounding at a half."""
    windows = np.lib.stride_tricks.sliding_window_view(image[0], (patch, patch))
    for element in range(8):
        turned = flip_rotate(windows, element)  # turns the windows, not their grid
        gap = np.abs(turned - np.rint(wanted[0])).max((2, 3))
        if gap.min() <= 1:
            top, left = np.unravel_index(gap.argmin(), gap.shape)
            place = image[:, top : top + patch, left : left + patch]
            assert np.abs(flip_rotate(place, element) - wanted).max() < 1.01
            return element, top, left
    return None


@pytest.mark.parametrize("degradation", [BicubicDegradation(), SensorDegradation(jpeg=(60, 90))])
def test_image_crops_depend_on_the_generator_only(folder, degradation):
    source = ImageCrops(folder, degradation, 2, 16)
    twin = pickle.loads(pickle.dumps(source))
    for i in range(5):
        a, b, other = source.crop(rng(1, i)), twin.crop(rng(1, i)), source.crop(rng(2, i))
        assert (a.lr.tobytes(), a.hr.tobytes()) == (b.lr.tobytes(), b.hr.tobytes())
        assert a.label == b.label
        assert a.hr.tobytes() != other.hr.tobytes()
    assert (a.lr.shape, a.hr.shape) == ((3, 16, 16), (3, 32, 32))
    assert (a.lr.dtype, a.hr.dtype, a.valid) == (np.float32, np.float32, None)
    assert a.lr.flags.c_contiguous
    assert a.hr.flags.c_contiguous


def test_image_crops_are_8_bit(folder):
    crop = ImageCrops(folder, SensorDegradation(bits=None), 4, 8).crop(rng(0))
    for image in (crop.lr, crop.hr):
        np.testing.assert_allclose(image * 255, np.rint(image * 255), atol=1e-4)
        assert 0 <= image.min() < image.max() <= 1


def test_image_pairs_follow_the_published_protocol(folder):
    pairs = ImagePairs(folder, BicubicDegradation(), 4)
    assert len(pairs) == 6
    for _ in range(2):
        for pair, image in zip(pairs, folder, strict=True):
            hr, lr = degrade_pair(read_image(image.path), 4)
            np.testing.assert_array_equal(pair.hr, hr)
            np.testing.assert_array_equal(pair.lr, lr)
            assert (pair.label, pair.valid) == (image.label, None)
            assert pair.hr.dtype == pair.lr.dtype == np.uint8


def test_image_pairs_noise_is_repeatable(folder):
    first = [pair.lr.tobytes() for pair in ImagePairs(folder, SensorDegradation(), 2)]
    assert first == [
        pair.lr.tobytes() for pair in ImagePairs(folder, SensorDegradation(), 2, memory=0)
    ]
    assert len(set(first)) == len(folder)


def test_image_crops_scenes_returns_images_and_labels(folder):
    images, labels = ImageCrops(folder, BicubicDegradation(), 4, 8).scenes()
    assert labels == [0, 0, 0, 1, 1, 1]
    assert [i.shape for i in images] == [(3, 9, 11)] * 3 + [(3, 10, 8)] * 3
    np.testing.assert_array_equal(images[0], degrade_pair(read_image(folder.images[0].path), 4)[1])


def test_image_crops_of_small_images_are_refused(folder):
    with pytest.raises(InputError, match=r"0\.png: is 45x38 pixels, 11x9 at 4x .* set a small"):
        ImageCrops(folder, BicubicDegradation(), 4, 13)


def test_image_crops_corrupt_images_are_named_or_counted(folder, tmp_path, caplog):
    (tmp_path / "data" / "town" / "bad.png").write_bytes(b"not an image")
    image = folder.images[0].path
    image.write_bytes(image.read_bytes()[:200])
    damaged = open_dataset(tmp_path / "data")
    with pytest.raises(InputError, match=r"0\.png: cannot be decoded as an image"):
        ImageCrops(damaged, BicubicDegradation(), 2, 8)
    with caplog.at_level(logging.WARNING):
        source = ImageCrops(damaged, BicubicDegradation(), 2, 8, skip_corrupt=True)
    assert (source.count, source.store.labels) == (5, [0, 0, 1, 1, 1])
    assert "2 of 7 images left out" in caplog.text
    assert "bad.png: cannot be decoded" in caplog.text
    for path in damaged.root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no readable image is left"):
        ImageCrops(damaged, BicubicDegradation(), 2, 8, skip_corrupt=True)
