"""Kill workers, clients and whole runs of a cluster, run again, and compare.

    python benchmarks/robustness/kill_cluster.py [--rounds 60] [--seed 0] [--folder FOLDER]

A round is one output. Its run on two local workers loses a worker, its client or everything
(SIGKILL) once or twice, at a random moment of its work or of its start; a run that has lost a
worker has to end well by itself, and no process may outlive its client. Then the same command ends
it, on a cluster or serially. It has to end with the very bytes of an undisturbed serial run, and
with no other file beside it. Clients are forked from this process, which has all libraries loaded,
and start their workers as any client does. Exit code 1 if any round went wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kill_runs import EXISTS, TILES, finish, make_sources
from kill_runs import start as start_here

CLUSTER = ["--workers", "2"]
JOBS = {
    "bytes": ("rgb.tif", "out.tif", ["-m", "bicubic-x2"]),
    "mask": ("masked.tif", "out.tif", ["-m", "bicubic-x3"]),
    "network": ("rgb.tif", "out.tif", ["-m", "segsr-lite-x2", "--tile", "64", "--halo", "4"]),
    "cog": ("masked.tif", "out.tif", ["-m", "bicubic-x2", "--cog", "--blocksize", "128"]),
    "parts": ("nodata.tif", "out.vrt", ["-m", "bicubic-x2", "--blocksize", "128"]),
    "masked parts": ("masked.tif", "out.vrt", ["-m", "bicubic-x2", "--blocksize", "128"]),
}
TARGETS = ("worker", "client", "everything")
LONGEST = 0.5
"""Seconds that a run may work before something is killed: most last a second."""
PATIENCE = 30.0
"""Seconds in which processes without a client have to be gone."""


def command(folder: Path, job: str, work: Path) -> list[str]:
    """The command line of a job."""
    source, out, options = JOBS[job]
    parts = ["--parts", str(work / "parts")] if out.endswith(".vrt") else []
    return ["sr", str(folder / source), str(work / out), *TILES, *options, *parts]


def start(arguments: list[str], said: str = os.devnull) -> int:
    """Fork a process, in a session of its own, that runs one command line; its pid."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os._exit(finish(start_here(arguments, said)) % 256)


def members(session: int) -> dict[int, int]:
    """The processes of a session that live, and whose child each is."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    found[int(entry.name)] = int(fields[1])
        except (OSError, ValueError):
            continue
    return found


def content(work: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(work)): path.read_bytes()
        for path in sorted(work.rglob("*"))
        if path.is_file()
    }


def begun(work: Path) -> bool:
    """Whether blocks or parts are noted already."""
    for journal in [*work.glob(".*.part.jsonl"), *work.glob("parts/.parts.jsonl")]:
        with suppress(FileNotFoundError):  # the run may end meanwhile
            if journal.read_bytes().count(b"\n") > 1:
                return True
    return False


def disturb(
    pid: int, work: Path, rng: random.Random, seen: Counter[str], targets: Sequence[str]
) -> str | None:
    """Kill something of a run once it works (or while it starts); what went wrong."""
    target, early = rng.choice(targets), rng.random() < 0.2
    until = time.monotonic() + (rng.uniform(0, 10) if early else 300)
    while time.monotonic() < until and not (begun(work) and not early):
        if os.waitpid(pid, os.WNOHANG)[0]:
            seen["ended before the kill"] += 1
            return None
        time.sleep(0.002)
    time.sleep(rng.uniform(0, LONGEST))
    there = members(pid)
    clients = [member for member, parent in there.items() if parent == pid]
    workers = [member for member, parent in there.items() if parent in clients]
    chosen = {
        "worker": rng.sample(workers, min(1, len(workers))),
        "client": clients,
        "everything": [member for member in there if member != pid],
    }[target]
    for victim in chosen:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    seen[f"killed: {target if chosen else 'nothing'}{' while starting' if early else ''}"] += 1
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if target == "worker" and code != 0:
        return f"exit code {code} after a worker was lost"
    since = time.monotonic()
    while left := members(pid):
        if time.monotonic() - since > PATIENCE:
            return f"outlive their client: {left}"
        time.sleep(0.05)
    return None


def one_round(
    job: str,
    folder: Path,
    expected: dict[str, bytes],
    rng: random.Random,
    seen: Counter[str],
    targets: Sequence[str],
) -> str | None:
    """Disturb a job once or twice, then let it end; what was wrong, if anything."""
    work = folder / "work"
    work.mkdir()
    arguments, out = command(folder, job, work), work / JOBS[job][1]
    for _ in range(rng.randint(1, 2)):
        if out.exists():
            break
        said = folder / "said.txt"
        said.write_text("")
        if problem := disturb(start([*arguments, *CLUSTER], str(said)), work, rng, seen, targets):
            return f"{problem}: {said.read_text().strip()}"
        if out.exists() and out.read_bytes() != expected[out.name]:
            return "unfinished, but of the final name"
    complete = out.exists() and not begun(work)
    ending = rng.choice([CLUSTER, []])
    code = finish(start([*arguments, *ending]))
    seen[f"ended {'on a cluster' if ending else 'serially'}"] += 1
    if code != 0 and not (complete and code == EXISTS):
        return f"exit code {code}"
    got = content(work)
    if got.keys() != expected.keys():
        return f"files {sorted(got.keys() ^ expected.keys())}"
    if different := [name for name in got if got[name] != expected[name]]:
        return f"other bytes in {different}"
    for path in sorted(work.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    work.rmdir()
    return None


def main() -> int:
    """Run all rounds and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=300, help="pixels of the sources")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    arguments = parser.parse_args()
    rng, seen, wrong = random.Random(arguments.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make_sources(folder, arguments.side)
        expected = {}
        for job in arguments.jobs:
            work = folder / "work"
            work.mkdir()
            assert finish(start(command(folder, job, work))) == 0
            expected[job] = content(work)
            work.rename(folder / f"expected {job}")
        for number in range(1, arguments.rounds + 1):
            job = arguments.jobs[number % len(arguments.jobs)]
            problem = one_round(job, folder, expected[job], rng, seen, arguments.targets)
            if problem:
                wrong += 1
                print(f"round {number}, {job}: {problem}", flush=True)
                (folder / "work").rename(folder / f"wrong{number}")
            elif number % 10 == 0:
                print(f"{number} rounds, {wrong} wrong; {dict(seen)}", flush=True)
    print(f"{arguments.rounds} rounds, {wrong} wrong; {dict(seen)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
