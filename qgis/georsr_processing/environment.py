"""The environment of the child: what QGIS set for itself would break another Python and GDAL."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

OWN_TO_QGIS = frozenset(
    {
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYTHONEXECUTABLE",
        "PYTHONNOUSERSITE",
        "__PYVENV_LAUNCHER__",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "CONDA_DEFAULT_ENV",
        "QGIS_PREFIX_PATH",
        "QGIS_PLUGINPATH",
        "QT_PLUGIN_PATH",
        "QT_QPA_PLATFORM",
        "QT_QPA_PLATFORM_PLUGIN_PATH",
        "PROJ_LIB",
        "PROJ_DATA",
        "GDAL_DATA",
        "GDAL_DRIVER_PATH",
        "GDAL_PYTHON_DRIVER_PATH",
        "GEOTIFF_CSV",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "DYLD_LIBRARY_PATH",
        "DYLD_FRAMEWORK_PATH",
        "DYLD_INSERT_LIBRARIES",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "O4W_QT_PREFIX",
        "O4W_QT_PLUGINS",
    }
)
"""Variables that name files of QGIS: Python's library, PROJ's database, GDAL's plugins, Qt's.

Kept is everything else: credentials of clouds, proxies, ``GDAL_*`` and ``CPL_*`` options.
"""


def child_environment(
    environ: Mapping[str, str], executable: str, windows: bool = sys.platform == "win32"
) -> dict[str, str]:
    """Make the environment in which ``executable`` runs.

    Parameters
    ----------
    environ
        That of QGIS.
    executable
        Path of georsr or of its Python.
    windows
        DLLs are looked for along PATH there, so QGIS's folders leave it, and the folders of a conda
        environment, whose activation would have added them, come first.
    """
    kept = {name: text for name, text in environ.items() if name.upper() not in OWN_TO_QGIS}
    if windows:
        folders = [part for part in environ.get("PATH", "").split(";") if part]
        root = environ.get("OSGEO4W_ROOT", "").rstrip("\\").lower()
        if root:
            folders = [part for part in folders if not part.lower().startswith(root)]
        kept["PATH"] = ";".join([*_conda_folders(executable), *folders])
        kept.pop("OSGEO4W_ROOT", None)
    kept["PYTHONIOENCODING"] = "utf-8"
    kept["PYTHONUTF8"] = "1"
    return kept


def _conda_folders(executable: str) -> list[str]:
    """Folders of DLLs in the environment that holds ``executable``."""
    folder = Path(executable).parent
    root = folder.parent if folder.name.lower() == "scripts" else folder
    wanted = [root, root / "Library" / "bin", root / "Scripts"]
    return [str(path) for path in wanted if path.is_dir()]


def child_arguments(arguments: Sequence[str], posix: bool = os.name == "posix") -> list[object]:
    """Arguments for the operating system: UTF-8 bytes, which a C locale would refuse to make."""
    if not posix:
        return list(arguments)
    return [text.encode("utf-8", "surrogateescape") for text in arguments]
