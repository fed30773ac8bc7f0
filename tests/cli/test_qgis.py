"""``georsr qgis``: into profiles, out of them, and into an archive."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from georsr.cli.main import invoke

from georsr.qgis.install import (
    PLUGIN,
    RECORD,
    Profile,
    data_folders,
    edit_ini,
    find_profiles,
    is_enabled,
    metadata,
    plugin_files,
    plugin_folder,
)
from georsr.reports import georsr_version


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without QGIS."""
    made = tmp_path / "höme"
    made.mkdir()
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return made


@pytest.fixture
def profile(home):
    """profile(name, version) -> a profile of that home."""

    def make(name="default", version="QGIS3"):
        folder = data_folders({"HOME": str(home)})[0].parent / version / "profiles" / name
        folder.mkdir(parents=True)
        return Profile(folder)

    return make


def test_qgis_install_and_uninstall_change_only_the_plugin(profile, capsys):
    chosen = profile()
    chosen.settings.parent.mkdir()
    before = "[General]\nname=Wiese\n\n[PythonPlugins]\nother=true\n"
    chosen.settings.write_text(before, encoding="utf-8")
    assert invoke(["qgis", "install"]) == 0
    assert "installed and switched on" in capsys.readouterr().err
    folder = chosen.plugins / PLUGIN
    for name in plugin_files():
        assert (folder / name).read_bytes() == (plugin_folder() / name).read_bytes()
    assert is_enabled(chosen, PLUGIN)
    command = json.loads((folder / RECORD).read_text())["command"]
    words = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert georsr_version() in words.stdout
    (folder / "old.py").touch()
    assert invoke(["qgis", "install"]) == 0
    assert not (folder / "old.py").exists()
    assert [path.name for path in chosen.plugins.iterdir()] == [PLUGIN]
    assert invoke(["qgis", "uninstall"]) == 0
    assert list(chosen.plugins.iterdir()) == []
    assert chosen.settings.read_text(encoding="utf-8") == before
    assert invoke(["qgis", "uninstall"]) == 0
    assert "was not installed" in capsys.readouterr().err


def test_qgis_install_reaches_every_default_profile_or_the_named_one(profile):
    old, new, other = profile(), profile(version="QGIS4"), profile("work")
    assert find_profiles() == [new, old, other]
    assert invoke(["qgis", "install"]) == 0
    assert [is_enabled(one, PLUGIN) for one in (old, new, other)] == [True, True, False]
    assert new.settings.name == "QGIS4.ini"
    assert invoke(["qgis", "install", "--profile", "work"]) == 0
    assert is_enabled(other, PLUGIN)


def test_qgis_install_profile_folder_is_used(tmp_path, home):
    folder = tmp_path / "portable profile"
    folder.mkdir()
    assert invoke(["qgis", "install", "--profile", str(folder)]) == 0
    assert (folder / "python" / "plugins" / PLUGIN / "metadata.txt").is_file()


