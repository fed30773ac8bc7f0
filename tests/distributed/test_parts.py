"""Parts and a VRT over them are the output that one file would be."""

import itertools
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from distributed import LocalCluster

from georsr import _files
from georsr.api import quality_layers, super_resolve
from georsr.distributed import parts as parts_module
from georsr.distributed.parts_index import PartsFolder
from georsr.errors import InterruptedRunError, OutputError, ResourceError, UsageError
from georsr.inference.predictor import TilePredictor
from georsr.tiling import partition
from georsr.writer import resumable_tiff

# two workers are threads of this process, which has one set of filters for warnings
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SMALL = {"blocksize": 128, "tile_size": 32, "halo": 2, "overlap": 4}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(partition, "MAX_TASK_TILES", 12)


@pytest.fixture(scope="module")
def scheduler():
    options = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=1, silence_logs=50, **options) as local:
        yield local.scheduler_address


@pytest.fixture
def source(make_raster, texture):
    def describe(dataset):
        mask = (np.random.default_rng(5).random((150, 130)) < 0.8).astype("uint8") * 255
        mask[:70, :60] = 0
        dataset.write_mask(mask)
        dataset.descriptions = ("red one", None, "blue one")
        dataset.update_tags(MISSION="test")
        dataset.update_tags(2, WAVELENGTH="560")
        dataset.units = ("m", None, None)

    return make_raster(texture(3, 150, 130), after=describe)


def make(source, folder, **options):
    out, parts = folder / "out.vrt", folder / "parts"
    return super_resolve(source, out, "bicubic-x2", parts=parts, **SMALL | options)


def single(source, folder, **options):
    report = super_resolve(source, folder / "single.tif", "bicubic-x2", **SMALL | options)
    return report.checksum


def differences(one, other):
    """What two rasters say differently of themselves or of any pixel."""
    with rasterio.open(one) as a, rasterio.open(other) as b:
        said = {
            name: (getattr(a, name), getattr(b, name))
            for name in (
                "shape",
                "count",
                "dtypes",
                "crs",
                "transform",
                "nodatavals",
                "descriptions",
                "colorinterp",
                "scales",
                "offsets",
                "units",
                "mask_flag_enums",
            )
        }
        usual = {"AREA_OR_POINT": "Area"}
        said["tags"] = (sorted((usual | d.tags()).items()) for d in (a, b))
        said["band tags"] = a.tags(2), b.tags(2)
        found = [name for name, (x, y) in said.items() if repr(x) != repr(y)]
        found += ["pixels"] * (not np.array_equal(a.read(), b.read(), equal_nan=True))
        found += ["mask"] * (not np.array_equal(a.read_masks(), b.read_masks()))
    return found


def names(folder):
    return sorted(path.name for path in (folder / "parts").iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dst_nodata": "0"},
        {"dtype": "float32", "dst_nodata": "nan"},
        {"bounds": (400003, 4999930, 400060, 4999990)},
    ],
)
def test_parts_equal_the_single_file(tmp_path, source, options):
    report = make(source, tmp_path, **options)
    assert report.checksum == single(source, tmp_path, **options)
    assert differences(tmp_path / "single.tif", tmp_path / "out.vrt") == []
    parts = [name for name in names(tmp_path) if name.endswith(".tif")]
    assert len(parts) >= 4
    assert names(tmp_path) == ["index.json", *parts]


def test_parts_written_by_one_process_do_not_import_distributed(tmp_path, source):
    code = (
        "import sys; from georsr.api import super_resolve; source, out, parts = sys.argv[1:]; "
        "super_resolve(source, out, 'bicubic-x2', parts=parts); "
        "assert 'distributed' not in sys.modules"
    )
    paths = [source, tmp_path / "out.vrt", tmp_path / "parts"]
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)
    assert (tmp_path / "out.vrt").exists()


def test_parts_written_by_workers_are_the_same(tmp_path, source, scheduler):
    tiles = make(source, tmp_path).tiles
    here = {path.name: path.read_bytes() for path in (tmp_path / "parts").glob("*.tif")}
    there = tmp_path / "there"
    there.mkdir()
    report = make(source, there, scheduler=scheduler)
    assert {path.name: path.read_bytes() for path in (there / "parts").glob("*.tif")} == here
    assert differences(tmp_path / "out.vrt", there / "out.vrt") == []
    assert report.tiles == tiles


