"""Finding georsr, and telling an unfit one."""

import json
import os
import sys

import pytest
from georsr.qgis.georsr_processing.georsr_executable import (
    RECORD,
    VARIABLE,
    ExecutableError,
    check_version,
    find_georsr,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="makes shell scripts")


@pytest.fixture
def program(tmp_path):
    """program(text, name) -> executable shell script."""

    def make(text='echo "georsr, version 0.1.0"', name="georsr"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without georsr."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("HOME", str(empty))
    return {"PATH": str(empty)}, empty


def test_setting_then_variable_then_record_then_path(program, nowhere, tmp_path):
    environ, folder = nowhere
    with pytest.raises(ExecutableError, match=r"pip install georsr.*georsr qgis install"):
        find_georsr("", environ, folder)
    on_path = program(name="bin/georsr")
    environ["PATH"] = str(on_path.parent)
    assert find_georsr("", environ, folder).command == (str(on_path),)
    recorded = program(name="recorded")
    (folder / RECORD).write_text(json.dumps({"command": [str(recorded), "-m", "x"]}))
    assert find_georsr("", environ, folder).command == (str(recorded), "-m", "x")
    environ[VARIABLE] = str(program(name="variable"))
    assert find_georsr("", environ, folder).command == (str(tmp_path / "variable"),)
    chosen = str(program(name="ü chosen"))
    assert find_georsr(chosen, environ, folder).command == (chosen,)


def test_desktops_have_a_short_path(program, nowhere, tmp_path):
    environ, folder = nowhere
    here = program(name="empty/.local/bin/georsr")
    assert find_georsr("", environ, folder).command == (str(here),)


def test_the_folder_of_an_environment_will_do(program, nowhere, tmp_path):
    environ, folder = nowhere
    inside = program(name="venv/bin/georsr")
    assert find_georsr(str(tmp_path / "venv"), environ, folder).command == (str(inside),)
    with pytest.raises(ExecutableError, match=r"no georsr in .*empty, which setting Settings >"):
        find_georsr(str(folder), environ, folder)


def test_a_name_that_is_not_there_is_not_passed_over(program, nowhere):
    environ, folder = nowhere
    program(name="bin/georsr")
    environ[VARIABLE] = "/gone/georsr"
    with pytest.raises(ExecutableError, match="no file /gone/georsr, which GEORSR_EXECUTABLE"):
        find_georsr("", environ, folder)


@pytest.mark.parametrize("record", ["", "[]", '{"command": []}', '{"command": ["/gone"]}'])
def test_a_record_that_is_of_no_use_is_passed_over(record, nowhere):
    environ, folder = nowhere
    (folder / RECORD).write_text(record)
    with pytest.raises(ExecutableError, match="was not found"):
        find_georsr("", environ, folder)


def version_of(path):
    return check_version(find_georsr(str(path)))


def test_versions(program):
    assert version_of(program()) == "0.1.0"
    assert version_of(program('echo "georsr, version 2.0.0rc1"')) == "2.0.0rc1"
    with pytest.raises(
        ExecutableError, match=r"is georsr 0\.0\.9, but .* 0\.1\.0 or newer.*upgrade"
    ):
        version_of(program('echo "georsr, version 0.0.9"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo Traceback >&2; echo 'ImportError: no torch' >&2; exit 1", "ImportError: no torch"),
        ("echo hello", "does not answer as georsr does: hello"),
        ("exit 3", "exit code 3"),
    ],
)
def test_broken_ones_say_why_and_what_to_do(program, text, message):
    with pytest.raises(ExecutableError, match=message) as caught:
        version_of(program(text))
    assert "doctor' in a terminal" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_program_cannot_be_run(tmp_path):
    (tmp_path / "georsr").write_text("text")
    with pytest.raises(ExecutableError, match="cannot be run: Permission denied"):
        version_of(tmp_path / "georsr")


def test_it_runs_without_qgis_environment(program, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    script = program(f"exec '{sys.executable}' -c \"print('georsr, version 0.1.0')\"")
    assert version_of(script) == "0.1.0"
