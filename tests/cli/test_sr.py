"""What a user of the command meets: exit codes, one line per error, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke

BICUBIC = ["--model", "bicubic", "--scale", "2"]


@pytest.fixture
def scene(make_raster, texture):
    return make_raster(texture(3, 40, 50))


def errors(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]


def test_sr_writes_and_reports(scene, tmp_path, capsys):
    out = tmp_path / "o.tif"
    assert invoke(["sr", scene, str(out), *BICUBIC, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["width"] == 100
    with rasterio.open(out) as dataset:
        assert (dataset.width, dataset.height, dataset.count) == (100, 80, 3)
        assert dataset.profile["tiled"]
        assert dataset.compression.name == "deflate"


def test_stdout_is_for_data_and_quiet_is_quiet(scene, tmp_path, capsys):
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "100 x 80 pixels" in shown.err
    assert "\x1b" not in shown.err
    assert invoke(["sr", scene, str(tmp_path / "p.tif"), *BICUBIC, "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_progress_as_json_lines(scene, tmp_path, capsys):
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC, "--progress", "json"]) == 0
    events = [json.loads(x) for x in capsys.readouterr().err.splitlines() if x.startswith("{")]
    assert events[0]["done"] == 0
    assert events[-1]["done"] == events[-1]["total"] == 1


def test_creation_options_keep_their_case(scene, tmp_path):
    out = tmp_path / "o.tif"
    code = invoke(["sr", scene, str(out), *BICUBIC, "--co", "compress=ZSTD", "--blocksize", "64"])
    assert code == 0
    with rasterio.open(out) as dataset:
        assert dataset.compression.name == "zstd"
        assert dataset.block_shapes[0] == (64, 64)


def test_dry_run_writes_nothing(scene, tmp_path, capsys):
    out = tmp_path / "o.tif"
    assert invoke(["sr", scene, str(out), *BICUBIC, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["tiles"], plan["width"], plan["height"]) == (1, 100, 80)
    assert plan["output_bytes"] >= 100 * 80 * 3
    assert not out.exists()


BAD = {
    "missing input": (["missing.tif", "o.tif"], 2, "missing.tif"),
    "empty input": (["empty.tif", "o.tif"], 1, "empty.tif"),
    "text as raster": (["text.tif", "o.tif"], 1, "text.tif"),
    "directory as raster": (["folder", "o.tif"], 1, "folder"),
    "truncated input": (["cut.tif", "o.tif"], 1, "cut.tif"),
    "output exists": (["in.tif", "old.tif"], 2, "--overwrite"),
    "output is input": (["in.tif", "in.tif", "--overwrite"], 2, "in.tif"),
    "output links to input": (["in.tif", "link.tif", "--overwrite"], 2, "link.tif"),
    "no such folder": (["in.tif", "nowhere/o.tif"], 1, "nowhere"),
    "unknown model": (["in.tif", "o.tif", "--model", "segsr-huge"], 2, "bicubic-x2"),
    "model file missing": (["in.tif", "o.tif", "--model", "x/y.safetensors"], 2, "y.safetensors"),
    "model file damaged": (["in.tif", "o.tif", "--model", "text.tif"], 1, "text.tif"),
    "scale contradicts": (["in.tif", "o.tif", "-m", "bicubic-x2", "-s", "4"], 2, "x2"),
    "band zero": (["in.tif", "o.tif", "--bidx", "0"], 2, "0"),
    "band out of range": (["in.tif", "o.tif", "--bidx", "1,9"], 2, "9"),
    "bands are not numbers": (["in.tif", "o.tif", "--bidx", "red"], 2, "red"),
    "palette": (["palette.tif", "o.tif"], 2, "palette"),
    "complex": (["complex.tif", "o.tif"], 2, "complex"),
    "nodata outside the type": (["in.tif", "o.tif", "--dst-nodata", "-9999"], 2, "-9999"),
    "unknown dtype": (["in.tif", "o.tif", "--dtype", "uint12"], 2, "uint12"),
    "bad stretch": (["in.tif", "o.tif", "--stretch", "low"], 2, "stretch"),
    "bad creation option": (["in.tif", "o.tif", "--co", "compress"], 2, "NAME=VALUE"),
    "bad device": (["in.tif", "o.tif", "--device", "abacus"], 2, "abacus"),
    "absent device": (["in.tif", "o.tif", "--device", "cuda:99"], 2, "cuda"),
    "bad blocksize": (["in.tif", "o.tif", "--blocksize", "100"], 2, "16"),
    "impossible tile": (["in.tif", "o.tif", "--tile", "8", "--halo", "8"], 2, "at least"),
}


@pytest.fixture
def bad_folder(make_raster, texture, tmp_path, monkeypatch):
    make_raster(texture(3, 40, 50))
    make_raster(texture(3, 300, 300), "cut.tif", tiled=True, blockxsize=64, blockysize=64)
    data = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "text.tif").write_text("not a raster")
    (tmp_path / "old.tif").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.tif").symlink_to(tmp_path / "in.tif")
    colours = {0: (0, 0, 0, 255), 1: (9, 9, 9, 255)}
    make_raster(
        np.ones((1, 9, 9), "uint8"),
        "palette.tif",
        photometric="palette",
        after=lambda d: d.write_colormap(1, colours),
    )
    make_raster(np.ones((1, 9, 9), "complex64"), "complex.tif")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_the_right_code(case, bad_folder, capsys):
    arguments, code, word = BAD[case]
    if "--model" not in arguments and "-m" not in arguments:
        arguments = [*arguments, *BICUBIC]
    before = {p: p.stat().st_mtime_ns for p in bad_folder.rglob("*") if p.is_file()}
    assert invoke(["sr", *arguments]) == code
    lines = errors(capsys)
    assert len(lines) == 1
    assert word in lines[0]
    after = {p: p.stat().st_mtime_ns for p in bad_folder.rglob("*") if p.is_file()}
    assert after == before


def test_usage_errors_of_the_command_line(capsys):
    assert invoke(["sr", "only-one.tif"]) == 2
    assert invoke(["dance"]) == 2
    assert invoke(["sr", "a", "b", "--blend", "stir"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_not_enough_disk_is_said_before_the_first_tile(scene, tmp_path, monkeypatch, capsys):
    from georsr.engine import preflight

    monkeypatch.setattr(preflight, "free_space", lambda path: 1000)
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC]) == 1
    assert "--no-check-space" in errors(capsys)[0]
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC, "--no-check-space"]) == 0


SLOW = """
    import sys, time, torch
    from georsr.cli.main import main
    from georsr.models.bicubic import Nearest
    calm = Nearest.forward
    def slow(self, x):
        time.sleep(0.05)
        return calm(self, x)
    Nearest.forward = slow
    sys.argv[0] = "georsr"
    main()
