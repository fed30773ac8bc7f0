"""Networks that return what no image consists of, and several that are converted at once."""

import threading

import numpy as np
import pytest
import rasterio
import torch

from georsr.api import super_resolve
from georsr.errors import ModelError, UsageError
from georsr.models.io import Model
from georsr.models.spec import ModelSpec


class Typed(torch.nn.Module):
    """Nearest whose answer has another type."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return (y * 1j).to(self.dtype) if self.dtype.is_complex else y.to(self.dtype)


def model_of(dtype):
    spec = ModelSpec("test", "test", 2, bands=0, band_names=(), tile=32, halo=2, overlap=4)
    return Model(spec, Typed(dtype), "0" * 64, "test")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.int64, torch.bool])
def test_network_integer_values_are_refused(dtype, make_raster, texture, tmp_path):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ModelError, match=f"made values of type {name}, expected floating-point"):
        super_resolve(make_raster(texture(1, 40, 40)), tmp_path / "o.tif", model_of(dtype))
    assert not (tmp_path / "o.tif").exists()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_network_double_or_half_values_are_cast(dtype, make_raster, texture, tmp_path):
    values = texture(1, 40, 40)
    super_resolve(make_raster(values), tmp_path / "o.tif", model_of(dtype))
    with rasterio.open(tmp_path / "o.tif") as output:
        np.testing.assert_array_equal(output.read(), values.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("end", [".tfw", ".TFW", ".tifw", ".wld", ".WLD"])
def test_sr_world_file_of_an_earlier_output_is_refused_or_removed(
    end, make_raster, texture, tmp_path
):
    source, out, left = make_raster(texture(1, 20, 20)), tmp_path / "o.tif", tmp_path / f"o{end}"
    left.write_text("1\n0\n0\n-1\n0\n0\n")
    with pytest.raises(UsageError, match="is left from an earlier output"):
        super_resolve(source, out, "bicubic", 2)
    super_resolve(source, out, "bicubic", 2, overwrite=True)
    assert not left.exists()


def test_export_model_in_two_threads_runs_one_after_the_other(lite_model, monkeypatch):
    """The exporter switches oneDNN off meanwhile: two of them would leave it so."""
    pytest.importorskip("onnxscript")
    from georsr.models.onnx import export

    inside, most = [], []

    class Program:
        def __init__(self):
            import onnx

            self.model_proto = onnx.ModelProto()

    def slow(*_, **__):
        inside.append(1)
        most.append(len(inside))
        torch.backends.mkldnn.set_flags(False)
        inside.pop()
        return Program()

    monkeypatch.setattr(torch.onnx, "export", slow)
    before, said = torch.backends.mkldnn.enabled, []

    def convert():
        try:
            export.to_onnx(lite_model.network, lite_model.spec, (1, 3, 32, 32))
        except Exception as error:
            said.append(error)

    threads = [threading.Thread(target=convert) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == []
    assert max(most) == 1
    assert torch.backends.mkldnn.enabled == before
