"""segsr-lite: its parts, fused branches, and its cost."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from georsr.models.interpolation import Bicubic, Nearest
from georsr.models.segsr import SLM, FiLM, LightLMM, pixel_shuffle_to_planes
from georsr.models.segsr_lite import (
    RepConv,
    ResidualBlock,
    SceneClassifier,
    SceneEncoder,
    fuse_branches,
    segsr_lite,
)


def tiny(scale=2, **options):
    torch.manual_seed(0)
    defaults = {"embed_dim": 8, "num_groups": 2, "depth": 1, "token_dim": 8, "film_dim": 4}
    return segsr_lite(scale, **{**defaults, **options})


def small_encoder():
    return SceneEncoder(2, 3, token_dim=8, hidden_dim=12, num_mixers=1)


def wake(network):
    """Draw random values for the layers that start at zero."""
    for parameter in network.parameters():
        if parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (7, 13), (1, 1), (33, 4)])
def test_segsr_lite_any_size_and_scale(scale, size):
    x, network = torch.rand(2, 3, *size), tiny(scale).eval()
    y = network(x)
    assert y.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert (y.std((2, 3)) > 0.01).all()
    torch.testing.assert_close(network(x[1:]), y[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 48, 7, 5), (2, 16, 1, 1), (3, 32, 1, 6)])
def test_pixel_shuffle_to_planes_equals_pixel_shuffle(layout, shape):
    subpixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    made = pixel_shuffle_to_planes(subpixels.to(memory_format=layout), 4)
    assert torch.equal(made, nn.functional.pixel_shuffle(subpixels, 4))
    assert made.is_contiguous()


def test_segsr_lite_every_parameter_gets_a_gradient():
    network = wake(tiny(fused=False))
    network(torch.rand(2, 3, 16, 16)).square().mean().backward()
    idle = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_segsr_lite_every_leaf_module_is_called():
    network = tiny()
    called = set()
    leaves = {k: m for k, m in network.named_modules() if not list(m.children()) and k}
    for name, module in leaves.items():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    network(torch.rand(1, 3, 16, 16))
    # the skip connection is used through Bicubic.subpixels, not by a call of the module
    assert set(leaves) - called == {"upsampler.bicubic"}


def test_segsr_lite_every_parameter_is_registered():
    network = tiny()
    registered = {id(p) for p in network.parameters()}
    hidden = [
        (name, key)
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, (list, tuple)) and any(isinstance(v, nn.Parameter) for v in value)
    ]
    assert hidden == []
    assert id(network.localization.local_prompts) in registered


def test_fuse_branches_keeps_the_output():
    network = wake(tiny(fused=False)).eval()
    fused = copy.deepcopy(network)
    fuse_branches(fused)
    assert not [m for m in fused.modules() if isinstance(m, RepConv)]
    x = torch.rand(1, 3, 20, 24)
    torch.testing.assert_close(fused(x), network(x), atol=1e-6, rtol=0)
    assert fused.state_dict().keys() == tiny(fused=True).state_dict().keys()


def test_segsr_lite_output_depends_on_the_prompts():
    network = wake(tiny()).eval()
    x = torch.rand(1, 3, 16, 16)
    plain = network(x)
    network.localization.local_prompts.data += 1.0
    assert not torch.allclose(network(x), plain, atol=1e-6)


def test_light_lmm_untrained_changes_nothing():
    x = torch.rand(1, 8, 12, 12)
    torch.testing.assert_close(LightLMM(8)(x, torch.rand(1, 1, 3, 3)), x)


def test_scene_film_untrained_changes_nothing():
    x = torch.rand(1, 3, 16, 16)
    network = tiny(film_dim=4)
    plain = tiny(film_dim=0)
    plain.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("scene_film")}
    )
    torch.testing.assert_close(network(x), plain(x))


def test_film_scales_and_shifts_every_block_by_the_scene():
    film = wake(FiLM(8, 4, 6, 3, gain=5.0))
    scenes = torch.nn.functional.normalize(torch.randn(2, 8), dim=1)
    pairs = film(scenes)
    assert [(a.shape, b.shape) for a, b in pairs] == [((2, 6, 1, 1), (2, 6, 1, 1))] * 3
    for values in (v for pair in pairs for v in pair):
        assert not torch.allclose(values[0], values[1])
    block = ResidualBlock(6, fused=True)
    x = torch.randn(2, 6, 5, 5)
    scale, shift = pairs[0]
    expected = x + block.conv2(torch.relu(block.conv1(x) * (1 + scale) + shift))
    torch.testing.assert_close(block(x, pairs[0]), expected)


def test_segsr_lite_token_dim_0_has_no_guidance():
    network = tiny(token_dim=0)
    assert network.guidance_count == 0
    assert not [k for k, _ in network.named_parameters() if "encoder" in k or "modul" in k]
    assert network(torch.rand(1, 3, 9, 9)).shape == (1, 3, 18, 18)


@pytest.mark.parametrize("scale", [2, 4])
def test_segsr_lite_bundled_size_is_within_budget(scale):
    """The budget: 2.5 GMAC for a 64 x 64 tile, guidance included; 60 % of IMDN's parameters."""
    network = segsr_lite(scale, film_dim=16)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        network(torch.rand(1, 3, 64, 64))
    assert counter.get_total_flops() / 2e9 < 2.5
    assert sum(p.numel() for p in network.parameters()) < 0.6 * 715_176


def test_segsr_lite_calls_are_independent():
    network = tiny()
    x, other = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 8, 20)
    first = network(x)
    network(other)
    assert torch.equal(network(x), first)


def test_scene_encoder_gives_unit_vectors():
    tokens, scene = small_encoder()(torch.rand(2, 3, 18, 30))
    assert tokens.shape == (2, 8, 5, 8)
    assert scene.shape == (2, 8)
    torch.testing.assert_close(tokens.norm(dim=1), torch.ones(2, 5, 8))
    torch.testing.assert_close(scene.norm(dim=1), torch.ones(2))
    classifier = SceneClassifier(small_encoder(), num_classes=5)
    assert classifier(torch.rand(2, 3, 16, 16)).shape == (2, 5)


def test_slm_gives_one_map_per_group():
    slm = SLM(16, num_groups=5, num_heads=4)
    maps = slm(torch.randn(2, 16, 3, 4), torch.randn(2, 16))
    assert [m.shape for m in maps] == [(2, 1, 3, 4)] * 5


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_equals_torch(scale):
    x = torch.rand(1, 2, 9, 11)
    expected = nn.functional.interpolate(x, scale_factor=scale, mode="bicubic")
    torch.testing.assert_close(Bicubic(scale)(x), expected, atol=2e-6, rtol=0)


def test_nearest_repeats_pixels():
    x = torch.rand(1, 1, 3, 4)
    assert torch.equal(Nearest(3)(x)[:, :, ::3, ::3], x)
