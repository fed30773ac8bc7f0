"""``georsr doctor``: what it finds, and the remedy it names."""

import json
import os
from pathlib import Path

import pytest
from georsr.cli.main import invoke
from packaging.requirements import Requirement

from georsr import diagnostics
from georsr.diagnostics import Check, Diagnostics, Status, run_checks
from georsr.errors import ModelError
from georsr.qgis.install import PLUGIN, RECORD, Profile, install, set_plugin_enabled


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_doctor_on_a_sound_installation_works(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in diagnostics.GDAL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert invoke(["doctor", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["works"] is True
    names = {finding["name"] for finding in output["checks"]}
    wanted = ["georsr", "Python", "torch", "rasterio", "GDAL", "formats", "device", "models"]
    assert {*wanted, "PROJ database", "QGIS", "trial run"} <= names
    assert list(tmp_path.iterdir()) == []


def test_doctor_with_a_problem_exits_with_1(monkeypatch, capsys):
    bad = Diagnostics((Check("x", Status.PROBLEM, "broken", "mend it"),))
    monkeypatch.setattr("georsr.diagnostics.run_checks", lambda: bad)
    assert invoke(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "x x  broken" in output
    assert "-> mend it" in output
    assert "georsr cannot work: 1 marked x" in output
    worth_a_look = Diagnostics(
        (Check("x", Status.WARNING, "slow"), Check("y", Status.NOTE, "none"))
    )
    monkeypatch.setattr("georsr.diagnostics.run_checks", lambda: worth_a_look)
    assert invoke(["doctor", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_run_checks_with_a_failing_check_reports_a_problem(monkeypatch):
    def fail():
        raise ImportError("libcuda.so.1: cannot open shared object file")

    def refuse():
        raise ModelError("weights: damaged")
        yield

    monkeypatch.setitem(diagnostics.CHECKS, "devices", fail)
    monkeypatch.setitem(diagnostics.CHECKS, "weights", refuse)
    report = run_checks(["devices", "weights"])
    assert not report.works
    assert "ImportError: libcuda.so.1" in report.checks[0].text
    assert "reinstall" in report.checks[0].remedy
    assert report.checks[1].text == "weights: damaged"


def test_check_packages_missing_or_old_names_the_remedy(monkeypatch):
    required = [Requirement(line) for line in ("no-such-package>=1", "torch>=99.1", "click")]
    monkeypatch.setattr(diagnostics, "requirements", lambda: required)
    monkeypatch.setattr(diagnostics, "OPTIONAL", {"no-such-helper": "slow", "numpy": "slower"})
    found = by_name(diagnostics.check_packages())
    assert found["no-such-helper"].status is Status.NOTE
    assert found["no-such-helper"].text == "not installed: slow"
    assert found["numpy"].status is Status.OK
    assert found["no-such-package"].status is Status.PROBLEM
    assert found["no-such-package"].remedy == "pip install no-such-package"
    assert "expected >=99.1" in found["torch"].text
    assert found["torch"].remedy == "pip install --upgrade 'torch>=99.1'"
    assert found["click"].status is Status.OK


def test_requirements_are_those_without_extras():
    required = {
        requirement.name: requirement.specifier for requirement in diagnostics.requirements()
    }
    assert required["torch"].contains("2.6.0+cpu")
    assert not required["torch"].contains("2.5")
    assert "lightning" not in required


def test_check_drivers_missing_names_them():
    found = list(diagnostics.check_drivers({"GTiff", "MEM", "VRT"}))
    assert found[0].status is Status.PROBLEM
    assert "GDAL lacks COG" in found[0].text
    notes = [finding.text for finding in found if finding.status is Status.NOTE]
    assert any("JPEG 2000" in text for text in notes)


def test_check_proj_with_foreign_variables_warns(tmp_path, monkeypatch):
    assert diagnostics.check_proj({}).status is Status.OK
    mild = diagnostics.check_proj({"PROJ_LIB": "/elsewhere"})
    assert (mild.status, "PROJ_LIB=/elsewhere" in mild.text) == (Status.WARNING, True)
    from rasterio.errors import CRSError

    def fail(*arguments):
        raise CRSError("The EPSG code is unknown")

    monkeypatch.setattr("rasterio.warp.transform", fail)
    broken = diagnostics.check_proj({"PROJ_LIB": "/elsewhere"})
    assert broken.status is Status.PROBLEM
    assert broken.remedy.startswith("unset PROJ_LIB (PROJ_LIB=/elsewhere")
    assert "rasterio" in diagnostics.check_proj({}).remedy


def test_check_unused_gpu_says_why():
    assert "built for the CPU only" in diagnostics.check_unused_gpu(None).text
    assert "nvidia-smi" in diagnostics.check_unused_gpu("12.8").remedy


def test_check_weights_without_default_model_is_a_problem(monkeypatch):
    monkeypatch.setattr("georsr.models.registry.bundled_weights", dict)
    found = by_name(diagnostics.check_weights())
    assert found["models"].status is Status.PROBLEM


def test_check_folder_unwritable_or_full_names_the_remedy(tmp_path, monkeypatch):
    assert diagnostics.check_folder("f", tmp_path, Status.PROBLEM).status is Status.OK
    gone = diagnostics.check_folder("f", tmp_path / "gone", Status.PROBLEM)
    assert (gone.status, "TMPDIR" in gone.remedy) == (Status.PROBLEM, True)
    assert diagnostics.check_folder("f", tmp_path / "gone", Status.NOTE).status is Status.NOTE
    monkeypatch.setattr(diagnostics, "MIN_FREE_BYTES", 2**80)
    assert diagnostics.check_folder("f", tmp_path, Status.PROBLEM).status is Status.WARNING


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    folder = tmp_path / ".local" / "share" / "QGIS" / "QGIS3" / "profiles" / "default"
    if os.name != "posix" or not hasattr(os, "uname") or os.uname().sysname != "Linux":
        pytest.skip("folders of Linux")
    folder.mkdir(parents=True)
    return Profile(folder)


def test_check_qgis_names_the_state_of_the_plugin(profile, monkeypatch):
    assert by_name(diagnostics.check_qgis())["QGIS plugin"].remedy == "georsr qgis install"
    folder = install(profile)
    name = "QGIS plugin (QGIS3 default)"
    assert "switched off" in by_name(diagnostics.check_qgis())[name].text
    set_plugin_enabled(profile, PLUGIN, on=True)
    assert by_name(diagnostics.check_qgis())[name].status is Status.OK
    (folder / RECORD).write_text('{"command": ["/gone/georsr"]}')
    assert "/gone/georsr, is gone" in by_name(diagnostics.check_qgis())[name].text
    described = folder / "metadata.txt"
    described.write_text(described.read_text().replace("version=0", "version=9"))
    stale = by_name(diagnostics.check_qgis())[name]
    assert (stale.status, "this georsr is" in stale.text) == (Status.WARNING, True)
    assert stale.remedy == "georsr qgis install --profile default"


def test_check_qgis_without_qgis_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert [finding.status for finding in diagnostics.check_qgis()] == [Status.NOTE]
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert "start QGIS once" in by_name(diagnostics.check_qgis())["QGIS plugin"].remedy


def test_check_run_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert "48 x 48 pixels at 4x" in next(iter(diagnostics.check_run())).text
    assert list(Path(tmp_path).iterdir()) == []
