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


def test_lock_held_is_refused_and_released_leaves_no_file(path):
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
def test_lock_of_a_killed_process_is_free(path):
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


def test_lock_file_without_holder_is_removed(path):
    Lock(path, "a.tif").clean()
    assert not path.exists()
    path.write_text("{}")
    Lock(path, "a.tif").clean()
    assert not path.exists()


def test_lock_file_with_malformed_content_is_free(path):
    path.write_text('{"pid": 1')
    lock = Lock(path, "a.tif")
    lock.acquire()
    with pytest.raises(OutputError, match=rf"process {os.getpid()} on"):
        Lock(path, "a.tif").acquire()
    lock.release()


def test_lock_wanted_by_many_threads_is_held_by_one(path):
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

    def test_lock_held_is_refused_and_released_leaves_no_file(self, path):
        one, two = Lock(path, "a.tif"), Lock(path, "a.tif")
        one.acquire()
        with pytest.raises(OutputError, match=rf"another run .*process {os.getpid()} on"):
            two.acquire()
        one.release()
        two.acquire()
        two.release()
        assert list(path.parent.iterdir()) == []

    def test_lock_without_flock_of_a_running_process_is_refused(self, path):
        self.leave(path, os.getppid(), platform.node())
        with pytest.raises(OutputError, match="another run"):
            Lock(path, "a.tif").acquire()

    def test_lock_without_flock_of_an_ended_process_is_free(self, path):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        self.leave(path, child.pid, platform.node())
        Lock(path, "a.tif").acquire()
        assert json.loads(path.read_text())["pid"] == os.getpid()

    def test_lock_without_flock_of_another_machine_is_refused(self, path):
        self.leave(path, 1, "another-machine")
        with pytest.raises(OutputError, match=rf"another run.*remove {path}\.pid"):
            Lock(path, "a.tif").acquire()
