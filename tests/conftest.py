import os
import signal
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from tests import rasters

REPOSITORY = Path(__file__).resolve().parents[1]
UTM = "EPSG:32632"
NORTH_UP = Affine(0.5, 0, 400000, 0, -0.5, 5000000)


def pytest_configure(config):
    # shells ignore Ctrl-C in commands in the background, and so would what the tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # One thread: small tensors do not pay for more, and results must not depend on it.
    import torch

    torch.set_num_threads(1)
    from hypothesis import settings

    # the same examples at every run
    settings.register_profile("steady", derandomize=True, deadline=None)
    settings.load_profile("steady")


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real imagery; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("GEORSR_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real imagery at {folder}: set GEORSR_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def scenes(shared_data):
    """Folder of real scenes; tests that need it are skipped where it is absent."""
    folder = shared_data / "scenes"
    if not folder.is_dir():
        pytest.skip(f"no real scenes at {folder}: set GEORSR_TEST_DATA")
    return folder


@pytest.fixture
def rgb(tmp_path):
    """A small raster that says which bands are red, green and blue."""
    return rasters.make_raster(
        tmp_path / "rgb.tif",
        rasters.ramp(),
        photometric="RGB",
        colors=("red", "green", "blue"),
    )


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


@pytest.fixture
def make_raster(tmp_path):
    """Write a GeoTIFF: make_raster(array (C, h, w), name="in.tif", **profile) -> path."""

    def make(values, name="in.tif", *, transform=NORTH_UP, crs=UTM, after=None, **profile):
        values = np.asarray(values)
        path = tmp_path / name
        count, height, width = values.shape
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=values.dtype,
            crs=crs,
            transform=transform,
            **profile,
        ) as dataset:
            dataset.write(values)
            if after is not None:
                after(dataset)
        return str(path)

    return make


@pytest.fixture
def texture():
    """texture(bands, height, width, dtype) -> reproducible noise over most of the type's range."""

    def make(bands, height, width, dtype="uint8", seed=0):
        rng = np.random.default_rng(seed)
        if np.dtype(dtype).kind == "f":
            return rng.normal(0, 1000, (bands, height, width)).astype(dtype)
        limits = np.iinfo(dtype)
        low, high = max(limits.min, -30000), min(limits.max, 60000)
        return rng.integers(low, high, (bands, height, width), endpoint=True).astype(dtype)

    return make


@pytest.fixture
def lite_model():
    """A small random segsr-lite at x2 whose guidance acts: the real architecture, untrained."""
    return _lite(2)


@pytest.fixture
def lite_file(lite_model, tmp_path):
    """The small x2 model as a file, as workers need it."""
    import torch

    from georsr.models.io import save_model

    path = tmp_path / "tiny-x2.safetensors"
    save_model(path, lite_model.spec, lite_model.network, torch.float32)
    return str(path)


def _lite(scale):
    import torch

    from georsr.models.io import Model, build
    from georsr.models.spec import ModelSpec

    torch.manual_seed(7)
    spec = ModelSpec(
        name=f"tiny-x{scale}",
        architecture="segsr-lite",
        scale=scale,
        parameters={"embed_dim": 8, "num_groups": 2, "depth": 1, "token_dim": 8, "film_dim": 4},
        tile=32,
        halo=4,
        overlap=4,
    )
    network = build(spec)
    for parameter in network.parameters():
        if parameter.ndim > 1 and parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return Model(spec, network, "0" * 64, spec.name)
