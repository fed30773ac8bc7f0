"""Runs over several rasters: nobody can tell that they were not one."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from georsr.cli.main import invoke

import georsr.writer.writer as writer_module
from georsr.api import estimate, super_resolve
from georsr.errors import InterruptedRunError, UsageError
from tests.rasters import read

NORTH_UP = Affine(0.5, 0, 400000, 0, -0.5, 5000000)
SMALL = {"blocksize": 32, "tile_size": 32, "halo": 2, "overlap": 4}
PLACES = [(0, 0, 40, 50), (0, 50, 40, 60), (40, 0, 35, 50), (40, 50, 35, 60)]


@pytest.fixture
def cut(make_raster):
    def pieces(image, places=PLACES, **options):
        return [
            make_raster(
                image[:, top : top + height, left : left + width],
                f"piece{i}.tif",
                transform=NORTH_UP @ Affine.translation(left, top),
                **options,
            )
            for i, (top, left, height, width) in enumerate(places)
        ]

    return pieces


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_run_of_a_mosaic_equals_the_run_of_the_image(
    dtype, lite_model, cut, make_raster, texture, tmp_path
):
    image = texture(3, 75, 110, dtype)
    report = super_resolve(cut(image), tmp_path / "m.tif", lite_model, **SMALL)
    super_resolve(make_raster(image, "whole.tif"), tmp_path / "w.tif", lite_model, **SMALL)
    np.testing.assert_array_equal(read(tmp_path / "m.tif"), read(tmp_path / "w.tif"))
    assert report.source.endswith("piece0.tif + 3 more")
    with rasterio.open(tmp_path / "m.tif") as output:
        assert output.tags()["GEORSR_SOURCE"] == "piece0.tif + 3 more"
        assert output.transform == NORTH_UP @ Affine.scale(0.5)


def test_run_of_a_mosaic_gaps_are_invalid(lite_model, cut, texture, tmp_path):
    image = texture(3, 75, 110)
    paths = cut(image, [PLACES[0], PLACES[3]])
    report = super_resolve(paths, tmp_path / "m.tif", lite_model, **SMALL)
    assert report.tiles_skipped > 0
    with rasterio.open(tmp_path / "m.tif") as output:
        mask = output.dataset_mask() > 0
    expected = np.zeros((75, 110), bool)
    expected[:40, :50] = expected[40:, 50:] = True
    np.testing.assert_array_equal(mask, expected.repeat(2, 0).repeat(2, 1))


def test_run_of_a_mosaic_is_estimated_and_resumed(lite_model, cut, texture, tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", -1.0)
    paths = cut(texture(3, 75, 110))
    whole = super_resolve(paths, tmp_path / "w.tif", lite_model, **SMALL)
    assert estimate(paths, lite_model, **SMALL).tiles == whole.tiles
    out, answers = tmp_path / "m.tif", iter([False] * 9)

    def interrupted(*paths):
        with pytest.raises(InterruptedRunError):
            super_resolve(paths, out, lite_model, should_stop=lambda: next(answers, True), **SMALL)

    interrupted(*paths)
    assert super_resolve(paths, out, lite_model, **SMALL).blocks_resumed > 0
    assert out.read_bytes() == (tmp_path / "w.tif").read_bytes()
    out.unlink()
    answers = iter([False] * 9)
    interrupted(*paths)
    # in another order they cover each other differently
    assert super_resolve(paths[::-1], out, lite_model, **SMALL).blocks_resumed == 0


def test_run_of_a_mosaic_onto_its_source_is_refused(cut, texture, tmp_path):
    paths = cut(texture(1, 75, 110))
    with pytest.raises(UsageError, match=r"piece2\.tif: is the source"):
        super_resolve(paths, paths[2], "nearest", 2, overwrite=True)


def test_sr_rasters_folders_and_lists_give_the_same_output(cut, texture, tmp_path, capsys):
    paths = cut(texture(3, 75, 110))
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(paths))
    expected = None
    for i, sources in enumerate([paths, [str(tmp_path)], [f"@{listing}"], [paths[0], *paths[1:]]]):
        out = tmp_path / f"out{i}"  # no name of a raster, so that the folder has only pieces
        assert invoke(["sr", *sources, str(out), "-m", "bicubic-x2", "-q"]) == 0
        pixels = read(out)
        assert expected is None or (pixels == expected).all()
        expected = pixels
        assert pixels.shape == (3, 150, 220)
    assert capsys.readouterr() == ("", "")


def test_run_of_misfitting_rasters_is_refused(cut, make_raster, texture, tmp_path, capsys):
    paths = cut(texture(3, 75, 110))
    others = {
        "CRS": make_raster(texture(3, 9, 9), "a.tif", crs="EPSG:32633"),
        "data types": make_raster(texture(3, 9, 9, "uint16"), "b.tif"),
        "number of bands": make_raster(texture(2, 9, 9), "c.tif"),
    }
    before = sorted(tmp_path.iterdir())
    for what, other in others.items():
        assert invoke(["sr", *paths, other, str(tmp_path / "o.tif"), "-m", "bicubic-x2"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"Error: {other}: does not fit")
        assert what in line
    assert sorted(tmp_path.iterdir()) == before
