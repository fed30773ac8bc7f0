"""Training of networks that are told how a scene was recorded."""

from dataclasses import replace

import pytest
import torch

from georsr.errors import UsageError
from georsr.models.io import open_model
from georsr.models.segsr import SegSR
from georsr.models.segsr_lite import SensorEstimator
from georsr.radiometry.degradation import ImagingChain
from georsr.radiometry.kernels import N_SENSOR_VALUES
from georsr.training.callbacks import StoppedError
from georsr.training.data.source import open_source
from georsr.training.data.variation import Variation
from georsr.training.export import load_checkpoint
from georsr.training.module import training_network, with_errors
from georsr.training.pretrain import pretrain_sensor
from georsr.training.recipe import load_recipe
from georsr.training.train import train


@pytest.fixture
def aware(tiny):
    return replace(
        tiny,
        network={**tiny.network, "sensor_dim": 8},
        data=replace(tiny.data, variation=Variation()),
        degradation=ImagingChain(),
    )


def weights_of(folder):
    return load_checkpoint(folder / "last.ckpt")["state_dict"]


def test_train_with_sensor_exports_a_sensor_model(aware, tmp_path):
    path = train(replace(aware, sensor_steps=2), tmp_path / "run")
    model = open_model(str(path))
    assert model.spec.parameters["sensor_dim"] == 8
    assert (model.spec.degradation, model.spec.kernel) == ("imaging-chain", "scene, softly")
    x = torch.rand(1, 3, 20, 20)
    described = model.network.predict(x, torch.ones(1, N_SENSOR_VALUES)).image
    assert not torch.equal(described, model.network(x))


def test_train_resumed_equals_uninterrupted(aware, tmp_path):
    recipe = replace(aware, sensor_steps=1)
    train(recipe, tmp_path / "whole")
    calls = iter(range(100))
    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "parts", should_stop=lambda: next(calls) >= 3)
    train(recipe, tmp_path / "parts", resume=True)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_train_with_unknown_sensors_uses_the_estimates(aware, tiny, tmp_path, monkeypatch):
    descriptions = []
    predict = SegSR.predict

    def record(network, x, sensor=None):
        if network.training:
            descriptions.append(sensor)
        return predict(network, x, sensor)

    monkeypatch.setattr(SegSR, "predict", record)
    train(replace(aware, degradation=tiny.degradation), tmp_path / "run")
    assert len(descriptions) == tiny.steps
    assert all(each.abs().max() > 0 and not each.requires_grad for each in descriptions)


def test_train_with_sensor_starts_from_other_weights(aware, tiny, tmp_path):
    first = train(tiny, tmp_path / "plain")
    recipe = replace(aware, init=str(first), steps=1, validate_every=1)
    train(recipe, tmp_path / "aware")
    plain, ours = open_model(str(first)).network, training_network(recipe)
    assert plain.upsampler.conv.weight.shape == ours.upsampler.conv.weight.shape
    log = (tmp_path / "aware" / "log.csv").read_text().splitlines()
    assert log[1].startswith("0,,")


def test_pretrain_sensor_reduces_the_loss(aware):
    source, _ = open_source(aware.data, aware.degradation, scale=2, patch=24)
    torch.manual_seed(0)
    losses = []
    for steps in (1, 40):
        estimator = SensorEstimator(3, width=8)
        losses.append(pretrain_sensor(estimator, source, steps=steps, seed=0, batch=8))
    assert losses[1] < losses[0]


def test_pretrain_sensor_without_descriptions_fails(aware, tiny, tmp_path):
    recipe = replace(aware, degradation=tiny.degradation, sensor_steps=1)
    with pytest.raises(UsageError, match="sensor_steps needs crops whose sensor is known"):
        train(recipe, tmp_path / "run")


def test_with_errors_has_the_expected_statistics():
    torch.manual_seed(0)
    truth, estimate = torch.randn(20000, N_SENSOR_VALUES), torch.full((20000, N_SENSOR_VALUES), 9.0)
    described = with_errors(truth, estimate)
    own = (described == 9).all(1)
    nothing = (described == 0).all(1)
    assert own.float().mean() == pytest.approx(0.5, abs=0.02)
    assert nothing.float().mean() == pytest.approx(0.1, abs=0.01)
    wrong = ~(own | nothing)
    # the best guess: what is told predicts the truth without bias, slope one
    slope = (described[wrong] * truth[wrong]).sum() / described[wrong].square().sum()
    assert float(slope) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("scale", [2, 4])
def test_aware_recipes_have_a_sensor(scale):
    recipe = load_recipe(f"segsr-lite-x{scale}-sensor")
    assert recipe.network == {"film_dim": 16, "sensor_dim": 32}
    assert isinstance(recipe.degradation, ImagingChain)
    assert recipe.data.variation == Variation()
