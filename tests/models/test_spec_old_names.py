"""Weights files of older versions."""

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from georsr.errors import ModelError
from georsr.models.io import build, open_model, save_model
from georsr.models.registry import bundled_weights
from georsr.models.spec import ModelSpec, upgrade_spec, upgrade_state_dict
from tests.models.conftest import small

OLD_HAT = {
    "backbone.patch_norm.weight": "backbone.groups.0.entry.weight",
    "backbone.conv_first.bias": "backbone.head.bias",
    "backbone.groups.1.blocks.0.attn.relative_position_bias.table": (
        "backbone.groups.1.blocks.0.attention.bias_table"
    ),
    "backbone.groups.1.blocks.1.conv_block.conv2.weight": (
        "backbone.groups.1.blocks.1.convolution.conv2.weight"
    ),
    "backbone.groups.0.overlap_attn.attn.relative_position_bias.table": (
        "backbone.groups.0.overlap.attention.bias_table"
    ),
    "backbone.groups.0.overlap_attn.mlp.fc1.weight": "backbone.groups.0.overlap.mlp.fc1.weight",
    "backbone.conv_after_body.weight": "tail.body.weight",
    "upsampler.conv_before_upsample.weight": "tail.before.weight",
    "upsampler.upsample.0.bias": "tail.steps.0.bias",
    "upsampler.conv_last.weight": "tail.last.weight",
    "localization.global_prompt.prompt": "localization.scene_prompt.prompt",
}
"""Present key -> old key, one of each kind."""


@pytest.mark.parametrize("name", bundled_weights())
def test_bundled_weights_have_present_names_when_opened(name):
    stored = load_file(bundled_weights()[name])
    model = open_model(name)
    assert set(upgrade_state_dict(stored)) == set(model.network.state_dict())
    assert model.spec.parameters == {
        "embed_dim": 48, "num_groups": 4, "depth": 2, "token_dim": 32, "film_dim": 16,
        **({"sensor_dim": 32} if "sensor" in name else {}),
    }  # fmt: skip


def test_upgrade_state_dict_renames_every_kind_of_key():
    keys = small().state_dict().keys()
    assert OLD_HAT.keys() <= keys
    assert upgrade_state_dict(dict.fromkeys(OLD_HAT.values())).keys() == OLD_HAT.keys()


@pytest.mark.parametrize(
    "network", [small(), small(scale=4, published=True)], ids=["ours", "theirs"]
)
def test_upgrade_state_dict_leaves_present_keys_alone(network):
    assert list(upgrade_state_dict(network.state_dict())) == list(network.state_dict())


def test_upgrade_spec_of_a_converted_checkpoint_is_the_published_network():
    sizes = {"groups": 2, "blocks": 2, "width": 180, "heads": 6, "clip": {"layers": 2}}
    old = ModelSpec("m", "segsr", 4, {"published": True, **sizes})
    new = upgrade_spec(old)
    assert new.architecture == "segsr-published"
    assert new.parameters == {
        "num_groups": 2, "depth": 2, "embed_dim": 180, "num_heads": 6,
        "encoder_options": {"layers": 2},
    }  # fmt: skip
    assert upgrade_spec(new) == new


def test_upgrade_spec_of_a_trained_segsr_gives_the_heads_to_the_backbone():
    clip = {"heads": 12, "patch": 16, "tokens": 512, "grid": 14, "width": 768, "quick_gelu": True}
    new = upgrade_spec(ModelSpec("m", "segsr", 4, {"heads": 4, "width": 120, "clip": clip}))
    assert new.parameters == {
        "embed_dim": 120,
        "backbone_options": {"num_heads": 4},
        "encoder_options": {
            "num_heads": 12, "patch_size": 16, "token_dim": 512, "grid_size": 14, "width": 768,
            "quick_gelu": True,
        },
    }  # fmt: skip
    assert upgrade_spec(new) == new


def test_open_model_of_old_weights_with_the_plain_backbone_is_refused(tmp_path):
    sizes = {"num_groups": 1, "depth": 1, "embed_dim": 8}
    spec = ModelSpec("m", "segsr", 2, {"backbone": "plain", "encoder": "scene", **sizes})
    present, old = tmp_path / "present.safetensors", tmp_path / "old.safetensors"
    save_model(present, spec, build(spec))
    assert open_model(str(present)).spec == spec
    with safe_open(present, "pt") as file:
        metadata = file.metadata()
    tensors = {
        key.replace("backbone.conv_first.", "backbone.head."): value
        for key, value in load_file(present).items()
    }
    save_file(tensors, old, metadata)
    with pytest.raises(ModelError, match=r"old\.safetensors: weights of segsr .* train the model"):
        open_model(str(old))
