"""Lock: one run at a time writes one product, and a killed run does not stay in the way."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from georsr.errors import OutputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
_FAR = 2**30
"""Byte that Windows locks: what it locks nobody else can read, and the owner is to be read."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Owner:
    """A process, told apart from one that gets the same number after a restart."""

    pid: int
    host: str
    boot: str

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        boot = ""
        with suppress(OSError):
            boot = _BOOT.read_text().strip()
        return cls(os.getpid(), platform.node(), boot)

    def alive(self) -> bool:
        """Whether it may still run; a process of another machine may."""
        me = Owner.here()
        if self.host != me.host:
            return True
        if self.boot != me.boot:
            return False
        if sys.platform == "win32":
            return True  # signal 0 is Ctrl-C there
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # somebody else's process
            return True
        return True


class Lock:
    """An exclusive lock on a name, held from `acquire` to `release` or to the process's end.

    The kernel's lock on a small file, which dies with its process. Where a file system has none,
    the file's content stands for it: the owner, who is asked whether he lives.

    Parameters
    ----------
    path : Path
        The lock's own file; removed by `release`.
    what : str
        The name to blame in messages.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        OutputError
            Somebody has it.
        """
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._take(handle)
                # who had it may have removed the file between our opening and locking it
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle), self.path.stat()):
                        self._sign(handle)
                        self._handle = handle
                        return
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _take(self, handle: int) -> None:
        """Lock an open file, by the kernel if it can."""
        owner = _owner(handle)
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in _HELD:
                raise self._held(owner) from error
            # no locks on this file system: the content decides
            if owner is not None and owner.alive():
                raise self._held(owner) from error

    def _held(self, owner: Owner | None) -> OutputError:
        who = f" (process {owner.pid} on {owner.host})" if owner else ""
        return OutputError(
            f"{self.what}: another run is writing it{who}; wait for it, or write to another file. "
            f"If that run is long gone, remove {self.path}"
        )

    def _sign(self, handle: int) -> None:
        with suppress(OSError):  # on a full disk the kernel's lock must do
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, json.dumps(asdict(Owner.here())).encode())

    def clean(self) -> None:
        """Remove the file if whoever made it was killed."""
        if self.path.exists():
            with suppress(OutputError):
                self.acquire()
                self.release()

    def release(self) -> None:
        """Give it back; nothing happens if it is not held."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(OSError):  # Windows removes no open file; an empty one does no harm
                self.path.unlink()
            os.close(handle)


def _lock(handle: int) -> None:
    """Kernel's lock on an open file; OSError where it is held or there are none."""
    if sys.platform == "win32":
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(handle: int) -> Owner | None:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        return Owner(**json.loads(os.read(handle, 4096)))
    except (ValueError, TypeError, OSError):
        return None
