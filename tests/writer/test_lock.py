"""One run at a time, and none for ever."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import threading

import pytest

from georsr.errors import OutputError
from georsr.writer.paths import Lock


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".a.lock"


HOLD = """
import sys, time
from pathlib import Path
from georsr.writer.paths import Lock
lock = Lock(Path(sys.argv[1]), "a.tif")
lock.acquire()
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


def test_a_scribble_is_nobody(path):
    path.write_text('{"pid": 1')
    lock = Lock(path, "a.tif")
    lock.acquire()
    with pytest.raises(OutputError, match=rf"process {os.getpid()} on"):
        Lock(path, "a.tif").acquire()
    lock.release()


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
    @pytest.fixture(autouse=True, params=[errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
    def none(self, request, monkeypatch):
        def refuse(handle, operation):
            raise OSError(request.param, "no locks")

        monkeypatch.setattr("fcntl.flock", refuse)

    def leave(self, path, pid, host):
        path.with_name(path.name + ".pid").write_text(f"{pid}\n{host}\n")

    def test_it_is_exclusive_and_leaves_nothing(self, path):
        one, two = Lock(path, "a.tif"), Lock(path, "a.tif")
        one.acquire()
        with pytest.raises(OutputError, match=rf"another run .*process {os.getpid()} on"):
            two.acquire()
        one.release()
        two.acquire()
        two.release()
        assert list(path.parent.iterdir()) == []

    def test_the_living_have_it(self, path):
        self.leave(path, os.getppid(), platform.node())
        with pytest.raises(OutputError, match="another run"):
            Lock(path, "a.tif").acquire()

    def test_the_dead_have_not(self, path):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        self.leave(path, child.pid, platform.node())
        Lock(path, "a.tif").acquire()
        assert json.loads(path.read_text())["pid"] == os.getpid()

    def test_who_is_elsewhere_may_live(self, path):
        self.leave(path, 1, "another-machine")
        with pytest.raises(OutputError, match=rf"another run.*remove {path}\.pid"):
            Lock(path, "a.tif").acquire()
