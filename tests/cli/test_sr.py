"""What a user of the command meets: exit codes, one line per error, nothing half-written."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import click
import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke
from georsr.cli.sr import command

import georsr

BICUBIC = ["--model", "bicubic", "--scale", "2"]


@pytest.fixture
def scene(make_raster, texture):
    return make_raster(texture(3, 40, 50))


def errors(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]


def test_sr_json_reports_the_output(scene, tmp_path, capsys):
    out = tmp_path / "o.tif"
    assert invoke(["sr", scene, str(out), *BICUBIC, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["width"] == 100
    with rasterio.open(out) as dataset:
        assert (dataset.width, dataset.height, dataset.count) == (100, 80, 3)
        assert dataset.profile["tiled"]
        assert dataset.compression.name == "deflate"


def test_sr_quiet_prints_nothing(scene, tmp_path, capsys):
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "100 x 80 pixels" in shown.err
    assert "\x1b" not in shown.err
    assert invoke(["sr", scene, str(tmp_path / "p.tif"), *BICUBIC, "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_sr_progress_json_prints_events(scene, tmp_path, capsys):
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC, "--progress", "json"]) == 0
    events = [json.loads(x) for x in capsys.readouterr().err.splitlines() if x.startswith("{")]
    assert events.pop() == {"event": "stage", "stage": "verifying"}
    assert events[0]["done"] == 0
    assert events[-1]["done"] == events[-1]["total"] == 1


def test_sr_creation_options_are_applied(scene, tmp_path):
    out = tmp_path / "o.tif"
    code = invoke(["sr", scene, str(out), *BICUBIC, "--co", "compress=ZSTD", "--blocksize", "64"])
    assert code == 0
    with rasterio.open(out) as dataset:
        assert dataset.compression.name == "zstd"
        assert dataset.block_shapes[0] == (64, 64)


def test_sr_bbox_and_aoi_crop_the_output(scene, tmp_path):
    out = tmp_path / "o.tif"
    box = "--bbox", "400005,4999990,400015,4999995"
    assert invoke(["sr", scene, str(out), *BICUBIC, *box]) == 0
    with rasterio.open(out) as dataset:
        assert (dataset.width, dataset.height) == (40, 20)
        assert tuple(dataset.bounds) == (400005, 4999990, 400015, 4999995)
        ring = [[400005, 4999990], [400015, 4999990], [400015, 4999995], [400005, 4999990]]
    aoi = {"type": "Polygon", "coordinates": [ring], "crs": {"properties": {"name": "EPSG:32632"}}}
    (tmp_path / "aoi.geojson").write_text(json.dumps(aoi))
    area = ["--aoi", str(tmp_path / "aoi.geojson"), "--overwrite"]
    for mask, share in (("--aoi-mask", 0.5), ("--no-aoi-mask", 1)):
        assert invoke(["sr", scene, str(out), *BICUBIC, *area, mask]) == 0
        with rasterio.open(out) as dataset:
            assert (dataset.width, dataset.height) == (40, 20)
            assert abs((dataset.dataset_mask() > 0).mean() - share) < 0.05


def test_sr_dry_run_writes_nothing(scene, tmp_path, capsys):
    out = tmp_path / "o.tif"
    assert invoke(["sr", scene, str(out), *BICUBIC, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["tiles"], plan["width"], plan["height"]) == (1, 100, 80)
    assert plan["output_bytes"] >= 100 * 80 * 3
    assert not out.exists()


def test_sr_usage_errors_exit_with_2(capsys):
    assert invoke(["sr", "only-one.tif"]) == 2
    assert invoke(["dance"]) == 2
    assert invoke(["sr", "a", "b", "--blend", "stir"]) == 2
    assert "Traceback" not in capsys.readouterr().err


SLOW = """
    import sys, time, torch
    from georsr.cli.main import main
    from georsr.inference.predictor import TilePredictor
    calm = TilePredictor.predict
    def slow(self, x):
        time.sleep(0.05)
        return calm(self, x)
    TilePredictor.predict = slow
    sys.argv[0] = "georsr"
    main()
