"""Every command and every piece of Python that README and the manual show, run as shown."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import click
import pytest
from georsr.cli.main import cli, invoke

from .manual import REPOSITORY, blocks, pages

ELSEWHERE = {
    "--scheduler": "needs a running scheduler",
    "--devices": "needs several GPUs",
    "--nodes": "needs several machines",
    "cuda": "needs a GPU",
    "https://": "needs the network",
    "s3://": "needs the network",
    "/vsi": "needs files on other machines",
    "hf://": "needs the network",
    "SeG-SR_x4": "needs the published checkpoint, which is not ours to give",
    "ViT-B-16": "needs CLIP's weights",
    "segsr-ucmerced-x4": "trains for days",
    "segsr-aid-x4": "trains for days",
    "MODEL.safetensors": "needs weights that are told how a scene was recorded",
    "cube.zarr": "needs a file of Zarr",
    "DIM_PHR1A": "needs a file of DIMAP",
    "landsat.vrt": "is made by GDAL's programs",
    "mosaic.vrt": "stands for a mosaic of any size",
    "georsr view": "serves until Ctrl-C",
    "qgis install": "writes into the reader's QGIS profile",
    "qgis uninstall": "writes into the reader's QGIS profile",
}
"""What marks a georsr command that cannot run here: only its options are checked."""

OTHER_PROGRAMS = {
    "apt-get",
    "bat",
    "cd",
    "conda",
    "conda-build",
    "dask",
    "docker",
    "gdal_edit.py",
    "gdal_translate",
    "gdalbuildvrt",
    "git",
    "helm",
    "kubectl",
    "eval",
    "export",
    "mkdocs",
    "openssl",
    "python3",
    "qgis",
    "qgis_process",
    "rio",
    "sbatch",
    "srun",
    "torchrun",
}
"""Programs of others whose commands are shown but not run by this test."""

SHORT_TRAINING = ["--steps", "2", "--device", "cpu", "-j", "1", "-q"]


def georsr_words(words):
    """The arguments if this is a georsr command, in whatever way it is called."""
    return words[1:] if Path(words[0]).name == "georsr" else None


def check_options(arguments):
    """Parse a command line without running it."""
    command, names = cli, list(arguments)
    context = click.Context(cli, info_name="georsr")
    while isinstance(command, click.Group) and names and not names[0].startswith("-"):
        name = names.pop(0)
        child = command.get_command(context, name)
        assert child is not None, f"no such command: {name}"
        command = child
        context = click.Context(command, info_name=name, parent=context)
    if not isinstance(command, click.Group):
        command.make_context(context.info_name, names, parent=context.parent)


def shortened(arguments):
    """A training command of two steps, from scratch unless it resumes."""
    if "--out" not in arguments:
        arguments = [*arguments, "--out", "runs/unnamed"]
    if "--resume" not in arguments:
        shutil.rmtree(arguments[arguments.index("--out") + 1], ignore_errors=True)
    return arguments + SHORT_TRAINING


def run(arguments):
    """Run a georsr command line in this process; what it would write may be there already."""
    if arguments[0] == "train":
        arguments = shortened(arguments)
    if "--overwrite" not in arguments and "--resume" not in arguments:
        try:
            check_options([*arguments, "--overwrite"])
            arguments = [*arguments, "--overwrite"]
        except click.NoSuchOption:
            pass
    code = invoke(arguments)
    assert code == 0, f"georsr {shlex.join(arguments)}: exit code {code}"


def check_pip(words):
    """Extras that pip is asked for exist."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for word in words:
        for extra in re.findall(r"^(?:\.|georsr)\[(.*)\]$", word):
            assert set(extra.split(",")) <= set(project["optional-dependencies"]), word


def check_script(words):
    """A benchmark or script exists and knows the options it is given."""
    script = REPOSITORY / words[1]
    assert script.is_file(), words[1]
    text = script.read_text(encoding="utf-8")
    for option in (w for w in words[2:] if w.startswith("--")):
        assert f'"{option}"' in text, f"{words[1]} has no {option}"


@pytest.mark.filterwarnings("ignore::georsr.GeoreferenceWarning")  # pictures of a drone
@pytest.mark.parametrize("page", pages())
def test_page_commands_run(page, desk):
    for block in blocks(page, "sh"):
        for words, text in block.commands():
            arguments = georsr_words(words)
            if arguments is not None:
                check_options(arguments)
                if not any(mark in text for mark in ELSEWHERE):
                    run(arguments)
            elif words[0].endswith("pip") or words[:3] == ["python", "-m", "pip"]:
                check_pip(words)
            elif words[0] == "make":
                assert f"\n{words[1]}:" in (REPOSITORY / "Makefile").read_text(), text
            elif words[:3] == ["python", "-m", "pytest"]:
                assert (REPOSITORY / words[3]).is_file(), text
            elif words[0] == "python":
                check_script(words)
            else:
                assert words[0] in OTHER_PROGRAMS, f"{page}, block at line {block.line}: {text}"


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray
@pytest.mark.parametrize("page", pages())
def test_page_python_blocks_run(page, desk):
    names = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        code = compile(block.text, f"{page}:{block.line}", "exec")
        exec(code, names)
