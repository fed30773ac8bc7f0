"""Find the georsr executable, check its version, and prepare the environment it runs in.

QGIS sets variables for its own Python and GDAL, which would break those of georsr.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
"""Variables that name files of QGIS: libraries of Python, PROJ's database, plugins of GDAL and Qt.

All others are kept: cloud credentials, proxies, ``GDAL_*`` and ``CPL_*`` options.
"""


def process_environment(
    environ: Mapping[str, str], executable: str, windows: bool = sys.platform == "win32"
) -> dict[str, str]:
    """Return the environment variables for ``executable``.

    Parameters
    ----------
    environ
        Environment of QGIS.
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
    """Return the DLL folders of the conda environment of ``executable``."""
    folder = Path(executable).parent
    root = folder.parent if folder.name.lower() == "scripts" else folder
    wanted = [root, root / "Library" / "bin", root / "Scripts"]
    return [str(path) for path in wanted if path.is_dir()]


def process_arguments(arguments: Sequence[str], posix: bool = os.name == "posix") -> list[object]:
    """Return arguments as UTF-8 bytes, since a C locale cannot encode all names."""
    if not posix:
        return list(arguments)
    return [text.encode("utf-8", "surrogateescape") for text in arguments]


VARIABLE = "GEORSR_EXECUTABLE"
SETTING = "Settings > Options > Processing > Providers > georsr > georsr executable"
WHEEL = "georsr-*.whl"
"""Pattern of the wheel that ``georsr qgis package --wheel`` puts next to this file."""
RECORD = "installation.json"
"""Written next to this file by ``georsr qgis install``: the command that installed the plugin."""
OLDEST = (0, 1, 0)
"""Oldest georsr with the command line that this plugin uses."""
TIMEOUT = 120
"""Seconds for ``georsr --version``, which takes 0.2; slow disks and virus scanners need more."""
INSTALL = (
    "run 'Install georsr' in the Processing toolbox, or in a terminal 'pip install .' in the "
    "folder of the copy of georsr and then 'georsr qgis install'"
)
UPGRADE = (
    "run 'Install georsr' in the Processing toolbox, or in a terminal 'pip install .' in the "
    "folder of a newer copy of georsr"
)
OLDEST_PYTHON = (3, 11)
LIGHT = (
    "onnxruntime>=1.18",
    "rasterio>=1.4",
    "xarray>=2024.1",
    "rioxarray>=0.15",
    "dask[array,distributed]>=2024.1",
    "cryptography>=41",
    "shapely>=2.0",
    "affine>=3.0rc1",
    "numpy>=1.26",
    "click>=8.1",
    "jinja2>=3.1",
    "packaging>=22",
    "safetensors>=0.4.3",
    "isal>=1.5; platform_machine in 'x86_64 AMD64 aarch64 arm64 ARM64'",
    "h5py>=3.8",
    "tqdm>=4.66",
    "filelock>=4.3",
)
"""Packages that georsr needs on a CPU, without torch: ``requirements/light.txt`` of georsr."""


class ExecutableError(Exception):
    """georsr is missing, too old or does not run; the message is one line with the remedy."""


@dataclass(frozen=True)
class Georsr:
    """Command that runs georsr.

    Attributes
    ----------
    command : tuple of str
        Program and first arguments.
    found : str
        Where it was found, for messages.
    """

    command: tuple[str, ...]
    found: str

    def environment(self) -> dict[str, str]:
        """Return the environment to run it in."""
        return process_environment(os.environ, self.command[0])


