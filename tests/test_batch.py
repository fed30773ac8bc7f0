"""Many rasters, each into an output of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke
from PIL import Image

import georsr
from georsr.batch import BatchItem, BatchReport, RasterRunner
from georsr.config import SRConfig
from georsr.inference.model_cache import model_ref
from georsr.system import memory_limit, share_memory

OPTIONS = {"model": "bicubic-x2"}


@pytest.fixture
def folder(make_raster, texture, tmp_path):
    """A folder with the rasters a.tif and b.tif, and c.tif, which is none."""
    made = tmp_path / "scenes"
    made.mkdir()
    for seed, name in enumerate(("a.tif", "b.tif")):
        shutil.copy(make_raster(texture(3, 30, 40, seed=seed)), made / name)
    (made / "c.tif").write_text("not a raster")
    return made


def statuses(report):
    return [item.status for item in report.items]


def test_super_resolve_many_failure_leaves_the_others_done(folder, tmp_path):
    report = georsr.super_resolve_many(folder, tmp_path / "out", **OPTIONS)
    assert statuses(report) == ["written", "written", "failed"]
    assert "c.tif" in report.failed[0].error
    alone = tmp_path / "alone.tif"
    georsr.super_resolve(folder / "b.tif", alone, **OPTIONS)
    assert (tmp_path / "out" / "b.tif").read_bytes() == alone.read_bytes()
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["a.tif", "b.tif"]


def test_super_resolve_many_second_call_skips_finished_ones(folder, tmp_path):
    out = tmp_path / "out"
    georsr.super_resolve_many(folder, out, **OPTIONS)
    (out / "b.tif").unlink()
    assert statuses(georsr.super_resolve_many(folder, out, **OPTIONS)) == [
        "skipped",
        "written",
        "failed",
    ]
    again = georsr.super_resolve_many([folder / "a.tif"], out, overwrite=True, **OPTIONS)
    assert statuses(again) == ["written"]


def test_super_resolve_many_output_of_other_options_is_kept(folder, tmp_path):
    out = tmp_path / "out"
    georsr.super_resolve_many([folder / "a.tif"], out, **OPTIONS)
    before = (out / "a.tif").read_bytes()
    report = georsr.super_resolve_many([folder / "a.tif"], out, dtype="float32", **OPTIONS)
    assert "use overwrite=True" in report.failed[0].error
    assert (out / "a.tif").read_bytes() == before


def test_super_resolve_many_same_output_twice_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "a.tif", other)
    with pytest.raises(georsr.UsageError, match=r"would both be written to .*a\.tif"):
        georsr.super_resolve_many([folder / "a.tif", other / "a.tif"], tmp_path / "out", **OPTIONS)


def test_super_resolve_many_into_the_folder_of_sources_is_refused(folder):
    with pytest.raises(georsr.UsageError, match="is the source"):
        georsr.super_resolve_many(folder, folder, **OPTIONS)


def test_super_resolve_many_cancelled_call_continues(folder, tmp_path):
    out, calls = tmp_path / "out", []

    def stop_after_first():
        calls.append(1)
        return (out / "a.tif").exists()

    with pytest.raises(georsr.InterruptedRunError):
        georsr.super_resolve_many(folder, out, should_stop=stop_after_first, **OPTIONS)
    assert statuses(georsr.super_resolve_many(folder, out, **OPTIONS))[:2] == ["skipped", "written"]


def test_super_resolve_many_with_workers_writes_the_same_bytes(folder, tmp_path):
    georsr.super_resolve_many(folder, tmp_path / "here", **OPTIONS)
    report = georsr.super_resolve_many(folder, tmp_path / "dask", workers=1, **OPTIONS)
    assert statuses(report) == ["written", "written", "failed"]
    for name in ("a.tif", "b.tif"):
        here, dask = (tmp_path / which / name for which in ("here", "dask"))
        assert dask.read_bytes() == here.read_bytes()


def test_sr_out_dir_reports_failures_with_exit_code_1(folder, tmp_path, capsys):
    arguments = ["sr", str(folder), "--out-dir", str(tmp_path / "out"), "--model", "bicubic-x2"]
    assert invoke([*arguments, "--json"]) == 1
    shown = capsys.readouterr()
    items = json.loads(shown.out)
    assert [item["status"] for item in items] == ["written", "written", "failed"]
    assert [line for line in shown.err.splitlines() if line.startswith("Error: ")] == [
        f"Error: {items[2]['error']}"
    ]
    (folder / "c.tif").unlink()
    assert invoke([*arguments, "--progress", "none"]) == 0
    assert "0 written, 2 skipped, 0 failed" in capsys.readouterr().err
    with rasterio.open(tmp_path / "out" / "a.tif") as dataset:
        assert dataset.shape == (60, 80)


@pytest.mark.parametrize("option", [["--quality", "q.tif"], ["--stac", "s.json"], ["--dry-run"]])
def test_sr_out_dir_with_options_of_one_output_is_refused(option, folder, tmp_path, capsys):
    assert invoke(["sr", str(folder), "--out-dir", str(tmp_path / "out"), *option]) == 2
    assert "leave out --out-dir" in capsys.readouterr().err


def test_super_resolve_many_reads_pictures_of_a_folder_without_rasters(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(values).save(folder / "DJI_0001.JPG")
    Image.fromarray(values).save(folder / "DJI_0002.png")
    with pytest.warns(georsr.GeoreferenceWarning):
        report = georsr.super_resolve_many(folder, tmp_path / "out", "bicubic-x2")
    assert statuses(report) == ["written", "written"]
    assert [item.report.width for item in report.items] == [80, 80]


def test_super_resolve_many_leaves_previews_beside_rasters(folder, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a_thumbnail.jpg")
    (folder / "c.tif").unlink()
    with pytest.warns(georsr.GeorsrWarning, match=r"1 left out .*: a_thumbnail\.jpg; "):
        report = georsr.super_resolve_many(folder, tmp_path / "out", **OPTIONS)
    assert [item.output[-5:] for item in report.items] == ["a.tif", "b.tif"]


def test_raster_runner_gives_each_worker_its_part_of_the_memory(folder, tmp_path):
    task = (str(folder / "a.tif"), str(tmp_path / "a.tif"))
    whole = memory_limit()
    model = georsr.open_model("bicubic-x2")
    try:
        runner = RasterRunner(model_ref(model), SRConfig(), whole // 2**20)
        runner.prepare("worker")
        assert memory_limit() == whole // (whole // 2**20)
        item = runner(task, lambda: False)
        assert item.status == "failed"
        assert "of memory, this machine has 1 MiB for it" in item.error
        assert "fewer workers" in item.error
    finally:
        share_memory(1)
    runner = RasterRunner(model_ref(model), SRConfig())
    assert runner(task, lambda: False).status == "written"


def test_sr_out_dir_with_workers_names_options_in_failures(folder, tmp_path, capfd):
    out = str(tmp_path / "out")
    command = ["sr", str(folder / "a.tif"), "--out-dir", out, "-m", "bicubic-x2", "--json"]
    assert invoke(command) == 0
    capfd.readouterr()
    assert invoke([*command, "--dtype", "float32", "--workers", "1"]) == 1
    said = capfd.readouterr()
    assert "use --overwrite, or another folder" in said.err
    assert json.loads(said.out)[0]["status"] == "failed"


def test_super_resolve_many_source_of_the_future_is_skipped_once_written(folder, tmp_path):
    """As from a camera with a wrong clock; one that is written later is not skipped."""
    source, out = folder / "a.tif", tmp_path / "out"
    os.utime(source, (4e9, 4e9))
    assert statuses(georsr.super_resolve_many([source], out, **OPTIONS)) == ["written"]
    assert statuses(georsr.super_resolve_many([source], out, **OPTIONS)) == ["skipped"]
    os.utime(out / "a.tif", (1e9, 1e9))  # now the source has been written since
    report = georsr.super_resolve_many([source], out, **OPTIONS)
    assert "was not made from this source" in report.failed[0].error


def test_super_resolve_many_of_an_empty_folder_names_it(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(georsr.UsageError, match=r"no raster in folder .*empty: it is empty"):
        georsr.super_resolve_many(str(tmp_path / "empty"), tmp_path / "out", "bicubic-x2")


@pytest.fixture
def speckled(make_raster, texture, tmp_path):
    """A folder with twelve rasters, three of which have isolated pixels of the nodata value."""
    made = tmp_path / "in"
    made.mkdir()
    for number in range(12):
        values = texture(3, 24, 32, seed=number).astype("uint16")
        if number < 3:
            values[:, 4 : 4 + 6 * (number + 1) : 6, 5:25:5] = 65535
        shutil.copy(make_raster(values, nodata=65535), made / f"{number}.tif")
    return made


def lines_of(words, folder):
    """Lines that ``georsr sr in --out-dir out`` prints on stderr."""
    command = [sys.executable, "-m", "georsr.cli", "sr", "in", "--out-dir", "out", *words]
    done = subprocess.run(
        [*command, "-m", "bicubic-x2", "--progress", "none"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_sr_out_dir_outputs_among_the_sources_are_written_with_one_warning(speckled, tmp_path):
    for name in ("6.tif", "7.tif"):
        georsr.super_resolve(speckled / "5.tif", speckled / name, overwrite=True, **OPTIONS)
    found = [line for line in lines_of([], tmp_path) if "output of georsr" in line]
    assert found == [
        "Warning: 2 of 12 rasters: is an output of georsr (bicubic-x2, x2); its detail was not "
        "measured (6.tif, 7.tif)"
    ]
    assert (tmp_path / "out" / "6.tif").exists()


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
def test_sr_out_dir_repeated_warnings_are_one_line_with_their_rasters(workers, speckled, tmp_path):
    lines = lines_of(workers, tmp_path)
    (found,) = [line for line in lines if line.startswith("Warning: ")]
    assert found == lines[-1]
    assert found.startswith("Warning: 3 of 12 rasters: … of 768 sampled pixels hold the nodata")
    assert found.endswith("(0.tif, 1.tif, 2.tif)")


def test_sr_out_dir_verbose_shows_the_warnings_of_each_raster_too(speckled, tmp_path):
    found = [line for line in lines_of(["-v"], tmp_path) if line.startswith("Warning: ")]
    assert [line.split(": ")[1] for line in found] == [
        *(str(Path("in", f"{number}.tif")) for number in range(3)),
        "3 of 12 rasters",
    ]


def test_batch_report_describes_warnings_by_kind():
    items = [BatchItem(f"{number}.tif", f"out/{number}.tif", "written") for number in range(21)]
    report = BatchReport(tuple(items))
    gaps = [f"{number}.tif: {7 + number} of 90 pixels are gaps" for number in range(12)]
    alone = "area.geojson: 3 % of it lies outside 11.tif: not in the output"
    twice = [f"area.geojson: {n} % of it lies outside 2{n}.tif: not in the output" for n in (0, 1)]
    general = ["the model is old, by 3 years", "the model is old, by 4 years"]
    named = ", ".join(f"{number}.tif" for number in range(8))
    assert report.describe_warnings([*reversed(gaps), alone, *general]) == [
        f"12 of 21 rasters: … of 90 pixels are gaps ({named}, and 4 more)",
        alone,
        *general,
    ]
    assert BatchReport(()).describe_warnings([gaps[0], gaps[0], twice[0]]) == [gaps[0], twice[0]]


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_sr_out_dir_with_workers_prints_warnings_as_lines_once(quiet, tmp_path, texture):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        Image.fromarray(texture(3, 20, 24).transpose(1, 2, 0)).save(tmp_path / f"in/{name}.png")
    text = "\n".join(lines_of(["--workers", "1", *quiet], tmp_path))
    assert "GeoreferenceWarning" not in text
    assert text.count("Warning: ") == (0 if quiet else 1)
    assert ("2 of 2 rasters" in text) == (not quiet)
    assert (tmp_path / "out/b.tif").exists()
