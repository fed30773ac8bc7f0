"""What a network is told of a scene is found once, and is the same wherever and however it runs."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import rasterio
import torch

import georsr
from georsr.api import estimate, super_resolve
from georsr.config import SRConfig
from georsr.device import select_device
from georsr.errors import UsageError
from georsr.evaluation.dataset import make_candidates
from georsr.inference.blur_and_noise import (
    BLUR_SHRINKAGE,
    NOISE_MARGIN,
    SHARPNESS_SHRINKAGE,
    description_of,
    estimate_kernel,
    estimate_sensor,
    probe_windows,
    scene_sensor,
    sensor_of,
    with_sensor,
)
from georsr.inference.consistency import SOFT, softened
from georsr.inference.model_cache import load_cached, model_ref
from georsr.models.io import Model, build, open_model, save_model
from georsr.models.spec import ModelSpec
from georsr.radiometry.kernels import N_SENSOR_VALUES, Kernel, parse_sensor
from georsr.radiometry.normalization import Normalization
from georsr.window import PixelBlock
from georsr.xarray.dask_graph import super_resolve_dask

SMALL = {"tile_size": 32, "halo": 2, "overlap": 4, "blocksize": 32}
BYTES = Normalization((0.0,) * 3, (255.0,) * 3, "dtype")


@pytest.fixture
def aware(tmp_path):
    """A small random network at x2 that listens to what it is told, as a file."""
    torch.manual_seed(3)
    spec = ModelSpec(
        "aware-x2",
        "segsr-lite",
        2,
        {
            "embed_dim": 8,
            "num_groups": 2,
            "depth": 1,
            "token_dim": 8,
            "film_dim": 4,
            "sensor_dim": 8,
        },
        tile=32,
        halo=4,
        overlap=4,
        kernel="scene, softly",
    )
    network = build(spec)
    for parameter in network.parameters():
        if parameter.ndim > 1 and parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.2)
    network.sensor_estimator.head.bias.data[N_SENSOR_VALUES:] = -3.0  # sure of itself
    path = tmp_path / "aware-x2.safetensors"
    save_model(path, spec, network, torch.float32)
    return str(path)


def patches(image):
    windows = probe_windows(*image.shape[1:])
    cuts = [image[(slice(None), *window.slices)] for window in windows]
    return [PixelBlock(cut, np.ones(cut.shape, bool), None) for cut in cuts]


def test_estimate_sensor_differs_between_scenes(aware, texture):
    model = open_model(aware)
    quiet = texture(3, 80, 90) // 8 + 100
    loud = texture(3, 80, 90)
    descriptions = [estimate_sensor(patches(image), BYTES, model) for image in (quiet, loud)]
    assert len(descriptions[0]) == N_SENSOR_VALUES
    assert descriptions[0] != descriptions[1]
    outputs = [
        georsr.super_resolve_array(quiet, with_sensor(model, sensor), consistency="off", **SMALL)
        for sensor in descriptions
    ]
    # whatever a model was told before, a run tells it of its own scene
    np.testing.assert_array_equal(*outputs)


def test_with_sensor_leaves_the_model_unchanged(aware):
    model = open_model(aware)
    other = with_sensor(model, (1.0,) * N_SENSOR_VALUES)
    assert sensor_of(model) == (0.0,) * N_SENSOR_VALUES
    assert sensor_of(other) == (1.0,) * N_SENSOR_VALUES
    assert other.network.upsampler is model.network.upsampler
    x = torch.rand(1, 3, 16, 16)
    assert not torch.equal(other.network(x), model.network(x))


def test_with_sensor_of_a_model_without_sensor_is_the_model(lite_model):
    assert with_sensor(lite_model, (1.0,) * N_SENSOR_VALUES) is lite_model
    assert estimate_sensor([], BYTES, lite_model) is None
    assert sensor_of(lite_model) is None
    assert description_of(lite_model) is None


@pytest.mark.parametrize("kind", ["none", "holes", "tiny"])
def test_estimate_sensor_without_usable_windows_is_zero(kind, aware, texture):
    model = open_model(aware)
    parts = (
        [] if kind == "none" else patches(texture(3, *((80, 90) if kind == "holes" else (9, 12))))
    )
    if kind == "holes":
        for part in parts:
            part.valid[0, 3, 3] = False
    assert estimate_sensor(parts, BYTES, model) == (0.0,) * N_SENSOR_VALUES


@pytest.mark.parametrize(("mtf", "factor"), [(-1.5, BLUR_SHRINKAGE), (1.5, SHARPNESS_SHRINKAGE)])
def test_estimate_sensor_shrinks_blur_more_than_sharpness(mtf, factor, aware, texture):
    model, parts = open_model(aware), patches(texture(3, 64, 64))
    with torch.no_grad():
        model.network.sensor_estimator.head.weight.zero_()
        model.network.sensor_estimator.head.bias[:N_SENSOR_VALUES] = torch.tensor([mtf] * 4)
    made = estimate_sensor(parts[:1], BYTES, model)
    expected = [mtf * factor, mtf * factor, mtf + NOISE_MARGIN, mtf]
    np.testing.assert_allclose(made, expected, atol=6e-4)


def test_estimate_sensor_ignores_windows_with_invalid_pixels(aware, texture):
    model = open_model(aware)
    parts = patches(texture(3, 80, 90))
    whole = estimate_sensor(parts[1:], BYTES, model)
    parts[0].valid[:, 3, 3] = False
    assert estimate_sensor(parts, BYTES, model) == whole


def test_estimate_sensor_does_not_depend_on_threads(aware, texture):
    model, parts = open_model(aware), patches(texture(3, 200, 210))
    before = torch.get_num_threads()
    try:
        found = set()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.add(estimate_sensor(parts, BYTES, model))
        assert len(found) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("consistency", ["auto", "off"])
def test_sensor_model_on_files_arrays_and_chunks_agrees(
    consistency, aware, texture, make_raster, tmp_path
):
    image = texture(3, 90, 100)
    options = {**SMALL, "consistency": consistency}
    array = georsr.super_resolve_array(image, aware, **options)
    super_resolve(make_raster(image), tmp_path / "out.tif", aware, **options)
    with rasterio.open(tmp_path / "out.tif") as output:
        np.testing.assert_array_equal(output.read(), array)
    options_of_parts = {**options, "blocksize": 128, "parts": tmp_path / "parts"}
    super_resolve(make_raster(image), tmp_path / "out.vrt", aware, **options_of_parts)
    with rasterio.open(tmp_path / "out.vrt") as output:
        np.testing.assert_array_equal(output.read(), array)
    source = da.from_array(image, chunks=(2, 31, 43))
    lazy = super_resolve_dask(source, open_model(aware), SRConfig(**options), sides=(48, 64))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), array)


def test_sensor_model_estimates_each_scene_of_a_series(aware, texture):
    image = np.stack([texture(3, 70, 70), texture(3, 70, 70, seed=1) // 8 + 100])
    source = da.from_array(image, chunks=(1, 3, 40, 40))
    made = super_resolve_dask(source, open_model(aware), SRConfig(**SMALL))
    each = [georsr.super_resolve_array(scene, aware, **SMALL) for scene in image]
    np.testing.assert_array_equal(made.compute(scheduler="synchronous"), np.stack(each))


@pytest.mark.parametrize("bands", [1, 5])
def test_sensor_model_with_other_bands_agrees_with_rgb(bands, aware, texture):
    image = texture(bands, 70, 80)
    options = {**SMALL, "output_bands": "all", "indexes": None if bands == 1 else (3, 2, 1)}
    made = georsr.super_resolve_array(image, aware, **options)
    assert made.shape == (bands, 140, 160)
    if bands > 1:
        rgb = georsr.super_resolve_array(image[[2, 1, 0]], aware, **SMALL)
        np.testing.assert_array_equal(made[[2, 1, 0]], rgb)
    else:
        bicubic = georsr.super_resolve_array(image, "bicubic-x2", consistency="off")
        assert np.abs(made.astype(int) - bicubic).max() > 0


def test_model_ref_carries_the_sensor(aware):
    model = with_sensor(open_model(aware), (0.5, -0.25, 1.0, 0.0))
    reference = model_ref(model)
    assert reference.sensor == (0.5, -0.25, 1.0, 0.0)
    there = load_cached(reference)
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(there.network(x), model.network(x))
    assert load_cached(replace(reference, sensor=None)).network.upsampler is there.network.upsampler


def test_benchmark_estimates_the_sensor_of_each_image(aware, texture):
    from georsr.evaluation.benchmark import Sample

    _, ours = make_candidates([open_model(aware)], select_device("cpu", "fp32"))
    for seed in (0, 1):
        image = texture(3, 64, 64, seed=seed) // (1 + 7 * seed)
        expected = georsr.super_resolve_array(
            image, aware, tile_size=64, halo=0, overlap=0, consistency="off"
        )
        np.testing.assert_array_equal(ours.super_resolve(Sample("", None, image, "a")), expected)


def test_save_model_does_not_store_the_sensor(aware, tmp_path):
    model = with_sensor(open_model(aware), (1.0,) * N_SENSOR_VALUES)
    save_model(tmp_path / "again.safetensors", model.spec, model.network, torch.float32)
    assert sensor_of(open_model(str(tmp_path / "again.safetensors"))) == (0.0,) * N_SENSOR_VALUES
    assert isinstance(model, Model)


def test_sensor_model_consistency_auto_corrects_smooth_scenes_only(aware, smooth_scene):
    made = {
        consistency: georsr.super_resolve_array(
            smooth_scene,
            aware,
            consistency=consistency,
            dtype="float32",
            stretch="0,255",
            **SMALL,
        )
        for consistency in ("off", "auto", "on")
    }
    config = SRConfig(consistency="on")
    model = open_model(aware)
    assert softened(Kernel("bicubic"), model.spec, config) == Kernel("bicubic")
    assert softened(Kernel("bicubic"), model.spec, SRConfig()).damping == SOFT
    assert softened(None, model.spec, SRConfig()) is None
    kernel = estimate_kernel(patches(smooth_scene), BYTES, told_of_all(model, smooth_scene))
    left = {key: kernel.downsample(value, 2) - smooth_scene for key, value in made.items()}
    means = {key: np.abs(block_means(value)).mean() for key, value in left.items()}
    assert means["auto"] < 0.3 * means["off"]
    assert np.abs(left["on"]).mean() < np.abs(left["auto"]).mean() < np.abs(left["off"]).mean()


def test_sensor_option_sets_the_description(aware, smooth_scene, make_raster, tmp_path):
    plain = georsr.super_resolve_array(smooth_scene, aware, **SMALL)
    given = {**SMALL, "sensor": "mtf=0.1,noise=0.03,grain=0.4"}
    array = georsr.super_resolve_array(smooth_scene, aware, **given)
    assert not np.array_equal(plain, array)
    super_resolve(make_raster(smooth_scene), tmp_path / "out.tif", aware, **given)
    with rasterio.open(tmp_path / "out.tif") as output:
        np.testing.assert_array_equal(output.read(), array)
        assert parse_sensor(output.tags()["GEORSR_SENSOR"])["mtf"] == 0.1
        assert '"sensor": "mtf=0.1,noise=0.03,grain=0.4"' in output.tags()["GEORSR_OPTIONS"]
    source = da.from_array(smooth_scene, chunks=(3, 40, 40))
    lazy = super_resolve_dask(source, open_model(aware), SRConfig(**given))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), array)


def test_sensor_option_in_part_estimates_the_rest(aware, smooth_scene):
    model, parts = open_model(aware), patches(smooth_scene)
    estimated = scene_sensor(parts, BYTES, model, SRConfig())
    made = scene_sensor(parts, BYTES, model, SRConfig(sensor="noise=0.03"))
    assert made[:2] == estimated[:2]
    assert made[3] == estimated[3]
    assert made[2] != estimated[2]


def test_estimate_reports_the_sensor(aware, smooth_scene, make_raster):
    report = estimate(make_raster(smooth_scene), aware, **SMALL)
    assert parse_sensor(report.sensor)
    assert f"sensor  {report.sensor}" in report.describe()
    assert "sensor" not in estimate(make_raster(smooth_scene), "bicubic-x2").describe()


@pytest.mark.parametrize(
    "text", ["", "mtf", "mtf=", "mtf=9", "blur=1", "noise=-1", "mtf=0.1,mtf=0.2", "mtf=nan"]
)
def test_config_bad_sensor_values_are_refused(text):
    with pytest.raises(UsageError, match="expected one or more of mtf_half="):
        SRConfig(sensor=text)


def test_sensor_option_for_a_model_without_sensor_is_refused(
    lite_model, lite_file, smooth_scene, make_raster, tmp_path
):
    message = "takes no sensor description; omit sensor"
    with pytest.raises(UsageError, match=message):
        georsr.super_resolve_array(smooth_scene, lite_model, sensor="mtf=0.2", **SMALL)
    with pytest.raises(UsageError, match=message):
        super_resolve(make_raster(smooth_scene), tmp_path / "o.tif", lite_file, sensor="mtf=0.2")
    assert not (tmp_path / "o.tif").exists()


def block_means(image, size=8):
    height, width = (side // size * size for side in image.shape[1:])
    blocks = image[:, :height, :width].reshape(len(image), height // size, size, -1, size)
    return blocks.mean((2, 4))


def told_of_all(model, image):
    return with_sensor(model, estimate_sensor(patches(image), BYTES, model))


@pytest.fixture
def smooth_scene():
    y, x = np.mgrid[:96, :96]
    waves = [128 + 60 * np.sin(x / (6 + band)) * np.cos(y / (9 - band)) for band in range(3)]
    return np.rint(waves).astype(np.uint8)