def test_parts_moved_with_their_vrt_stay_readable(tmp_path, source):
    make(source, tmp_path)
    part = next((tmp_path / "parts").glob("*.tif"))
    with rasterio.open(part) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.block_shapes[0] == (128, 128)
    checksum = single(source, tmp_path)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("out.vrt", "parts"):
        (tmp_path / name).rename(moved / name)
    assert differences(tmp_path / "single.tif", moved / "out.vrt") == []
    assert checksum


def test_parts_in_another_folder_than_the_vrt_are_found(tmp_path, source):
    (tmp_path / "a").mkdir()
    out, layers = tmp_path / "a" / "out.vrt", tmp_path / "layers.tif"
    report = super_resolve(source, out, "bicubic-x2", parts=tmp_path / "parts", **SMALL)
    assert report.checksum == single(source, tmp_path)
    with pytest.raises(UsageError, match="allow_drivers"):
        super_resolve(out, tmp_path / "again.tif", "bicubic-x2")
    super_resolve(out, tmp_path / "again.tif", "bicubic-x2", allow_drivers=("VRT",))
    quality_layers(source, out, layers, allow_drivers=("VRT",))


def test_parts_outside_polygons_are_not_written(tmp_path, source):
    ring = [[400010, 4999990], [400020, 4999990], [400010, 4999930], [400010, 4999990]]
    far = [[400060, 4999928], [400064, 4999928], [400064, 4999926], [400060, 4999928]]
    crs = {"type": "name", "properties": {"name": "EPSG:32632"}}
    aoi = {"type": "MultiPolygon", "coordinates": [[ring], [far]], "crs": crs}
    whole = tmp_path / "whole"
    whole.mkdir()
    make(source, whole)
    report = make(source, tmp_path, aoi=aoi)
    assert report.checksum == single(source, tmp_path, aoi=aoi)
    assert differences(tmp_path / "single.tif", tmp_path / "out.vrt") == []
    assert len(names(tmp_path)) < len(names(whole))


def test_parts_keep_alpha_and_control_points(tmp_path, texture):
    from rasterio.control import GroundControlPoint as Gcp
    from rasterio.enums import ColorInterp

    path = tmp_path / "in.tif"
    points = [Gcp(0, 0, 11, 48), Gcp(0, 130, 12, 48), Gcp(150, 0, 11, 47), Gcp(150, 130, 12, 47.1)]
    profile = {"driver": "GTiff", "count": 4, "dtype": "uint8", "height": 150, "width": 130}
    with rasterio.open(path, "w", photometric="RGB", alpha="YES", **profile) as dataset:
        values = texture(4, 150, 130)
        values[3] = np.where(values[3] < 60, 0, values[3])
        dataset.write(values)
        dataset.gcps = (points, "EPSG:4326")
        dataset.colorinterp = [ColorInterp[c] for c in ("red", "green", "blue", "alpha")]
    report = make(path, tmp_path)
    assert report.checksum == single(path, tmp_path)
    assert differences(tmp_path / "single.tif", tmp_path / "out.vrt") == []
    with rasterio.open(tmp_path / "single.tif") as one, rasterio.open(tmp_path / "out.vrt") as vrt:
        places = [[(g.row, g.col, g.x, g.y) for g in d.gcps[0]] for d in (one, vrt)]
        assert places[0] == places[1]
        assert one.gcps[1] == vrt.gcps[1]


class After:
    """Says stop once a journal names so many parts."""

    def __init__(self, folder, parts):
        self.journal, self.parts = folder / "parts" / ".parts.jsonl", parts

    def __call__(self):
        there = self.journal.exists()
        return there and self.journal.read_bytes().count(b"\n") > self.parts


def interrupt(source, folder, parts=2, **options):
    with pytest.raises(InterruptedRunError) as caught:
        make(source, folder, should_stop=After(folder, parts), **options)
    return caught.value


