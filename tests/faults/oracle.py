"""Judge a command under a fault: all tests of faults share this judgement.

The command runs in a process of its own, forked from a clean one. A fault is a function that this
process calls before the command begins: it sets a limit, or replaces a function by one that fails.
"""

import functools
import multiprocessing
import os
import re
import sys
import tempfile
import time
import types
from pathlib import Path

from georsr.cli.main import main

import georsr.api  # noqa: F401  imported once, before forking
from georsr.writer import resumable_tiff, writer

KILLED = -9
TIMEOUT = 120

processes = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
processes.set_forkserver_preload([__name__])


def _command(words, fault, said, folder):
    """Run a command in this process, with its messages in a file."""
    for number in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["georsr", *words]
    writer.SYNC_SECONDS = -1.0  # every block is listed at once, as if each took long
    os.chdir(folder)
    if fault is not None:
        fault()
    main()


def run(words, folder, fault=None):
    """Run a command in ``folder``; returns its exit code, negative for a signal, and messages."""
    with tempfile.TemporaryDirectory() as name:
        said = Path(name) / "said.txt"
        process = processes.Process(target=_command, args=(words, fault, said, folder))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"does not end: {words}")
        return process.exitcode, said.read_text()


def contents(folder):
    """Return the files below a folder; of JSON documents, which have times, only the names."""
    return {
        path.relative_to(folder).as_posix(): b"" if path.suffix == ".json" else path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "lost+found"
    }


def restore(folder, given):
    """Make ``folder`` hold the given files again; those that did not change are not touched."""
    there = contents(folder)
    changed = [name for name in there if given.get(name) != there[name]]
    for name in changed:
        (folder / name).unlink()
    for name in set(given) - set(there) | set(given).intersection(changed):
        (folder / name).write_bytes(given[name])
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


runs = {}
"""Files after a run that met no fault, by command and files before it."""


def undisturbed(words, folder):
    """Return the files after a run that meets no fault; the same run is made once."""
    before = contents(folder)
    key = (*words, *before, *before.values())
    if key not in runs:
        runs.clear()
        code, said = run(words, folder)
        assert code == 0, said
        runs[key] = contents(folder)
    return runs[key]


def is_hidden(name):
    return any(part.startswith(".") for part in name.split("/"))


def judge(command, folder, expected, *, message="", fault=None, mend=None):
    """Run a command that meets a fault, and again without it; check everything about both.

    1. The exit code is the documented one.
    2. A failure is one line that begins with "Error: " and holds ``message``, or one for each
       raster of a batch; no traceback.
    3. No file that was there has changed, except an output that has its new bytes.
    4. No file under a final name has other bytes than the complete output.
    5. Files of an unfinished run are left only by a kill, or if the message says to rerun the same
       command.
    6. The same command without the fault ends with exactly the files and bytes of a run that met
       no fault.

    Afterwards the folder is as it was.

    Parameters
    ----------
    command : list of str
        Arguments of ``georsr``; {} stands for ``folder``.
    folder : Path
        Folder with the sources.
    expected : int or tuple of int
        Exit code; `KILLED` for SIGKILL.
    message : str
        Words that the line must hold.
    fault : callable, optional
        Called in the process of the first run.
    mend : callable, optional
        Called before the second run, to remove a fault of the folder. Without ``fault`` and
        ``mend`` the input is bad and stays so.

    Returns
    -------
    str
        What the first run printed.
    """
    words, given = [word.replace("{}", str(folder)) for word in command], contents(folder)
    times = {name: (folder / name).stat().st_mtime_ns for name in given}
    code, said = run(words, folder, fault)
    assert code == expected or (isinstance(expected, tuple) and code in expected), said
    left = contents(folder)
    check_messages(code, said, message, quiet="-q" in command, several="--out-dir" in command)
    changed = {n for n in given if left.get(n) != given[n]}
    touched = {n for n in set(given) - changed if (folder / n).stat().st_mtime_ns != times[n]}
    assert not touched, "sources were written"
    if fault is None and mend is None and code:
        assert left == given
        return said
    new = {name for name in left if name not in given}
    if code not in (0, KILLED):
        assert not any(map(is_hidden, new)) or "rerun the same" in said, (new, said)
    final = {name for name in new | changed if not is_hidden(name)}
    if mend is not None:
        mend()
    if code != 0:  # else the fault was tolerated
        again, words_again = run(words, folder)
        published = again == 2 and code == KILLED and "--overwrite" in words_again
        assert again == 0 or published, words_again
    second = contents(folder)
    restore(folder, given)
    if mend is not None:
        mend()
    whole = undisturbed(words, folder)
    restore(folder, given)
    assert sorted(second) == sorted(whole), "other files than those of a run without a fault"
    assert [name for name in whole if second[name] != whole[name]] == [], "other bytes"
    assert not any(is_hidden(name) for name in set(whole) - set(given))
    partial = [name for name in final if left.get(name) != whole.get(name)]
    assert partial == [], "a file under a final name was not complete"
    return said


def check_messages(code, said, message, *, quiet, several):
    """Check what a run printed."""
    assert "Traceback" not in said
    assert "not foreseen" not in said, said
    # whether a tile was done before an error is a matter of time
    lines = [line for line in said.splitlines() if not re.match(r"\d+ %: ", line)]
    errors = [line for line in lines if line.startswith("Error: ")]
    usage = ("Usage: ", "Try ") if code == 2 else ()  # click shows how to get help
    notices = [li for li in lines if li and not li.startswith(("Error: ", "Warning: ", *usage))]
    assert len(errors) == (code not in (0, KILLED)) or (several and errors), said
    assert not notices or (code == 0 and not quiet), said
    assert message in said, said
    assert len(said) < 3000


class AtBlock:
    """Fault: calls a function once, when the run has written so many blocks."""

    def __init__(self, count, work, *arguments):
        self.count, self.work = count, functools.partial(work, *arguments)

    def __call__(self):
        append, calls = resumable_tiff.PartialTiff.append, []

        def counted(part, *arguments):
            calls.append(1)
            if len(calls) == self.count + 1:
                self.work()
            return append(part, *arguments)

        resumable_tiff.PartialTiff.append = counted


class Patch:
    """Fault: replaces a function by ``instead``, from its call number ``first`` on, from 0.

    ``instead`` gets the function and the arguments of the call.
    """

    def __init__(self, owner, name, instead, first=0):
        self.owner, self.name, self.instead, self.first = owner, name, instead, first
        if isinstance(owner, types.ModuleType):  # modules cannot be pickled
            self.owner = owner.__name__

    def __call__(self):
        owner = sys.modules[self.owner] if isinstance(self.owner, str) else self.owner
        before, calls = getattr(owner, self.name), []

        def patched(*arguments, **options):
            calls.append(1)
            if len(calls) > self.first:
                return self.instead(before, *arguments, **options)
            return before(*arguments, **options)

        setattr(owner, self.name, patched)


class Raise:
    """Raises an error, as the ``instead`` of a `Patch`."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_, **__):
        raise self.error


def kill(number):
    """Send a signal to this process."""
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # the main thread handles it
