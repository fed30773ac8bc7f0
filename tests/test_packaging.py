"""Wheel, source distribution, container and conda recipe."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
NOT_COPIED = {".git", ".venv", "build", "dist", "demo", "runs", "site"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A source distribution of this tree, and the wheel that is built from it."""
    pytest.importorskip("setuptools", minversion="69")
    folder = tmp_path_factory.mktemp("built")

    def unwanted(where, names):
        return {n for n in names if n in NOT_COPIED or n.endswith((".egg-info", "__pycache__"))}

    shutil.copytree(REPOSITORY, folder / "tree", ignore=unwanted)
    call("import setuptools.build_meta as b; b.build_sdist('..')", folder / "tree")
    source = next(folder.glob("*.tar.gz"))
    with tarfile.open(source) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    inner = next((folder / "unpacked").iterdir())
    call(f"import setuptools.build_meta as b; b.build_wheel({str(folder)!r})", inner)
    return source, next(folder.glob("*.whl"))


def call(code, where):
    done = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """run(*arguments) of the georsr that the wheel brings, in an environment without this tree.

    The packages it needs are seen from this environment, not fetched again.
    """
    folder = tmp_path_factory.mktemp("installed") / "clean env"
    venv.create(folder, with_pip=False, symlinks=os.name == "posix")
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(built[1])], check=True)
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    packages = [path for path in sys.path if path.endswith("-packages")]
    (Path(site) / "borrowed.pth").write_text("\n".join(packages) + "\n", encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*arguments, program="georsr"):
        return subprocess.run(
            [scripts / program, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def test_wheel_has_the_files_of_the_package_only(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
    roots = {name.split("/")[0] for name in names}
    assert {root.split("-")[0] for root in roots} == {"georsr"}
    tree = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("georsr", "cli", "qgis")
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    moved = {"cli/": "georsr/cli/", "qgis/": "georsr/qgis/"}
    expected = {re.sub(r"^(cli|qgis)/", lambda match: moved[match[0]], name) for name in tree}
    assert sorted(expected - names) == []


def test_sdist_has_tests_and_sample_data(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"tests/conftest.py", "sample_data/town_rgb_2m.tif", "CHANGES.md", "Makefile"}
    wanted |= {"qgis/georsr_processing/metadata.txt", "recipe/recipe.yaml", "Dockerfile"}
    wanted |= {"Dockerfile.light", "requirements/light.txt"}
    assert wanted <= names
    assert not [name for name in names if name.startswith((".venv", "demo/", "runs/"))]


def test_wheel_installed_runs_sr(installed, tmp_path):
    done = installed("--version")
    assert done.returncode == 0, done.stderr
    assert PROJECT["project"]["version"] in done.stdout
    out = tmp_path / "o.tif"
    source = REPOSITORY / "sample_data" / "town_rgb_2m.tif"
    done = installed("sr", str(source), str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "segsr-lite-x4-sensor"
    code = "import georsr; print(georsr.__file__)"
    where = installed("-c", code, program="python").stdout.strip()
    assert not Path(where).is_relative_to(REPOSITORY)


def test_wheel_installed_packages_the_plugin(installed, tmp_path):
    archive = tmp_path / "plugin.zip"
    done = installed("qgis", "package", str(archive))
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(archive) as plugin:
        names = set(plugin.namelist())
    here = REPOSITORY / "qgis" / "georsr_processing"
    expected = {
        f"georsr_processing/{path.relative_to(here).as_posix()}"
        for path in here.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_lists_options(shell, monkeypatch, capsys):
    from click.shell_completion import get_completion_class
    from georsr.cli.main import cli, invoke

    monkeypatch.setenv("_GEORSR_COMPLETE", f"{shell}_source")
    with pytest.raises(SystemExit):
        invoke([])
    assert "_GEORSR_COMPLETE" in capsys.readouterr().out
    complete = get_completion_class(shell)(cli, {}, "georsr", "_GEORSR_COMPLETE")

    def offered(words, begun):
        return {item.value for item in complete.get_completions(words, begun)}

    assert offered([], "q") == {"quality", "qgis"}
    assert offered(["qgis"], "") == {"install", "uninstall", "package"}
    assert "--overwrite" in offered(["sr"], "--over")
    assert offered(["sr", "--precision"], "b") == {"bf16"}


INSTRUCTION = re.compile(r"^([A-Z]+) (.+)$")


@pytest.fixture(params=["Dockerfile", "Dockerfile.light"])
def instructions(request):
    """A Dockerfile as (instruction, argument)."""
    text = (REPOSITORY / request.param).read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [re.sub(r"\s+", " ", line) for line in text.splitlines() if line.strip()]
    found = [INSTRUCTION.match(line) for line in lines]
    assert all(found)
    return [(match[1], match[2]) for match in found]


def test_dockerfile_follows_the_rules(instructions):
    """What hadolint would ask for, and what this image must be."""
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions} <= known
    by_name = {name: [a for n, a in instructions if n == name] for name in known}
    (image,) = by_name["FROM"]
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.04|python:3\.\d+-slim", image)
    for command in by_name["RUN"]:
        if "apt-get install" in command:
            assert "--no-install-recommends" in command
            assert "apt-get update &&" in command
            assert "rm -rf /var/lib/apt/lists/*" in command
        assert "sudo" not in command
        if "pip install" in command:
            assert "--no-cache-dir" in command
    assert all(where.startswith("/") for where in by_name["WORKDIR"])
    assert by_name["USER"][-1] not in ("root", "0")
    assert json.loads(by_name["ENTRYPOINT"][-1]) == ["georsr"]
    assert isinstance(json.loads(by_name["CMD"][-1]), list)


def test_dockerfile_copies_what_the_build_needs(instructions):
    copied = [word for name, words in instructions if name == "COPY" for word in words.split()[:-1]]
    assert all((REPOSITORY / path).exists() for path in copied)
    mapped = PROJECT["tool"]["setuptools"]["package-dir"].values()
    needed = {path.split("/")[0] for path in mapped} | {"pyproject.toml", "README.md", "LICENSE"}
    assert needed <= set(copied)
    passed = (REPOSITORY / ".dockerignore").read_text().split()
    assert {f"!{path}" for path in copied} <= set(passed)


def test_conda_recipe_equals_pyproject():
    recipe = yaml.safe_load((REPOSITORY / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))
    project = PROJECT["project"]
    assert recipe["context"]["version"] == project["version"]
    assert recipe["about"]["license"] == project["license"]
    assert recipe["about"]["summary"] == project["description"]
    light, full = recipe["outputs"]
    (script,) = light["build"]["python"]["entry_points"]
    assert script == f"georsr = {project['scripts']['georsr']}"
    names = {
        "pytorch": "torch",
        "dask-core": "dask",
        "open-clip-torch": "open_clip_torch",
        "python-isal": "isal",
    }
    run = dict(line.split(" ", 1) for line in light["requirements"]["run"])
    assert run.pop("python") == project["requires-python"]
    assert run.pop("distributed") == run["dask-core"]
    stated = _oldest(project["dependencies"])
    in_file = (REPOSITORY / "requirements" / "light.txt").read_text().splitlines()
    in_light = _oldest(line for line in in_file if not line.startswith("#"))
    assert {names.get(name, name): oldest for name, oldest in run.items()} == in_light
    (same, *added) = full["requirements"]["run"]
    assert same == "${{ name }}-light ==${{ version }}"
    torch_and_hub = dict(line.split(" ", 1) for line in added)
    both = in_light | {names.get(name, name): oldest for name, oldest in torch_and_hub.items()}
    both.pop("onnxruntime")
    assert both == stated


def _oldest(requirements):
    """Package -> the versions of it that requirements allow."""
    allowed = {}
    for line in requirements:
        name, sign, oldest = line.partition(";")[0].partition(">=")
        allowed[name.split("[")[0]] = sign + oldest
    return allowed
