"""Mixtures of degradations."""

import numpy as np
import pytest

from georsr.errors import UsageError
from georsr.radiometry.degradation import (
    BicubicDegradation,
    Mixture,
    SensorDegradation,
    degradation_from_dict,
)

MAPPING = {
    "kind": "mixture",
    "of": [{"kind": "bicubic"}, {"kind": "sensor", "mtf": [0.1, 0.2], "noise": [0.0, 0.0]}],
}


def test_mixture_draws_every_part():
    mixture = degradation_from_dict(MAPPING, "test")
    assert isinstance(mixture, Mixture)
    sharp, soft = mixture.of
    assert mixture.margin(4) == max(sharp.margin(4), soft.margin(4))
    assert not mixture.fixed
    hr = np.random.default_rng(0).random((3, 96, 96), np.float32)
    exact = BicubicDegradation()(hr, 4, np.random.default_rng(0))
    spreads = [mixture(hr, 4, np.random.default_rng(i)).std() for i in range(40)]
    bicubic = [bool(np.isclose(s, exact.std())) for s in spreads]
    assert 10 < sum(bicubic) < 30
    # the sensor blurs more than bicubic does
    assert max(s for s, b in zip(spreads, bicubic, strict=True) if not b) < exact.std()
    again = mixture(hr, 4, np.random.default_rng(5))
    np.testing.assert_array_equal(again, mixture(hr, 4, np.random.default_rng(5)))


def test_mixture_mapping_round_trips():
    mixture = degradation_from_dict(MAPPING, "test")
    assert degradation_from_dict(mixture.to_dict(), "test") == mixture
    assert mixture.describe() == f"bicubic or {mixture.of[1].describe()}"
    assert isinstance(mixture.of[1], SensorDegradation)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "mixture"}, "'of' is None, expected a list"),
        ({"kind": "mixture", "of": [{"kind": "bicubic"}]}, "two degradations or more"),
        ({"kind": "mixture", "of": [{"kind": "bicubic"}, {"kind": "fog"}]}, "test: of: .*fog"),
        ({**MAPPING, "share": 0.5}, "unknown key 'share'"),
    ],
)
def test_mixture_bad_values_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        degradation_from_dict(values, "test")
