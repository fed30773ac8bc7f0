"""Tiles side by side on a CPU."""

import threading

import pytest
import torch

import georsr
from georsr.config import SRConfig
from georsr.device import DeviceConfig, cpu_threads
from georsr.errors import ModelError
from georsr.inference.predictor import MAX_LANES, ParallelTiles, TilePredictor, plan_parallelism
from georsr.io.reader import open_raster
from georsr.jobs.job import memory_of, plan_job
from georsr.models.io import Model, open_model
from georsr.models.registry import COMPUTED

CPU = DeviceConfig("cpu")
BICUBIC = COMPUTED["bicubic-x2"]


@pytest.mark.parametrize("threads", range(1, 20))
@pytest.mark.parametrize("tiles", [1, 3, 100])
def test_plan_parallelism_shares_the_threads(threads, tiles):
    lanes = plan_parallelism(CPU, BICUBIC, compiled=False, tiles=tiles, threads=threads)
    assert 1 <= lanes.count <= min(MAX_LANES, tiles, threads)
    assert lanes.count * lanes.threads <= threads
    # what is left over would not make one thread more for each
    assert threads - lanes.count * lanes.threads < max(lanes.threads, 2)


def test_plan_parallelism_of_foreign_or_compiled_networks_is_serial():
    others = georsr.models.spec.ModelSpec(name="somebody", architecture="SwinIR", scale=2)
    alone = ParallelTiles(1, 4)
    assert plan_parallelism(CPU, others, compiled=False, tiles=9, threads=4) == alone
    assert plan_parallelism(CPU, BICUBIC, compiled=True, tiles=9, threads=4) == alone
    gpu = DeviceConfig("cuda", "bf16")
    assert plan_parallelism(gpu, BICUBIC, compiled=False, tiles=9, threads=4) == alone


class Meeting(torch.nn.Module):
    """Answers only when two ask at the same time, and notes with how many threads of torch."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.both = threading.Barrier(2, timeout=60)
        self.threads = set()

    def forward(self, x):
        self.both.wait()
        self.threads.add(torch.get_num_threads())
        return self.network(x)


def test_parallel_tiles_of_two_threads_give_the_same_bytes(make_raster, texture, tmp_path):
    path = make_raster(texture(3, 60, 150))
    inner = open_model("bicubic-x2")
    network = Meeting(inner.network)
    options = {"tile_size": 48, "consistency": "off"}
    with cpu_threads(None):
        before = torch.get_num_threads()
        met = Model(inner.spec, network, inner.sha256, inner.source)
        report = georsr.super_resolve(path, tmp_path / "two.tif", met, num_threads=2, **options)
        assert torch.get_num_threads() == before
    assert report.tiles % 2 == 0
    assert network.threads == {1}
    options["backend"] = "torch"
    georsr.super_resolve(path, tmp_path / "one.tif", inner, num_threads=1, **options)
    assert (tmp_path / "two.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()


def test_parallel_tiles_network_error_leaves_no_thread(make_raster, texture, tmp_path):
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("no such layer")

    path = make_raster(texture(3, 100, 100))
    model = Model(BICUBIC, Broken(), "0" * 64, "broken")
    with pytest.raises(ModelError, match=r"the network failed on tile 0 .*no such layer"):
        georsr.super_resolve(path, tmp_path / "o.tif", model, num_threads=2, tile_size=32)
    assert not [t for t in threading.enumerate() if t.name.startswith("georsr-")]
    assert not list(tmp_path.glob("o.tif*"))


def test_memory_of_counts_parallel_tiles(make_raster, texture):
    path = make_raster(texture(3, 600, 600))
    model = open_model("segsr-lite-x2")
    needed = {}
    with open_raster(path) as reader:
        for jobs in (1, 2, 4, 16):
            needed[jobs] = memory_of(plan_job(reader, "o.tif", model, SRConfig(num_threads=jobs)))
    assert needed[1] < needed[2] < needed[4] == needed[16]


def test_tile_predictor_lanes_follow_the_threads_of_the_caller():
    inference = TilePredictor(open_model("bicubic-x2"), CPU, 1)
    with cpu_threads(3):
        assert inference.lanes(10) == ParallelTiles(3, 1)
    with cpu_threads(1):
        assert inference.lanes(10) == ParallelTiles(1, 1)
