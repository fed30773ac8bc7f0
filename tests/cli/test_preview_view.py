"""``georsr view``: its options, its end, its messages."""

import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from georsr.cli.main import invoke


@pytest.fixture
def scene(make_raster, texture):
    return make_raster(texture(3, 60, 70))


class Running:
    """A ``georsr view`` in a process of its own."""

    def __init__(self, *arguments, **environment):
        # a child of a process that ignores Ctrl-C (nohup) would ignore it, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "georsr.cli", "view", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def __enter__(self):
        self.url = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.communicate()

    def interrupt(self):
        """Press Ctrl-C; returns exit code and stderr."""
        self.process.send_signal(signal.SIGINT)
        err = self.process.communicate(timeout=60)[1]
        return self.process.returncode, err


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise there")
def test_view_serves_until_ctrl_c(scene):
    with Running(scene, "--no-browser") as running:
        with urllib.request.urlopen(f"{running.url}view.json", timeout=30) as answer:
            assert b'"width": 70' in answer.read()
        code, err = running.interrupt()
    assert code == 0
    assert err == "Ctrl-C ends the server\n"


@pytest.mark.skipif(os.name == "nt", reason="the browser is a shell script")
def test_view_opens_the_browser_at_its_port(scene, tmp_path):
    seen, script = tmp_path / "seen", tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > "{seen}.part" && mv "{seen}.part" "{seen}"\n')
    script.chmod(0o755)
    with Running(scene, BROWSER=f"{script} %s") as running:
        running.process.poll()
        while not seen.exists() and running.process.poll() is None:
            pass
        assert seen.read_text().strip() == running.url
        port = running.url.split(":")[2].split("/")[0]
        with Running(scene, "--port", port, "--no-browser") as other:
            err = other.process.stderr.read()
            assert other.process.wait(60) == 2
    assert err.startswith(f"Error: --port {port}: cannot be used: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.tif"], "missing.tif: no such file"),
        (["{scene}", "missing.tif"], "missing.tif: no such file"),
        (["{scene}", "--layers", "missing.tif"], "missing.tif: no such file"),
        (["{scene}", "--bidx", "7"], "--bidx 7: expected one band or three"),
        (["{scene}", "--port", "70000"], "Invalid value for '--port'"),
    ],
)
def test_view_of_a_wrong_request_ends_with_one_line(scene, capsys, arguments, message):
    assert invoke(["view", "--no-browser", *(a.format(scene=scene) for a in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_view_ended_by_sigterm_says_nothing_and_returns_143(scene):
    with Running("-q", "--no-browser", scene) as running:
        running.process.terminate()
        assert running.process.communicate(timeout=60) == ("", "")
        assert running.process.returncode == 143
