"""What a run is said to take, and what is refused before it starts."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from georsr.cli.main import invoke

from georsr import run_estimate
from georsr.api import estimate, super_resolve
from georsr.config import SRConfig
from georsr.distributed import cluster
from georsr.errors import ResourceError
from georsr.io.gdal_env import CACHE_BYTES
from georsr.io.reader import RasterReader, open_raster
from georsr.jobs.job import BASE_MEMORY, memory_of, plan_job
from georsr.models.io import Model
from georsr.models.spec import ModelSpec

VRT = """<VRTDataset rasterXSize="{side}" rasterYSize="{side}">
<SRS>EPSG:32632</SRS><GeoTransform>400000, 1, 0, 5000000, 0, -1</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><NoDataValue>0</NoDataValue><SimpleSource>
<SourceFilename relativeToVRT="1">in.tif</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="100" ySize="100"/>
<DstRect xOff="70000" yOff="30000" xSize="100" ySize="100"/>
</SimpleSource></VRTRasterBand></VRTDataset>"""


SLOWNESS = 2.0
"""Seconds of each tile, on a clock that nothing else moves: what this machine has to do besides
is measured by ``benchmarks/speed/estimate.py``."""


class Slow(torch.nn.Module):
    """Nearest that takes its time."""

    def __init__(self):
        super().__init__()
        self.clock = 0.0

    def forward(self, x):
        self.clock += SLOWNESS * x.shape[0]
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture
def slow_model(monkeypatch):
    network = Slow().eval()
    monkeypatch.setattr(run_estimate, "time", SimpleNamespace(monotonic=lambda: network.clock))
    spec = ModelSpec("slow", "slow", 2, bands=0, band_names=(), tile=32, halo=2, overlap=4)
    return Model(spec, network, "0" * 64, "slow")


def test_estimate_time_is_that_of_measured_tiles(make_raster, texture, tmp_path, slow_model):
    source = make_raster(texture(1, 150, 200))
    plan = estimate(source, slow_model)
    report = super_resolve(source, tmp_path / "o.tif", slow_model)
    assert plan.tiles == report.tiles > 40
    assert plan.seconds == pytest.approx(SLOWNESS * plan.tiles)
    assert f"{plan.tiles} of 32 pixels" in plan.describe()


def test_estimate_counts_empty_tiles(make_raster, texture, tmp_path, slow_model):
    image = texture(1, 300, 300)
    image[image == 0] = 1
    image[:, :, 100:] = 0
    source = make_raster(image, nodata=0)
    plan = estimate(source, slow_model)
    report = super_resolve(source, tmp_path / "o.tif", slow_model)
    assert plan.tiles_empty == pytest.approx(report.tiles_skipped, rel=0.2)
    assert plan.seconds == pytest.approx(SLOWNESS * (plan.tiles - plan.tiles_empty), abs=0.1)
    assert "of them empty" in plan.describe()
    west = {"type": "Polygon", "coordinates": [[[400000, 4999900], [400040, 4999900],
            [400000, 4999990], [400000, 4999900]]],
            "crs": {"properties": {"name": "EPSG:32632"}}}  # fmt: skip
    source = make_raster(image, "full.tif")
    plan = estimate(source, slow_model, aoi=west)
    report = super_resolve(source, tmp_path / "p.tif", slow_model, aoi=west)
    assert (plan.tiles, plan.tiles_empty) == (report.tiles, report.tiles_skipped)
    assert (plan.width, plan.height) == (report.width, report.height)


def test_estimate_of_a_giant_sparse_raster_reads_few_windows(make_raster, tmp_path, monkeypatch):
    make_raster(np.ones((1, 100, 100), "uint8"))
    (tmp_path / "giant.vrt").write_text(VRT.format(side=100_000))
    read, looked_at = RasterReader.read, []

    def look(reader, window):
        looked_at.append(window.height * window.width)
        return read(reader, window)

    monkeypatch.setattr(RasterReader, "read", look)
    estimate(tmp_path / "giant.vrt", "nearest", 4, bounds=(4e5, 4.99e6, 4.001e5, 5e6))  # imports
    looked_at.clear()
    since = time.process_time()
    plan = estimate(tmp_path / "giant.vrt", "nearest", 4)
    assert time.process_time() - since < 5
    assert 0 < sum(looked_at) < 1e6
    assert len(looked_at) < 2 * run_estimate.PROBES
    assert (plan.width, plan.height) == (400_000, 400_000)
    assert plan.tiles > 150_000
    assert plan.tiles_empty > 0.99 * plan.tiles
    assert plan.output_bytes == 400_000**2
    assert plan.memory_bytes < 3 * 2**30


def test_sr_without_disk_space_is_refused(make_raster, texture, tmp_path, monkeypatch, capsys):
    source, out = make_raster(texture(3, 40, 50)), str(tmp_path / "o.tif")
    monkeypatch.setattr("georsr.jobs.job.free_space", lambda path: 1000)
    arguments = ["sr", source, out, "-m", "bicubic-x2"]
    assert invoke([*arguments, "--dry-run", "--json"]) == 1
    shown = capsys.readouterr()
    plan = json.loads(shown.out)
    assert len(plan["problems"]) == 1
    assert "--no-check-resources" in plan["problems"][0]
    assert shown.err.startswith("Error: ")
    assert invoke([*arguments, "--dry-run", "--no-check-resources"]) == 0
    assert invoke(arguments) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_estimate_on_a_disk_without_a_size_says_so(make_raster, texture, tmp_path, monkeypatch):
    source = make_raster(texture(3, 40, 50))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=0, free=0))
    plan = estimate(source, "bicubic-x2", destination=tmp_path / "o.tif")
    assert plan.problems == ()
    assert "not known how much is free" in plan.describe()


def test_sr_without_memory_is_refused(make_raster, texture, tmp_path, monkeypatch, capsys):
    source, out = make_raster(texture(3, 40, 50)), str(tmp_path / "o.tif")
    monkeypatch.setattr("georsr.jobs.job.memory_limit", lambda: 100 * 2**20)
    with pytest.raises(ResourceError, match=r"takes about .* of memory, this machine has 100 MiB"):
        super_resolve(source, out, "bicubic", 2)
    assert invoke(["sr", source, out, "-m", "bicubic-x2", "--dry-run"]) == 1
    assert "refused the run takes about" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]
    super_resolve(source, out, "bicubic", 2, check_resources=False)


def test_memory_of_counts_the_block_cache(make_raster, texture, slow_model):
    needed = []
    with open_raster(make_raster(texture(3, 40, 50))) as reader:
        for more in (-(2**20), 0, 100 * 2**20):
            reader.cache = CACHE_BYTES + more
            needed.append(memory_of(plan_job(reader, "o.tif", slow_model, SRConfig())))
    assert needed[0] == needed[1] == needed[2] - 100 * 2**20


def test_estimate_unwritable_output_is_a_problem(make_raster, texture, tmp_path, capsys):
    source = make_raster(texture(3, 40, 50))
    (tmp_path / "o.tif").write_bytes(b"old")
    for out, word in ((tmp_path / "o.tif", "--overwrite"), (source, "is the source")):
        assert invoke(["sr", source, str(out), "-m", "bicubic-x2", "--dry-run"]) == 1
        assert word in capsys.readouterr().err
    assert estimate(source, "bicubic", 2).problems == ()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 min 0 s"), (75, "1 min 15 s"), (3 * 3600 + 125, "3 h 2 min")]
)
def test_format_duration_names_the_two_largest_units(seconds, text):
    assert run_estimate.format_duration(seconds) == text


def test_info_of_an_area_and_of_a_mosaic(make_raster, texture, capsys):
    from affine import Affine

    a = make_raster(texture(3, 40, 50), "a.tif")
    b = make_raster(texture(3, 40, 50), "b.tif", transform=Affine(0.5, 0, 400025, 0, -0.5, 5e6))
    assert invoke(["info", a, b, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["height"]) == (100, 40)
    assert (facts["driver"], facts["files"]) == ("mosaic", 2)
    box = ["--bbox", "400010,4999985,400030,4999990"]
    assert invoke(["info", a, b, "--json", *box]) == 0
    assert json.loads(capsys.readouterr().out)["part"] == {
        "top": 20, "left": 20, "height": 10, "width": 40,
    }  # fmt: skip
    assert invoke(["info", a, b, "--json", *box, "-m", "bicubic-x2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["width"], plan["height"]) == (80, 20)
    assert plan["memory_limit_bytes"] > 0
    assert invoke(["info", a, "-m", "bicubic-x2", "--max-pixels", "100"]) == 2


@pytest.fixture
def two_processors(monkeypatch):
    def started(workers, *, gpu):
        raise AssertionError("a plan starts no workers")

    for module in (cluster, run_estimate):
        monkeypatch.setattr(module, "available_cpus", lambda: 2)
    monkeypatch.setattr(cluster, "start_local_cluster", started)


def test_estimate_workers_share_time_and_add_memory(
    make_raster, texture, two_processors, monkeypatch, slow_model
):
    monkeypatch.setattr(run_estimate, "START_SECONDS", 0.0)
    source = make_raster(texture(1, 300, 300))
    alone = estimate(source, slow_model, blocksize=64)
    plans = {n: estimate(source, slow_model, blocksize=64, workers=n) for n in (1, 2, 8)}
    assert alone.workers == alone.worker_memory_bytes == 0
    assert [plan.workers for plan in plans.values()] == [1, 2, 8]
    assert plans[2].seconds == pytest.approx(alone.seconds / 2, rel=0.1)
    # eight would share two processors
    assert plans[8].seconds == pytest.approx(alone.seconds / 2, rel=0.1)
    each = plans[2].worker_memory_bytes
    assert each > BASE_MEMORY["onnx"]
    assert plans[2].memory_bytes - plans[1].memory_bytes == pytest.approx(each, rel=0.2)
    assert "workers 2, " in plans[2].describe()
    assert "\nworkers" not in alone.describe()


def test_sr_more_workers_than_memory_is_refused(
    make_raster, texture, tmp_path, two_processors, capsys
):
    source, out = make_raster(texture(1, 100, 100)), str(tmp_path / "o.tif")
    for options in ([], ["--parts", str(tmp_path / "parts")]):
        where = out.replace(".tif", ".vrt") if options else out
        command = ["sr", source, where, "-m", "bicubic-x2", "--workers", "100000", *options]
        for last in (["--dry-run"], []):
            assert invoke([*command, *last]) == 1
            assert "MiB of memory, this machine has" in capsys.readouterr().err
    assert invoke(["sr", source, out, "-m", "bicubic-x2", "--workers", "2", "--dry-run"]) == 0
    assert "workers 2, " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_info_with_workers_and_parts_reports_them(
    make_raster, texture, tmp_path, two_processors, capsys
):
    source = make_raster(texture(1, 100, 100))
    options = ["--workers", "3", "--parts", str(tmp_path / "parts"), "--json"]
    assert invoke(["info", source, "-m", "bicubic-x2", *options]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["workers"] == 3
    assert plan["output_bytes"] == 200 * 200
    wrong = ["sr", source, str(tmp_path / "o.tif"), "-m", "bicubic-x2", "--dry-run"]
    assert invoke([*wrong, *options[2:4]]) == 2
    assert "expected a name such as OUT.vrt" in capsys.readouterr().err
