"""Muon beside Adam in one optimizer."""

import copy

import pytest
import torch

from georsr.training.optim import MOMENTUM, MuonAdam, orthogonalize

OPTIONS = {"muon_lr": 0.02, "lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (5, 5)])
def test_orthogonalize_has_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape) * 1e-3))
    assert values.min() > 0.5
    assert values.max() < 1.3


def parameters():
    generator = torch.Generator().manual_seed(1)
    kernel = torch.nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator))
    bias = torch.nn.Parameter(torch.randn(4, generator=generator))
    return kernel, bias


def gradients(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, 3, 3, generator=generator), torch.randn(4, generator=generator)


def test_muon_adam_updates_each_group_by_its_rule():
    kernel, bias = parameters()
    ours = MuonAdam([kernel], [bias], **OPTIONS)
    plain_kernel, plain_bias = parameters()
    adam = torch.optim.Adam([plain_bias], 1e-3, betas=(0.9, 0.99))
    momentum = torch.zeros_like(plain_kernel)
    for step in range(3):
        kernel.grad, bias.grad = gradients(step)
        plain_bias.grad = bias.grad.clone()
        gradient = kernel.grad.clone()
        ours.step()
        adam.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        update = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
        with torch.no_grad():
            plain_kernel.mul_(1 - 0.02 * 0.1)
            plain_kernel.sub_(0.02 * orthogonalize(update.flatten(1)).view_as(update))
    assert torch.equal(bias, plain_bias)
    torch.testing.assert_close(kernel, plain_kernel)


def test_muon_adam_state_survives_saving():
    kernel, bias = parameters()
    first = MuonAdam([kernel], [bias], **OPTIONS)
    kernel.grad, bias.grad = gradients(0)
    first.step()
    state = copy.deepcopy(first.state_dict())
    other = [torch.nn.Parameter(p.detach().clone()) for p in (kernel, bias)]
    second = MuonAdam(other[:1], other[1:], **OPTIONS)
    second.load_state_dict(state)
    for p, q in zip((kernel, bias), other, strict=True):
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q)
    first.step()
    second.step()
    assert torch.equal(kernel, other[0])
    assert torch.equal(bias, other[1])


def test_muon_adam_without_kernels_is_adam():
    kernel, bias = parameters()
    optimizer = MuonAdam([], [kernel, bias], **OPTIONS)
    assert len(optimizer.param_groups) == 1
