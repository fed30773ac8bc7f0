"""``georsr preview``: a picture and a page of a small part of a raster."""

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke
from PIL import Image

import georsr
from georsr.evaluation.preview import make_preview
from georsr.models.io import open_model

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def scene(make_raster, texture):
    return make_raster(texture(3, 150, 170))


def test_preview_writes_a_picture_and_a_page(scene, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["preview", scene, "--size", "32", "-m", "bicubic-x2", "-m", "nearest-x4"]
    assert invoke(arguments) == 0
    assert "source, bicubic, bicubic-x2, nearest-x4" in capsys.readouterr().err
    with rasterio.open("in_preview.png") as picture:
        assert (picture.count, picture.shape) == (3, (128, 4 * 128 + 3 * 4))
        source, nearest = (picture.read()[:, :, i : i + 128] for i in (0, 3 * 132))
    assert np.array_equal(source, nearest)
    page = (tmp_path / "in_preview.html").read_text()
    assert page.count('type="range"') == 4
    assert "http" not in page.replace("http://www.w3.org", "")
    assert invoke(arguments) == 2
    assert invoke([*arguments, "--overwrite", "-q"]) == 0


def test_make_preview_shows_the_pixels_of_a_run(scene, tmp_path):
    out = tmp_path / "o.tif"
    georsr.super_resolve(scene, out, "segsr-lite-x2", consistency="off", tile_size=192)
    preview = make_preview(scene, [open_model("segsr-lite-x2")], size=40)
    window = preview.window.scaled(2)
    with rasterio.open(out) as dataset:
        pixels = dataset.read()[(slice(None), *window.slices)].astype(int)
    shown = preview.panels[2].image.astype(int)
    for band, picture in zip(pixels, shown, strict=True):  # a linear stretch, with little noise
        assert np.corrcoef(band.ravel(), picture.ravel())[0, 1] > 0.98


def test_make_preview_of_any_scales_shows_the_same_ground(scene):
    models = [open_model(f"nearest-x{scale}") for scale in (2, 3)]
    source, _, *others = (panel.image for panel in make_preview(scene, models, size=40).panels)
    assert source.shape == (3, 120, 120)
    assert all(np.array_equal(other, source) for other in others)


def test_preview_at_a_place_shows_it(scene, tmp_path, capsys):
    arguments = ["preview", scene, "--size", "32", "-m", "bicubic-x2", "--out", str(tmp_path / "p")]
    assert invoke([*arguments, "--at", "400004,4999990"]) == 0
    assert "rows 4:36, columns 0:32" in capsys.readouterr().err
    assert invoke([*arguments, "--at", "0,0", "--overwrite"]) == 2
    assert "lies outside; 'georsr info' prints its extent" in capsys.readouterr().err


def test_preview_over_the_source_is_refused(tmp_path, capsys):
    picture = tmp_path / "p.png"
    Image.new("RGB", (40, 40)).save(picture)
    out = ["--out", str(tmp_path / "p"), "--overwrite"]
    assert invoke(["preview", str(picture), "-m", "bicubic-x2", *out]) == 2
    assert "is the source" in capsys.readouterr().err
