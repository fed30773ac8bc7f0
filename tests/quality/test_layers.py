"""Quality layers: what they say, and that they appear with their output or not at all."""

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import torch

import georsr
from georsr.device import select_device
from georsr.errors import InterruptedRunError, UsageError
from georsr.inference.consistency import shrink_valid
from georsr.inference.predictor import MEMBERS, tta_mean
from georsr.models.io import open_model
from georsr.quality.layers import (
    FIRST_MEAN,
    GRADIENT,
    MEAN_SQUARE,
    VARIANCE,
    EnsemblePredictor,
    calibration_of,
    calibrations,
    ensemble_std,
    expected_error,
    inconsistency,
    round_bits,
    synthesised_detail,
)
from georsr.radiometry.kernels import Kernel
from georsr.writer.paths import temp_paths
from georsr.writer.writer import RasterWriter
from tests.rasters import read

PLAIN = {"consistency": "off"}


def eight(network, image):
    """The answers, one by one, turned and turned back by numpy."""
    answers = []
    for turns in range(4):
        for mirrored in (False, True):
            turned = np.rot90(image, turns, (1, 2))
            turned = turned[:, :, ::-1] if mirrored else turned
            with torch.inference_mode():
                answer = network(torch.from_numpy(turned.copy())[None])[0].numpy()
            answer = answer[:, :, ::-1] if mirrored else answer
            answers.append(np.rot90(answer, -turns, (1, 2)))
    return np.stack(answers)


@pytest.fixture
def scene(make_raster, texture):
    """Three tiles, a hole in the middle."""
    values = np.maximum(texture(3, 24, 70), 1)
    values[:, 10:20, 30:45] = 0
    return make_raster(values, nodata=0)


def test_tta_mean_is_the_mean_of_eight_predictions(lite_model, texture):
    image = texture(3, 16, 24).astype(np.float32) / 255
    with torch.inference_mode():
        mean = tta_mean(lite_model.network, torch.from_numpy(image)[None])[0].numpy()
        single = lite_model.network(torch.from_numpy(image)[None])[0].numpy()
    answers = eight(lite_model.network, image)
    np.testing.assert_allclose(mean, answers.mean(0), atol=1e-5)
    np.testing.assert_allclose(single, answers[0], atol=1e-5)
    assert np.abs(answers[1] - answers[0]).max() > 1e-3  # or the test would say nothing


def test_tta_of_a_rotated_scene_is_the_rotated_output(lite_model, texture):
    image = texture(3, 24, 32)  # one tile: a turned grid of tiles is another grid
    how = {"tta": True, "dtype": "float32", **PLAIN}
    output = georsr.super_resolve_array(image, lite_model, **how)
    turned = georsr.super_resolve_array(np.rot90(image, 1, (1, 2)).copy(), lite_model, **how)
    np.testing.assert_allclose(turned, np.rot90(output, 1, (1, 2)), atol=2e-3)
    plain = georsr.super_resolve_array(image, lite_model, dtype="float32", **PLAIN)
    assert np.abs(plain - output).max() > 0.1


def test_tta_runs_the_network_eight_times(lite_model, scene, tmp_path):
    calls = []
    handle = lite_model.network.register_forward_hook(lambda *_: calls.append(1))
    plain = georsr.super_resolve(scene, tmp_path / "a.tif", lite_model, **PLAIN)
    alone = len(calls)
    georsr.super_resolve(scene, tmp_path / "b.tif", lite_model, tta=True, **PLAIN)
    handle.remove()
    assert alone == plain.tiles - plain.tiles_skipped
    assert len(calls) - alone == MEMBERS * alone
    assert (read(tmp_path / "a.tif") != read(tmp_path / "b.tif")).any()
    with rasterio.open(tmp_path / "b.tif") as dataset:
        assert '"tta": true' in dataset.tags()["GEORSR_OPTIONS"]


