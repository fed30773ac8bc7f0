"""Quality layers, STAC and their errors from the command line."""

import json
import sys
import warnings

import pytest
import rasterio
from georsr.cli.main import invoke

from georsr.errors import GeoreferenceWarning


@pytest.fixture
def scene(make_raster, texture):
    return make_raster(texture(3, 20, 24))


def test_sr_quality_and_stac_write_all_three_files(scene, tmp_path, capsys):
    out, layers, item = (str(tmp_path / name) for name in ("out.tif", "q.tif", "out.json"))
    assert invoke(["sr", scene, out, "-s", "2", "--quality", layers, "--stac", item, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["quality"]["output"] == layers
    assert report["quality"]["uncertainty"].startswith("expected absolute error, fitted to segsr")
    assert json.loads((tmp_path / "out.json").read_text())["assets"]["quality"]["href"] == "./q.tif"
    again = str(tmp_path / "again.tif")
    assert invoke(["quality", "layers", scene, out, again]) == 0
    assert "uncertainty" in capsys.readouterr().err
    with rasterio.open(layers) as a, rasterio.open(again) as b:
        assert a.checksum(1) == b.checksum(1)
    assert invoke(["quality", "layers", scene, out, again]) == 2
    error = capsys.readouterr().err
    assert "overwrite" in error
    assert len(error.splitlines()) == 1


def test_quality_warning_of_missing_crs_is_shown_once(make_raster, texture, tmp_path):
    """Not again of its output, nor of the layers, each time these are opened."""
    scene = make_raster(texture(3, 20, 24), crs=None)
    out, layers = str(tmp_path / "out.tif"), str(tmp_path / "q.tif")
    for command in (
        ["sr", scene, out, "-s", "2", "--consistency", "on", "--quality", layers],
        ["quality", "layers", scene, out, layers, "--overwrite"],
    ):
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always", GeoreferenceWarning)
            assert invoke(command) == 0
        said = [str(each.message) for each in issued if each.category is GeoreferenceWarning]
        assert len(said) == 1, said
        assert said[0].startswith(f"{scene}: has no coordinate reference system")


def test_sr_dry_run_with_quality_counts_the_layers(scene, tmp_path, capsys):
    out, layers = str(tmp_path / "out.tif"), str(tmp_path / "q.tif")
    assert invoke(["sr", scene, out, "-s", "2", "--quality", layers, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output_bytes"] == 40 * 48 * (3 + 8 * 4)
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_sr_stac_without_pystac_names_the_extra(scene, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pystac", None)
    out = tmp_path / "out.tif"
    assert invoke(["sr", scene, str(out), "--stac", str(tmp_path / "i.json")]) == 2
    assert "pip install pystac" in capsys.readouterr().err
    assert not out.exists()
