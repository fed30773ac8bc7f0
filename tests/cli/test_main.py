"""The group itself: quick help, lazy imports, the other commands."""

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from georsr.cli.exit_codes import TerminatedError
from georsr.cli.main import COMMANDS, importing, interrupt_at_signal, invoke
from PIL import Image

from georsr.system import foreign_variables


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_imports_neither_torch_nor_rasterio(argument):
    code = f"""
import sys
from georsr.cli.main import invoke
assert invoke([{argument!r}]) == 0
heavy = [m for m in ("torch", "rasterio", "numpy", "xarray") if m in sys.modules]
assert not heavy, heavy
"""
    assert "georsr" in run_python(code)


@pytest.mark.parametrize("command", [["models", "list"], ["info", "IN"], ["sr", "IN", "IN"]])
def test_commands_that_run_no_network_import_no_library_for_it(command, make_raster, texture):
    source = str(make_raster(texture(3, 40, 40)))
    words = [source if word == "IN" else word for word in command]
    run_python(f"""
import sys
from georsr.cli.main import invoke
assert invoke({words!r}) == {2 if command[0] == "sr" else 0}
heavy = [name for name in ("torch", "onnxruntime", "scipy") if name in sys.modules]
assert not heavy, heavy
""")


def test_sr_of_one_geotiff_imports_no_other_networks_sources_and_features(
    make_raster, texture, tmp_path
):
    source, output = make_raster(texture(3, 40, 40)), tmp_path / "out.tif"
    modules = run_python(f"""
import sys
from georsr.cli.main import invoke
assert invoke(["sr", {source!r}, {str(output)!r}, "--quiet"]) == 0
print(*sys.modules)
""").split()
    assert {"onnxruntime", "georsr.io.reader", "georsr.jobs.run"} <= {*modules}
    unused = (
        "models.segsr_lite",
        "models.hat",
        "models.sfem",
        "models.segsr_published",
        "models.spandrel",
    )
    unused += ("models.onnx.export", "io.vrt", "io.sentinel2", "io.mosaic", "geo", "quality")
    unused += ("distributed", "run_estimate", "evaluation", "training", "xarray")
    assert not {*modules} & {f"georsr.{name}" for name in unused}
    assert not {*modules} & {"torch", "open_clip", "distributed", "xarray", "scipy", "shapely"}


