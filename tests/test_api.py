"""The public functions, options, reports, errors and warnings."""

import importlib.metadata
import inspect
import json
import subprocess
import sys
import typing
import warnings

import numpy as np
import pytest
import rasterio

import georsr
from georsr import config
from georsr.errors import UsageError


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_super_resolve_array_equals_super_resolve(
    dtype, lite_model, make_raster, texture, tmp_path
):
    image = texture(3, 50, 71, dtype)
    source = make_raster(image)
    georsr.super_resolve(source, tmp_path / "o.tif", lite_model)
    array = georsr.super_resolve_array(image, lite_model)
    with rasterio.open(tmp_path / "o.tif") as out:
        np.testing.assert_array_equal(array, out.read())
    assert array.dtype == dtype


def test_super_resolve_array_invalid_pixels_keep_their_value(lite_model, texture):
    image = texture(3, 40, 40, "float32")
    image[:, 5:9, 5:9] = np.nan
    valid = np.ones((40, 40), bool)
    valid[20:25] = False
    image[:, 20:25] = 777
    output = georsr.super_resolve_array(image, lite_model, valid=valid)
    assert np.isnan(output[:, 10:18, 10:18]).all()
    assert (output[:, 40:50] == 777).all()
    other = image.copy()
    other[:, 20:25] = -5
    again = georsr.super_resolve_array(other, lite_model, valid=valid)
    np.testing.assert_array_equal(again[:, :40], output[:, :40])


def test_public_names_are_importable():
    for name in georsr.__all__:
        assert getattr(georsr, name) is not None
    assert issubclass(georsr.UsageError, georsr.GeorsrError)
    assert set(georsr.__all__) <= set(dir(georsr))


def test_version_is_that_of_the_package():
    assert georsr.__version__ == importlib.metadata.version("georsr")


def test_logger_without_handler_prints_nothing():
    script = "import logging, georsr; logging.getLogger('georsr').warning('a word')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_super_resolve_array_bad_arrays_are_refused(lite_model):
    with pytest.raises(UsageError, match="expected \\(bands, rows, columns\\)"):
        georsr.super_resolve_array(np.zeros((4, 4)), lite_model)
    with pytest.raises(UsageError, match=r"takes 3 bands \(red, green, blue\), the array has 2"):
        georsr.super_resolve_array(np.zeros((2, 4, 4)), lite_model)
    with pytest.raises(UsageError, match="complex64"):
        georsr.super_resolve_array(np.zeros((3, 4, 4), "complex64"), lite_model)


def test_estimate_writes_nothing(lite_model, make_raster, texture, tmp_path):
    source = make_raster(texture(3, 100, 120))
    before = sorted(tmp_path.iterdir())
    plan = georsr.estimate(source, lite_model, destination=tmp_path / "o.tif")
    report = georsr.super_resolve(source, tmp_path / "o.tif", lite_model)
    assert (plan.tiles, plan.width, plan.height) == (report.tiles, report.width, report.height)
    assert plan.output_bytes >= 3 * report.width * report.height
    assert before == [p for p in sorted(tmp_path.iterdir()) if p.name != "o.tif"]
    assert "tiles" in plan.describe()


def test_config_bad_options_are_refused():
    with pytest.raises(UsageError, match="feather or crop"):
        georsr.SRConfig(blend="stir")
    with pytest.raises(UsageError, match="batch_size 0"):
        georsr.SRConfig(batch_size=0)
    with pytest.raises(UsageError, match="halo -1"):
        georsr.SRConfig(halo=-1)
    with pytest.raises(TypeError, match="colour"):
        georsr.SRConfig(colour=1)
    options = georsr.SRConfig(indexes=(3, 2), creation_options={"COMPRESS": "ZSTD"})
    assert georsr.SRConfig.from_json(options.to_json()) == options
    with pytest.raises(UsageError, match="unknown options: colour"):
        georsr.SRConfig.from_json('{"colour": 1}')


def test_sr_options_types_equal_those_of_the_config():
    declared = typing.get_type_hints(georsr.SROptions)
    assert declared == config.TYPES
    arrays = {name for name, option in config.OPTIONS.items() if option.arrays}
    assert set(typing.get_type_hints(georsr.ArrayOptions)) == arrays


@pytest.mark.parametrize("function", [georsr.super_resolve, georsr.estimate, georsr.quality_layers])
def test_public_functions_have_typed_options(function):
    (options,) = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.VAR_KEYWORD
    ]
    assert options.annotation == "Unpack[SROptions]"


def test_tags_json_keeps_keys_of_earlier_versions():
    renamed = {
        "indexes": (3, 2, 1),
        "output_bands": "all",
        "other_bands": "per-band",
        "src_nodata": 0.0,
        "tile_size": 64,
        "force": True,
        "bounds": (0.0, 0.0, 1.0, 1.0),
        "bounds_crs": "EPSG:4326",
        "consistency_kernel": "auto",
    }
    recorded = {
        "bidx": [3, 2, 1],
        "bands": "all",
        "band_mode": "each",
        "nodata": 0.0,
        "tile": 64,
        "force": True,
        "bbox": [0.0, 0.0, 1.0, 1.0],
        "bbox_crs": "EPSG:4326",
        "consistency_kernel": "scene",
    }
    options = georsr.SRConfig(**renamed)
    assert json.loads(options.tags_json()) == recorded
    assert georsr.SRConfig.from_tag(json.dumps(recorded)) == options


def test_run_report_is_typed_and_its_json_nested(lite_model, make_raster, texture, tmp_path):
    source = make_raster(texture(3, 40, 50))
    out = tmp_path / "o.tif"
    report = georsr.super_resolve(source, out, lite_model, stretch="0,200", tile_size=32)
    assert report.stretch == georsr.Normalization((0.0,) * 3, (200.0,) * 3, "fixed")
    assert report.options == {"stretch": "0,200", "tile_size": 32}
    assert json.loads(report.to_json())["stretch"]["hi"] == [200.0] * 3


def test_errors_have_no_exit_code():
    assert not hasattr(georsr.UsageError("wrong"), "exit_code")


def test_warnings_can_be_filtered_by_class(make_raster, texture, lite_model, tmp_path):
    path = make_raster(texture(4, 30, 30, "uint16"), photometric="minisblack")
    with warnings.catch_warnings():
        warnings.simplefilter("error", georsr.BandWarning)
        with pytest.raises(georsr.BandWarning, match="indexes"):
            georsr.super_resolve(path, tmp_path / "o.tif", lite_model, output_bands="all")
        warnings.simplefilter("ignore", georsr.GeorsrWarning)
        georsr.super_resolve(path, tmp_path / "o.tif", lite_model, output_bands="all")


def test_python_m_georsr_cli_runs_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "georsr.cli", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("georsr")


@pytest.mark.parametrize("scale", [2, 4])
def test_bundled_model_does_not_depend_on_threads(scale, texture):
    image = texture(3, 150, 210, "float32")
    one = georsr.super_resolve_array(image, scale=scale, num_threads=1, model="segsr-lite")
    two = georsr.super_resolve_array(image, scale=scale, num_threads=2, model="segsr-lite")
    np.testing.assert_array_equal(one, two)
