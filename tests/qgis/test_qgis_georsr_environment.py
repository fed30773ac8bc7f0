"""What of QGIS's environment reaches georsr."""

from georsr.qgis.georsr_processing.georsr_executable import process_arguments, process_environment

QGIS = {
    "PYTHONHOME": "/usr",
    "PYTHONPATH": "/usr/share/qgis/python",
    "GDAL_DATA": "/usr/share/gdal",
    "PROJ_LIB": "/usr/share/proj",
    "LD_LIBRARY_PATH": "/opt/qgis/lib",
    "QT_QPA_PLATFORM": "offscreen",
    "PATH": "/usr/bin",
    "HOME": "/users/ü",
    "AWS_PROFILE": "me",
    "GDAL_HTTP_TIMEOUT": "30",
    "https_proxy": "http://proxy",
}


def test_process_environment_drops_qgis_and_keeps_user_variables():
    made = process_environment(QGIS, "/venv/bin/georsr", windows=False)
    assert not {"PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "PROJ_LIB", "LD_LIBRARY_PATH"} & set(made)
    kept = ("PATH", "HOME", "AWS_PROFILE", "GDAL_HTTP_TIMEOUT", "https_proxy")
    assert {name: made[name] for name in kept} == {name: QGIS[name] for name in kept}
    assert made["PYTHONIOENCODING"] == "utf-8"


def test_process_environment_on_windows_sets_the_dll_path(tmp_path):
    for folder in ("Scripts", "Library/bin"):
        (tmp_path / folder).mkdir(parents=True)
    environ = {
        "OSGEO4W_ROOT": r"C:\Program Files\QGIS 3.34\\",
        "PATH": r"C:\Program Files\QGIS 3.34\bin;C:\Windows;c:\program files\qgis 3.34\apps",
        "Gdal_Data": "x",
    }
    made = process_environment(environ, str(tmp_path / "Scripts" / "georsr.exe"), windows=True)
    assert made["PATH"].split(";") == [
        *(str(tmp_path / part) for part in (".", "Library/bin", "Scripts")),
        r"C:\Windows",
    ]
    assert "OSGEO4W_ROOT" not in made
    assert "Gdal_Data" not in made


def test_process_arguments_are_utf8():
    assert process_arguments(["a", "ü b"], posix=True) == [b"a", b"\xc3\xbc b"]
    assert process_arguments(["ü"], posix=False) == ["ü"]
