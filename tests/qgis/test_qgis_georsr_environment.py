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


def test_libraries_of_qgis_stay_out_and_the_users_wishes_go_through():
    made = process_environment(QGIS, "/venv/bin/georsr", windows=False)
    assert not {"PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "PROJ_LIB", "LD_LIBRARY_PATH"} & set(made)
    kept = ("PATH", "HOME", "AWS_PROFILE", "GDAL_HTTP_TIMEOUT", "https_proxy")
    assert {name: made[name] for name in kept} == {name: QGIS[name] for name in kept}
    assert made["PYTHONIOENCODING"] == "utf-8"


def test_on_windows_dlls_are_looked_for_in_the_environment_of_georsr(tmp_path):
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


def test_arguments_are_utf8_whatever_the_locale():
    assert process_arguments(["a", "ü b"], posix=True) == [b"a", b"\xc3\xbc b"]
    assert process_arguments(["ü"], posix=False) == ["ü"]
