import copy
import threading

import pytest
import torch
from torch import nn

from georsr.errors import ModelError
from georsr.models.io import build
from georsr.models.spec import ModelSpec
from tests.models.conftest import TINY_CLIP, small

VARIANTS = [
    {"scale": 2},
    {"scale": 3},
    {"scale": 4},
    {"scale": 4, "backbone": "plain"},
    {"scale": 3, "encoder": "scene"},
    {"scale": 2, "backbone": "plain", "encoder": "scene"},
    {"scale": 4, "published": True, "encoder_options": {**TINY_CLIP, "num_heads": 4}},
]


def tile(n=1, height=16, width=32):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_segsr_every_leaf_is_called_and_every_parameter_learns(options):
    network = small(**options)
    called = set()
    leaves = {name: m for name, m in network.named_modules() if not list(m.children())}
    for name, leaf in leaves.items():
        leaf.register_forward_hook(lambda *_, name=name: called.add(name))
    out = network(tile())
    scale = options["scale"]
    assert out.shape == (1, 3, 16 * scale, 32 * scale)
    # bicubic enlargement is a function of the upsampler, not a call of the module
    assert leaves.keys() - called <= {"upsampler.bicubic"}
    (out * torch.randn(out.shape)).sum().backward()
    idle = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_segsr_every_parameter_is_in_the_state_dict():
    network = small()
    reachable = {id(p) for m in network.modules() for p in vars(m)["_parameters"].values()}
    hidden = [
        (name, key)
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, nn.Parameter | list | tuple | dict) and not key.startswith("_")
        for item in (value if isinstance(value, list | tuple) else [value])
        if isinstance(item, nn.Parameter) and id(item) not in reachable
    ]
    assert hidden == []
    assert {"localization.local_prompts"} < set(network.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("options", VARIANTS[:1] + VARIANTS[-1:], ids=str)
def test_segsr_batch_equals_single_tiles(options):
    network = small(**options).eval()
    x = tile(3)
    together = network(x)
    assert torch.allclose(together, torch.cat([network(t[None]) for t in x]), atol=1e-5)


def test_segsr_forward_changes_no_state(network):
    before = copy.deepcopy(network.state_dict())
    attributes = {name: set(vars(m)) for name, m in network.named_modules()}
    with torch.inference_mode():
        first, second = network(tile()), network(tile())
    assert torch.equal(first, second)
    assert attributes == {name: set(vars(m)) for name, m in network.named_modules()}
    after = network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_optimized_segsr_cached_tensors_follow_the_weights(network):
    with torch.no_grad():
        first = network(tile())
        attention = network.backbone.groups[0].blocks[1].attn
        bias = attention.relative_position_bias
        for parameter in (bias.table, attention.qkv.weight, attention.proj.weight):
            parameter.add_(torch.randn(parameter.shape))
            second = network(tile())
            assert not torch.allclose(first, second)
            assert torch.equal(second, copy.deepcopy(network)(tile()))
            first = second


def test_optimized_segsr_can_be_trained_after_inference(network):
    with torch.inference_mode():
        network(tile())
    network.train()(tile()).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_optimized_segsr_threads_agree(network):
    x = tile()
    with torch.inference_mode():
        expected = copy.deepcopy(network)(x)
    results = []

    def work():
        with torch.inference_mode():
            results.append(network(x))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(result, expected) for result in results)


def test_segsr_double_and_bfloat16_stay_close(network):
    with torch.inference_mode():
        expected = network(tile())
        double = copy.deepcopy(network).double()(tile().double())
        with torch.autocast("cpu", torch.bfloat16):
            half = network(tile())
    assert (double - expected).abs().max() < 1e-4
    assert (half - expected).abs().max() < 0.1


@pytest.mark.parametrize("shape", [(1, 3, 16, 24), (1, 4, 16, 16), (3, 16, 16)])
def test_segsr_misfitting_tile_is_an_error(network, shape):
    with pytest.raises(ModelError, match="multiples of 16"):
        network(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 5}, "not by 5"),
        ({"scale": 3, "architecture": "segsr-published"}, "not by 3"),
        ({"bands": 4}, "3 bands, not 4"),
        ({"parameters": {"backbone": "other"}}, "unknown backbone .*hat, plain"),
        ({"parameters": {"encoder": "other"}}, "unknown encoder .*clip.*scene"),
        ({"parameters": {"backbone_options": {"num_heads": 7}}}, "a multiple of its 7 heads"),
        ({"parameters": {"depth": 0}}, "expected at least 1"),
        ({"parameters": {"encoder_options": {"num_heads": 7}}}, "not a multiple of its 7 heads"),
        ({"parameters": {"unknown": 1}}, "bad parameters"),
    ],
)
def test_build_misfitting_spec_is_an_error(change, message):
    with pytest.raises(ModelError, match=message):
        build(ModelSpec(**({"name": "m", "architecture": "segsr", "scale": 2} | change)))


def test_segsr_is_exported_as_one_graph(network):
    x = tile()
    with torch.no_grad():
        expected = network(x)
        program = torch.export.export(network.requires_grad_(False), (x,))
        assert torch.allclose(program.module()(x), expected, atol=1e-5)
