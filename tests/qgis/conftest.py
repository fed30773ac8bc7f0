"""Real QGIS, where it is installed, with a home of its own that holds the plugin."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

INSIDE = Path(__file__).with_name("inside.py")
TIMEOUT = 300


class Qgis:
    """QGIS of this machine without windows; every call starts it afresh."""

    def __init__(self, process, python, home):
        from georsr.qgis.install import PLUGIN, Profile, install, set_plugin_enabled

        self._process, self._python = process, python
        profile = Profile(home / ".local" / "share" / "QGIS" / "QGIS3" / "profiles" / "default")
        install(profile)
        set_plugin_enabled(profile, PLUGIN, on=True)
        self.plugins = profile.plugins
        (home / "run").mkdir(mode=0o700)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "GEORSR_"))},
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "QT_QPA_PLATFORM": "offscreen",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments, **environment):
        """``qgis_process`` as a process of the caller's."""
        return subprocess.Popen(
            [self._process, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **environment},
            start_new_session=True,
        )

    def run(self, algorithm, environment=None, **parameters):
        """``qgis_process run``: exit code, its JSON (None if it failed), everything it said."""
        words = [f"{name}={value}" for name, value in parameters.items()]
        process = self.start("--json", "run", algorithm, "--", *words, **(environment or {}))
        out, err = process.communicate(timeout=TIMEOUT)
        start = out.find("{")
        result = json.loads(out[start:]) if process.returncode == 0 else None
        return process.returncode, result, out + err

    def play(self, scene, **arguments):
        """A scene of inside.py."""
        result = subprocess.run(
            [
                self._python,
                str(INSIDE),
                scene,
                json.dumps({"plugins": str(self.plugins), **arguments}),
            ],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=TIMEOUT,
        )
        lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
        assert lines, result.stdout + result.stderr
        return json.loads(lines[-1].removeprefix("RESULT "))


def python_of_qgis():
    """The Python that has QGIS's bindings, or None."""
    for name in ("/usr/bin/python3", shutil.which("python3")):
        if name and Path(name).exists():
            code = "import qgis.core, qgis.gui"
            done = subprocess.run([name, "-c", code], capture_output=True, cwd="/")
            if done.returncode == 0:
                return name
    return None


@pytest.fixture(scope="session")
def qgis(tmp_path_factory):
    # Debian's wrapper qgis_process hands on an option that the program does not know
    process = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
    if process is None:
        pytest.skip("QGIS is not installed: there is no qgis_process (Debian: apt install qgis)")
    python = python_of_qgis()
    if python is None:
        pytest.skip("QGIS has no Python bindings (Debian: apt install python3-qgis)")
    return Qgis(process, python, tmp_path_factory.mktemp("höme of qgis"))
