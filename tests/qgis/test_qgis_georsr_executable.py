"""Finding georsr, and telling an unfit one."""

import json
import os
import sys
from pathlib import Path

import pytest
from georsr.qgis.georsr_processing.georsr_executable import (
    LIGHT,
    RECORD,
    VARIABLE,
    ExecutableError,
    check_version,
    find_georsr,
    find_python,
    installation_steps,
    own_environment,
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


def test_find_georsr_prefers_setting_variable_record_path(program, nowhere, tmp_path):
    environ, folder = nowhere
    with pytest.raises(ExecutableError, match=r"pip install \..*georsr qgis install"):
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


def test_find_georsr_looks_into_local_bin(program, nowhere, tmp_path):
    environ, folder = nowhere
    here = program(name="empty/.local/bin/georsr")
    assert find_georsr("", environ, folder).command == (str(here),)


def test_find_georsr_accepts_an_environment_folder(program, nowhere, tmp_path):
    environ, folder = nowhere
    inside = program(name="venv/bin/georsr")
    assert find_georsr(str(tmp_path / "venv"), environ, folder).command == (str(inside),)
    with pytest.raises(ExecutableError, match=r"no georsr in .*empty, which setting Settings >"):
        find_georsr(str(folder), environ, folder)


def test_find_georsr_missing_named_file_is_an_error(program, nowhere):
    environ, folder = nowhere
    program(name="bin/georsr")
    environ[VARIABLE] = "/gone/georsr"
    with pytest.raises(ExecutableError, match="no file /gone/georsr, which GEORSR_EXECUTABLE"):
        find_georsr("", environ, folder)


@pytest.mark.parametrize("record", ["", "[]", '{"command": []}', '{"command": ["/gone"]}'])
def test_find_georsr_useless_record_is_ignored(record, nowhere):
    environ, folder = nowhere
    (folder / RECORD).write_text(record)
    with pytest.raises(ExecutableError, match="was not found"):
        find_georsr("", environ, folder)


def version_of(path):
    return check_version(find_georsr(str(path)))


def test_version_of_reads_and_checks_the_version(program):
    assert version_of(program()) == "0.1.0"
    assert version_of(program('echo "georsr, version 2.0.0rc1"')) == "2.0.0rc1"
    with pytest.raises(
        ExecutableError, match=r"is georsr 0\.0\.9, but .* 0\.1\.0 or newer: run .*newer copy"
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
def test_version_of_a_broken_installation_names_cause_and_remedy(program, text, message):
    with pytest.raises(ExecutableError, match=message) as caught:
        version_of(program(text))
    assert "doctor' in a terminal" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_version_of_a_text_file_raises(tmp_path):
    (tmp_path / "georsr").write_text("text")
    with pytest.raises(ExecutableError, match="cannot be run: Permission denied"):
        version_of(tmp_path / "georsr")


def test_version_of_ignores_python_variables_of_qgis(program, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    script = program(f"exec '{sys.executable}' -c \"print('georsr, version 0.1.0')\"")
    assert version_of(script) == "0.1.0"


def test_installation_steps_install_the_light_set_into_the_profile(tmp_path):
    plugin = tmp_path / "profile" / "python" / "plugins" / "georsr_processing"
    environment = own_environment(plugin)
    assert environment == tmp_path / "profile" / "georsr-environment"
    steps = installation_steps(environment, "/source of/georsr", sys.executable, windows=False)
    commands = [command for _, command in steps]
    assert commands[0] == [sys.executable, "-I", "-m", "venv", "--clear", str(environment)]
    assert {command[0] for command in commands[1:]} == {str(environment / "bin" / "python")}
    assert commands[2][-2:] == ["--no-deps", "/source of/georsr"]
    repository = Path(__file__).resolve().parents[2]
    listed = (repository / "requirements" / "light.txt").read_text().splitlines()
    assert list(LIGHT) == [line for line in listed if not line.startswith("#")]


def test_find_georsr_finds_what_the_plugin_installed(program, nowhere, tmp_path):
    environ, _ = nowhere
    own = program(name="profile/georsr-environment/bin/georsr")
    plugin = tmp_path / "profile" / "python" / "plugins" / "georsr_processing"
    assert find_georsr("", environ, plugin).command == (str(own),)


def test_find_python_of_an_old_qgis_says_what_is_needed():
    with pytest.raises(ExecutableError, match=r"is 3\.9, georsr needs 3\.11 or newer"):
        find_python((3, 9, 18))
