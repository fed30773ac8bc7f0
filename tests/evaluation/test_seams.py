import re

import pytest
from georsr.cli.main import invoke

from georsr.errors import UsageError
from georsr.evaluation.seams import measure_seams
from georsr.inference import blur_and_noise
from georsr.models.io import open_model
from georsr.radiometry.kernels import SensorDescription


def test_measure_seams_of_bicubic_is_zero(make_raster, texture):
    source = make_raster(texture(2, 130, 140, "uint16"))
    report = measure_seams(source, open_model("bicubic-x2"), tile_size=32)
    assert report.shift == 14
    assert report.maximum < 60000 * 1e-5


def test_measure_seams_of_a_network_is_positive(lite_model, make_raster, texture):
    report = measure_seams(make_raster(texture(3, 130, 140)), lite_model)
    assert 0 < report.mean < report.p999 <= report.maximum
    assert report.relative_mean == pytest.approx(report.mean / 255)
    assert report.pixels == (2 * (32 + 3 * 20 - 16)) * (2 * (32 + 4 * 20 - 16))


def test_measure_seams_of_a_small_raster_names_the_tile_that_fits(lite_model, make_raster, texture):
    source = make_raster(texture(3, 55, 200))
    expected = r"200 x 55 pixels; .* need at least 64 along each axis; use tile_size=(\d+) of"
    with pytest.raises(UsageError, match=expected) as caught:
        measure_seams(source, lite_model)
    tile = int(re.search(expected, str(caught.value))[1])
    assert tile == 27
    assert measure_seams(source, lite_model, tile_size=tile).tile == tile
    small = make_raster(texture(3, 38, 40), "small.tif")
    with pytest.raises(UsageError, match="tiles of 19 are too small for this model"):
        measure_seams(small, lite_model)


def test_measure_seams_of_tiles_larger_than_half_the_window(make_raster, texture):
    source = make_raster(texture(1, 1240, 1210))
    report = measure_seams(source, open_model("bicubic-x2"), tile_size=600)
    assert report.pixels == (2 * (600 - 300)) ** 2


def test_measure_seams_of_an_output_names_its_source(make_raster, texture):
    tags = {"GEORSR_MODEL": "bicubic-x2", "GEORSR_SOURCE": "scene.tif"}
    output = make_raster(texture(1, 70, 80), after=lambda d: d.update_tags(**tags))
    with pytest.raises(UsageError, match=r"is an output of georsr; give its source: scene\.tif$"):
        measure_seams(output, open_model("bicubic-x2"), tile_size=32)


def test_benchmark_command_measures_seams(make_raster, texture, capsys):
    source = make_raster(texture(1, 70, 80))
    assert invoke(["quality", "seams", source, "-m", "bicubic-x2", "--tile", "32"]) == 0
    assert "maximum" in capsys.readouterr().out
    assert invoke(["quality", "seams", source, "-m", "bicubic-x2"]) == 2


def test_measure_seams_uses_one_sensor_for_both_grids(make_raster, texture, monkeypatch):
    estimates = iter([(0.0, 0.0, 1.0, 0.0), (2.0, 2.0, -1.0, 0.0)] * 5)
    monkeypatch.setattr(blur_and_noise, "estimate_sensor", lambda *_: next(estimates))
    source, model = make_raster(texture(3, 130, 140)), open_model("segsr-lite-x2-sensor")
    report = measure_seams(source, model, tile_size=32)
    described = [
        measure_seams(source, model, tile_size=32, sensor=str(SensorDescription.from_normalized(z)))
        for z in [(0.0, 0.0, 1.0, 0.0), (2.0, 2.0, -1.0, 0.0)]
    ]
    assert report.mean == pytest.approx(described[0].mean, rel=0.01)
    assert described[1].mean != pytest.approx(described[0].mean, rel=0.01)


def test_measure_seams_of_bands_that_the_model_does_not_take_names_them(make_raster, texture):
    source, model = make_raster(texture(4, 80, 80)), open_model("segsr-lite-x2-sensor")
    with pytest.raises(UsageError, match=r"takes 3 bands .* got 4; choose with"):
        measure_seams(source, model, tile_size=32, indexes=(1, 2, 3, 4))
