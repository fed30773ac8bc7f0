"""Lock an output, so that only one run writes it at a time."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from georsr._files import check_regular, open_regular
from georsr.errors import OutputError

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems that cannot lock files."""


class Lock:
    """An exclusive lock on a name, held from `acquire` to `release`, or to the end of this
    object or of the process.

    It is a lock of the operating system on a small file, which ends with its process. On a file
    system without locks, a second file with the process id (``.pid``) is used instead; it is
    ignored once that process has ended.

    Parameters
    ----------
    path : Path
        Lock file; removed by `release`.
    output : str
        Path of the output, for messages.
    """

    def __init__(self, path: Path, output: str) -> None:
        self.path, self.output = path, output
        self._held: BaseFileLock | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        OutputError
            Another run holds the lock, or ``path`` is not a lock file.
        """
        check_regular(self.path)
        try:
            self._held = self._acquire_file_lock()
        except Timeout as error:
            raise self._refusal(Path(error.lock_file)) from error
        except OSError as error:
            raise OutputError(
                f"{self.output}: cannot be locked: {self.path}: {error.strerror or error}"
            ) from error
        try:
            self._write_owner()
        except BaseException:
            self.release()
            raise

    def _acquire_file_lock(self) -> BaseFileLock:
        native = FileLock(self.path, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            native.acquire()
        except Timeout:
            raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            soft = SoftFileLock(f"{self.path}.pid", timeout=0, thread_local=False)
            soft.acquire()
            return soft
        return native

    def _write_owner(self) -> None:
        """Write the owner into the lock file, for the messages of other runs."""
        text = json.dumps({"pid": os.getpid(), "host": platform.node()})
        try:
            with open_regular(self.path, "r+b") as file:
                file.truncate(0)
                file.write(text.encode())
        except OutputError:
            raise
        except OSError:  # Windows does not allow writing to a locked file; a disk may be full
            log.debug("%s: cannot be written", self.path, exc_info=True)

    def _refusal(self, path: Path) -> OutputError:
        by = ""
        with suppress(OSError, ValueError, TypeError, KeyError), open_regular(self.path) as file:
            owner = json.loads(file.read(4096))
            by = f" (process {int(owner['pid'])} on {owner['host']})"
        return OutputError(
            f"{self.output}: another run is writing it{by}; wait for it, or write to another "
            "file. "
            f"If that run is long gone, remove {path}"
        )

    def clean(self) -> None:
        """Remove the lock file of a run that was killed."""
        if self.path.exists():
            with suppress(OutputError):
                self.acquire()
                self.release()

    def release(self) -> None:
        """Release the lock, if it is held."""
        held, self._held = self._held, None
        if held is not None:
            # remove it while it is locked: a waiting run then sees that the file has no name
            with suppress(OSError):  # Windows does not remove open files
                self.path.unlink()
            held.release()
