"""One run at a time, and none for ever."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from georsr.errors import OutputError
from georsr.raster import lock as lock_module
from georsr.raster.lock import Lock, Owner


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".a.lock"


HOLD = """
import sys, time
from pathlib import Path
from georsr.raster.lock import Lock
Lock(Path(sys.argv[1]), "a.tif").acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_it_is_exclusive_and_leaves_nothing(path):
    one, two = Lock(path, "a.tif"), Lock(path, "a.tif")
    one.acquire()
    with pytest.raises(OutputError, match=rf"a\.tif: another run .*process {os.getpid()} on"):
        two.acquire()
    one.release()
    assert not path.exists()
    two.acquire()
    one.release()  # not his any more
    assert path.exists()
    two.release()
    assert not path.exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_process_does_not_hold_it(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"process {process.pid} on"):
            Lock(path, "a.tif").acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.exists()
    lock = Lock(path, "a.tif")
    lock.acquire()
    Lock(path, "a.tif").clean()  # the living keep it
    assert path.exists()
    lock.release()
    assert not path.exists()


def test_a_file_without_a_holder_is_removed(path):
    Lock(path, "a.tif").clean()
    assert not path.exists()
    path.write_text("{}")
    Lock(path, "a.tif").clean()
    assert not path.exists()


def test_of_many_that_want_it_one_has_it(path):
    inside, most, errors = [], [], []

    def want():
        for _ in range(50):
            lock = Lock(path, "a.tif")
            try:
                lock.acquire()
            except OutputError:
                continue
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            try:
                lock.release()
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(most) == {1}


class TestWithoutLocksInTheFileSystem:
    @pytest.fixture(autouse=True)
    def none(self, monkeypatch):
        def refuse(handle):
            raise OSError(38, "not implemented")

        monkeypatch.setattr(lock_module, "_lock", refuse)

    def leave(self, path, owner):
        path.write_text(json.dumps(owner.__dict__))

    def test_the_living_have_it(self, path):
        self.leave(path, replace(Owner.here(), pid=os.getppid()))
        with pytest.raises(OutputError, match="another run"):
            Lock(path, "a.tif").acquire()

    def test_the_dead_have_not(self, path):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        self.leave(path, replace(Owner.here(), pid=child.pid))
        Lock(path, "a.tif").acquire()
        assert json.loads(path.read_text())["pid"] == os.getpid()

    def test_nor_who_ran_before_the_machine_was_started(self, path):
        self.leave(path, replace(Owner.here(), pid=os.getppid(), boot="another"))
        Lock(path, "a.tif").acquire()

    def test_who_is_elsewhere_may_live(self, path):
        self.leave(path, Owner(1, "another machine", ""))
        with pytest.raises(OutputError, match=r"on another machine.*remove"):
            Lock(path, "a.tif").acquire()

    def test_a_scribble_is_nobody(self, path):
        path.write_text('{"pid": 1')
        Lock(path, "a.tif").acquire()
