import json
import os
import pickle

import numpy as np
import pytest
import torch

from georsr.errors import ModelError
from georsr.models.io import open_model, save_model
from georsr.models.segsr_published import PROMPTS, read_published
from tests.models import golden

PARITY, MAPS = 5e-5, 1e-3


def run(network, height, width):
    with torch.inference_mode():
        image, maps, _ = network.predict(torch.from_numpy(golden.tile(height, width)))
    return {
        f"output_{height}x{width}": image.numpy(),
        f"maps_{height}x{width}": torch.cat(maps, 1).numpy(),
    }


@pytest.mark.parametrize("case", golden.TINY)
def test_open_model_tiny_published_checkpoint_matches_golden_outputs(case, tmp_path):
    shapes, samples = golden.compact(case)
    path = tmp_path / f"{case}.pth"
    torch.save({"params_ema": golden.entries(shapes, groups=2), "params": {}}, path)
    model = open_model(str(path))
    assert model.spec.scale == int(case[-1])
    for size in golden.SIZES:
        for name, ours in run(model.network, *size).items():
            limit = MAPS if name.startswith("maps") else PARITY
            assert np.abs(golden.sample(ours) - samples[name]).max() <= limit
            if complete := golden.folder():
                with np.load(complete / f"{case}.npz") as arrays:
                    assert np.abs(ours - arrays[name]).max() <= limit


@pytest.mark.slow
@pytest.mark.skipif(golden.folder() is None, reason="needs the complete golden arrays")
def test_open_model_full_published_checkpoint_matches_golden_outputs(tmp_path):
    described = json.loads((golden.folder() / "full_x4.json").read_text())
    path = tmp_path / "full.pth"
    torch.save({"params_ema": golden.entries(described["keys"], groups=6)}, path)
    model = open_model(str(path))
    assert model.spec.parameters["num_groups"] == model.spec.parameters["depth"] == 6
    assert model.spec.parameters["encoder_options"] == {"layers": 12}
    with np.load(golden.folder() / "full_x4.npz") as arrays:
        assert np.abs(golden.tile(64, 64) - arrays["input_64x64"]).max() < 1e-6
        for name, ours in run(model.network, 64, 64).items():
            limit = MAPS if name.startswith("maps") else PARITY
            assert np.abs(ours - arrays[name]).max() <= limit


def test_save_model_converted_checkpoint_gives_the_same_outputs(checkpoint, tmp_path):
    model = open_model(str(checkpoint()))
    target = tmp_path / "seg.safetensors"
    save_model(target, model.spec, model.network, torch.float32)
    again = open_model(str(target))
    assert again.spec == model.spec
    x = torch.from_numpy(golden.tile(16, 32))
    with torch.inference_mode():
        assert torch.equal(model.network(x), again.network(x))


def test_read_published_spec(checkpoint):
    spec, weights = read_published(checkpoint(name="SegSR_UC X4.pth"))
    assert spec.name == "segsr-uc-x4"
    assert (spec.tile, spec.multiple_of) == (64, 16)
    assert (spec.tile - 2 * spec.halo - spec.overlap) % 16 == 0
    assert not any("lora" in name or "cross" in name for name in weights)


def test_read_published_prefers_params_ema(tmp_path, tiny_entries):
    path = tmp_path / "both.pth"
    torch.save({"params": {"conv_first.weight": torch.zeros(1)}, "params_ema": tiny_entries}, path)
    _, weights = read_published(path)
    assert torch.equal(weights["backbone.conv_first.weight"], tiny_entries["conv_first.weight"])


def test_read_published_takes_params_alone(checkpoint):
    assert read_published(checkpoint(key="params"))[0].scale == 4


def test_read_published_missing_prompts_are_the_seed_0_draw(checkpoint):
    def forget(entries):
        for i in range(2):
            del entries[f"text_locals.{i}"]

    spec, weights = read_published(checkpoint(forget))
    assert weights[PROMPTS].shape == (2, 512)
    assert weights[PROMPTS].std().item() == pytest.approx(0.0442, abs=2e-3)
    assert "seed-0" in spec.notes


def test_read_published_merges_lora(checkpoint, tiny_entries):
    _, weights = read_published(checkpoint())
    name = "clip1.base_model.model.transformer.resblocks.1.mlp.c_fc"
    down = tiny_entries[f"{name}.lora_A.default.weight"]
    up = tiny_entries[f"{name}.lora_B.default.weight"]
    expected = tiny_entries[f"{name}.base_layer.weight"] + up @ down
    assert torch.allclose(weights["encoder.blocks.1.mlp.c_fc.weight"], expected, atol=1e-5)


def drop(pattern):
    def change(entries):
        for key in [k for k in entries if pattern in k]:
            del entries[key]

    return change


def reshape(entries):
    entries["conv_after_body.weight"] = torch.zeros(2, 2)


def spoil(entries):
    entries["conv_last.bias"] = torch.full((3,), torch.nan)


BAD = {
    "missing": (drop("mlp_shared"), r"4 tensors do not fit.*missing spades\.4\.mlp_shared"),
    "many missing": (drop("layers.1.residual_group.blocks.1."), r"2\d tensors do not fit"),
    "unexpected": (lambda e: e.update(odd=torch.zeros(1)), "1 tensors.*unexpected odd"),
    "shape": (reshape, r"conv_after_body\.weight has shape \(2, 2\), expected \(180, 180"),
    "not finite": (spoil, "not finite"),
    "no attention": (drop("attn"), "no layers with attention"),
    "inconsistent scale": (drop("upsample.2"), "1 upsampling steps for the image and 2 for"),
    "unknown scale": (drop("upsample"), "0 upsampling steps"),
    "prompt lost": (lambda e: e.pop("text_locals.1"), r"local prompts \[0\] for 2 groups"),
    "not a tensor": (lambda e: e.update(odd="text"), "odd is not a tensor"),
}


@pytest.mark.parametrize("case", BAD)
def test_read_published_misfitting_entries_are_named(case, checkpoint):
    change, message = BAD[case]
    with pytest.raises(ModelError, match=message) as caught:
        read_published(checkpoint(change))
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(";") <= 5


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_read_published_truncated_file_is_an_error(keep, checkpoint):
    path = checkpoint()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(ModelError, match="not a readable checkpoint") as caught:
        read_published(path)
    assert "\n" not in str(caught.value)


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_open_model_code_in_a_checkpoint_is_never_run(writer, tmp_path):
    path = tmp_path / "payload.pth"
    writer({"params_ema": Payload(tmp_path / "executed")}, path)
    with pytest.raises(ModelError, match="never run"):
        open_model(str(path))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [[1, 2], {"params": [1]}, {"weight": torch.zeros(3)}])
def test_read_published_other_content_is_an_error(content, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"dictionary of weights|not a SeG-SR checkpoint"):
        read_published(path)
