"""Run a command again and again, killed one file operation later each time, then run it to its end.

    python kill_everywhere.py FOLDER FIRST STEP COMMAND...

``{}`` in the command stands for the folder of the run. Prints a JSON object: how many file
operations the command makes, and what was wrong after which of them. Python's audit events are the
operations: opening, renaming, removing, making a folder.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import torch
from georsr.cli.main import invoke

import georsr.api
import georsr.geo.stac  # noqa: F401

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock")
FINISHED, KILLED = 0, 137


def killed_at(number: int, folder: Path) -> None:
    """End this process at its file operation ``number`` in a folder, as SIGKILL would."""
    count, lock = 0, threading.Lock()

    def look(event: str, arguments: tuple) -> None:
        nonlocal count
        if event not in EVENTS or not str(arguments[0]).startswith(str(folder)):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        with lock:
            count += 1
            if count == number:
                os._exit(KILLED)

    sys.addaudithook(look)


def child(work) -> tuple[int, str]:
    """Exit code and messages of ``work`` in a process of its own."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        said = io.StringIO()
        code = 99
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                code = work()
        except BaseException as error:
            said.write(f"{type(error).__name__}: {error}")
        finally:
            os.write(writing, said.getvalue()[-4000:].encode())
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text


def content(folder: Path) -> dict[str, bytes]:
    """Files below a folder; of documents with a time of their own only the name."""
    return {
        str(path.relative_to(folder)): b"" if path.suffix == ".json" else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def main(folder: Path, first: int, step: int, command: list[str]) -> dict:
    template = folder / "template"
    place = folder / "run"

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template, place)

    arguments = [word.replace("{}", str(place)) for word in command]
    fresh()
    code, said = child(lambda: invoke(arguments))
    if code != 0:
        return {"count": 0, "wrong": [f"undisturbed: {code} {said}"]}
    whole, wrong, number = content(place), [], first

    def doomed() -> int:
        killed_at(number, place)
        return invoke(arguments)

    while True:
        fresh()
        if child(doomed)[0] != KILLED:
            return {"count": number, "wrong": wrong}
        code, said = child(lambda: invoke(arguments))
        if code == 2 and "--overwrite" in said:
            code, said = 0, ""  # everything had been done but to end
        there = content(place)
        if code or there != whole:
            more, less = sorted(set(there) - set(whole)), sorted(set(whole) - set(there))
            other = [name for name in set(there) & set(whole) if there[name] != whole[name]]
            wrong.append(f"{number}: {code} +{more} -{less} !{other} {said[-300:]}")
        number += step


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    sys.stdout.write(json.dumps(found))