def test_import_georsr_imports_neither_torch_nor_numpy():
    run_python(
        "import sys, georsr; assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert set(georsr.__all__) <= set(dir(georsr))\n"
        "for name in georsr.__all__: getattr(georsr, name)"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_prints_usage(name, capsys):
    assert invoke([name, "--help"]) == 0
    assert f"Usage: georsr {name}" in capsys.readouterr().out


def test_models_list_prints_names_and_json(capsys):
    assert invoke(["models", "list"]) == 0
    assert "bicubic-x2" in capsys.readouterr().out
    assert invoke(["models", "list", "--json"]) == 0
    assert {"name", "scale", "halo"} <= set(json.loads(capsys.readouterr().out)[0])


def test_info_raster_model_and_both_print_facts(make_raster, texture, capsys):
    scene = make_raster(texture(3, 40, 50), nodata=0)
    assert invoke(["info", scene, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["dtype"], facts["mask"]) == (50, "uint8", "nodata")
    assert invoke(["info", "--model", "bicubic-x2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scale"] == 2
    assert invoke(["info", scene, "--model", "bicubic-x2", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tiles"] == 1
    assert plan["memory_bytes"] > 0
    assert invoke(["info", scene]) == 0
    assert "EPSG:32632" in capsys.readouterr().out
    assert invoke(["info"]) == 2


def test_info_raster_lists_what_a_run_needs_to_know(make_raster, texture, tmp_path, capsys):
    def name(dataset):
        dataset.descriptions = ["B02", "B03", "B04", "B08"]
        dataset.build_overviews([2])

    scene = make_raster(
        texture(4, 40, 50, "uint16"), nodata=0, photometric="MINISBLACK", after=name
    )
    assert invoke(["info", scene]) == 0
    text = capsys.readouterr().out
    assert "0.5 x -0.5 metre" in text
    assert "bands 3,2,1 (red, green, blue)" in text
    assert "overviews: 2" in text
    assert invoke(["info", scene, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["extent"] == {"west": 4e5, "south": 4999980, "east": 400025, "north": 5e6}
    assert facts["network_bands"]["numbers"] == [3, 2, 1]
    assert facts["bands"][1]["name"] == "B03"
    assert facts["bands"][0]["sampled_range"][0] >= 1
    assert facts["output_of_georsr"] is None
    out = str(tmp_path / "o.tif")
    assert invoke(["sr", scene, out, "-m", "bicubic-x2", "-q"]) == 0
    assert invoke(["info", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output_of_georsr"]["model"] == "bicubic-x2"


def test_info_model_as_argument_is_described(capsys):
    assert invoke(["info", "segsr-lite-x2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "segsr-lite-x2"
    assert invoke(["info", "no-such.tif"]) == 2
    assert "no-such.tif: no such file" in capsys.readouterr().err


def test_info_onnx_model_is_described(tmp_path, capsys):
    file = str(tmp_path / "small.onnx")
    assert invoke(["export", "bicubic-x2", file, "--tile", "16", "-q"]) == 0
    assert invoke(["info", "--model", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tile"] == 16


def test_eval_image_folder_prints_scores(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "set" / "val" / name).mkdir(parents=True)
        pixels = rng.integers(0, 256, (40, 44, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / "val" / name / "1.png")
    arguments = ["eval", "--dataset", str(tmp_path / "set"), "--split", "val", "-m", "nearest-x2"]
    assert invoke(arguments) == 0
    assert "nearest-x2" in capsys.readouterr().out
    assert invoke([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["overall"]["bicubic-x2"]["images"] == 2
    assert invoke(["eval", "--dataset", str(tmp_path / "none"), "-m", "nearest-x2"]) == 2


def test_eval_two_rasters_prints_psnr_per_band(make_raster, texture, capsys):
    truth = texture(2, 30, 40)
    worse = truth.copy()
    worse[1] = np.clip(worse[1].astype(int) + 10, 0, 255)
    a, b = make_raster(truth, "a.tif"), make_raster(worse, "b.tif")
    assert invoke(["eval", b, a, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["psnr"][0] == float("inf")
    assert report["psnr"][1] == pytest.approx(28.1, abs=0.5)
    assert report["bias"][0] == 0
    assert 9 < report["bias"][1] <= 10
    other = make_raster(truth, "c.tif", crs="EPSG:32633")
    assert invoke(["eval", other, a]) == 2
    assert invoke(["eval", a]) == 2
    assert "differ in CRS" in capsys.readouterr().err


def test_importing_freezes_imported_objects():
    found = run_python(
        "import gc\n"
        "from georsr.cli.main import importing\n"
        "before = gc.get_freeze_count()\n"
        "with importing():\n"
        "    assert not gc.isenabled()\n"
        "    import torch\n"
        "assert gc.isenabled()\n"
        "frozen = gc.get_freeze_count() - before\n"
        "with importing():\n"
        "    assert gc.isenabled(), 'torch is there: nothing to gain'\n"
        "print(frozen, gc.get_freeze_count() - before)"
    ).split()
    assert found[0] == found[1]
    assert int(found[0]) > 100_000


def test_import_torch_in_the_command_line_freezes_imported_objects():
    found = run_python(
        "import gc\n"
        "from georsr.cli.main import prepare_process\n"
        "from georsr.device import import_torch\n"
        "prepare_process()\n"
        "import_torch()\n"
        "assert gc.isenabled()\n"
        "print(gc.get_freeze_count())"
    )
    assert int(found) > 100_000


def test_importing_failing_import_enables_gc_again():
    run_python(
        "import gc\n"
        "from georsr.cli.main import importing\n"
        "try:\n"
        "    with importing():\n"
        "        import no_such_module\n"
        "except ImportError:\n"
        "    assert gc.isenabled()\n"
        "else:\n"
        "    raise AssertionError"
    )


def test_invoke_verbose_restores_logging():
    log = logging.getLogger("georsr")
    before = list(log.handlers), log.level
    assert invoke(["info", "-m", "bicubic", "-vv"]) == 0
    assert (log.handlers, log.level) == before


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)],
)
def test_interrupt_at_signal_swallowed_is_recorded_and_raised_again(number, error):
    def swallow():
        with interrupt_at_signal() as signals:
            assert not signals.any()
            with pytest.raises(error):
                signal.raise_signal(number)
            assert signals.any()
            assert signals.exit_code() == 128 + number

    before = signal.getsignal(number)
    with pytest.raises(error):
        swallow()
    assert signal.getsignal(number) is before


def test_invoke_error_because_of_a_signal_is_reported_as_the_signal(monkeypatch, capsys):
    """An extension module that is being loaded replaces the exception of the handler."""

    def load(*_):
        with pytest.raises(TerminatedError):
            signal.raise_signal(signal.SIGTERM)
        raise ImportError("initialization failed")

    monkeypatch.setattr("georsr.models.io.open_model", load)
    assert invoke(["info", "-m", "bicubic"]) == 143
    assert capsys.readouterr().err == "Error: terminated\n"


@pytest.mark.parametrize("failing", [False, True])
def test_importing_signal_is_held_back_until_the_modules_are_loaded(failing):
    done = []

    def load():
        with interrupt_at_signal(), importing():
            signal.raise_signal(signal.SIGINT)
            done.append("loaded")
            if failing:
                raise ImportError

    with pytest.raises(KeyboardInterrupt):
        load()
    assert done == ["loaded"]


@pytest.mark.parametrize(
    ("number", "code", "text"), [(2, 130, "interrupted"), (15, 143, "terminated")]
)
def test_command_line_signal_while_its_modules_are_imported_ends_in_one_line(number, code, text):
    program = (
        "import signal, sys, types\n"
        "from georsr.cli import __main__ as start\n"
        "class Loading(types.ModuleType):\n"
        "    def __getattr__(self, name):\n"
        f"        signal.raise_signal({number})\n"
        "sys.modules['georsr.cli.main'] = Loading('georsr.cli.main')\n"
        "start.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (code, f"Error: {text}\n")


SCENE = Path(__file__).parents[2] / "sample_data" / "town_rgb_2m.tif"


def georsr_process(*arguments, cwd=None, **environ):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "georsr.cli", *arguments],
        capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | environ,
    )  # fmt: skip


def proj_database(folder, minor):
    folder.mkdir()
    with closing(sqlite3.connect(folder / "proj.db")) as database:
        database.execute("create table metadata(key text, value text)")
        rows = [("DATABASE.LAYOUT.VERSION.MAJOR", "1"), ("DATABASE.LAYOUT.VERSION.MINOR", minor)]
        database.executemany("insert into metadata values(?,?)", rows)
        database.commit()
    return str(folder)


@pytest.mark.parametrize("name", ["PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH"])
@pytest.mark.parametrize("content", ["old", "nothing"])
def test_variables_of_another_gdal_are_told_and_left_out(tmp_path, name, content):
    value = proj_database(tmp_path / "old", "0") if content == "old" else "/nonexistent"
    ended = georsr_process("info", str(SCENE), **{name: value})
    assert ended.returncode == 0
    assert ended.stderr.splitlines() == [
        f"Warning: {name} not used: for another GDAL or PROJ than rasterio's; unset to silence this"
    ]


def test_variable_with_a_database_that_rasterio_reads_is_kept(tmp_path):
    newer = proj_database(tmp_path / "newer", "99")
    assert foreign_variables({"PROJ_DATA": newer}) == []
    assert foreign_variables({"PROJ_DATA": str(tmp_path)}) == ["PROJ_DATA"]
    assert foreign_variables({}) == []


def test_import_of_areas_needs_no_database_of_proj():
    run_python(
        "import os\n"
        "os.environ['PROJ_DATA'] = '/nonexistent'\n"
        "import numpy as np, georsr, georsr.geo.aoi, georsr.geo.stac\n"
        "georsr.super_resolve_array(np.zeros((3, 20, 20), 'uint8'), 'bicubic', 2)"
    )


def test_command_in_a_folder_that_is_gone_says_so(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    program = f"""
import os, sys
os.rmdir({str(folder)!r})
sys.argv = ["georsr", "info", {str(SCENE)!r}]
from georsr.cli.main import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=folder
    )
    message = "Error: the current folder does not exist any more; change to another one"
    assert (ended.returncode, ended.stderr.splitlines()) == (1, [message])


@pytest.mark.parametrize("length", [252, 255])
def test_outputs_of_the_longest_names_are_written(tmp_path, length, capsys):
    names = [str(tmp_path / (letter * (length - 4) + ".tif")) for letter in "oq"]
    item = str(tmp_path / ("s" * (length - 5) + ".json"))
    command = ["sr", str(SCENE), names[0], "--model", "nearest-x2", "--quality", names[1]]
    for _ in range(2):
        assert invoke([*command, "--stac", item, "--overwrite"]) == 0, capsys.readouterr().err
    written = {path.name for path in tmp_path.iterdir()}
    assert {Path(name).name for name in [*names, item]} <= written
    assert not [name for name in written if name.startswith(".")]


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", LONG],
        ["info", f"@{LONG}"],
        ["sr", str(SCENE), LONG],
        ["sr", LONG, "o.tif"],
        ["sr", str(SCENE), "o.tif", "--quality", LONG],
        ["sr", str(SCENE), "o.tif", "--stac", LONG],
        ["sr", str(SCENE), "o.vrt", "--parts", LONG],
        ["sr", str(SCENE), "o.tif", "--aoi", f"{LONG}.geojson"],
        ["sr", str(SCENE), "o.tif", "--model", f"{LONG}.safetensors"],
        ["eval", LONG, "--lr", str(SCENE)],
        ["quality", "seams", LONG],
        ["train", LONG],
        ["export", "segsr-lite-x2", LONG],
        ["sr", str(SCENE), "o.tif", "--stac", "o\udce4.json"],
        ["sr", str(SCENE), "o\udce4.tif"],
        ["sr", str(SCENE), "o.tif", "--quality", "o\udce4.tif"],
        ["sr", str(SCENE), "o.vrt", "--parts", "o\udce4"],
        ["sr", str(SCENE), "loop.tif"],
        ["sr", "loop.tif", "o.tif"],
        ["sr", str(SCENE), "o.tif", "--stac", "loop.tif"],
        ["sr", str(SCENE), "o.vrt", "--parts", "loop.tif"],
        ["sr", str(SCENE), "folder"],
        ["sr", str(SCENE), "o.tif", "--stac", "folder"],
        ["sr", str(SCENE), "o.tif", "--model", "folder"],
        ["info", "@folder"],
    ],
)
def test_names_that_cannot_be_end_in_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.tif").symlink_to("loop.tif")
    (tmp_path / "folder").mkdir()
    assert invoke([*arguments]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert "not foreseen" not in lines[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "loop.tif"]


def test_unforeseen_exception_is_one_line_with_a_hint(monkeypatch, capsys):
    def fail(*_args, **_options):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("georsr.io.open_sources", fail)
    assert invoke(["info", str(SCENE)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: not foreseen: ZeroDivisionError: division")
    assert "run it again with -vv for the traceback" in error
    assert "Traceback" not in error
