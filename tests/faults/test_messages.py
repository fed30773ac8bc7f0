"""What reaches the terminal: one line, whatever went wrong and wherever it goes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from georsr.cli.main import invoke

from georsr.errors import escape_control_characters

FOREIGN = "\x1b[31mred\x1b]0;title\x07\nError: forged\r\u202eevil\udcff"


def georsr(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", "from georsr.cli.main import main; main()", *map(str, arguments)],
        timeout=120, check=False, **{"capture_output": True} | options,
    )  # fmt: skip


def test_escape_control_characters_returns_printable_text():
    shown = escape_control_characters(FOREIGN)
    assert shown.isprintable()
    assert "\\x1b[31mred" in shown
    assert (
        escape_control_characters("Überlingen 日本\u3000\u00a0x") == "Überlingen 日本\u3000\u00a0x"
    )


@pytest.mark.parametrize("command", ["info", "sr"])
def test_message_with_control_characters_in_a_name_is_escaped(command, tmp_path, capsys):
    source = str(tmp_path / FOREIGN.replace("/", ""))
    assert invoke([command, source, *(["o.tif"] if command == "sr" else [])]) in (1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err[:-1].isprintable()


def test_info_with_control_characters_in_a_tag_is_escaped(make_raster, texture, capsys):
    def describe(dataset):
        dataset.set_band_description(1, "band\x1b[2J\nError: forged")

    source = make_raster(texture(1, 20, 20), after=describe)
    assert invoke(["info", source]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert not any(line.startswith("Error") for line in said.splitlines())


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")
@pytest.mark.filterwarnings("ignore::georsr.errors.GeorsrWarning")
@pytest.mark.parametrize("command", ["info", "dry-run", "sr", "batch", "eval"])
def test_command_on_a_file_with_a_hostile_name_prints_no_forged_line(
    command, make_raster, texture, tmp_path, capsys
):
    folder = tmp_path / "in"
    folder.mkdir()
    name = "a\x1b[2J\nError: forged\r\u202e.tif"
    source = str(Path(make_raster(texture(3, 150, 150))).rename(folder / name))
    arguments = {
        "info": ["info", source],
        "dry-run": ["sr", source, str(tmp_path / "o.tif"), "--dry-run", "-m", "bicubic"],
        "sr": ["sr", source, str(tmp_path / name), "-m", "bicubic"],
        "batch": ["sr", str(folder), "--out-dir", str(tmp_path), "-m", "bicubic"],
        "eval": ["eval", source, source],
    }[command]
    assert invoke(arguments) == 0
    said = capsys.readouterr()
    for line in (said.out + said.err).split("\n"):
        assert line.isprintable()
        assert not line.startswith("Error")


@pytest.mark.parametrize(
    "error",
    [KeyError("total"), TypeError("a\nb"), RecursionError(), MemoryError(), OSError(5, "x")],
)
def test_command_unexpected_error_is_one_line(
    error, make_raster, texture, tmp_path, capsys, monkeypatch
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("georsr.api.super_resolve", fail)
    command = ["sr", make_raster(texture(1, 20, 20)), str(tmp_path / "o.tif")]
    assert invoke(command) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert type(error).__name__ in said
    assert "-vv" in said
    assert invoke([*command, "-vv"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
@pytest.mark.parametrize("progress", ["bar", "json", "none"])
def test_sr_full_stderr_completes(progress, make_raster, texture, tmp_path):
    source, out = make_raster(texture(1, 40, 40)), tmp_path / "o.tif"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = ("sr", source, out, "-m", "bicubic", "-v", "--progress", progress)
        done = georsr(*command, capture_output=False, stdout=subprocess.PIPE, stderr=full)
        assert done.returncode == 0
        assert out.exists()
        assert georsr(*command, capture_output=False, stderr=full).returncode == 2  # it exists


@pytest.mark.skipif(os.name == "nt", reason="POSIX descriptors")
@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_sr_closed_streams_completes(closed, make_raster, texture, tmp_path):
    source = make_raster(texture(1, 40, 40))
    code = "from georsr.cli.main import main; main()"
    for name, ends in (("open.tif", ""), ("closed.tif", closed)):
        line = f'exec "$0" -c "{code}" sr "$1" "$2" -m bicubic -v --progress bar {ends}'
        done = subprocess.run(
            ["sh", "-c", line, sys.executable, source, str(tmp_path / name)],
            timeout=120, check=False, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0
    assert (tmp_path / "open.tif").read_bytes() == (tmp_path / "closed.tif").read_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_info_full_stdout_is_one_line(make_raster, texture):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = georsr(
            "info", make_raster(texture(1, 40, 40)), capture_output=False, stdout=full,
            stderr=subprocess.PIPE,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr
