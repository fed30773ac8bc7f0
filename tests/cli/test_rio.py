"""``rio superres``: found by rasterio, the same options, messages and exit codes."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from georsr.cli.rio import command, export_rio_credentials
from georsr.cli.sr import command as sr
from rasterio.rio.main import main_group

BICUBIC = ["--model", "bicubic-x2"]


@pytest.fixture
def scene(make_raster, texture):
    return make_raster(texture(3, 40, 50))


@pytest.fixture
def rio():
    """The program; the same interpreter's, or a way to start it."""
    program = Path(sys.executable).with_name("rio")
    if not program.exists():
        program = Path(shutil.which("rio") or pytest.skip("there is no program rio"))

    def run(*arguments):
        return subprocess.run([program, *arguments], capture_output=True, text=True)

    return run


def test_rio_superres_is_a_registered_plugin():
    assert "superres" in {point.name for point in entry_points(group="rasterio.rio_plugins")}
    assert main_group.commands["superres"].params == sr.params


def test_rio_superres_writes_the_output_of_sr(scene, tmp_path, rio):
    out = tmp_path / "o.tif"
    done = rio("superres", scene, str(out), *BICUBIC, "--co", "compress=ZSTD")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "100 x 80 pixels" in done.stderr
    with rasterio.open(out) as dataset:
        assert dataset.compression.name == "zstd"
    again = tmp_path / "again.tif"
    from georsr.cli.main import invoke

    assert invoke(["sr", scene, str(again), *BICUBIC, "--co", "compress=ZSTD", "-q"]) == 0
    with rasterio.open(out) as a, rasterio.open(again) as b:
        assert np.array_equal(a.read(), b.read())


def test_rio_superres_error_is_one_line_with_exit_code(scene, tmp_path, rio):
    gone = rio("superres", "gone.tif", str(tmp_path / "o.tif"))
    assert gone.returncode == 2
    assert "Error: gone.tif: no such file" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_rio_superres_sensor_is_used_or_refused_in_one_line(scene, tmp_path, rio):
    out, model = tmp_path / "o.tif", ["-m", "segsr-lite-x2-sensor"]
    refused = rio("superres", scene, str(out), *model, "--sensor", "noise=9")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "sensor 'noise=9': expected one or more of" in refused.stderr
    done = rio("superres", scene, str(out), *model, "--sensor", "mtf=0.2,noise=0.01")
    assert done.returncode == 0, done.stderr
    with rasterio.open(out) as dataset:
        assert "mtf=0.200,noise=0.0100" in dataset.tags()["GEORSR_SENSOR"]


def test_rio_superres_help_names_rio():
    output = CliRunner().invoke(main_group, ["superres", "--help"]).output
    assert "rio superres scene.tif out.tif" in output
    assert "georsr sr " not in output
    assert command.short_help == sr.short_help


def test_rio_aws_options_are_exported_to_the_environment(monkeypatch):
    monkeypatch.delenv("AWS_NO_SIGN_REQUEST", raising=False)

    class Session:
        def get_credential_options(self):
            return {"AWS_NO_SIGN_REQUEST": "YES"}

    class Env:
        session = Session()

    export_rio_credentials({"env": Env()})
    assert os.environ["AWS_NO_SIGN_REQUEST"] == "YES"
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "NO")
    export_rio_credentials({"env": Env()})
    assert os.environ["AWS_NO_SIGN_REQUEST"] == "NO"
    export_rio_credentials({})


@pytest.mark.parametrize("arguments", [[], ["scene.tif"]])
def test_missing_output_names_the_command_that_was_called(arguments, capsys):
    from georsr.cli.main import invoke

    code = "from rasterio.rio.main import main_group; main_group(prog_name='rio')"
    words = [sys.executable, "-c", code, "superres", *arguments]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (said.returncode, "expected: rio superres" in said.stderr) == (2, True)
    assert invoke(["sr", *arguments]) == 2
    assert "expected: georsr sr" in capsys.readouterr().err
