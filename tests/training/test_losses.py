"""Loss terms against their definitions."""

import numpy as np
import pytest
import torch

from georsr.models.lite.network import SegSRLite
from georsr.training.losses import SQUARED, ImageLoss, frequency_error, masked_mean
from georsr.training.networks import semantic_error
from georsr.training.recipe import LossSettings


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 16, 20, generator=generator), torch.rand(
        2, 3, 16, 20, generator=generator
    )


def test_absolute_error_then_squared_error(images):
    sr, hr = images
    loss = ImageLoss(LossSettings(absolute=2.0, squared_share=0.25))
    assert loss(sr, hr, None, 0.7) == pytest.approx(2 * float((sr - hr).abs().mean()))
    assert loss(sr, hr, None, 0.75) == pytest.approx(SQUARED * float((sr - hr).square().mean()))


def test_invalid_pixels_count_for_nothing(images):
    sr, hr = images
    valid = torch.ones(2, 1, 16, 20)
    valid[:, :, :, 12:] = 0
    loss = ImageLoss(LossSettings(frequency=0.3))
    before = loss(sr, hr, valid, 0.0)
    spoiled = sr.clone()
    spoiled[:, :, :, 12:] = 9.0
    assert loss(spoiled, hr, valid, 0.0) == before
    assert masked_mean((sr - hr).abs(), valid) == pytest.approx(
        float((sr - hr)[..., :12].abs().mean()), rel=1e-6
    )
    assert masked_mean((sr - hr).abs(), torch.zeros_like(valid)) == 0


def test_frequency_error_is_that_of_the_orthonormal_transform(images):
    sr, hr = images
    expected = np.abs(np.fft.rfft2((sr - hr).numpy(), norm="ortho")).mean()
    assert float(frequency_error(sr, hr)) == pytest.approx(expected, rel=1e-5)
    assert frequency_error(hr, hr) == 0


def test_semantic_error_sees_other_scenes_and_trains_only_the_image(images):
    sr, hr = images
    torch.manual_seed(0)
    network = SegSRLite(2, width=8, groups=1, blocks=1, tokens=8)
    judge = semantic_error(network)
    assert float(judge(hr, hr)) == pytest.approx(0, abs=1e-6)
    sr = sr.clone().requires_grad_()
    error = judge(sr, hr)
    assert float(error.detach()) > 1e-3
    error.backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    assert all(p.grad is None for p in judge.parameters())
    # it is a copy: training the network's own encoder does not move it
    with torch.no_grad():
        network.encoder.stem1.weight.zero_()
    assert float(judge(sr.detach(), hr)) == pytest.approx(float(error.detach()))
