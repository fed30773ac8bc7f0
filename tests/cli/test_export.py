"""``georsr export``."""

import numpy as np
import pytest
from georsr.cli.main import invoke

import georsr

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SENSOR = "mtf_half=0.6,mtf=0.2,noise=0.01,grain=0.1"
TILES = {"tile_size": 32, "halo": 4, "overlap": 4, "consistency": "off", "stretch": "dtype"}


@pytest.mark.slow
def test_export_of_a_sensor_model_fixes_the_sensor(texture, tmp_path, capsys):
    out = tmp_path / "one.onnx"
    arguments = ["export", "segsr-lite-x2-sensor", str(out), "--tile", "32"]
    assert invoke([*arguments, "--sensor", SENSOR]) == 0
    assert "for one sensor: mtf_half=0.600,mtf=0.200," in capsys.readouterr().err
    image = texture(3, 48, 56, "uint8")
    file = georsr.super_resolve_array(image, str(out), **TILES).astype(int)
    network = georsr.super_resolve_array(image, "segsr-lite-x2-sensor", sensor=SENSOR, **TILES)
    assert np.abs(file - network).max() <= 1
    assert invoke([*arguments, "--overwrite"]) == 0  # typical values
    assert "for one sensor: " in capsys.readouterr().err
    typical = georsr.super_resolve_array(image, str(out), **TILES).astype(int)
    assert np.abs(typical - network).max() > 1


def test_export_of_a_model_without_sensor_refuses_the_option(tmp_path, capsys):
    out = tmp_path / "one.onnx"
    assert invoke(["export", "segsr-lite-x2", str(out), "--sensor", SENSOR]) == 2
    assert "takes no sensor description; omit --sensor" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_export_int8_takes_the_bands_of_a_raster_that_a_run_takes(
    count, make_raster, texture, tmp_path, capsys
):
    scene = make_raster(texture(count, 60, 60))
    out = str(tmp_path / "int8.onnx")
    arguments = ["export", "segsr-lite-x2-sensor", out, "--tile", "32", "--int8", scene]
    bands = ["--bidx", "1,2,3"] if count == 4 else []
    assert invoke([*arguments, *bands]) == 0
    assert "for one sensor: " in capsys.readouterr().err
