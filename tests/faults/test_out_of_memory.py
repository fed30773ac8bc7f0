"""Memory that runs out, in the words of whoever ran out of it."""

import numpy as np
import pytest
import torch

from georsr.api import super_resolve
from georsr.device import is_out_of_memory
from georsr.errors import ModelError, ResourceError
from georsr.models.io import Model
from georsr.models.spec import ModelSpec

LINUX = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 137438953472 bytes. Error code 12 (Cannot allocate memory)"
)
SAID = (
    LINUX,
    "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory (MPS allocated: 9 GB, other allocations: 1 GB)",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer",
    "std::bad_alloc",
    "bad allocation",
)


class Narrow(torch.nn.Module):
    """Nearest that fails on tiles above a size, after a few."""

    def __init__(self, error, most=40, after=0):
        super().__init__()
        self.error, self.most, self.after = error, most, after

    def forward(self, x):
        self.after -= 1
        if self.after < 0 and x.shape[2] > self.most:
            raise self.error
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def model_of(network):
    spec = ModelSpec("test", "test", 2, bands=0, band_names=(), tile=128, halo=2, overlap=4)
    return Model(spec, network.eval(), "0" * 64, "test")


@pytest.mark.parametrize("said", SAID)
def test_is_out_of_memory_messages_of_all_backends_are_recognised(said):
    assert is_out_of_memory(RuntimeError(said))


def test_is_out_of_memory_error_of_torch_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "said", ["mat1 and mat2 shapes cannot be multiplied", "CUDA error: device-side assert", ""]
)
def test_is_out_of_memory_other_errors_are_not(said):
    assert not is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(ValueError(LINUX))


@pytest.mark.parametrize("error", [RuntimeError(LINUX), MemoryError(), RuntimeError(SAID[6])])
def test_run_out_of_memory_uses_smaller_tiles(error, make_raster, texture, tmp_path):
    pixels = texture(1, 200, 90)
    source, out = make_raster(pixels), tmp_path / "out.tif"
    report = super_resolve(source, out, model_of(Narrow(error)), blocksize=32)
    assert report.tile_size == 32
    import rasterio

    with rasterio.open(out) as output:
        np.testing.assert_array_equal(output.read(), pixels.repeat(2, 1).repeat(2, 2))


def test_run_out_of_memory_with_fixed_tile_keeps_finished_blocks(
    make_raster, texture, tmp_path, monkeypatch
):
    monkeypatch.setattr("georsr.writer.writer.SYNC_SECONDS", -1.0)
    source, out = make_raster(texture(1, 200, 90)), tmp_path / "out.tif"
    options = {"tile_size": 64, "blocksize": 32}
    narrow = model_of(Narrow(RuntimeError(LINUX), after=5))
    with pytest.raises(ResourceError, match="tiles tried: 64") as caught:
        super_resolve(source, out, narrow, **options)
    assert "rerun the same call to resume" in caught.value.__notes__[0]
    wide = model_of(Narrow(RuntimeError(LINUX), most=999))
    assert super_resolve(source, out, wide, **options).blocks_resumed > 0


def test_run_out_of_memory_while_reading_is_one_line(make_raster, texture, tmp_path, monkeypatch):
    """Reading strips and joining tiles take memory, too: less where tiles are smaller."""
    from georsr.io.reader import RasterReader

    read, sizes = RasterReader.read, []

    def narrow(reader, window):
        sizes.append(window.height)
        if window.height > 50:
            raise MemoryError
        return read(reader, window)

    source, out = make_raster(texture(1, 200, 600)), tmp_path / "out.tif"
    monkeypatch.setattr(RasterReader, "read", narrow)
    assert super_resolve(source, out, "bicubic", 2, stretch="dtype", halo=2).tile_size < 50
    with pytest.raises(ResourceError, match=r"memory ran out.*tiles tried: 100"):
        super_resolve(
            source, tmp_path / "b.tif", "bicubic", 2, stretch="dtype", tile_size=100, halo=2
        )


def test_run_network_error_leaves_no_files(make_raster, texture, tmp_path):
    network = model_of(Narrow(RuntimeError("a bug"), after=0))
    with pytest.raises(ModelError, match="a bug"):
        super_resolve(make_raster(texture(1, 200, 90)), tmp_path / "o.tif", network)
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]
