"""Consistency, from a tile to an output: invariant 7."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import rasterio
import torch

import georsr
from georsr.errors import UsageError
from georsr.inference.blur_and_noise import (
    CANDIDATES,
    Residual,
    estimate_kernel,
    estimate_sensor,
    is_noise_dominated,
    probe_windows,
    with_sensor,
)
from georsr.inference.consistency import ConsistencyTarget, back_project, enforce_consistency
from georsr.jobs.run import spread_ranges
from georsr.models.io import open_model
from georsr.models.spec import ModelSpec
from georsr.radiometry.kernels import Kernel, parse_kernel
from georsr.radiometry.normalization import Normalization
from georsr.window import PixelBlock
from tests.conftest import REPOSITORY


@pytest.fixture
def smooth():
    """smooth(bands, height, width, low, high, dtype) -> an image with structure and noise."""

    def make(bands, height, width, low, high, dtype):
        rng = np.random.default_rng(3)
        y, x = np.mgrid[:height, :width]
        waves = [
            np.sin(x / (5 + b)) * np.cos(y / (7 - b)) + 0.02 * rng.normal(size=(height, width))
            for b in range(bands)
        ]
        image = np.stack(waves)
        image = low + (image - image.min()) / np.ptp(image) * (high - low)
        return np.rint(image).astype(dtype) if np.dtype(dtype).kind != "f" else image.astype(dtype)

    return make


def residual(output, source, name, valid=None):
    scale = output.shape[1] // source.shape[1]
    apart = np.abs(parse_kernel(name).downsample(output, scale) - source.astype(np.float32))
    return apart.mean() if valid is None else apart[valid].mean()


@pytest.mark.parametrize("kernel", ["bicubic", "mean", "psf:0.3"])
@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 20, 230),
        ("uint16", 300, 9000),
        ("int16", -500, 4000),
        ("float32", -0.2, 1.4),
        ("float64", -2000, 9000),
    ],
)
def test_consistency_on_downsampled_output_equals_the_source(smooth, kernel, dtype, low, high):
    source = smooth(3, 50, 61, low, high, dtype)
    options = {"stretch": "percentile:5,95", "consistency_kernel": kernel}
    plain = georsr.super_resolve_array(
        source, "bicubic-x2", consistency="off", stretch="percentile:5,95"
    )
    made = georsr.super_resolve_array(source, "bicubic-x2", **options)
    limit = 0.5 if dtype == "uint8" else 0.001 * (high - low)
    if kernel.startswith("psf"):
        limit *= 2  # damped more, against the noise in this image
    assert residual(made, source, kernel) <= limit
    assert residual(made, source, kernel) < 0.3 * residual(plain, source, kernel)


def test_consistency_residual_has_no_seams(smooth):
    source = smooth(3, 90, 100, 0, 255, "uint8")
    made = georsr.super_resolve_array(
        source, "bicubic-x2", consistency="on", dtype="float32", tile_size=32, halo=4, overlap=4
    )
    # what blending adds to the residual is far below a grey level
    assert np.abs(Kernel("bicubic").downsample(made, 2) - source).max() < 0.7


def test_consistency_auto_needs_a_declared_kernel(lite_model, smooth):
    source = smooth(3, 40, 40, 0, 255, "uint8")
    declared = replace(lite_model, spec=replace(lite_model.spec, kernel="psf:0.3"))
    off = georsr.super_resolve_array(source, lite_model, consistency="off")
    np.testing.assert_array_equal(georsr.super_resolve_array(source, lite_model), off)
    auto = georsr.super_resolve_array(source, declared)
    same = georsr.super_resolve_array(source, lite_model, consistency_kernel="psf:0.3")
    np.testing.assert_array_equal(auto, same)
    assert (auto != off).any()
    assert georsr.open_model("segsr-lite-x4").spec.kernel == "bicubic"
    assert georsr.open_model("segsr-lite-x4-sensor").spec.kernel == "scene, softly"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_consistency_of_constant_and_invalid_pixels(lite_model, dtype):
    flat = np.full((3, 40, 40), 100, dtype)
    made = georsr.super_resolve_array(flat, lite_model, consistency="on", stretch="0,255")
    plain = georsr.super_resolve_array(flat, lite_model, consistency="off", stretch="0,255")
    assert residual(made, flat, "bicubic") <= max(0.5, residual(plain, flat, "bicubic") * 0.1)
    valid = np.ones(flat.shape, bool)
    valid[:, 10:20, 5:30] = False
    holed = np.where(valid, flat, 0).astype(dtype)
    again = np.where(valid, flat, 111).astype(dtype)
    one, two = (
        georsr.super_resolve_array(a, lite_model, valid=valid, consistency="on", stretch="0,255")
        for a in (holed, again)
    )
    inside = valid.repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(one[inside], two[inside])


def test_consistency_nan_and_infinity_do_not_spread(lite_model, smooth):
    source = smooth(3, 48, 48, -1, 1, "float32")
    source[:, 5, 7], source[0, 30:33, 9], source[2, 1, 1] = np.nan, np.inf, -np.inf
    made = georsr.super_resolve_array(source, lite_model, consistency="on")
    good = np.isfinite(source)
    np.testing.assert_array_equal(np.isfinite(made), good.repeat(2, 1).repeat(2, 2))


def test_consistency_of_saturated_pixels_is_limited_by_clipping(smooth):
    source = np.clip(smooth(3, 60, 60, -150, 400, "int16"), 0, 255).astype("uint8")
    made = georsr.super_resolve_array(source, "bicubic-x2", consistency="on")
    assert residual(made, source, "bicubic") < 2.0  # what clipping to bytes takes away stays away


def test_consistency_of_files_arrays_threads_and_parts_is_the_same(
    lite_model, smooth, make_raster, tmp_path
):
    source = smooth(3, 100, 90, 0, 255, "uint8")
    path = make_raster(source)
    whole = georsr.super_resolve_array(source, lite_model, consistency="on")
    reports = {}
    for jobs in (1, 2):
        out = str(tmp_path / f"{jobs}.tif")
        reports[jobs] = georsr.super_resolve(
            path, out, lite_model, consistency="on", num_threads=jobs, blocksize=64
        )
        with rasterio.open(out) as output:
            np.testing.assert_array_equal(output.read(), whole)
            assert output.tags()["GEORSR_CONSISTENCY"] == "bicubic"
    report = reports[1].consistency
    assert reports[1].checksum == reports[2].checksum
    assert report.kernel == "bicubic"
    assert report.pixels == source.size
    assert report.output_mean < 0.5 * report.network_mean
    assert report.output_mean == pytest.approx(residual(whole, source, "bicubic"), abs=1e-4)
    with rasterio.open(path) as src:
        west, south, east, north = src.bounds
    half = str(tmp_path / "half.tif")
    box = (west, (north + south) / 2, (west + east) / 2, north)
    georsr.super_resolve(path, half, lite_model, consistency="on", bounds=box, blocksize=64)
    with rasterio.open(half) as output:
        part = output.read()
        np.testing.assert_array_equal(part, whole[:, : part.shape[1], : part.shape[2]])


def test_consistency_off_reports_none(make_raster, smooth, tmp_path):
    path = make_raster(smooth(3, 20, 20, 0, 255, "uint8"))
    report = georsr.super_resolve(path, tmp_path / "o.tif", "bicubic-x2")
    assert report.consistency is None


def test_estimate_kernel_in_threads_leaves_thread_counts_alone(smooth):
    patches = [PixelBlock(smooth(3, 40, 40, 0, 255, "uint8"), np.ones((3, 40, 40), bool), None)] * 3
    normalization = Normalization((0.0,) * 3, (255.0,) * 3, "fixed")
    model = open_model("segsr-lite-x2-sensor")
    before = torch.get_num_threads()
    try:
        kernels = set()
        for threads in (2, 1):
            torch.set_num_threads(threads)
            kernels.add(estimate_kernel(patches, normalization, model))
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    assert len(kernels) == 1


def test_estimate_kernel_finds_the_kernel_of_the_scene():
    with rasterio.open(REPOSITORY / "sample_data" / "town_rgb_0.5m.tif") as scene:
        truth = scene.read()[:, :256, :256].astype(np.float32)
    normalization = Normalization((0.0,) * 3, (255.0,) * 3, "fixed")
    model = open_model("segsr-lite-x4-sensor")
    chosen = {}
    for name in ("bicubic", "psf:0.2", "psf:0.4+1.2"):
        source = np.rint(parse_kernel(name).downsample(truth, 4)).clip(0, 255).astype("uint8")
        patches = [PixelBlock(source, np.ones(source.shape, bool), None)]
        adapted = with_sensor(model, estimate_sensor(patches, normalization, model))
        chosen[name] = estimate_kernel(patches, normalization, adapted)
    assert all(kernel in CANDIDATES for kernel in chosen.values())
    assert chosen["bicubic"] == Kernel("bicubic")
    assert (chosen["psf:0.2"].kind, chosen["psf:0.2"].sharpen) == ("psf", 0)
    assert chosen["psf:0.4+1.2"].sharpen > 0


@pytest.mark.parametrize("size", [(1, 1), (30, 500), (64, 64), (100, 100), (1000, 700)])
def test_probe_windows_lie_inside_and_apart(size):
    windows = probe_windows(*size)
    assert windows
    for window in windows:
        assert min(window.top, window.left) >= 0
        assert window.bottom <= size[0]
        assert window.right <= size[1]
    assert len(set(windows)) == len(windows)


def test_config_bad_consistency_options_are_refused():
    with pytest.raises(UsageError, match=r"consistency .yes.: expected auto or on or off"):
        georsr.SRConfig(consistency="yes")
    with pytest.raises(UsageError, match="expected bicubic, mean, or psf"):
        georsr.SRConfig(consistency_kernel="lanczos")
    with pytest.raises(UsageError, match="give one of them"):
        georsr.SRConfig(consistency="off", consistency_kernel="mean")


def test_model_spec_without_kernel_is_read():
    spec = ModelSpec.from_json('{"name": "old-x2", "architecture": "nearest", "scale": 2}')
    assert spec.kernel == ""


@pytest.mark.parametrize("name", ["bicubic", "psf:0.2"])
def test_consistency_does_not_depend_on_padding(smooth, name):
    """The last tiles of a raster are made as if it ended there, exactly: no mask is needed."""
    kernel = parse_kernel(name)
    seen = torch.from_numpy(smooth(3, 48, 64, 0, 1, "float32"))[None]
    output = torch.from_numpy(smooth(3, 192, 256, 0, 1, "float32"))[None]
    valid = np.zeros((3, 48, 64), bool)
    valid[:, :31, :50] = True
    image, residual = enforce_consistency(
        output.clone(), seen, [ConsistencyTarget(valid=valid)], kernel
    )
    alone = back_project(output[..., :124, :200], seen[..., :31, :50], kernel)
    np.testing.assert_array_equal(image[..., :124, :200], alone[0])
    np.testing.assert_array_equal(residual[..., :31, :50], alone[1])
    assert not residual[..., 31:, :].any()
    assert not residual[..., 50:].any()
    np.testing.assert_array_equal(image[..., 124:, :], output[..., 124:, :])
    back = kernel.downsample(image[0, :, :124, :200].numpy(), 4)
    assert np.abs(back - seen[0, :, :31, :50].numpy()).mean() < 0.1 * float(alone[1].abs().mean())
    valid[1, 10, 10] = False  # a hole is no padding
    assert not torch.equal(
        enforce_consistency(output.clone(), seen, [ConsistencyTarget(valid=valid)], kernel)[0],
        image,
    )


@pytest.fixture
def photograph():
    """photograph(noise in grey levels) -> fields and a town, 192 x 192, bytes."""
    with rasterio.open(REPOSITORY / "sample_data" / "town_rgb_0.5m.tif") as dataset:
        town = dataset.read()[:, :192, :192].astype(float)

    def make(sigma):
        rng = np.random.default_rng(5)
        return np.clip(np.rint(town + sigma * rng.normal(size=town.shape)), 0, 255).astype("uint8")

    return make


def test_consistency_auto_is_on_for_clean_and_off_for_noisy_scenes(
    photograph, make_raster, tmp_path, recwarn
):
    for sigma, noisy in ((0, False), (12, True)):
        recwarn.clear()
        source = make_raster(photograph(sigma), f"{sigma}.tif")
        out = tmp_path / f"{sigma}_out.tif"
        report = georsr.super_resolve(source, out, "segsr-lite-x2-sensor")
        assert (report.consistency is None) == noisy
        assert (
            any(
                "dominated by noise" in text and 'consistency="on"' in text
                for text in report.warnings
            )
            == noisy
        )
        kinds = [
            warning.category for warning in recwarn if "dominated by noise" in str(warning.message)
        ]
        assert kinds == [georsr.RadiometryWarning] * noisy
        with rasterio.open(out) as output:
            assert output.tags()["GEORSR_CONSISTENCY"].startswith("off: noise") == noisy
            made = output.read()
    plain = tmp_path / "plain.tif"
    georsr.super_resolve(source, plain, "segsr-lite-x2-sensor", consistency="off")
    np.testing.assert_array_equal(rasterio.open(plain).read(), made)
    insisted = georsr.super_resolve(
        source, tmp_path / "on.tif", "segsr-lite-x2-sensor", consistency="on"
    )
    assert insisted.consistency.output_mean < 0.5 * insisted.consistency.network_mean


def test_is_noise_dominated_compares_residual_with_noise():
    """r = n: all is noise. r = structure that the source shares on edges alone: nothing is."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    structure = (0.3 * np.sin(x / 3) * (y > 12)).astype(np.float32)[None]
    noise = (0.02 * rng.normal(size=(1, 64, 64))).astype(np.float32)
    everywhere = np.ones((1, 64, 64), bool)
    assert is_noise_dominated([Residual(structure + noise, noise, everywhere)])
    assert is_noise_dominated([Residual(structure + noise, noise / 2, everywhere)])
    assert not is_noise_dominated([Residual(structure, structure / 9, everywhere)])
    assert not is_noise_dominated([Residual(structure + noise, noise + structure / 5, everywhere)])
    faint = noise / 10  # below what matters
    assert not is_noise_dominated([Residual(structure + faint, faint, everywhere)])
    assert not is_noise_dominated([Residual(structure + noise, noise, ~everywhere)])
    assert not is_noise_dominated([])


