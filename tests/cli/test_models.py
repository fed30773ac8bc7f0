"""A published checkpoint through the whole command line: run it, convert it, run that."""

import json

import numpy as np
import pytest
import rasterio
import torch
from georsr.cli.main import invoke

from tests.models import golden


@pytest.fixture
def published(tmp_path):
    shapes, _ = golden.compact("tiny_x4")
    entries = {k: torch.as_tensor(v) for k, v in golden.entries(shapes, groups=2).items()}
    path = tmp_path / "SeG-SR_uc_x4.pth"
    torch.save({"params_ema": entries}, path)
    return str(path)


def test_models_convert_published_weights_gives_the_same_output(
    published, make_raster, texture, tmp_path, capsys
):
    source = make_raster(texture(3, 70, 50))
    converted = str(tmp_path / "segsr.safetensors")
    assert invoke(["sr", source, str(tmp_path / "a.tif"), "--model", published, "-q"]) == 0
    assert invoke(["models", "convert", published, converted]) == 0
    assert invoke(["sr", source, str(tmp_path / "b.tif"), "--model", converted, "-q"]) == 0
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        assert a.shape == (280, 200)
        np.testing.assert_array_equal(a.read(), b.read())
    capsys.readouterr()
    assert invoke(["info", "--model", converted, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["scale"], facts["multiple_of"], facts["tile"]) == (4, 16, 64)
    assert facts["GMAC per tile of 64"] > 0


def test_models_bad_arguments_are_refused(published, make_raster, texture, tmp_path, capsys):
    source, out = make_raster(texture(3, 70, 50)), str(tmp_path / "o.tif")
    assert invoke(["sr", source, out, "--model", published, "--tile", "40"]) == 2
    assert invoke(["sr", source, out, "--model", published, "--scale", "2"]) == 2
    assert invoke(["models", "convert", published, str(tmp_path / "x.pth")]) == 2
    assert invoke(["models", "convert", published, source, "--overwrite"]) == 2
    assert invoke(["models", "convert", "nowhere.pth", str(tmp_path / "x.safetensors")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5
    assert "use 48" in errors[0]
    assert "enlarges x4" in errors[1]