"""


def start(arguments, program=SLOW, **options):
    """Run the command in a process of its own."""
    code = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    return subprocess.Popen(code, stderr=subprocess.PIPE, text=True, **options)


SLOWLY = ["-m", "nearest-x2", "--tile", "32", "--blocksize", "64", "--progress", "json"]


def default_signals():
    """Background jobs of a shell ignore Ctrl-C, and their children with them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_tiles(process, count):
    for line in process.stderr:
        if line.startswith("{") and json.loads(line)["done"] >= count:
            return
    pytest.fail("ended before it was interrupted")


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_sr_interrupted_by_a_signal_is_resumed_by_the_same_command(
    number, code, make_raster, texture, tmp_path, capsys
):
    source = make_raster(texture(1, 300, 300))
    out, whole = tmp_path / "o.tif", tmp_path / "whole.tif"
    process = start(["sr", source, str(out), *SLOWLY], preexec_fn=default_signals)
    with process:
        wait_for_tiles(process, 40)
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(60) == code
    assert "Traceback" not in rest
    events = [json.loads(line) for line in rest.splitlines() if line.startswith("{")]
    assert all(line["done"] < 0.8 * line["total"] for line in events)
    (message,) = [line for line in rest.splitlines() if line.startswith("Error: ")]
    assert "interrupted" in message
    assert "rerun the same command to resume" in message
    assert not out.exists()
    assert hidden(tmp_path) == [".o.tif.part.jsonl", ".o.tif.part.tif"]
    assert invoke(["sr", source, str(out), *SLOWLY, "--resume"]) == 0
    assert "blocks from an earlier run" in capsys.readouterr().err
    assert invoke(["sr", source, str(whole), *SLOWLY]) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert hidden(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("options", [[], ["--no-resume"]])
@pytest.mark.parametrize("lanes", ["1", "2"])
@pytest.mark.slow
def test_sr_second_signal_exits_at_once(lanes, options, make_raster, texture, tmp_path):
    source = make_raster(texture(1, 300, 300))
    arguments = ["sr", source, str(tmp_path / "o.tif"), *SLOWLY, "--jobs", lanes, *options]
    # after 40 tiles one that would take for ever; that it is in hand is told, since a signal that
    # comes between two tiles ends the run without a second one
    stuck = SLOW.replace("time.sleep(0.05)", "calls.append(0); len(calls) > 40 and hang()")
    # in short sleeps: a signal between the message and one long sleep would not end that
    pause = "[time.sleep(0.05) for _ in range(2400)]"
    hang = f'hang = lambda: (print("stuck", file=sys.stderr, flush=True), {pause})'
    stuck = stuck.replace("calm =", f"{hang}; calls = []; calm =")
    with start(arguments, stuck, preexec_fn=default_signals) as process:
        assert "stuck\n" in iter(process.stderr.readline, "")
        time.sleep(0.5)  # those before it are joined; then the run waits for nothing but this one
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None  # the tile in hand is waited for
        process.send_signal(signal.SIGINT)
        # what is finished is put on disk first, which may have much else to write
        assert process.wait(60) == 130
        assert "Traceback" not in process.stderr.read()
    left = [] if options else [".o.tif.part.jsonl", ".o.tif.part.tif"]
    assert hidden(tmp_path) == left


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.slow
def test_sr_terminated_before_the_first_block_leaves_no_files(make_raster, texture, tmp_path):
    source = make_raster(texture(1, 600, 600))
    arguments = ["sr", source, str(tmp_path / "o.tif"), *SLOWLY, "--blocksize", "512"]
    with start(arguments, preexec_fn=default_signals) as process:
        wait_for_tiles(process, 3)
        process.send_signal(signal.SIGTERM)
        assert "Error: interrupted" in process.stderr.read()
        assert process.wait(60) == 143
    assert hidden(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.slow
def test_sr_second_run_onto_one_output_is_refused(make_raster, texture, tmp_path, capsys):
    source = make_raster(texture(1, 300, 300))
    arguments = ["sr", source, str(tmp_path / "o.tif"), *SLOWLY]
    with start(arguments, preexec_fn=default_signals) as first:
        wait_for_tiles(first, 5)
        assert invoke([*arguments, "--overwrite"]) == 1
        (message,) = errors(capsys)
        assert f"another run is writing it (process {first.pid} on" in message
        first.stderr.read()
        assert first.wait(60) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "o.tif"]


def test_sr_resume_without_unfinished_run_is_refused(scene, tmp_path, capsys):
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC, "--resume"]) == 2
    assert "no unfinished run found" in errors(capsys)[0]
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_sr_help_has_every_option_under_a_heading(capsys):
    assert invoke(["sr", "--help"]) == 0
    text = capsys.readouterr().out
    sections = text.split("\n\n")
    headed = {part.splitlines()[0]: part for part in sections if part.splitlines()[0].endswith(":")}
    assert list(headed)[:2] == ["Model and bands:", "Input:"]
    assert "--help" in headed["Other:"]
    assert headed["Other:"].count("  -") == 1, "an option is in no section of cli/sr.py"
    assert "--workers" in headed["Dask:"]
    named = [name for names in command.sections.values() for name in names]
    assert len(set(named)) == len(named)
    for option in command.params:
        if isinstance(option, click.Option):
            assert text.count(f"{max(option.opts, key=len)} ") >= 1