"""


def start(arguments, **options):
    """Run the command in a process of its own."""
    code = [sys.executable, "-c", textwrap.dedent(SLOW), *arguments]
    return subprocess.Popen(code, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing(number, code, make_raster, texture, tmp_path):
    source = make_raster(texture(1, 600, 600))
    process = start(
        ["sr", source, str(tmp_path / "o.tif"), "-m", "nearest-x2", "--tile", "32",
         "--progress", "json"],
        # background jobs of a shell ignore Ctrl-C, and their children with them
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    with process:
        for line in process.stderr:
            if line.startswith("{") and json.loads(line)["done"] >= 3:
                break
        sent = time.monotonic()
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(20) == code
    assert time.monotonic() - sent < 5
    assert "Traceback" not in rest
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("extra", [[], ["--cog"]])
def test_a_full_disk_never_ends_well(extra, make_raster, texture, tmp_path):
    import resource

    source = make_raster(texture(3, 300, 300))
    (tmp_path / "o.tif").write_bytes(b"old")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = start(
        ["sr", source, str(tmp_path / "o.tif"), "-m", "nearest-x4", "--overwrite", *extra],
        preexec_fn=limit,
    )
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "space" in message
    assert "Traceback" not in message
    assert (tmp_path / "o.tif").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "o.tif"]
