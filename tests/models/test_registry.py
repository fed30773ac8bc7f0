"""Encoders and backbones of other packages: registered, trained, saved, and run."""

import json
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from georsr.cli.main import invoke
from PIL import Image
from torch import nn

from georsr.errors import ModelError, UsageError
from georsr.models import registry
from georsr.models.io import create_model, open_model
from georsr.models.registry import register_architecture, register_backbone, register_encoder
from georsr.models.segsr import Backbone
from georsr.training.recipe import DataSettings, LossSettings, Recipe


@register_backbone("test-depthwise")
class DepthwiseBackbone(Backbone):
    multiple_of, tile, halo, overlap = 2, 32, 4, 4

    def __init__(self, bands, embed_dim, num_groups, depth, *, kernel_size=3):
        super().__init__(bands, embed_dim)
        for _ in range(num_groups):
            layers = [
                nn.Conv2d(embed_dim, embed_dim, kernel_size, padding="same", groups=embed_dim)
                for _ in range(depth)
            ]
            self.groups.append(nn.Sequential(*layers))


@register_encoder("test-patches")
class PatchEncoder(nn.Module):
    multiple_of = 3

    def __init__(self, scale, bands, *, token_dim=8):
        super().__init__()
        self.token_dim = token_dim
        self.patches = nn.Conv2d(bands, token_dim, 3, stride=3)

    def forward(self, x):
        tokens = self.patches(x)
        return F.normalize(tokens, dim=1), F.normalize(tokens.mean((2, 3)), dim=1)


NETWORK = {
    "encoder": "test-patches",
    "backbone": "test-depthwise",
    "embed_dim": 8,
    "num_groups": 2,
    "depth": 1,
    "backbone_options": {"kernel_size": 5},
}


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 1)):
        folder = tmp_path / "data" / part / "fields"
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (12, 12, 3)).repeat(4, 0).repeat(4, 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"fields{i:02d}.png")
    return tmp_path / "data"


def test_create_model_of_registered_parts_takes_tiling_from_the_classes():
    spec = create_model("segsr", 3, name="mine", **NETWORK).spec
    assert (spec.name, spec.architecture, spec.scale) == ("mine", "segsr", 3)
    # a multiple of both 2 and 3, and the backbone's tile rounded up to it
    assert (spec.multiple_of, spec.tile, spec.halo, spec.overlap) == (6, 36, 4, 4)
    assert spec.parameters == NETWORK | {"encoder_options": None}


def test_registered_parts_train_save_and_run(images, make_raster, texture, tmp_path, capsys):
    recipe = Recipe(
        name="mine-x2",
        scale=2,
        architecture="segsr",
        network=NETWORK,
        data=DataSettings(root=(str(images),)),
        patch=12,
        batch=2,
        steps=3,
        loss=LossSettings(semantic=0.01),
        precision="fp32",
        validate_every=3,
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert invoke(["train", str(path), "--out", str(tmp_path / "run"), "-q"]) == 0
    weights = tmp_path / "run" / "mine-x2.safetensors"
    assert isinstance(open_model(str(weights)).network.backbone, DepthwiseBackbone)
    capsys.readouterr()
    assert invoke(["info", "--model", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["multiple_of"] == 6
    source, output = make_raster(texture(3, 40, 50)), tmp_path / "out.tif"
    assert invoke(["sr", source, str(output), "--model", str(weights), "-q"]) == 0
    with rasterio.open(output) as dataset, rasterio.open(source) as original:
        assert dataset.shape == (80, 100)
        enlarged = dataset.read().astype(int)
        repeated = original.read().repeat(2, 1).repeat(2, 2).astype(int)
    assert 0 < np.abs(enlarged - repeated).mean() < 40


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"backbone": "none"}, "unknown backbone 'none'; expected one of .*hat.*plain"),
        ({"encoder": "none"}, "unknown encoder 'none'; expected one of .*clip.*scene"),
        ({"backbone_options": {"none": 1}}, "bad parameters .*none"),
    ],
)
def test_create_model_of_unknown_parts_is_an_error(parts, message):
    with pytest.raises(ModelError, match=message) as caught:
        create_model("segsr", 2, **(NETWORK | parts))
    assert "\n" not in str(caught.value)


def test_create_model_of_unknown_architecture_is_an_error():
    with pytest.raises(ModelError, match=r"unknown architecture 'none'; expected one of .*segsr"):
        create_model("none")


@pytest.mark.parametrize(
    "register",
    [register_architecture, register_backbone, register_encoder],
    ids=lambda f: f.__name__,
)
def test_register_a_malformed_name_is_an_error(register):
    with pytest.raises(ValueError, match="lower-case"):
        register("My Name")


def test_register_a_name_twice_is_an_error():
    with pytest.raises(ValueError, match=r"'plain' is already registered"):
        register_backbone("plain")(PatchEncoder)


def test_entry_points_that_cannot_be_imported_are_reported(monkeypatch, caplog):
    entry = EntryPoint("broken", "no_such_module_of_models", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry.import_entry_points.cache_clear()
    assert not registry.is_architecture("none")
    assert "broken" in caplog.text
    registry.import_entry_points.cache_clear()


def test_entry_points_are_imported(monkeypatch, tmp_path):
    (tmp_path / "installed_backbone.py").write_text(
        "from georsr.models.registry import register_backbone\n"
        "from georsr.models.segsr import Backbone\n"
        "@register_backbone('test-installed')\n"
        "class Installed(Backbone):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("installed", "installed_backbone", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry.import_entry_points.cache_clear()
    assert registry.find_backbone("test-installed").__name__ == "Installed"
    registry.import_entry_points.cache_clear()


def test_model_called_with_arrays_pads_to_its_multiple_and_crops():
    torch.manual_seed(0)
    model = create_model("segsr", 2, **NETWORK)
    image = np.random.default_rng(0).random((3, 13, 17), np.float32)
    enlarged = model(image)
    assert (enlarged.shape, enlarged.dtype) == ((3, 26, 34), np.float32)
    np.testing.assert_allclose(model(image[None])[0], enlarged, atol=1e-6)
    whole = np.pad(image, ((0, 0), (0, 5), (0, 1)), mode="reflect")
    expected = model.network(torch.from_numpy(whole)[None])[0, :, :26, :34].numpy()
    np.testing.assert_allclose(enlarged, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("segsr-lite-x3", "x2 and x4"),
        ("segsr-lite-x3-sensor", "x2 and x4"),
        ("bicubic-x7", "x2 and x3 and x4"),
    ],
)
def test_open_model_scale_that_a_family_lacks_names_those_it_has(name, scales):
    with pytest.raises(UsageError, match=f"no model {name}: .* enlarges {scales}$"):
        open_model(name)
