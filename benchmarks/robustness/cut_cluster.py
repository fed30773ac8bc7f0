"""Cut links and freeze processes of a cluster in the middle of a run, run again, and compare.

    sudo python benchmarks/robustness/cut_cluster.py [--cases NAME ...] [--folder FOLDER]

Scheduler, two workers and client run in network namespaces of their own, joined by a bridge, as if
on four machines that share their storage. Needs root and iproute2. A cut link drops all packets, as
a switch that lost its power does: no end of the cable notices. A frozen process (SIGSTOP) keeps its
connections, and says nothing.

A case disturbs one run as soon as a tenth of it is done, or while it connects. The run has to end
within `WAIT` seconds: either with exit code 0 and the bytes of an undisturbed serial run; or with 1
(130 after Ctrl-C), one line on stderr that says why, and no file of the output's name. Then links
are restored, all processes are started anew, and the same command has to end with the bytes of the
serial run, and no other file beside it. Exit code 1 if any case went wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kill_runs import make_sources

NAMES = ("scheduler", "worker1", "worker2", "client")
ADDRESS = "tcp://10.77.0.1:8786"
OPTIONS = ["-m", "segsr-lite-x2", "--tile", "64", "--halo", "8", "--blocksize", "128"]
WORKER_TTL = "120s"
"""Time after which the scheduler looks for frozen workers; five minutes by default."""
WAIT = 420.0
"""Longest time in seconds in which a run has to end, whatever happens to it."""


def ip(*arguments: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *arguments], check=True)


class Network:
    """Four network namespaces and a bridge between them, in a fifth; a context manager."""

    def __init__(self) -> None:
        self._prefix = f"georsr{os.getpid()}-"
        self._switch = f"{self._prefix}switch"

    def __enter__(self) -> Network:
        for name in (self._switch, *map(self.space, NAMES)):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._switch, "link", "set", "bridge", "up")
        for number, name in enumerate(NAMES, 1):
            space = self.space(name)
            peer = ["peer", "name", "eth0", "netns", space]
            ip("-n", self._switch, "link", "add", name, "type", "veth", *peer)
            ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", self._switch, "link", "set", name, "up")
            self.join(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self._switch, *map(self.space, NAMES)):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)

    def space(self, name: str) -> str:
        """The namespace of a machine."""
        return self._prefix + name

    def join(self, name: str) -> None:
        """Plug the cable of a machine into the bridge."""
        ip("-n", self._switch, "link", "set", name, "master", "bridge")

    def cut(self, name: str) -> None:
        """Pull the cable of a machine from the bridge; its own end stays up."""
        ip("-n", self._switch, "link", "set", name, "nomaster")


class Machines:
    """The processes of a cluster on a network."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._network, self._folder = network, folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, said: Path, *command: str) -> subprocess.Popen[bytes]:
        """Start a Python module on a machine, in a session of its own."""
        full = ["ip", "netns", "exec", self._network.space(name), sys.executable, "-m", *command]
        with said.open("wb") as log:
            self.running[name] = subprocess.Popen(
                full,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": WORKER_TTL},
            )
        return self.running[name]

    def send(self, name: str, number: int) -> None:
        """Send a signal to all processes of a machine."""
        with suppress(ProcessLookupError):
            os.killpg(self.running[name].pid, number)

    def cut(self, name: str) -> None:
        """Cut the link of a machine."""
        self._network.cut(name)

    def join(self, name: str) -> None:
        """Restore the link of a machine."""
        self._network.join(name)

    def end(self) -> None:
        """Restore all links and end all processes."""
        for name, process in self.running.items():
            self.join(name)
            self.send(name, signal.SIGKILL)
            process.wait()

    def renew(self) -> None:
        """Restore all links, end all processes, and start scheduler and workers."""
        self.end()
        for name in NAMES[:-1]:
            command = ["distributed.cli.dask_scheduler", "--host", "10.77.0.1"]
            if name != "scheduler":
                command = ["distributed.cli.dask_worker", ADDRESS, "--nthreads", "1"]
                command += ["--memory-limit", "0", "--local-directory", str(self._folder)]
            self.start(name, self._folder / f"{name}.log", *command, "--no-dashboard")


Disturb = Callable[[Machines], None]


def change(
    names: tuple[str, ...],
    begin: Callable[[Machines, str], None],
    end: Callable[[Machines, str], None],
    seconds: float | None,
) -> Disturb:
    """Return a function that disturbs machines for some seconds, or for ever."""

    def disturb(machines: Machines) -> None:
        for name in names:
            begin(machines, name)
        if seconds is not None:
            time.sleep(seconds)
            for name in names:
                end(machines, name)

    return disturb


def freeze(*names: str, seconds: float | None = None) -> Disturb:
    """Return a function that stops the processes of machines."""
    return change(
        names,
        lambda machines, name: machines.send(name, signal.SIGSTOP),
        lambda machines, name: machines.send(name, signal.SIGCONT),
        seconds,
    )


def cut(*names: str, seconds: float | None = None) -> Disturb:
    """Return a function that cuts the links of machines."""
    return change(names, Machines.cut, Machines.join, seconds)


def kill(name: str) -> Disturb:
    """Return a function that kills the processes of a machine."""
    return lambda machines: machines.send(name, signal.SIGKILL)


def nothing(machines: Machines) -> None:
    """Disturb nothing."""