def test_sr_path_in_message_appears_once(tmp_path, capsys):
    (tmp_path / "text.tif").write_text("not a raster")
    assert invoke(["sr", str(tmp_path / "text.tif"), "o.tif"]) == 1
    assert errors(capsys)[0].count("text.tif") == 1


def test_sr_without_terminal_writes_a_line_for_every_tenth(make_raster, texture, tmp_path, capsys):
    scene = make_raster(texture(3, 200, 160))
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC, "--tile", "40"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith("tiles")]
    assert lines[-1].startswith("100 %: ")
    assert len(lines) == 10


def test_sr_log_receives_messages_and_tracebacks(scene, tmp_path, capsys):
    log = tmp_path / "run.log"
    arguments = ["sr", scene, str(tmp_path / "o.tif"), *BICUBIC, "-q", "--log", str(log)]
    assert invoke(arguments) == 0
    assert invoke(arguments) == 2
    text = log.read_text()
    assert text.count(" DEBUG georsr ") == 2
    assert "Traceback" in text
    assert "Traceback" not in capsys.readouterr().err


def test_sr_log_over_a_raster_is_refused(scene, tmp_path, capsys):
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC, "--log", scene]) == 2
    assert "the name must end in .log" in errors(capsys)[0]
    with rasterio.open(scene) as dataset:
        assert dataset.count == 3


def test_sr_resumed_run_says_where_it_begins(make_raster, texture, tmp_path, capsys):
    scene, out = make_raster(texture(1, 300, 200)), str(tmp_path / "o.tif")
    options = ["--model", "bicubic", "--scale", "2", "--tile", "32", "--blocksize", "64"]
    calls = []
    with pytest.raises(georsr.InterruptedRunError):
        georsr.super_resolve(
            *(scene, out, "bicubic-x2"),
            tile_size=32,
            blocksize=64,
            should_stop=lambda: calls.append(1) or len(calls) > 40,
        )
    assert invoke(["sr", scene, out, *options, "--progress", "json"]) == 0
    assert re.search(r'"stage": "resuming at \d+ %"', capsys.readouterr().err)


def test_sr_large_output_without_overviews_says_how_to_add_them(tmp_path, make_raster, capsys):
    scene = make_raster(np.ones((1, 8, 4100), "uint8"))
    assert invoke(["sr", scene, str(tmp_path / "o.tif"), *BICUBIC]) == 0
    assert "rio overview --build 2,4,8,16,32 -r average" in capsys.readouterr().err
    assert invoke(["sr", scene, str(tmp_path / "c.tif"), *BICUBIC, "--cog"]) == 0
    assert "rio overview" not in capsys.readouterr().err
