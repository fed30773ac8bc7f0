import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_image():
    """write_image(path, size=(48, 48), seed=0): an RGB image of smooth texture, lossless."""

    def write(path, size=(48, 48), seed=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[: size[0], : size[1]]
        phase, angle = rng.random(2) * 6
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / 2 + phase)
        rgb = 128 + 80 * wave[..., None] * rng.random(3) + rng.normal(0, 5, (*size, 3))
        Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def write_tiny():
    """write_tiny(path): the smallest valid image of the kind the suffix names."""

    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path)
        return path

    return write
