"""``--workers`` with real processes: the same file, and nobody is left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from georsr.cli.options import flag

from georsr.api import super_resolve

SMALL = {"blocksize": 32, "tile_size": 32, "halo": 2, "overlap": 4}
OPTIONS = [
    "-m",
    "bicubic-x2",
    *(w for name, n in SMALL.items() for w in (f"--{flag(name)}", str(n))),
]


@pytest.fixture
def source(make_raster, texture):
    return make_raster(texture(3, 260, 300))


def start(*arguments):
    command = [sys.executable, "-m", "georsr.cli", "sr", *map(str, arguments), *OPTIONS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes)


def of_session(number):
    """Processes of a session that live."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == number and fields[0] not in "ZX":
            found.append(entry.parent.name)
    return found


@pytest.mark.slow
def test_sr_with_two_workers_equals_a_serial_run(tmp_path, source):
    one, many = tmp_path / "one.tif", tmp_path / "many.tif"
    super_resolve(source, one, "bicubic-x2", **SMALL)
    run = start(source, many, "--workers", "2")
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    assert out == ""
    *progress, last = err.splitlines()
    assert last.startswith(f"{many}: 600 x 520 pixels")
    assert progress[0] == "waiting for workers"
    assert progress[-2:] == ["100 %: 143 of 143 tiles", "verifying"]
    assert many.read_bytes() == one.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_sr_with_workers_ctrl_c_keeps_finished_blocks_and_ends_workers(
    tmp_path, make_raster, texture
):
    source = make_raster(texture(3, 800, 800))  # takes longer than Ctrl-C
    one, many = tmp_path / "one.tif", tmp_path / "many.tif"
    super_resolve(source, one, "bicubic-x2", **SMALL)
    run = start(source, many, "--workers", "1")
    journal, until = tmp_path / ".many.tif.part.jsonl", time.monotonic() + 200
    while time.monotonic() < until and run.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") > 1:
            break
        time.sleep(0.01)
    assert len(of_session(run.pid)) > 1
    os.killpg(run.pid, signal.SIGINT)  # a terminal sends it to all of them
    _, err = run.communicate(timeout=240)
    assert run.returncode == 130, err
    assert err.splitlines()[-1].startswith("Error: interrupted")
    assert "Traceback" not in err
    until = time.monotonic() + 60
    while of_session(run.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert of_session(run.pid) == []
    assert not many.exists()
    super_resolve(source, many, "bicubic-x2", **SMALL)
    assert many.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_sr_ctrl_c_while_connecting_to_a_scheduler_exits_with_130(tmp_path, source, options):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        run = start(source, tmp_path / "o.tif", "--scheduler", address, *options)
        with mute.accept()[0]:
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=240)
    assert (run.returncode, out, err.strip()) == (130, "", "Error: interrupted")


def test_sr_unreachable_scheduler_is_one_line(tmp_path, source, monkeypatch, capsys):
    from georsr.cli.main import invoke

    from georsr.distributed import cluster

    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 0.3)
    address = "tcp://127.0.0.1:9"
    assert invoke(["sr", source, str(tmp_path / "o.tif"), "--scheduler", address, *OPTIONS]) == 1
    assert capsys.readouterr().err == (
        f"Error: --scheduler {address}: does not answer within 0 s (Connection refused); is it "
        "running, and may this machine reach it?\n"
    )
    assert invoke(["sr", source, str(tmp_path / "o.tif"), "--workers", "0"]) == 2