INTERRUPTED = "Ctrl-C, "
"""Beginning of the cases in which Ctrl-C is pressed once, `PRESS_AFTER` seconds later."""
PRESS_AFTER = 5.0
WORKING: dict[str, Disturb] = {
    "nothing": nothing,
    "worker killed": kill("worker1"),
    "scheduler killed": kill("scheduler"),
    "worker frozen 10 s": freeze("worker1", seconds=10),
    "worker frozen 60 s": freeze("worker1", seconds=60),
    "worker frozen": freeze("worker1"),
    "workers frozen 10 s": freeze("worker1", "worker2", seconds=10),
    "workers frozen 60 s": freeze("worker1", "worker2", seconds=60),
    "workers frozen": freeze("worker1", "worker2"),
    "scheduler frozen 10 s": freeze("scheduler", seconds=10),
    "scheduler frozen 60 s": freeze("scheduler", seconds=60),
    "scheduler frozen": freeze("scheduler"),
    "worker cut off 10 s": cut("worker1", seconds=10),
    "worker cut off 60 s": cut("worker1", seconds=60),
    "worker cut off": cut("worker1"),
    "workers cut off": cut("worker1", "worker2"),
    "scheduler cut off 10 s": cut("scheduler", seconds=10),
    "scheduler cut off 60 s": cut("scheduler", seconds=60),
    "scheduler cut off": cut("scheduler"),
    "client cut off 10 s": cut("client", seconds=10),
    "client cut off 60 s": cut("client", seconds=60),
    "client cut off": cut("client"),
    "Ctrl-C, nothing": nothing,
    "Ctrl-C, worker frozen": freeze("worker1"),
    "Ctrl-C, workers cut off": cut("worker1", "worker2"),
    "Ctrl-C, scheduler frozen": freeze("scheduler"),
    "Ctrl-C, scheduler cut off": cut("scheduler"),
}
"""What happens to a run that works."""
STARTING = {
    "before: scheduler killed": kill("scheduler"),
    "before: scheduler frozen": freeze("scheduler"),
    "before: scheduler cut off": cut("scheduler"),
    "before: worker frozen": freeze("worker1"),
    "before: worker cut off": cut("worker1"),
    "Ctrl-C, before: scheduler frozen": freeze("scheduler"),
    "Ctrl-C, before: scheduler cut off": cut("scheduler"),
    "Ctrl-C, before: worker frozen": freeze("worker1"),
}
"""What happens to the cluster before a run begins."""


def wait(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> bool:
    """Wait until something is so, or the process has ended, or `WAIT` seconds have passed."""
    until = time.monotonic() + WAIT
    while process.poll() is None and not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def problem_of(code: int | None, lines: list[str], out: Path, expected: bytes) -> str | None:
    """Return what is wrong with the end of a disturbed run, or None."""
    errors = [line for line in lines if line.startswith("Error: ")]
    if code == 0:
        return None if out.read_bytes() == expected else "other bytes"
    if code not in (1, 130):
        return f"exit code {code}"
    if out.exists():
        return f"exit code {code}, but there is an output"
    return None if len(errors) == 1 and errors[0] == lines[-1] else "not one line"


def run_case(name: str, machines: Machines, folder: Path, expected: bytes) -> str | None:
    """Disturb a run, then repeat it; print what happened; return what was wrong, or None."""
    work, said = folder / "work", folder / "client.log"
    work.mkdir()
    out = work / "out.tif"
    command = ["georsr.cli", "sr", str(folder / "rgb.tif"), str(out), *OPTIONS]
    machines.renew()
    wait(machines.running["scheduler"], lambda: registered(folder) == 2)
    if name in STARTING:
        STARTING[name](machines)
        since = time.monotonic()
    run = machines.start("client", said, *command, "--scheduler", ADDRESS)
    if name in WORKING:
        wait(run, lambda: " %: " in said.read_text())
        since = time.monotonic()
        WORKING[name](machines)
    if name.startswith(INTERRUPTED):
        time.sleep(PRESS_AFTER)
        since = time.monotonic()
        machines.send("client", signal.SIGINT)
    ended = wait(run, lambda: False)
    seconds, code = time.monotonic() - since, run.poll()
    lines = said.read_text().splitlines()
    problem = problem_of(code, lines, out, expected) if ended else f"no end in {WAIT:.0f} s"
    print(f"{name}: {code} after {seconds:.0f} s: {lines[-1] if lines else ''}", flush=True)
    if code != 0 and not problem:
        machines.renew()
        again = machines.start("client", said, *command, "--scheduler", ADDRESS)
        wait(again, lambda: False)
        if again.poll() != 0 or out.read_bytes() != expected:
            problem = f"the repeated run: {again.poll()}: {said.read_text()[-300:]}"
        elif [path.name for path in work.iterdir()] != ["out.tif"]:
            problem = f"left over: {sorted(path.name for path in work.iterdir())}"
    shutil.rmtree(work)
    return problem


def registered(folder: Path) -> int:
    """Return how many workers the scheduler has registered since it was started."""
    return (folder / "scheduler.log").read_text().count("Register worker")


def main() -> int:
    """Run all cases and print what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*WORKING, *STARTING]
    parser.add_argument("--cases", nargs="+", default=names, choices=names, metavar="CASE")
    parser.add_argument("--side", type=int, default=500, help="pixels of the source")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name, Network() as network:
        folder = Path(name)
        make_sources(folder, arguments.side)
        one = [sys.executable, "-m", "georsr.cli", "sr", str(folder / "rgb.tif")]
        subprocess.run([*one, str(folder / "one.tif"), *OPTIONS, "-q"], check=True)
        expected = (folder / "one.tif").read_bytes()
        machines = Machines(network, folder)
        try:
            for case in arguments.cases:
                if problem := run_case(case, machines, folder, expected):
                    wrong += 1
                    print(f"WRONG: {case}: {problem}", flush=True)
        finally:
            machines.end()
    print(f"{len(arguments.cases)} cases, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