def find_georsr(
    setting: str = "", environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> Georsr:
    """Find georsr: setting, environment variable, record of the installation, own one, PATH.

    Parameters
    ----------
    setting
        Path from the settings of QGIS: the executable, or the folder of its environment.
    environ
        ``os.environ`` by default.
    folder
        The plugin's, where the record is.

    Raises
    ------
    ExecutableError
        Nothing found; or the setting or the variable names what is not there.
    """
    environ = os.environ if environ is None else environ
    for text, source in ((setting, f"setting {SETTING}"), (environ.get(VARIABLE), VARIABLE)):
        if text and text.strip():
            return Georsr((_named(text.strip(), source),), source)
    recorded = _recorded(folder or Path(__file__).parent)
    if recorded is not None:
        return recorded
    own = _executable_in(own_environment(folder))
    if own is not None:
        return Georsr((own,), "installed by this plugin")
    for folders in (environ.get("PATH", ""), os.pathsep.join(_usual_folders())):
        path = shutil.which("georsr", path=folders)
        if path:
            return Georsr((path,), "PATH")
    raise ExecutableError(
        f"georsr was not found: {INSTALL}; or name its executable in {SETTING} "
        f"or in the environment variable {VARIABLE}"
    )


def check_version(georsr: Georsr) -> str:
    """Return the version of an executable, if it runs and is new enough.

    Raises
    ------
    ExecutableError
        It does not run, is not georsr, or is too old.
    """
    name = " ".join(georsr.command)
    try:
        done = subprocess.run(
            process_arguments([*georsr.command, "--version"]),
            env=georsr.environment(),
            cwd=tempfile.gettempdir(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired as error:
        raise ExecutableError(
            f"{name} ({georsr.found}) did not answer within {TIMEOUT} s; {_repair(name)}"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExecutableError(
            f"{name} ({georsr.found}) cannot be run: {reason}; {_repair(name)}"
        ) from error
    output = done.stdout.decode("utf-8", "replace")
    version = re.search(r"georsr, version (\S+)", output)
    if done.returncode != 0 or version is None:
        lines = (done.stderr.decode("utf-8", "replace") or output).strip().splitlines()
        last = lines[-1] if lines else f"exit code {done.returncode}"
        raise ExecutableError(
            f"{name} ({georsr.found}) does not answer as georsr does: {last}; {_repair(name)}"
        )
    numbers = tuple(int(part) for part in re.findall(r"\d+", version[1])[:3])
    if numbers and numbers < OLDEST:
        raise ExecutableError(
            f"{name} ({georsr.found}) is georsr {version[1]}, but this plugin needs "
            f"{'.'.join(map(str, OLDEST))} or newer: {UPGRADE}"
        )
    return version[1]


def _repair(name: str) -> str:
    return f"try '{name} doctor' in a terminal, or choose another one in {SETTING}"


def _named(text: str, source: str) -> str:
    """Return the executable that the user named: a file, or the folder of an environment."""
    path = Path(os.path.expandvars(text)).expanduser()
    if path.is_file():
        return str(path)
    if path.is_dir():
        inside = _executable_in(path)
        if inside is not None:
            return inside
        raise ExecutableError(f"there is no georsr in {path}, which {source} names; {INSTALL}")
    executable = shutil.which(text)
    if executable and os.sep not in text:
        return executable
    raise ExecutableError(f"there is no file {path}, which {source} names; correct or empty it")


def _executable_in(folder: Path) -> str | None:
    """Return the georsr of an environment, or in a folder; None if there is none."""
    names = ("bin/georsr", "Scripts/georsr.exe", "georsr", "georsr.exe")
    return next((str(folder / name) for name in names if (folder / name).is_file()), None)


def own_environment(folder: Path | None = None) -> Path:
    """Return the environment that the plugin may install georsr into: a folder of the profile."""
    plugin = folder or Path(__file__).parent
    return plugin.parents[min(2, len(plugin.parents) - 1)] / "georsr-environment"


def included_wheel(folder: Path | None = None) -> str | None:
    """Return the path of the wheel of georsr in the plugin; None if it has none."""
    return next(map(str, (folder or Path(__file__).parent).glob(WHEEL)), None)


def installation_steps(
    environment: Path, package: str, executable: str, windows: bool = sys.platform == "win32"
) -> list[tuple[str, list[str]]]:
    """Return the commands that install georsr without torch, each with a text that describes it.

    Parameters
    ----------
    environment
        Folder of the new environment.
    package
        Archive, source folder or name of georsr.
    executable
        Python that makes the environment.
    """
    python = str(environment / ("Scripts/python.exe" if windows else "bin/python"))
    # -I: modules in the working folder, which is that of temporary files, are not imported
    pip = [python, "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    return [
        ("Creating an environment…", [executable, "-I", "-m", "venv", "--clear", str(environment)]),
        ("Downloading 0.2 GB of packages…", [*pip, "--progress-bar=off", *LIGHT]),
        ("Installing georsr…", [*pip, "--no-deps", package]),
    ]


def find_python(version: Sequence[int] = sys.version_info) -> str:
    """Return the Python of QGIS, whose own executable may be QGIS itself.

    Raises
    ------
    ExecutableError
        It is too old for georsr, or not to be found.
    """
    if tuple(version[:2]) < OLDEST_PYTHON:
        raise ExecutableError(
            f"the Python of this QGIS is {version[0]}.{version[1]}, georsr needs "
            f"{OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer: install a newer QGIS, or georsr with "
            "another Python"
        )
    if Path(sys.executable).name.lower().startswith("python"):
        return sys.executable
    for path in (Path(sys.prefix) / "bin" / "python3", Path(sys.prefix) / "python.exe"):
        if path.is_file():
            return str(path)
    python = shutil.which("python3")
    if python is None:
        raise ExecutableError(f"the Python of QGIS was not found in {sys.prefix}; {INSTALL}")
    return python


def _recorded(folder: Path) -> Georsr | None:
    """Return the georsr that installed the plugin, if it still exists."""
    try:
        command = json.loads((folder / RECORD).read_text(encoding="utf-8"))["command"]
        if all(isinstance(part, str) for part in command) and Path(command[0]).is_file():
            return Georsr(tuple(command), "it installed this plugin")
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass
    return None


def _usual_folders() -> Iterator[str]:
    """Yield folders where pip, pipx and uv put commands, which QGIS's PATH may lack."""
    home = Path.home()
    yield str(home / ".local" / "bin")
    if sys.platform == "darwin":
        yield from ("/opt/homebrew/bin", "/usr/local/bin")
