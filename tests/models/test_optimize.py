"""Optimized layers: the results of the reference modules, with their state dict."""

import copy

import pytest
import torch
from torch import nn

from georsr.models.optimize import optimize_for_inference
from tests.models.conftest import TINY_CLIP, small

NETWORKS = [
    {"scale": 2},
    {"scale": 4, "published": True, "encoder_options": {**TINY_CLIP, "num_heads": 4}},
    {"scale": 3, "backbone": "plain", "encoder": "scene"},
]


@torch.no_grad()
@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_optimize_for_inference_agrees_with_the_reference(options):
    reference = small(**options).eval()
    optimized = optimize_for_inference(copy.deepcopy(reference))
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(optimized(x), reference(x), atol=1e-5, rtol=0)
    assert type(reference.localization.attention.out) is nn.Linear


def test_optimize_for_inference_keeps_the_state_dict():
    network = small()
    before = dict(network.state_dict(keep_vars=True))
    after = dict(optimize_for_inference(network).state_dict(keep_vars=True))
    assert after.keys() == before.keys()
    assert all(after[key] is before[key] for key in before)


@torch.no_grad()
def test_deterministic_linear_does_not_depend_on_threads():
    layer = optimize_for_inference(nn.Sequential(nn.Linear(96, 300)))
    x = torch.rand(1, 96, generator=torch.Generator().manual_seed(0))
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        results.append(layer(x))
    torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)
    torch.testing.assert_close(results[0], nn.functional.linear(x, layer[0].weight, layer[0].bias))
