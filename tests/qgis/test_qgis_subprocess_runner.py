"""Run processes that print, fail, do not end, or have child processes."""

import os
import sys
import time
from pathlib import Path

import pytest
from georsr.qgis.georsr_processing import subprocess_runner
from georsr.qgis.georsr_processing.subprocess_runner import (
    ProcessListener,
    ProcessResult,
    remove_unfinished,
    run_process,
    unfinished,
)


class Ear(ProcessListener):
    def __init__(self, until=None):
        self.percent, self.warnings, self.lines, self.until = [], [], [], until

    def progress(self, percent):
        self.percent.append(percent)

    def warning(self, text):
        self.warnings.append(text)

    def line(self, text):
        self.lines.append(text)

    def cancelled(self):
        return self.until is not None and self.until(self)


def run(code, ear=None):
    ear = ear or Ear()
    return run_process([sys.executable, "-c", code], os.environ, ear), ear


def test_run_process_passes_progress_messages_and_report():
    outcome, ear = run(
        """
import sys
print('{"report": "ü"}')
for done in (0, 1, 4):
    print('{"event": "progress", "done": %d, "total": 4, "unit": "tiles"}' % done, file=sys.stderr)
print("Warning: no CRS", file=sys.stderr)
print('{"event": "broken', file=sys.stderr)
print("thinking", file=sys.stderr)
"""
    )
    assert ear.percent == [0, 25, 100]
    assert ear.warnings == ["no CRS"]
    assert ear.lines == ['{"event": "broken', "thinking"]
    assert outcome.stdout.strip() == '{"report": "ü"}'
    assert (outcome.code, outcome.cancelled, outcome.failure()) == (0, False, "")


def test_failure_of_an_error_is_its_message():
    outcome, _ = run(
        "import sys; print('Error: in.tif: no such file', file=sys.stderr); sys.exit(2)"
    )
    assert outcome.failure() == "in.tif: no such file"


def test_failure_of_a_traceback_is_its_last_line_and_a_remedy():
    outcome, ear = run("raise ImportError('no torch')")
    assert "ImportError: no torch); run 'georsr doctor'" in outcome.failure()
    assert ear.lines[0].startswith("Traceback")


def test_failure_of_a_killed_process_is_explained():
    assert "memory" in ProcessResult(code=-9).failure()
    assert "no message" in ProcessResult(code=1).failure()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_run_process_cancelled_ends_child_and_grandchildren(monkeypatch):
    monkeypatch.setattr(subprocess_runner, "TERMINATE_TIMEOUT", 0.5)
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(inner.pid, file=sys.stderr, flush=True)
time.sleep(1000)
"""
    begun = time.monotonic()
    outcome, ear = run(code, Ear(until=lambda ear: ear.lines))
    assert outcome.cancelled
    assert outcome.code == -9
    while alive(int(ear.lines[0])):
        assert time.monotonic() - begun < 300
        time.sleep(0.01)


def test_run_process_cancelled_lets_the_child_clean_up():
    code = """
import signal, sys, time
def end(number, frame):
    print("tidied up", file=sys.stderr)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("ready", file=sys.stderr, flush=True)
time.sleep(1000)
"""
    outcome, ear = run(code, Ear(until=lambda ear: ear.lines))
    assert (outcome.code, outcome.cancelled) == (143, True)
    assert ear.lines == ["ready", "tidied up"]


def test_run_process_with_a_failing_listener_ends_the_child():
    def fail(ear):
        raise RuntimeError("window closed")

    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="window closed"):
        run("import time; time.sleep(1000)", Ear(until=fail))
    assert time.monotonic() - begun < 300


def test_run_process_missing_program_raises():
    with pytest.raises(OSError, match="No such file"):
        run_process(["/gone/georsr"], os.environ, Ear())


def test_remove_leftovers_deletes_new_files_of_this_output_only(tmp_path):
    output = tmp_path / "o [1].tif"
    mine, theirs = tmp_path / ".o [1].tif.part.tif", tmp_path / ".o [1].tif.part.jsonl"
    other = tmp_path / ".p.tif.part.tif"
    theirs.touch()
    before = unfinished(str(output))
    mine.touch()
    other.touch()
    remove_unfinished(str(output), before)
    assert sorted(tmp_path.iterdir()) == sorted([theirs, other])
    assert unfinished(str(tmp_path / "none" / "o.tif")) == set()


def test_leftovers_have_the_names_of_temp_paths(tmp_path):
    from georsr.writer.paths import temp_paths

    output = tmp_path / "o.tif"
    place = temp_paths(str(output))
    for path in (place.part, place.cog, place.journal, place.lock):
        path.touch()
    assert len(unfinished(str(output))) == 4
