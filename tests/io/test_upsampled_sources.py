import numpy as np
import pytest

from georsr.jobs.job import pixel_replication


@pytest.mark.parametrize("down", [1, 2, 3, 5])
@pytest.mark.parametrize("across", [1, 2, 4])
@pytest.mark.parametrize("phase", [0, 1])
def test_repeated_pixels_are_counted_wherever_the_first_one_stands(down, across, phase):
    image = np.random.default_rng(1).integers(0, 255, (3, 40, 40)).astype("uint8")
    large = image.repeat(down, 1).repeat(across, 2)[:, phase : 64 + phase, phase : 64 + phase]
    assert pixel_replication(large) == (down, across)


def test_where_nothing_changes_there_is_nothing_to_tell():
    assert pixel_replication(np.full((1, 64, 64), 7, "uint16")) is None
    edge = np.zeros((1, 64, 64), np.float32)
    edge[:, :, 20:] = 1
    assert pixel_replication(edge) is None


def test_one_pixel_in_between_is_enough_for_an_image():
    image = np.random.default_rng(1).random((1, 32, 32), np.float32).repeat(2, 1).repeat(2, 2)
    image[0, 11, 12] += 1
    assert pixel_replication(image) == (1, 1)
