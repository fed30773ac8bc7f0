"""Third-party checkpoints, opened by spandrel."""

import sys

import numpy as np
import pytest
import torch
from georsr.cli.main import invoke

from georsr.errors import ModelError
from georsr.models.io import open_model

spandrel = pytest.importorskip("spandrel")


@pytest.fixture
def compact(tmp_path):
    """A small Real-ESRGAN of the compact kind at x2, untrained, as its training leaves it."""
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.manual_seed(3)
    network = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=16, num_conv=2, upscale=2)
    path = tmp_path / "RealESRGAN_x2 tiny.pth"
    torch.save({"params": network.state_dict()}, path)
    return path, network.eval()


def test_open_model_third_party_outputs_equal_the_network(compact):
    path, network = compact
    model = open_model(str(path))
    assert (model.spec.scale, model.spec.bands) == (2, 3)
    assert model.spec.name == "realesrgan-x2-tiny"
    assert model.spec.licence == "unknown"
    x = torch.rand(1, 3, 13, 17)
    with torch.inference_mode():
        assert torch.equal(model.network(x), network(x))


def test_sr_and_info_with_a_third_party_model(compact, make_raster, texture, tmp_path, capsys):
    path, network = compact
    values = texture(3, 20, 24)
    out = tmp_path / "out.tif"
    assert invoke(["sr", make_raster(values), str(out), "--model", str(path), "-q"]) == 0
    import rasterio

    with rasterio.open(out) as output:
        made = output.read()
    with torch.inference_mode():
        expected = network(torch.from_numpy(values)[None].float() / 255)[0].numpy()
    np.testing.assert_allclose(made, np.clip(expected * 255, 0, 255), atol=0.51)
    assert invoke(["info", "--model", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "RealESRGAN Compact" in shown or "Compact" in shown
    assert "unknown" in shown
    target = tmp_path / "c.safetensors"
    assert invoke(["models", "convert", str(path), str(target)]) == 2
    assert "only SeG-SR is converted" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_open_model_size_requirements_are_met_by_padding(tmp_path):
    from spandrel.architectures.SwinIR.__arch.SwinIR import SwinIR

    torch.manual_seed(0)
    network = SwinIR(
        upscale=2,
        img_size=16,
        window_size=8,
        embed_dim=12,
        depths=[1],
        num_heads=[2],
        mlp_ratio=2,
        upsampler="pixelshuffledirect",
        resi_connection="1conv",
    )
    path = tmp_path / "swin.pth"
    torch.save({"params_ema": network.state_dict()}, path)
    model = open_model(str(path))
    assert model.network(torch.rand(1, 3, 13, 9)).shape == (1, 3, 26, 18)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"weight": torch.zeros(3)}, "neither a SeG-SR checkpoint nor a network that spandrel"),
        ({}, "no dictionary of weights"),
        ({"a": 1}, "a is not a tensor"),
    ],
)
def test_open_model_unrecognised_checkpoint_is_an_error(entries, message, tmp_path):
    path = tmp_path / "odd.pth"
    torch.save(entries, path)
    with pytest.raises(ModelError, match=message) as caught:
        open_model(str(path))
    assert "\n" not in str(caught.value)


def test_open_model_third_party_of_one_band_is_an_error(tmp_path):
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    network = SRVGGNetCompact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=4)
    path = tmp_path / "grey.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(ModelError, match="1 bands in and 1 out, expected 3"):
        open_model(str(path))


def test_open_model_without_spandrel_names_the_extra(compact, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ModelError, match=r"pip install spandrel"):
        open_model(str(compact[0]))
