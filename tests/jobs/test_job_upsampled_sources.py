import numpy as np
import pytest

from georsr.jobs.job import pixel_replication


@pytest.mark.parametrize("down", [1, 2, 3, 5])
@pytest.mark.parametrize("across", [1, 2, 4])
@pytest.mark.parametrize("phase", [0, 1])
def test_pixel_replication_at_any_phase_is_found(down, across, phase):
    image = np.random.default_rng(1).integers(0, 255, (3, 40, 40)).astype("uint8")
    large = image.repeat(down, 1).repeat(across, 2)[:, phase : 64 + phase, phase : 64 + phase]
    assert pixel_replication(large) == (down, across)


def test_pixel_replication_of_constant_images_is_none():
    assert pixel_replication(np.full((1, 64, 64), 7, "uint16")) is None
    edge = np.zeros((1, 64, 64), np.float32)
    edge[:, :, 20:] = 1
    assert pixel_replication(edge) is None


def test_pixel_replication_with_one_other_pixel_is_1_by_1():
    image = np.random.default_rng(1).random((1, 32, 32), np.float32).repeat(2, 1).repeat(2, 2)
    image[0, 11, 12] += 1
    assert pixel_replication(image) == (1, 1)