def test_is_noise_dominated_of_texture_that_varies_over_the_scene_is_false():
    """A small crop without flat ground: texture everywhere, more of it in one half."""
    rng = np.random.default_rng(1)
    texture = rng.normal(size=(1, 64, 64)) * np.where(np.arange(64) < 32, 0.012, 0.02)
    texture = texture.astype(np.float32)
    everywhere = np.ones((1, 64, 64), bool)
    residual = np.where(np.arange(64) < 32, texture, 0.9 * texture).astype(np.float32)
    assert not is_noise_dominated([Residual(texture, residual, everywhere)])
    even = (0.012 * rng.normal(size=(1, 64, 64))).astype(np.float32)
    assert is_noise_dominated([Residual(even, even, everywhere)])


def test_consistency_of_noisy_arrays_and_files_agrees(photograph, make_raster, tmp_path):
    noisy = photograph(12)
    out = tmp_path / "out.tif"
    georsr.super_resolve(make_raster(noisy), out, "segsr-lite-x2-sensor", stretch="dtype")
    made = georsr.super_resolve_array(noisy, "segsr-lite-x2-sensor", stretch="dtype")
    np.testing.assert_array_equal(made, rasterio.open(out).read())


@pytest.mark.parametrize("length", [1, 500, 513, 1000, 2048, 4001])
@pytest.mark.parametrize("step", [1, 64, 128, 256])
def test_spread_ranges_lie_apart_in_few_blocks(length, step):
    reach = 5
    windows = spread_ranges(length, reach, step)
    assert windows[0][0] == 0
    assert all(begin < end for begin, end in windows)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(windows))
    assert windows[-1][1] <= length
    if length <= 512:  # all of it
        assert windows[-1][1] == length
        assert all(end == begin for (_, end), (begin, _) in pairwise(windows))
    elif step <= length // 4:
        for begin, end in windows:
            seen = range(max(0, begin - reach), min(length, end + reach))
            assert seen[-1] // step - seen[0] // step <= max(0, 128 // step - 1)