def test_qgis_install_missing_profile_is_refused(profile, home, tmp_path, capsys):
    assert invoke(["qgis", "install"]) == 2
    assert "start QGIS once" in capsys.readouterr().err
    profile("work")
    assert invoke(["qgis", "install"]) == 2
    assert "choose one with --profile: work" in capsys.readouterr().err
    assert invoke(["qgis", "install", "--profile", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_qgis_install_unwritable_profile_is_one_line(profile, capsys):
    chosen = profile()
    (chosen.folder / "python").write_text("a file")
    assert invoke(["qgis", "install"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert "cannot be written" in error
    assert (chosen.folder / "python").read_text() == "a file"


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {"HOME": "/h"}, "/h/.local/share/QGIS/QGIS3"),
        ("linux", {"HOME": "/h"}, "/h/.var/app/org.qgis.qgis/data/QGIS/QGIS3"),
        ("linux", {"HOME": "/h", "XDG_DATA_HOME": "/d"}, "/d/QGIS/QGIS4"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Application Support/QGIS/QGIS3"),
        ("win32", {"APPDATA": "/a"}, "/a/QGIS/QGIS3"),
    ],
)
def test_data_folders_per_platform_are_known(platform, environ, expected):
    assert Path(expected) in data_folders(environ, platform)


def test_qgis_install_keeps_other_lines_of_settings():
    text = "[A]\r\nx=1\r\n\r\n[PythonPlugins]\r\nb=true\r\n\r\n[Z]\r\ng=true\r\n"
    on = edit_ini(text, "g", True)
    assert on == text.replace("[PythonPlugins]\r\n", "[PythonPlugins]\r\ng=true\r\n")
    assert edit_ini(on, "g", True) == on
    assert edit_ini(on, "g", False) == text
    assert edit_ini("[PythonPlugins]\ng=false\n", "g", True) == "[PythonPlugins]\ng=true\n"
    assert edit_ini("", "g", True) == "[PythonPlugins]\ng=true\n"
    assert edit_ini("[A]\nx=1", "g", False) == "[A]\nx=1"


def test_qgis_package_writes_a_reproducible_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert invoke(["qgis", "package"]) == 0
    assert "--email, --tracker, --repository" in capsys.readouterr().err
    first = tmp_path / f"georsr_processing-{georsr_version()}.zip"
    assert invoke(["qgis", "package", str(first)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    once = first.read_bytes()
    assert invoke(["qgis", "package", str(first), "--overwrite"]) == 0
    assert first.read_bytes() == once
    words = ["--email", "a@example.com", "--tracker", "https://t", "--repository", "https://r"]
    capsys.readouterr()
    assert invoke(["qgis", "package", "full.zip", *words]) == 0
    assert "Warning" not in capsys.readouterr().err
    with zipfile.ZipFile("full.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {PLUGIN}
        assert not [name for name in archive.namelist() if "__pycache__" in name]
        entries = metadata(archive.read(f"{PLUGIN}/metadata.txt").decode())
        assert f"{PLUGIN}/LICENSE" in archive.namelist()
    assert (entries["email"], entries["tracker"]) == ("a@example.com", "https://t")
    with zipfile.ZipFile("georsr-1-py3-none-any.whl", "w"):
        pass
    with_wheel = ["qgis", "package", "whole.zip", "--wheel"]
    assert invoke([*with_wheel, "georsr-1-py3-none-any.whl"]) == 0
    with zipfile.ZipFile("whole.zip") as archive:
        assert f"{PLUGIN}/georsr-1-py3-none-any.whl" in archive.namelist()
    (tmp_path / "other-1-py3-none-any.whl").write_bytes(once)
    (tmp_path / "georsr-2-py3-none-any.whl").write_bytes(b"no archive")
    for name in ("other-1-py3-none-any.whl", "georsr-2-py3-none-any.whl"):
        assert invoke([*with_wheel, name, "--overwrite"]) == 2
        assert "is not a wheel of georsr" in capsys.readouterr().err
    assert invoke(["qgis", "package", "x.tar"]) == 2
    assert invoke(["qgis", "package", "none/x.zip"]) == 1


def test_plugin_metadata_has_the_required_entries():
    entries = metadata((plugin_folder() / "metadata.txt").read_text(encoding="utf-8"))
    assert entries["version"] == georsr_version()
    assert entries["qgisMinimumVersion"] == "3.22"
    assert entries["qgisMaximumVersion"] == "4.99"
    assert entries["hasProcessingProvider"] == "yes"
    assert "pip install ." in entries["about"]
    assert (plugin_folder() / entries["icon"]).is_file()


def test_qgis_install_imports_no_heavy_package():
    code = (
        "import sys\nfrom georsr.cli.main import invoke\n"
        "assert invoke(['qgis', 'install', '--profile', '/gone/x']) == 2\n"
        "heavy = [m for m in ('torch', 'rasterio', 'numpy', 'qgis') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=os.sep)
