"""What ``progress=`` may be."""

import pytest
from tqdm import tqdm

import georsr


@pytest.fixture
def scene(make_raster, texture):
    return make_raster(texture(1, 40, 50))


def test_super_resolve_progress_function_gets_done_and_total(scene, tmp_path):
    seen = []
    georsr.super_resolve(
        scene, tmp_path / "o.tif", "bicubic-x2", tile_size=32, progress=lambda *c: seen.append(c)
    )
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] == seen[0][1] > 1


def test_super_resolve_progress_class_of_tqdm_is_used_and_closed(scene, tmp_path):
    bars = []

    class Bar(tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            bars.append(self)

    georsr.super_resolve(scene, tmp_path / "o.tif", "bicubic-x2", progress=Bar)
    assert bars[0].n == bars[0].total
    assert bars[0].desc == "verifying: "
    assert bars[0].disable  # closed


def test_super_resolve_progress_true_draws_a_bar(scene, tmp_path, capsys):
    georsr.super_resolve(scene, tmp_path / "o.tif", "bicubic-x2", progress=True)
    assert "100%" in capsys.readouterr().err


def test_super_resolve_progress_of_another_kind_is_refused(scene, tmp_path):
    with pytest.raises(georsr.UsageError, match="expected a function"):
        georsr.super_resolve(scene, tmp_path / "o.tif", "bicubic-x2", progress="yes")
    assert not (tmp_path / "o.tif").exists()
