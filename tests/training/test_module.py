"""SeG-SR in training: CLIP frozen under LoRA, HAT and guidance learning, one file at the end."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from georsr.errors import ModelError, UsageError
from georsr.models.io import open_model
from georsr.models.registry import read_spec
from georsr.training.callbacks import StoppedError
from georsr.training.export import load_checkpoint
from georsr.training.losses import SemanticError
from georsr.training.module import for_inference, split_parameters, training_network
from georsr.training.recipe import LossSettings, OptimizerSettings
from georsr.training.train import train
from tests.models.conftest import TINY_CLIP

HAT = {"num_groups": 1, "depth": 1, "embed_dim": 120, "backbone_options": {"num_heads": 4}}


@pytest.fixture
def segsr_recipe(tiny, clip_file):
    return replace(
        tiny,
        name="tiny-segsr-x2",
        architecture="segsr",
        network=HAT,
        clip=str(clip_file),
        lora=4,
        optimizer=OptimizerSettings(kind="adam", lr=1e-3, clip=0.0),
        loss=LossSettings(semantic=0.01),
        steps=3,
    )


def test_training_freezes_clip_and_trains_the_rest(segsr_recipe):
    network = training_network(segsr_recipe)
    kernels, others = split_parameters(network, muon=False)
    assert kernels == []
    trained = {id(p) for p in others}
    for name, parameter in network.named_parameters():
        inside = name.startswith("encoder.")
        assert (id(parameter) in trained) == (not inside or "lora" in name), name


def test_train_exports_without_lora(segsr_recipe, tmp_path):
    weights = train(segsr_recipe, tmp_path / "run")
    spec = read_spec(weights)
    assert (spec.architecture, spec.multiple_of, spec.scale) == ("segsr", 16, 2)
    model = open_model(str(weights))
    assert not any("lora" in key for key in model.network.state_dict())
    network = training_network(segsr_recipe)
    state = load_checkpoint(tmp_path / "run" / "best.ckpt")["state_dict"]
    network.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    )
    x = torch.rand(1, 3, 32, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            model.network(x), network.eval()(x), atol=2e-2, rtol=0
        )  # the file holds half precision
    # and the file is a start for another run, LoRA included
    again = replace(segsr_recipe, init=str(weights), steps=1)
    assert train(again, tmp_path / "again").exists()


def test_train_resumed_with_dropout_is_exact(segsr_recipe, tmp_path):
    train(segsr_recipe, tmp_path / "whole")
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        train(segsr_recipe, tmp_path / "parts", should_stop=lambda: next(asked))
    train(segsr_recipe, tmp_path / "parts", resume=True)
    whole, parts = (
        load_checkpoint(tmp_path / name / "last.ckpt")["current_model_state"]
        for name in ("whole", "parts")
    )
    assert [k for k in whole if not torch.equal(whole[k], parts[k])] == []


@pytest.mark.parametrize(
    "network",
    [
        {"backbone": "plain", "embed_dim": 12, "num_groups": 1, "depth": 1},
        {**HAT, "encoder": "scene"},
        {**HAT, "encoder_options": TINY_CLIP},
    ],
)
@pytest.mark.slow
def test_encoders_and_backbones_are_exchangeable_in_training(network, segsr_recipe, tmp_path):
    recipe = replace(segsr_recipe, network=network, clip="", lora=0, steps=1, loss=LossSettings())
    assert open_model(str(train(recipe, tmp_path / "run"))).spec.scale == 2


def test_exported_parameters_are_written_in_full(tiny):
    network, spec = for_inference(training_network(tiny), tiny)
    assert spec.parameters == {**tiny.network, "film_dim": 0, "sensor_dim": 0}
    assert not any("pointwise" in key for key in network.state_dict())
    with pytest.raises(UsageError, match="no argument 'fused'"):
        training_network(replace(tiny, network={"fused": True}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": False}, "num_groups is False, expected a whole number, at least 0"),
        ({"depth": -1}, "depth is -1, expected a whole number, at least 0"),
        ({"token_dim": 1.5}, "token_dim is 1.5, expected a whole number"),
        ({"num_groups": 0}, "has no groups of blocks, expected at least one"),
        ({"num_groups": 0, "token_dim": 0}, "has no groups of blocks, expected at least one"),
        ({"embed_dim": 0}, "embed_dim is 0, expected at least 1"),
    ],
)
def test_network_of_impossible_size_is_refused(changes, message, tiny):
    with pytest.raises((UsageError, ModelError), match=message):
        training_network(replace(tiny, network={**tiny.network, **changes}))


def test_semantic_error_without_encoder_fails(tiny):
    from georsr.training.module import semantic_error

    assert isinstance(semantic_error(training_network(tiny)), SemanticError)
    with pytest.raises(UsageError, match="semantic needs a network with guidance"):
        semantic_error(training_network(replace(tiny, network={"token_dim": 0})))


@pytest.mark.slow
def test_training_on_images_needs_neither_gdal_nor_clip(tiny, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(replace(tiny, steps=2).to_yaml())
    code = (
        "import sys\n"
        "for name in ('rasterio', 'open_clip', 'peft', 'dask', 'xarray', 'shapely'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from georsr.training.recipe import load_recipe\n"
        "from georsr.training.train import train\n"
        f"print(train(load_recipe({str(recipe)!r}), Path({str(tmp_path / 'run')!r})))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("tiny-x2.safetensors")
