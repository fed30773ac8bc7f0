import os
import subprocess
import sys

import pytest
import torch

from georsr.errors import ModelError, UsageError
from georsr.models import sfem
from georsr.models.segsr_published import PublishedClipEncoder
from georsr.models.sfem import ClipEncoder, load_clip


@pytest.fixture
def tower():
    """A small image tower as open_clip builds it, with 64 channels per head."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    torch.manual_seed(2)
    return VisionTransformer(
        image_size=64,
        patch_size=16,
        width=128,
        layers=2,
        heads=2,
        mlp_ratio=4.0,
        output_dim=64,
        act_layer=QuickGELU,
        output_tokens=True,
    ).eval()


@pytest.fixture
def clip_file(tower, tmp_path):
    path = tmp_path / "clip.pt"
    state = {f"module.visual.{k}": v for k, v in tower.state_dict().items()}
    torch.save({"state_dict": state | {"module.logit_scale": torch.ones(())}}, path)
    return path


@torch.no_grad()
def test_clip_encoder_equals_open_clip_on_its_own_grid(tower, clip_file):
    encoder = load_clip(clip_file, scale=4).eval()
    x = torch.rand(2, 3, 16, 16)
    tokens, scene = encoder(x)
    pooled, described = tower(encoder.preprocess(x))
    described = torch.nn.functional.normalize(described @ tower.proj, dim=-1)
    assert torch.allclose(scene, torch.nn.functional.normalize(pooled, dim=-1), atol=1e-5)
    assert torch.allclose(tokens.flatten(2).transpose(1, 2), described, atol=1e-5)
    assert torch.allclose(encoder.positions(4, 4), encoder.positional_embedding, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("scale", "patch", "grid"), [(2, 16, (2, 4)), (3, 16, (3, 6)), (4, 32, (2, 4)), (3, 32, (2, 3))]
)
def test_clip_encoder_gives_unit_vectors_on_the_patch_grid(scale, patch, grid):
    encoder = ClipEncoder(
        scale, width=64, layers=1, num_heads=1, patch_size=patch, token_dim=32, grid_size=4
    )
    tokens, scene = encoder.eval()(torch.rand(2, 3, 16, 32))
    assert tokens.shape == (2, 32, *grid)
    assert scene.shape == (2, 32)
    assert torch.allclose(tokens.norm(dim=1), torch.ones(2, *grid))
    assert torch.allclose(scene.norm(dim=1), torch.ones(2))


def test_positions_ours_in_2d_published_in_1d():
    options = {"width": 64, "layers": 1, "num_heads": 1, "token_dim": 32, "grid_size": 4}
    plane = ClipEncoder(2, **options)
    line = PublishedClipEncoder(2, **options)
    line.load_state_dict(plane.state_dict())
    assert torch.equal(plane.positions(3, 5)[0], plane.positional_embedding[0])
    assert line.positions(3, 5).shape == plane.positions(3, 5).shape == (16, 64)
    assert not torch.allclose(line.positions(2, 3)[0], plane.positional_embedding[0])


def test_load_clip_not_a_vit_is_an_error(tmp_path):
    path = tmp_path / "resnet.pt"
    torch.save({"visual.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="not a CLIP of the ViT family"):
        load_clip(path, 2)


def test_load_clip_incomplete_tower_names_the_tensors(tower, tmp_path):
    path = tmp_path / "part.pt"
    state = tower.state_dict()
    del state["ln_post.weight"]
    torch.save(state, path)
    with pytest.raises(ModelError, match=r"1 tensors do not fit.*ln_post\.weight"):
        load_clip(path, 2)
    del state["proj"]
    torch.save(state, path)
    with pytest.raises(ModelError, match="not a complete CLIP image tower"):
        load_clip(path, 2)


@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors"])
def test_load_clip_damaged_file_is_an_error(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 nothing of use")
    with pytest.raises(ModelError, match="not a readable CLIP state dict") as caught:
        load_clip(path, 2)
    assert "\n" not in str(caught.value)


def test_load_clip_unknown_name_is_an_error():
    with pytest.raises(UsageError, match="neither a file nor a name open_clip knows"):
        load_clip("ViT-B-16/nobody", 2)


def test_load_clip_offline_names_the_file_to_download(monkeypatch, tmp_path):
    import open_clip.pretrained

    def offline(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", offline)
    monkeypatch.setattr(sfem, "CACHE", tmp_path)
    with pytest.raises(ModelError, match=r"download https://huggingface\.co/\S+") as caught:
        load_clip("ViT-B-16/openai", 2)
    assert str(tmp_path / "ViT-B-16-openai.safetensors") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_clip_saved_file_needs_no_network(monkeypatch, tmp_path, tower):
    from safetensors.torch import save_file

    monkeypatch.setattr(sfem, "CACHE", tmp_path)
    save_file(
        {f"visual.{k}": v.contiguous() for k, v in tower.state_dict().items()},
        tmp_path / "ViT-B-16-openai.safetensors",
    )
    assert load_clip("ViT-B-16/openai", 2).token_dim == 64


def test_open_clip_is_imported_only_when_an_encoder_is_built():
    code = (
        "import sys; from georsr.models import registry; registry.find_encoder('clip');"
        "sys.exit('open_clip' in sys.modules or 'peft' in sys.modules)"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
