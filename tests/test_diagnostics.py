"""``georsr doctor``: what it finds, and the remedy it names."""

import json
import os
from pathlib import Path

import pytest
from georsr.cli.main import invoke

from georsr import diagnostics
from georsr.diagnostics import Check, Diagnostics, Status, run_checks
from georsr.errors import ModelError
from georsr.qgis.install import PLUGIN, RECORD, Profile, install, set_plugin_enabled


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_a_sound_installation(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in diagnostics.MISLEADING:
        monkeypatch.delenv(name, raising=False)
    assert invoke(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["works"] is True
    names = {finding["name"] for finding in told["findings"]}
    wanted = ["georsr", "Python", "torch", "rasterio", "GDAL", "formats", "device", "models"]
    assert {*wanted, "PROJ database", "CLIP weights", "QGIS", "trial run"} <= names
    assert list(tmp_path.iterdir()) == []


def test_the_exit_code_says_whether_sr_works(monkeypatch, capsys):
    bad = Diagnostics((Check("x", Status.PROBLEM, "broken", "mend it"),))
    monkeypatch.setattr("georsr.diagnostics.run_checks", lambda: bad)
    assert invoke(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "x x  broken" in told
    assert "-> mend it" in told
    assert "georsr cannot work: 1 marked x" in told
    worth_a_look = Diagnostics(
        (Check("x", Status.WARNING, "slow"), Check("y", Status.NOTE, "none"))
    )
    monkeypatch.setattr("georsr.diagnostics.run_checks", lambda: worth_a_look)
    assert invoke(["doctor", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_a_part_that_fails_is_a_finding(monkeypatch):
    def fail():
        raise ImportError("libcuda.so.1: cannot open shared object file")

    def refuse():
        raise ModelError("weights: damaged")
        yield

    monkeypatch.setitem(diagnostics.CHECKS, "devices", fail)
    monkeypatch.setitem(diagnostics.CHECKS, "weights", refuse)
    report = run_checks(["devices", "weights"])
    assert not report.works
    assert "ImportError: libcuda.so.1" in report.findings[0].text
    assert "reinstall" in report.findings[0].remedy
    assert report.findings[1].text == "weights: damaged"


def test_packages_that_are_missing_or_old(monkeypatch):
    monkeypatch.setattr(diagnostics, "CORE", ("no-such-package", "torch", "click"))
    monkeypatch.setattr(diagnostics, "SPARE", {"no-such-helper": "slow", "numpy": "slower"})
    monkeypatch.setattr(diagnostics, "oldest_versions", lambda: {"torch": (99, 1)})
    found = by_name(diagnostics.check_packages())
    assert found["no-such-helper"].state is Status.NOTE
    assert found["no-such-helper"].text == "not installed: slow"
    assert found["numpy"].state is Status.OK
    assert found["no-such-package"].state is Status.PROBLEM
    assert found["no-such-package"].remedy == "pip install no-such-package"
    assert "but 99.1 or newer is needed" in found["torch"].text
    assert found["torch"].remedy == "pip install --upgrade 'torch>=99.1'"
    assert found["click"].state is Status.OK


def test_the_oldest_versions_are_those_of_the_project():
    oldest = diagnostics.oldest_versions()
    assert oldest["torch"] >= (2, 6)
    assert "lightning" not in oldest
    assert diagnostics.numbers("2.6.0+cpu") == (2, 6, 0)


def test_formats_that_gdal_lacks():
    found = list(diagnostics._drivers({"GTiff", "MEM", "VRT"}))
    assert found[0].state is Status.PROBLEM
    assert "GDAL lacks COG" in found[0].text
    notes = [finding.text for finding in found if finding.state is Status.NOTE]
    assert any("JPEG 2000" in text for text in notes)


def test_another_programs_proj(tmp_path, monkeypatch):
    assert diagnostics.database({}).state is Status.OK
    mild = diagnostics.database({"PROJ_LIB": "/elsewhere"})
    assert (mild.state, "PROJ_LIB=/elsewhere" in mild.text) == (Status.WARNING, True)
    from rasterio.errors import CRSError

    def fail(*arguments):
        raise CRSError("The EPSG code is unknown")

    monkeypatch.setattr("rasterio.warp.transform", fail)
    broken = diagnostics.database({"PROJ_LIB": "/elsewhere"})
    assert broken.state is Status.PROBLEM
    assert broken.remedy.startswith("unset PROJ_LIB (PROJ_LIB=/elsewhere")
    assert "rasterio" in diagnostics.database({}).remedy


def test_a_card_that_torch_does_not_use():
    assert "built for the CPU only" in diagnostics.check_unused_gpu(None).text
    assert "nvidia-smi" in diagnostics.check_unused_gpu("12.8").remedy


def test_clip_weights(tmp_path, monkeypatch):
    absent = diagnostics.clip_finding(None)
    assert (absent.state, "save it as" in absent.remedy) == (Status.NOTE, True)
    monkeypatch.setattr("georsr.models.segsr.sfem.CACHE", tmp_path)
    file = tmp_path / "ViT-B-16-openai.safetensors"
    file.touch()
    assert diagnostics.find_clip() == file
    assert str(file) in diagnostics.clip_finding(file).text


def test_a_default_model_that_is_missing(monkeypatch):
    monkeypatch.setattr("georsr.models.registry.bundled_weights", dict)
    monkeypatch.setattr(diagnostics, "find_clip", lambda: None)
    found = by_name(diagnostics.check_weights())
    assert found["models"].state is Status.PROBLEM


def test_folders(tmp_path, monkeypatch):
    assert diagnostics.folder_finding("f", tmp_path, Status.PROBLEM).state is Status.OK
    gone = diagnostics.folder_finding("f", tmp_path / "gone", Status.PROBLEM)
    assert (gone.state, "TMPDIR" in gone.remedy) == (Status.PROBLEM, True)
    assert diagnostics.folder_finding("f", tmp_path / "gone", Status.NOTE).state is Status.NOTE
    monkeypatch.setattr(diagnostics, "LITTLE", 2**80)
    assert diagnostics.folder_finding("f", tmp_path, Status.PROBLEM).state is Status.WARNING


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    folder = tmp_path / ".local" / "share" / "QGIS" / "QGIS3" / "profiles" / "default"
    if os.name != "posix" or not hasattr(os, "uname") or os.uname().sysname != "Linux":
        pytest.skip("folders of Linux")
    folder.mkdir(parents=True)
    return Profile(folder)


def test_the_plugin_in_qgis(profile, monkeypatch):
    assert by_name(diagnostics.check_qgis())["QGIS plugin"].remedy == "georsr qgis install"
    folder = install(profile)
    name = "QGIS plugin (QGIS3 default)"
    assert "switched off" in by_name(diagnostics.check_qgis())[name].text
    set_plugin_enabled(profile, PLUGIN, on=True)
    assert by_name(diagnostics.check_qgis())[name].state is Status.OK
    (folder / RECORD).write_text('{"command": ["/gone/georsr"]}')
    assert "/gone/georsr, is gone" in by_name(diagnostics.check_qgis())[name].text
    described = folder / "metadata.txt"
    described.write_text(described.read_text().replace("version=0", "version=9"))
    stale = by_name(diagnostics.check_qgis())[name]
    assert (stale.state, "this georsr is" in stale.text) == (Status.WARNING, True)
    assert stale.remedy == "georsr qgis install --profile default"


def test_no_qgis(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(diagnostics, "find_qgis", list)
    assert [finding.state for finding in diagnostics.check_qgis()] == [Status.NOTE]
    monkeypatch.setattr(diagnostics, "find_qgis", lambda: ["/usr/bin/qgis"])
    assert "start QGIS once" in by_name(diagnostics.check_qgis())["QGIS plugin"].remedy


def test_the_trial_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert "48 x 48 pixels at 4x" in next(iter(diagnostics.check_run())).text
    assert list(Path(tmp_path).iterdir()) == []
