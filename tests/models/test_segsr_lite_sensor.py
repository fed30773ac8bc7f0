"""segsr-lite with a sensor description: estimator, FiLM, and the description itself."""

import pytest
import torch

from georsr.models.segsr_lite import (
    SensorEstimator,
    likelihood_error,
    segsr_lite,
)
from georsr.radiometry.kernels import (
    MAX_NORMALIZED,
    N_SENSOR_VALUES,
    SensorDescription,
    combine_estimates,
)
from tests.models.test_segsr_lite import tiny, wake


@pytest.mark.parametrize("film_dim", [0, 4])
def test_sensor_film_untrained_changes_nothing(film_dim):
    aware, plain = tiny(film_dim=film_dim, sensor_dim=8), tiny(film_dim=film_dim)
    aware.load_state_dict({**aware.state_dict(), **plain.state_dict()})
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(aware.predict(x, torch.randn(2, N_SENSOR_VALUES)).image, plain(x))


def test_predict_depends_on_the_sensor_and_assumes_zero():
    network = wake(tiny(sensor_dim=8))
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(network(x), network.predict(x, torch.zeros(1, N_SENSOR_VALUES)).image)
    network.sensor = torch.ones(1, N_SENSOR_VALUES)
    assert torch.equal(network(x), network.predict(x, torch.ones(1, N_SENSOR_VALUES)).image)
    assert not torch.equal(network(x), network.predict(x, torch.zeros(1, N_SENSOR_VALUES)).image)


def test_sensor_buffer_is_not_in_the_state_dict():
    network = tiny(sensor_dim=8)
    assert not [key for key in network.state_dict() if key == "sensor"]
    assert "sensor_estimator.head.weight" in network.state_dict()


def test_sensor_network_every_parameter_gets_a_gradient():
    network = wake(tiny(sensor_dim=8, fused=False))
    x = torch.rand(2, 3, 24, 24)
    image = network.predict(x, torch.randn(2, N_SENSOR_VALUES)).image
    error = likelihood_error(*network.sensor_estimator(x), torch.randn(2, N_SENSOR_VALUES))
    (image.square().mean() + error).backward()
    idle = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_sensor_parts_have_few_parameters():
    weights = sum(p.numel() for p in segsr_lite(4, film_dim=16).parameters())
    aware = segsr_lite(4, film_dim=16, sensor_dim=32)
    estimator = sum(p.numel() for p in aware.sensor_estimator.parameters())
    assert sum(p.numel() for p in aware.parameters()) - estimator < 1.1 * weights
    assert estimator < 0.15 * weights


@pytest.mark.parametrize(
    "description",
    [SensorDescription(0.8, 0.3, 0.01, 0.2), SensorDescription(0.9, 0.45, 0.001, -0.1)],
)
def test_sensor_description_normalization_has_an_inverse(description):
    again = SensorDescription.from_normalized(description.normalize())
    for key in ("mtf_half", "mtf", "noise", "grain"):
        assert getattr(again, key) == pytest.approx(getattr(description, key), abs=1e-9)


def test_sensor_description_normalized_values_are_bounded():
    assert max(map(abs, SensorDescription(9.0, 9.0, 1e9, 1.0).normalize())) == MAX_NORMALIZED
    assert SensorDescription(0.8, 0.3, 0.0, 0.0).normalize()[2] >= -MAX_NORMALIZED


def test_combine_estimates_weights_by_information():
    ignorant, sure = torch.ones(N_SENSOR_VALUES), torch.full((N_SENSOR_VALUES,), 1e-3)
    mean = torch.stack([torch.zeros(N_SENSOR_VALUES), torch.full((N_SENSOR_VALUES,), 2.0)])
    both = combine_estimates(mean, torch.stack([ignorant, sure]))
    torch.testing.assert_close(both, torch.full((N_SENSOR_VALUES,), 2.0))
    # one alone remains what it is; none that knows anything leaves the prior
    one = combine_estimates(mean[1:], torch.full((1, N_SENSOR_VALUES), 0.5))
    torch.testing.assert_close(one, mean[1])
    assert combine_estimates(mean, torch.ones(2, N_SENSOR_VALUES)).abs().max() == 0


def test_combine_estimates_equal_estimates_give_the_same():
    mean, variance = torch.full((9, N_SENSOR_VALUES), 1.0), torch.full((9, N_SENSOR_VALUES), 0.5)
    torch.testing.assert_close(combine_estimates(mean, variance), mean[0])


def test_sensor_estimator_learns_noise():
    torch.manual_seed(0)
    estimator = SensorEstimator(3, width=8)
    optimizer = torch.optim.Adam(estimator.parameters(), 3e-3)
    errors = []
    for _ in range(150):
        truth = torch.randn(16, N_SENSOR_VALUES).clamp(-1.5, 1.5)
        noise = torch.exp(truth[:, 2] - 4.5)[:, None, None, None]
        x = 0.5 + noise * torch.randn(16, 3, 24, 24)
        mean, variance = estimator(x)
        loss = likelihood_error(mean, variance, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float((mean[:, 2] - truth[:, 2]).detach().abs().mean()))
    assert sum(errors[-10:]) / 10 < 0.5 * errors[0]
