"""The light set of packages in a fresh environment: every command runs, or says what it needs.

It is installed from a package index; set GEORSR_TEST_INSTALL=1 to run this.
"""

import os
import subprocess
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SCENE = REPOSITORY / "sample_data" / "town_rgb_2m.tif"
FIELDS = REPOSITORY / "sample_data" / "fields_4band_10m.tif"
BOX = "502380,5296160,503200,5296900"
TRUTH = REPOSITORY / "sample_data" / "town_rgb_0.5m.tif"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("GEORSR_TEST_INSTALL"), reason="set GEORSR_TEST_INSTALL=1"
    ),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(program, *arguments) in a folder, with the programs of the light set."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder / "env", with_pip=True)
    scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    pip = [scripts / "python", "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "-r", REPOSITORY / "requirements" / "light.txt"], check=True)
    subprocess.run([*pip, "--no-deps", REPOSITORY], check=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def call(program, *arguments):
        return subprocess.run(
            [scripts / program, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    return call


def test_light_set_has_no_torch_and_runs_every_command(run):
    assert run("python", "-c", "import torch").returncode != 0
    for line in (
        ["georsr", "doctor"],
        ["georsr", "models", "list"],
        ["georsr", "info", SCENE],
        ["georsr", "info", "segsr-lite-x4"],
        ["georsr", "sr", SCENE, "out.tif", "--quality", "layers.tif"],
        ["georsr", "sr", SCENE, "fast.tif", "--fast"],
        ["georsr", "sr", FIELDS, "part.tif", "--bidx", "3,2,1", "--bands", "all", "--bbox", BOX],
        ["georsr", "sr", SCENE, "dry.tif", "--dry-run"],
        ["georsr", "sr", SCENE, "two.tif", "--workers", "2", "-m", "segsr-lite-x2"],
        ["georsr", "sr", SCENE, "parts.vrt", "--parts", "parts", "-m", "bicubic-x2"],
        ["georsr", "sr", SCENE, TRUTH, "--out-dir", "many", "-m", "bicubic-x2"],
        ["georsr", "preview", SCENE, "--out", "part"],
        ["georsr", "quality", "layers", SCENE, "out.tif", "again.tif"],
        ["georsr", "quality", "report", SCENE, "out.tif", "--json"],
        ["georsr", "quality", "seams", TRUTH, "--tile", "96"],
        ["georsr", "eval", "out.tif", TRUTH, "--lr", SCENE],
        ["georsr", "qgis", "package", "plugin.zip"],
        ["rio", "superres", SCENE, "rio.tif"],
        ["python", "-c", "import georsr.xarray"],
    ):
        done = run(*line)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    for line in (
        ["georsr", "export", "bicubic-x2", "x.onnx"],
        ["georsr", "eval", "--pairs", REPOSITORY],
        ["georsr", "train", "recipe.yaml", "--out", "run"],
        ["georsr", "sr", SCENE, "no.tif", "--device", "cuda"],
    ):
        done = run(*line)
        assert done.returncode == 2, f"{line}: {done.stdout}{done.stderr}"
        assert "pip install" in done.stderr
        assert "Traceback" not in done.stderr