def test_ensemble_predictor_returns_statistics_of_eight_orientations(lite_model, texture):
    image = texture(3, 16, 24).astype(np.float32) / 255
    network = lite_model.network
    planes = EnsemblePredictor(lite_model, select_device("cpu"), 1)([image], ["tile"])[0]
    answers = eight(network, image)
    np.testing.assert_allclose(planes[VARIANCE], answers.var(0).mean(0), atol=1e-6)
    gradient = np.hypot(*np.gradient(answers.mean((0, 1))))
    inner = (slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(planes[GRADIENT][inner], gradient[inner], atol=1e-5)
    assert len(planes) == FIRST_MEAN + 3 + network.guidance_count
    np.testing.assert_allclose(
        planes[MEAN_SQUARE], np.square(planes[FIRST_MEAN : FIRST_MEAN + 3]).mean(0), 1e-4
    )


def test_ensemble_std_of_disagreeing_tiles_is_their_spread():
    """Two tiles, both sure of themselves, one step apart: half a step where they are mixed."""
    tiles = np.zeros((2, FIRST_MEAN + 1, 1, 3), np.float32)
    tiles[1, FIRST_MEAN] = 0.2
    tiles[:, MEAN_SQUARE] = tiles[:, FIRST_MEAN] ** 2
    weights = np.array([0.0, 0.5, 1.0], np.float32)
    blended = tiles[0] * (1 - weights) + tiles[1] * weights
    np.testing.assert_allclose(ensemble_std(blended)[0], [0, 0.1, 0], atol=1e-6)


def test_quality_layers_of_one_tile_equal_their_formulas(
    lite_model, make_raster, texture, tmp_path
):
    image = texture(3, 24, 32)
    source = make_raster(image)
    out, layers = tmp_path / "out.tif", tmp_path / "q.tif"
    report = georsr.super_resolve(source, out, lite_model, quality=layers, **PLAIN)
    made = read(layers)
    deviation = np.sqrt(eight(lite_model.network, image / np.float32(255)).var(0).mean(0)) * 255
    np.testing.assert_allclose(made[1], deviation, rtol=2e-3, atol=0.02)
    output = read(out).astype(np.float32)
    low = Kernel("bicubic").downsample(output, 2)
    distance = np.abs(low - image).mean(0).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(made[2], distance, rtol=1e-3, atol=0.01)
    assert (made[0] > 0).all()
    assert report.quality.layers == (
        "uncertainty",
        "deviation",
        "inconsistency",
        "synthesised detail",
        "guidance 1",
        "guidance 2",
    )
    assert "not calibrated for tiny-x2" in report.quality.uncertainty


def test_quality_layers_have_the_georeferencing_of_the_output(lite_model, scene, tmp_path):
    out, layers = tmp_path / "out.tif", tmp_path / "q.tif"
    georsr.super_resolve(scene, out, lite_model, quality=layers, **PLAIN)
    with rasterio.open(out) as output, rasterio.open(layers) as made:
        assert made.transform == output.transform
        assert made.crs == output.crs
        assert made.shape == output.shape
        assert made.descriptions[:4] == (
            "uncertainty",
            "deviation",
            "inconsistency",
            "synthesised detail",
        )
        assert made.units == ("DN",) * 4 + ("1",) * 2
        assert math.isnan(made.nodata)
        assert "absolute error" in made.tags(1)["LAYER"]
        assert made.tags()["GEORSR_MODEL"] == "tiny-x2"
        footprint = output.dataset_mask() != 0
        values = made.read()
    assert not footprint.all()
    np.testing.assert_array_equal(np.isfinite(values), np.broadcast_to(footprint, values.shape))
    style = ElementTree.fromstring(layers.with_suffix(".qml").read_text())
    ramp = style.find("./pipe/rasterrenderer/rastershader/colorrampshader")
    assert float(ramp.get("maximumValue")) == pytest.approx(
        np.nanpercentile(values[0], 98), rel=1e-3
    )


def test_quality_layers_of_a_finished_output_are_the_same(lite_file, scene, tmp_path):
    out, together, after = (str(tmp_path / name) for name in ("out.tif", "a.tif", "b.tif"))
    georsr.super_resolve(scene, out, lite_file, quality=together, tile_size=32, src_nodata=0)
    before = Path(out).read_bytes()
    georsr.quality_layers(scene, out, after, lite_file)
    assert Path(together).read_bytes() == Path(after).read_bytes()
    assert Path(out).read_bytes() == before


def test_quality_layers_of_an_area_measure_its_source_window(
    lite_file, make_raster, texture, tmp_path
):
    """With a bounding box the output starts elsewhere than its source."""
    source = make_raster(texture(3, 60, 80))
    out, layers = str(tmp_path / "out.tif"), str(tmp_path / "q.tif")
    box = (400005.0, 4999980.0, 400030.0, 4999995.0)
    georsr.super_resolve(source, out, lite_file, quality=layers, bounds=box, **PLAIN)
    with rasterio.open(out) as output, rasterio.open(layers) as made:
        assert made.bounds == output.bounds
        assert made.shape == output.shape
        pixels, inconsistent = output.read().astype(np.float32), made.read(3)
        with rasterio.open(source) as dataset:
            below = dataset.read(window=dataset.window(*output.bounds))
    low = Kernel("bicubic").downsample(pixels, 2)
    distance = np.abs(low - below).mean(0).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(inconsistent, distance, rtol=1e-3, atol=0.01)


class StopsAfter:
    def __init__(self, count):
        self.left = count

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("after", [2, 6])
def test_quality_layers_interrupted_resume(after, lite_model, scene, tmp_path):
    """Stopped while the output is made (2) or its layers (6): nothing there, then both."""
    names = ("whole.tif", "whole_q.tif", "out.tif", "q.tif")
    whole, whole_layers, out, layers = (tmp_path / name for name in names)
    options = {"blocksize": 16, **PLAIN}
    georsr.super_resolve(scene, whole, lite_model, quality=whole_layers, **options)
    with pytest.raises(InterruptedRunError):
        georsr.super_resolve(
            scene, out, lite_model, quality=layers, should_stop=StopsAfter(after), **options
        )
    assert not out.exists()
    assert not layers.exists()
    report = georsr.super_resolve(scene, out, lite_model, quality=layers, resume=True, **options)
    assert out.read_bytes() == whole.read_bytes()
    assert layers.read_bytes() == whole_layers.read_bytes()
    if after > 4:
        assert report.blocks_resumed == report.blocks
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_quality_layers_killed_between_publishing_resume(lite_model, scene, tmp_path, monkeypatch):
    out, layers = tmp_path / "out.tif", tmp_path / "q.tif"
    publish = RasterWriter.publish

    def killed(writer):
        if writer.dst == str(out):
            raise KeyboardInterrupt
        return publish(writer)

    with monkeypatch.context() as patched:
        patched.setattr(RasterWriter, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            georsr.super_resolve(scene, out, lite_model, quality=layers, **PLAIN)
    assert layers.exists()
    assert not out.exists()
    made = layers.read_bytes()
    calls = []
    handle = lite_model.network.register_forward_hook(lambda *_: calls.append(1))
    georsr.super_resolve(scene, out, lite_model, quality=layers, **PLAIN)
    handle.remove()
    assert not calls
    assert out.exists()
    assert layers.read_bytes() == made
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_quality_layers_bad_paths_are_refused_before_the_run(lite_model, scene, tmp_path):
    out, layers = tmp_path / "out.tif", tmp_path / "q.tif"
    calls = []
    handle = lite_model.network.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(UsageError, match="two files"):
        georsr.super_resolve(scene, out, lite_model, quality=tmp_path / "." / "out.tif", **PLAIN)
    with pytest.raises(UsageError, match="source"):
        georsr.super_resolve(scene, out, lite_model, quality=scene, overwrite=True, **PLAIN)
    layers.with_suffix(".qml").write_text("mine")
    with pytest.raises(UsageError, match=r"q\.qml.*overwrite"):
        georsr.super_resolve(scene, out, lite_model, quality=layers, **PLAIN)
    handle.remove()
    assert not calls
    assert not out.exists()


def test_quality_layers_of_a_foreign_output_are_refused(
    lite_file, scene, make_raster, texture, tmp_path
):
    layers = tmp_path / "q.tif"
    with pytest.raises(UsageError, match="GEORSR_MODEL"):
        georsr.quality_layers(scene, scene, layers, lite_file)
    out = tmp_path / "out.tif"
    georsr.super_resolve(scene, out, "bicubic-x2", **PLAIN)
    with pytest.raises(UsageError, match="made by bicubic-x2"):
        georsr.quality_layers(scene, out, layers, lite_file)
    other = make_raster(texture(3, 40, 40), "other.tif")
    with pytest.raises(UsageError, match="140 x 48 pixels, expected 80 x 80"):
        georsr.quality_layers(other, out, layers)
    assert not layers.exists()
    assert not temp_paths(str(layers)).part.exists()


def test_quality_layers_of_bicubic_have_no_guidance_and_no_disagreement(scene, tmp_path):
    """Bicubic is equivariant: it never contradicts itself, which does not make it right."""
    layers = tmp_path / "q.tif"
    georsr.super_resolve(scene, tmp_path / "out.tif", "bicubic-x2", quality=layers, **PLAIN)
    values = read(layers)
    assert len(values) == 4
    assert np.nanmax(values[1]) < 0.01
    assert np.nanmin(values[0]) > 0


def test_quality_layers_progress_counts_both_passes(lite_model, scene, tmp_path):
    from georsr.progress import NullProgress

    class Counts(NullProgress):
        def __init__(self):
            self.totals, self.done = [], 0

        def start(self, total, unit):
            self.totals.append(total)

        def advance(self, count=1):
            self.done += count

    counts = Counts()
    report = georsr.super_resolve(
        scene,
        tmp_path / "out.tif",
        lite_model,
        quality=tmp_path / "q.tif",
        progress=counts,
        **PLAIN,
    )
    assert counts.totals == [report.tiles * (1 + MEMBERS)]
    assert counts.done == counts.totals[0]


def test_estimate_counts_the_quality_layers(lite_model, scene, tmp_path):
    plain = georsr.estimate(scene, lite_model, destination=tmp_path / "out.tif")
    more = georsr.estimate(
        scene, lite_model, destination=tmp_path / "out.tif", quality=tmp_path / "q.tif"
    )
    assert more.output_bytes == plain.output_bytes * (1 + 6 * 4 / 3)
    assert more.seconds > plain.seconds
    assert more.memory_bytes > plain.memory_bytes


@pytest.mark.parametrize("kernel", [Kernel("bicubic"), Kernel("mean"), Kernel("psf", 0.2)])
def test_consistency_maps_of_a_constant_with_a_hole_are_zero(kernel):
    image = np.full((2, 48, 64), 700.0, np.float32)
    valid = np.ones(image.shape, bool)
    valid[:, 16:32, 16:40] = False
    image[~valid] = -9999
    low, good = shrink_valid(image, valid, kernel, 4)
    np.testing.assert_allclose(low[good], 700, rtol=1e-5)
    assert inconsistency(low, np.full(low.shape, 700), good).max() < 0.01
    assert synthesised_detail(image, valid, low, good, 4).max() < 0.01


def test_detail_map_measures_what_the_source_cannot_resolve():
    """A grating of two output pixels is all detail; one of 24 none."""
    columns = np.arange(96)
    found = []
    for period in (2, 24):
        wave = np.sin(2 * np.pi * (columns + 0.5) / period) * 50
        image = np.broadcast_to(wave, (1, 96, 96)).astype(np.float32)
        valid = np.ones(image.shape, bool)
        low, good = shrink_valid(image, valid, Kernel("bicubic"), 4)
        found.append(synthesised_detail(image, valid, low, good, 4)[20:-20, 20:-20].mean())
    assert found[0] == pytest.approx(50, rel=0.05)
    assert found[1] < 3


def test_round_bits_keeps_four_digits(texture):
    values = texture(1, 40, 40, "float32")
    values[0, 0, :3] = np.nan, np.inf, 0
    rounded = round_bits(values.copy())
    good = np.isfinite(values)
    np.testing.assert_allclose(rounded[good], values[good], rtol=2.0**-12)
    np.testing.assert_array_equal(rounded[~good], values[~good])
    assert (rounded.view(np.uint32)[good] & 0xFFF == 0).all()


@pytest.mark.parametrize("name", sorted(calibrations()))
def test_bundled_model_is_calibrated(name):
    spec = open_model(name).spec
    calibration = calibration_of(spec)
    assert "not calibrated" not in calibration.describe(spec)
    errors = [
        float(expected_error(np.float32(d), np.float32(g), calibration))
        for d, g in ((0, 0), (0.01, 0), (0.01, 0.05))
    ]
    assert 0 < errors[0] < errors[1] < errors[2] < 0.2
