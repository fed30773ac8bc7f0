"""``georsr train`` from the command line: train, refuse to overwrite, resume, use the weights."""

import numpy as np
import pytest
import yaml
from georsr.cli.main import invoke
from PIL import Image

RECIPE = """
name: tiny-x2
scale: 2
network: {embed_dim: 8, num_groups: 2, depth: 1, token_dim: 8}
patch: 16
batch: 2
steps: 4
validate_every: 2
scene_epochs: 1
precision: fp32
"""


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("fields", "town"):
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


def test_train_resumed_weights_are_used_by_sr(data, make_raster, texture, capsys):
    out = data / "run"
    arguments = ["train", str(data / "tiny.yaml"), "--data", str(data / "data"), "--out", str(out)]
    assert invoke(arguments) == 0
    assert {"best.ckpt", "last.ckpt", "log.csv", "recipe.yaml", "tiny-x2.safetensors"} <= {
        p.name for p in out.iterdir()
    }
    assert invoke(arguments) == 2
    assert invoke([*arguments, "--resume"]) == 0
    weights = str(out / "tiny-x2.safetensors")
    assert invoke([*arguments, "--resume", "--steps", "6"]) == 0
    assert (out / "log.csv").read_text().splitlines()[-1].startswith("6,")
    assert invoke([*arguments, "--resume", "--steps", "2"]) == 1
    assert "differs in steps" in capsys.readouterr().err
    output = str(data / "o.tif")
    assert invoke(["sr", make_raster(texture(3, 30, 40)), output, "--model", weights]) == 0


def test_train_bad_arguments_are_refused(data, capsys):
    base = ["--data", str(data / "data"), "--out", str(data / "run")]
    assert invoke(["train", "no-such-recipe", *base]) == 2
    missing = ["--data", str(data / "none"), "--out", str(data / "run")]
    assert invoke(["train", str(data / "tiny.yaml"), *missing]) == 2
    assert invoke(["train", str(data / "tiny.yaml"), *base, "--resume"]) == 2
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("Error")]
    assert len(errors) == 3
    assert not (data / "run").exists()


def test_train_without_data_is_refused_at_once(data, capsys):
    assert invoke(["train", str(data / "tiny.yaml"), "--out", str(data / "run")]) == 2
    assert "add --data PATH" in capsys.readouterr().err


def test_train_without_its_packages_is_refused_in_one_line(monkeypatch, data, capsys):
    monkeypatch.setattr("georsr.cli.train.find_spec", lambda name: None)
    assert invoke(["train", str(data / "tiny.yaml")]) == 2
    error = capsys.readouterr().err
    assert "pip install '.[train]' in the folder" in error
    assert "Traceback" not in error


def test_train_show_prints_the_recipe_with_options(data, capsys):
    assert invoke(["train", "--show", str(data / "tiny.yaml"), "--steps", "9"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["name"], shown["steps"], shown["batch"]) == ("tiny-x2", 9, 2)
