"""The Tab key in real shells, with the documented line in their start-up file."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHELLS = {
    "bash": (["bash", "--norc", "-i"], 'eval "$(_GEORSR_COMPLETE=bash_source georsr)"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit && compinit -u; eval "$(_GEORSR_COMPLETE=zsh_source georsr)"',
    ),
}


class Terminal:
    """A shell in a terminal of its own."""

    def __init__(self, shell, folder):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        command, start = SHELLS[shell]
        self.screen, terminal = pty.openpty()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(folder), "TERM": "dumb", "PS1": "$ "}
        self.process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        os.close(terminal)
        self.type(f"{start}; echo rea''dy\n", "ready")

    def type(self, text, expected):
        """Type a text and return what appears until ``expected`` does."""
        os.write(self.screen, text.encode())
        shown, limit = "", time.monotonic() + 60
        while expected not in shown and time.monotonic() < limit:
            if select.select([self.screen], [], [], 0.1)[0]:
                shown += os.read(self.screen, 4096).decode(errors="replace")
        assert expected in shown
        return shown

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.screen)


@pytest.fixture(params=SHELLS)
def terminal(request, tmp_path):
    (tmp_path / "very_long_scene_name.tif").touch()
    (tmp_path / "district_outline.gpkg").touch()
    opened = Terminal(request.param, tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("georsr sr very_l\t", "ong_scene_name.tif"),
        ("georsr sr a.tif very_l\t", "ong_scene_name.tif"),
        ("georsr sr a.tif b.tif --aoi distr\t", "ict_outline.gpkg"),
        ("georsr sr a.tif b.tif --model bicubic-x\t\t", "bicubic-x3"),
        ("georsr train finet\t", "une-sensor"),
    ],
)
def test_tab_key_completes_files_and_names(typed, completed, terminal):
    terminal.type(typed, completed)
