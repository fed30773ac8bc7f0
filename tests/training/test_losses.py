"""Loss terms against their definitions."""

import numpy as np
import pytest
import torch

from georsr.errors import UsageError
from georsr.evaluation.metrics import luma
from georsr.models.segsr_lite import segsr_lite
from georsr.training.losses import (
    MSE_FLOOR,
    MSE_WEIGHT,
    REFERENCE_MSE,
    ImageLoss,
    frequency_error,
    log_error,
    masked_mean,
)
from georsr.training.module import semantic_error
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
    assert loss(sr, hr, None, 0.75) == pytest.approx(MSE_WEIGHT * float((sr - hr).square().mean()))


def test_image_loss_psnr_share_is_log_error(images):
    sr, hr = images
    loss = ImageLoss(LossSettings(squared_share=0.5, psnr_share=0.25))
    assert loss(sr, hr, None, 0.7) == pytest.approx(MSE_WEIGHT * float((sr - hr).square().mean()))
    each = (sr - hr).square().mean((1, 2, 3))
    expected = MSE_WEIGHT * REFERENCE_MSE * float(torch.log(each + MSE_FLOOR).mean())
    assert loss(sr, hr, None, 0.75) == pytest.approx(expected)


def test_image_loss_luma_is_mixed(images):
    """Mixed with the PSNR of all bands, it is that of what `psnr_y` measures."""
    sr, hr = images
    whole, half, all_of_it = (
        float(ImageLoss(LossSettings(psnr_share=1.0, luma=share))(sr, hr, None, 0.0))
        for share in (0.0, 0.5, 1.0)
    )
    assert half == pytest.approx((whole + all_of_it) / 2)
    apart = [
        luma(a.double().numpy() * 255) - luma(b.double().numpy() * 255)
        for a, b in zip(sr, hr, strict=True)
    ]
    each = np.square(np.stack(apart) / 219).mean((1, 2))  # of the studio range, 16..235
    assert all_of_it == pytest.approx(
        MSE_WEIGHT * REFERENCE_MSE * np.log(each + MSE_FLOOR).mean(), rel=1e-5
    )
    with torch.autocast("cpu", torch.bfloat16):  # as in training, where losses stay exact
        mixed = ImageLoss(LossSettings(psnr_share=1.0, luma=1.0))(sr, hr, None, 0.0)
    assert float(mixed) == all_of_it


def test_luma_error_of_four_bands_fails():
    loss = ImageLoss(LossSettings(psnr_share=1.0, luma=0.5))
    with pytest.raises(UsageError, match="luma needs RGB images, these have 4 bands"):
        loss(torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8), None, 0.0)


def test_log_error_weights_crops_equally():
    """A tenth less error is worth as much in either, where the squared error sees one only."""
    error = torch.full((2, 3, 8, 8), 0.02)
    error[1] = 0.2
    before = float(log_error(error, None))
    gains = []
    for i in (0, 1):
        better = error.clone()
        better[i] *= 0.9
        gains.append(before - float(log_error(better, None)))
    assert gains[0] == pytest.approx(gains[1], rel=0.05)
    # and at a typical error it changes as the squared error does
    typical = torch.full((1, 3, 8, 8), REFERENCE_MSE**0.5, requires_grad=True)
    log_error(typical, None).backward()
    steps = typical.grad.clone()
    typical.grad = None
    typical.square().mean().backward()
    torch.testing.assert_close(steps, typical.grad, rtol=0.06, atol=0)


def test_image_loss_ignores_invalid_pixels(images):
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
    assert log_error(spoiled - hr, valid) == log_error(sr - hr, valid)


def test_frequency_error_is_that_of_the_orthonormal_transform(images):
    sr, hr = images
    expected = np.abs(np.fft.rfft2((sr - hr).numpy(), norm="ortho")).mean()
    assert float(frequency_error(sr, hr)) == pytest.approx(expected, rel=1e-5)
    assert frequency_error(hr, hr) == 0


def test_semantic_error_has_gradients_of_the_image_only(images):
    sr, hr = images
    torch.manual_seed(0)
    network = segsr_lite(2, embed_dim=8, num_groups=1, depth=1, token_dim=8)
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
