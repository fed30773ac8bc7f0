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
"""What a file system answers that cannot lock files."""


class Lock:
    """An exclusive lock on a name, held from `acquire` to `release`, or to the end of this
    object or of the process.

    The kernel's lock on a small file, which ends with its process. Where a file system has none, a
    second file that names the process stands for it (``.pid``), and is void once that has ended.

    Parameters
    ----------
    path : Path
        The lock's own file; removed by `release`.
    what : str
        The name to blame in messages.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._held: BaseFileLock | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        OutputError
            Another run has it, or something else than a lock file is in its place.
        """
        check_regular(self.path)
        try:
            self._held = self._acquired()
        except Timeout as error:
            raise self._refusal(Path(error.lock_file)) from error
        except OSError as error:
            raise OutputError(
                f"{self.what}: cannot be locked: {self.path}: {error.strerror or error}"
            ) from error
        try:
            self._sign()
        except BaseException:
            self.release()
            raise

    def _acquired(self) -> BaseFileLock:
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

    def _sign(self) -> None:
        """Write the owner into the lock file, for the messages of other runs."""
        text = json.dumps({"pid": os.getpid(), "host": platform.node()})
        try:
            with open_regular(self.path, "r+b") as file:
                file.truncate(0)
                file.write(text.encode())
        except OutputError:
            raise
        except OSError:  # Windows lets nobody write a locked file; a disk may be full
            log.debug("%s: cannot be written", self.path, exc_info=True)

    def _refusal(self, path: Path) -> OutputError:
        who = ""
        with suppress(OSError, ValueError, TypeError, KeyError), open_regular(self.path) as file:
            owner = json.loads(file.read(4096))
            who = f" (process {int(owner['pid'])} on {owner['host']})"
        return OutputError(
            f"{self.what}: another run is writing it{who}; wait for it, or write to another file. "
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
            # while it is held: whoever waits for the removed file sees that it has no name any more
            with suppress(OSError):  # Windows removes no open file
                self.path.unlink()
            held.release()