RUN_WITH_SHARPENED_KERNEL = """
import hashlib, numpy as np, georsr
values = np.random.default_rng(0).integers(0, 256, (3, 150, 150)).astype("float32")
result = georsr.super_resolve_array(
    values, "segsr-lite-x2", tile_size=150, consistency="on", consistency_kernel="psf:0.4+0.8"
)
print(hashlib.sha256(result.tobytes()).hexdigest())
"""
SHRINK_WITH_A_MASK = """
import hashlib, numpy as np
from georsr.inference.consistency import shrink_valid
from georsr.radiometry.kernels import parse_kernel
rng = np.random.default_rng(0)
image = rng.normal(100, 20, (3, 1024, 1024)).astype("float32")
valid = (rng.random((3, 256, 256)) > 0.1).repeat(4, 1).repeat(4, 2)
for mask in (valid, np.ones_like(valid)):
    low, _ = shrink_valid(image, mask, parse_kernel("bicubic"), 4)
    print(hashlib.sha256(low.tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [RUN_WITH_SHARPENED_KERNEL, SHRINK_WITH_A_MASK])
def test_result_does_not_depend_on_threads_of_blas(program):
    """OpenBLAS adds in another order as soon as it has more than one thread."""
    results = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    ]
    assert results[0] == results[1]