@pytest.mark.parametrize("on_cluster", [False, True])
def test_parts_interrupted_run_resumes(tmp_path, source, scheduler, on_cluster):
    machines = {"scheduler": scheduler} if on_cluster else {}
    error = interrupt(source, tmp_path, **machines)
    assert "parts are finished and kept in" in error.__notes__[0]
    assert not (tmp_path / "out.vrt").exists()
    assert not list((tmp_path / "parts").glob(".georsr-*"))
    report = make(source, tmp_path, resume=True, **machines)
    assert report.blocks_resumed > 0
    assert report.checksum == single(source, tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("on_cluster", [False, True])
def test_parts_device_failure_keeps_finished_parts(
    tmp_path, source, scheduler, monkeypatch, on_cluster
):
    machines = {"scheduler": scheduler} if on_cluster else {}
    calls, take = itertools.count(), TilePredictor.predict

    def failing(self, x):
        if next(calls) >= 40:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return take(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(TilePredictor, "predict", failing)
        with pytest.raises(
            ResourceError,
            match=r"^rows \d+:\d+, columns \d+:\d+ of the output.*: CUDA error: unspecified",
        ) as caught:
            make(source, tmp_path, **machines)
    assert "parts are finished and kept in" in caught.value.__notes__[0]
    report = make(source, tmp_path, **machines)
    assert report.blocks_resumed > 0
    assert report.checksum == single(source, tmp_path)


def test_parts_damaged_are_written_again_intact_are_kept(tmp_path, source, caplog):
    make(source, tmp_path)
    parts = sorted((tmp_path / "parts").glob("*.tif"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in parts}
    data = bytearray(parts[0].read_bytes())
    data[len(data) // 2] ^= 1
    parts[0].write_bytes(data)
    parts[1].unlink()
    report = make(source, tmp_path, overwrite=True)
    assert caplog.text.count("is missing or damaged: it is written again") == 2
    assert 0 < report.blocks_resumed < report.blocks
    assert all(path.read_bytes() == before[path][0] for path in parts)
    assert all(path.stat().st_mtime_ns == before[path][1] for path in parts[2:])


@pytest.mark.parametrize(
    ("changed", "said"), [({"blend": "crop"}, "blend was"), ({"dtype": "uint16"}, "dtype was")]
)
def test_parts_of_another_run_are_ignored(tmp_path, source, caplog, changed, said):
    interrupt(source, tmp_path)
    with pytest.raises(UsageError, match=f"cannot resume: .*{said}"):
        make(source, tmp_path, resume=True, **changed)
    report = make(source, tmp_path, **changed)
    assert "ignoring parts of another run" in caplog.text
    assert said in caplog.text
    assert report.blocks_resumed == 0
    assert report.checksum == single(source, tmp_path, **changed)
    assert len({name[-12:] for name in names(tmp_path) if name.endswith(".tif")}) == 1


def test_parts_overwrite_interrupted_keeps_the_finished_output(tmp_path, source):
    make(source, tmp_path)
    checksum = single(source, tmp_path)
    with pytest.raises(UsageError, match="won't be overwritten"):
        make(source, tmp_path, blend="crop")
    interrupt(source, tmp_path, overwrite=True, blend="crop")
    assert checksum
    assert differences(tmp_path / "single.tif", tmp_path / "out.vrt") == []
    count = len(list((tmp_path / "parts").glob("*.tif")))
    make(source, tmp_path, overwrite=True, blend="crop")
    assert len(list((tmp_path / "parts").glob("*.tif"))) < count
    assert differences(tmp_path / "single.tif", tmp_path / "out.vrt") != []


def test_parts_interrupted_without_resume_leaves_nothing(tmp_path, source):
    interrupt(source, tmp_path, resume=False)
    assert not (tmp_path / "parts").exists()


def test_parts_killed_while_cleaning_up_is_completed_by_the_same_run(tmp_path, source, monkeypatch):
    monkeypatch.setattr(PartsFolder, "close", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(source, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(partition, "MAX_TASK_TILES", 12)
    report = make(source, tmp_path)
    assert report.blocks_resumed == report.blocks
    assert ".parts.jsonl" not in names(tmp_path)


def test_parts_journal_with_a_torn_line_ignores_it(tmp_path, source):
    interrupt(source, tmp_path, parts=3)
    journal = tmp_path / "parts" / ".parts.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
    report = make(source, tmp_path)
    assert 0 < report.blocks_resumed < report.blocks
    assert report.checksum == single(source, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"number": "0"}, {"number": 99}, {"number": -1}, {"number": [0]}, {"number": None},
        {"bytes": "many"}, {"bytes": -5}, {"sha256": 7}, {"name": "../x.tif"}, {"name": None},
        {"blocks": "xyz"}, {"blocks": 12}, {"blocks": "abc123"}, {"more": 1}, {"number": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_parts_journal_of_odd_values_is_not_believed(changes, tmp_path, source):
    interrupt(source, tmp_path)
    journal = tmp_path / "parts" / ".parts.jsonl"
    head, first, *others = _files.read_jsonl(journal)
    first["part"] |= changes
    journal.write_bytes(b"".join(map(_files.jsonl_line, (head, first, *others))))
    report = make(source, tmp_path)
    assert report.checksum == single(source, tmp_path)
    assert not journal.exists()


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:100], lambda text: "[" * 100_000, lambda text: "[]"],
    ids=["torn", "deep", "list"],
)
def test_parts_damaged_index_writes_all_parts_again(damage, tmp_path, source, caplog):
    make(source, tmp_path)
    index = tmp_path / "parts" / "index.json"
    text = index.read_text()
    index.write_text(damage(text))
    assert make(source, tmp_path, overwrite=True).blocks_resumed == 0
    assert "is damaged: all parts are written again" in caplog.text
    assert len(json.loads(index.read_text())["parts"]) == len(names(tmp_path)) - 1


def test_parts_folder_of_another_program_is_refused(tmp_path, source):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "index.json").write_text('{"name": "a web site"}')
    with pytest.raises(UsageError, match="was not written by georsr; choose another folder"):
        make(source, tmp_path)
    assert names(tmp_path) == ["index.json"]
    (folder / "index.json").unlink()
    make(source, tmp_path)
    with pytest.raises(UsageError, match=r"holds the parts of .*out\.vrt; choose another folder"):
        super_resolve(source, tmp_path / "b.vrt", "bicubic-x2", parts=folder, **SMALL)


def test_parts_folder_in_use_is_refused(tmp_path, source):
    (tmp_path / "parts").mkdir()
    with (
        PartsFolder(tmp_path / "parts", str(tmp_path / "out.vrt"), {}),
        pytest.raises(OutputError, match="another run is writing it"),
    ):
        make(source, tmp_path)
    make(source, tmp_path)


def test_parts_full_disk_keeps_finished_parts(tmp_path, source, scheduler, monkeypatch):
    import errno

    append, calls = resumable_tiff.PartialTiff.append, []

    def full(self, *arguments):
        calls.append(1)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return append(self, *arguments)

    monkeypatch.setattr(resumable_tiff.PartialTiff, "append", full)
    with pytest.raises(OutputError, match=r"no space left in .*parts") as caught:
        make(source, tmp_path, scheduler=scheduler)
    assert "parts are finished and kept" in caught.value.__notes__[0]
    assert not (tmp_path / "out.vrt").exists()
    deadline = time.monotonic() + 60
    while scratch := list((tmp_path / "parts").glob(".georsr-*/*")):  # the other worker may be slow
        assert time.monotonic() < deadline, scratch
        time.sleep(0.1)
    monkeypatch.undo()
    monkeypatch.setattr(partition, "MAX_TASK_TILES", 12)
    assert make(source, tmp_path, scheduler=scheduler).blocks_resumed > 0


def test_parts_folder_invisible_to_workers_is_refused(tmp_path, source, scheduler, monkeypatch):
    monkeypatch.setattr(parts_module, "LOCK", "nowhere")
    with pytest.raises(ResourceError, match=r"on worker tcp.* does not see the folder .*parts"):
        make(source, tmp_path, scheduler=scheduler)
    assert not (tmp_path / "parts").exists()


def test_parts_bad_names_are_refused(tmp_path, source):
    with pytest.raises(UsageError, match=r"expected a name such as OUT\.vrt"):
        super_resolve(source, tmp_path / "out.tif", "bicubic-x2", parts=tmp_path / "parts")
    with pytest.raises(UsageError, match="expected a folder of a file system"):
        super_resolve(source, tmp_path / "out.vrt", "bicubic-x2", parts="/vsis3/bucket/parts")
    with pytest.raises(OutputError, match="cannot be created or written to"):
        super_resolve(source, tmp_path / "out.vrt", "bicubic-x2", parts=tmp_path / "a" / "b")
    assert not Path(tmp_path / "out.vrt").exists()
    assert logging.getLogger("distributed").level <= logging.CRITICAL


def test_quality_layers_of_a_finished_vrt_are_written(tmp_path, source, lite_file):
    options = SMALL | {"tile_size": 64}
    with pytest.raises(UsageError, match=r"georsr quality layers IN OUT\.vrt FILE"):
        make(source, tmp_path, quality=tmp_path / "q.tif")
    assert not (tmp_path / "parts").exists()
    product = tmp_path / "single.tif"
    super_resolve(source, product, lite_file, quality=tmp_path / "one.tif", **options)
    super_resolve(source, tmp_path / "out.vrt", lite_file, parts=tmp_path / "parts", **options)
    quality_layers(source, tmp_path / "out.vrt", tmp_path / "q.tif", lite_file)
    found = differences(tmp_path / "one.tif", tmp_path / "q.tif")
    assert not found
