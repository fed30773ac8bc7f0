"""Trace the system calls of georsr's commands on hostile rasters, and of ``sr`` on honest ones.

    python benchmarks/robustness/trace_hostile_files.py [RASTER ...]

Every command that reads a raster is given each hostile one: sr (as a source, in a list and as an
area), info, eval, eval --pairs, quality, train and export. Prints one line for each raster and
command: refused or read, files opened that lie neither in its folder nor
in that of the output, files written or removed outside the latter, connections. The hostile ones
are those of tests/attacks (hostile.py, disguised.py); rasters named on the command line must be
read. Exit code 1 if one is treated otherwise, or anything is opened, written or called. Needs
strace.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

OWN = tuple(
    f"{folder}/"
    for folder in (
        *("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev", "/run", "/sbin", "/bin"),
        *(ROOT, sys.prefix, sys.base_prefix, *(path for path in sys.path if path)),
        *(Path.home() / name for name in (".local/share/proj", ".gdal", ".aws")),
        *os.environ["PATH"].split(":"),
    )
)
"""Folders that Python, GDAL, PROJ and the system read by themselves."""
OWN_FILES = tuple(str(Path.home() / name) for name in (".ncrc", ".dodsrc", ".daprc"))
NO_FILES = ("MEM:::", "/vsi", "<")
"""How names begin that GDAL tries as files, and that are none."""
CALLS = (
    "open,openat,creat,truncate,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,rmdir,"
    "link,linkat,symlink,symlinkat,mknod,mknodat,chmod,fchmodat,utimensat,connect,execve"
)
MARK = "/dev/null/raster-"


def main() -> int:
    """Make the rasters, run the command on each under strace, and print what it did."""
    from tests.attacks import disguised, hostile
    from tests.attacks.server import recording_server

    if shutil.which("strace") is None:
        sys.exit("strace is not installed, expected it in PATH; for example apt install strace")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name).resolve()
        served = base / "served"
        served.mkdir()
        with recording_server(served, base / "requests.txt") as url:
            cases = [
                # GDAL takes a single 0 in the name of an HDF5 file for the first one of a family of
                # files, and looks for that with 1 in its place: here are two
                _case(kind, title, make, base / f"00-{number}", url)
                for number, (kind, title, make) in enumerate(
                    [
                        ("hostile", title, make)
                        for title, make in {**hostile.ALL, **disguised.DISGUISED}.items()
                    ]
                    + [("honest", title, make) for title, make in disguised.HONEST.items()]
                    + [
                        ("honest", path, lambda f, c, p=path: Path(p).resolve())
                        for path in sys.argv[1:]
                    ]
                )
            ]
            (base / "cases.json").write_text(json.dumps(cases))
            (base / "temporary").mkdir()
            subprocess.run(
                [
                    *("strace", "-f", "-qq", "-s", "4096", "-e", f"trace={CALLS}"),
                    *("-o", base / "trace"),
                    *(sys.executable, __file__, "--child", base / "cases.json"),
                ],
                env={
                    **os.environ,
                    "TMPDIR": str(base / "temporary"),
                    "MPLCONFIGDIR": str(base / "temporary"),
                },
                check=True,
            )
        codes = json.loads((base / "codes.json").read_text())
        calls = _calls_by_command((base / "trace").read_text(errors="replace"))
        failed = sum(
            _report(case, command, code, calls.get((number, command), []), base)
            for number, case in enumerate(cases)
            for command, code in codes[number].items()
        )
    print(f"{len(cases)} rasters, {sum(map(len, codes))} commands, {failed} not as they should be")
    return 1 if failed else 0


def _case(kind, title, make, folder, url):
    """Make one raster in a folder of its own."""
    from tests.attacks import hostile

    gift = folder / "gift"
    gift.mkdir(parents=True)
    secret, victim = folder / "secret.bin", folder / "victim.txt"
    secret.write_bytes(bytes(range(1, 256)) * 32)
    victim.write_text("precious\n")
    path = str(make(gift, hostile.Canary(victim, secret, url)))
    (folder / "out").mkdir()
    return {"kind": kind, "title": title, "path": path, "folder": str(folder)}


def _child(file: str) -> None:
    """Run the command on each raster; failing to open a name marks where one begins."""
    from cli.main import invoke, prepare_process

    prepare_process()
    codes: list[dict[str, int]] = []
    cases = json.loads(Path(file).read_text())
    commands = [_commands(case) for case in cases]
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    # what the commands import opens files of its own: that comes before the first mark
    import matplotlib.font_manager  # noqa: F401
    import torch  # noqa: F401

    for command in (["sr", "absent.tif", "out.tif"], ["train", "finetune-sensor"]):
        invoke(command)
    for number in range(len(cases)):
        codes.append({})
        for command, arguments in commands[number].items():
            with suppress(OSError):
                Path(f"{MARK}{number}-{command}").read_bytes()
            codes[-1][command] = invoke([*arguments])
    Path(file).with_name("codes.json").write_text(json.dumps(codes))


def _commands(case: dict[str, str]) -> dict[str, list[str]]:
    """Return the arguments of each command that is to read one raster."""
    path, folder = case["path"], Path(case["folder"], "out")
    commands = {"sr": ["sr", path, f"{folder}/out.tif", "-m", "nearest-x2", "--force"]}
    if case["kind"] == "honest":
        return commands
    town = str(ROOT / "sample_data" / "town_rgb_2m.tif")
    (folder / "list.txt").write_text(f"{path}\n")
    pairs = folder / "pairs"
    pairs.mkdir()
    (pairs / "pairs.tsv").write_text("name\tscale\trgb\nfirst\t2\t3,2,1\n")
    shutil.copy(town, pairs / "first_hr.tif")
    for file in Path(path).parent.glob(f"{glob.escape(Path(path).stem)}*"):
        rest = file.name.removeprefix(Path(path).stem).removeprefix(Path(path).suffix)
        if file.is_file():
            shutil.copy(file, pairs / f"first_lr.tif{rest}", follow_symlinks=False)
    return commands | {
        "list": ["sr", f"@{folder}/list.txt", f"{folder}/list.tif", "-m", "nearest-x2"],
        "area": ["sr", town, f"{folder}/area.tif", "-m", "nearest-x2", "--aoi", path],
        "info": ["info", path, "-m", "nearest-x2"],
        "eval": ["eval", path, town],
        "eval-hr": ["eval", town, path],
        "eval-lr": ["eval", town, town, "--lr", path],
        "eval-pairs": ["eval", "--pairs", str(pairs), "-m", "nearest-x2"],
        "report": ["quality", "report", town, path],
        "report-of": ["quality", "report", path, town],
        "layers": ["quality", "layers", path, town, f"{folder}/layers.tif"],
        "seams": ["quality", "seams", path, "-m", "nearest-x2"],
        "train": ["train", "finetune-sensor", "--data", path, "--out", f"{folder}/run"],
        "export": ["export", "segsr-lite-x2", f"{folder}/model.onnx", "--int8", path],
    }


def _calls_by_command(trace: str) -> dict[tuple[int, str], list[str]]:
    """Return the lines of the trace by raster and command."""
    key, calls = (-1, ""), {}
    for line in trace.splitlines():
        if mark := re.search(rf'"{MARK}(\d+)-([a-z-]+)"', line):
            key = (int(mark[1]), mark[2])
        else:
            calls.setdefault(key, []).append(line)
    return calls


def _report(case: dict[str, str], command: str, code: int, calls: list[str], base: Path) -> bool:
    """Print what one command did with one raster; return whether it is wrong."""
    folder = case["folder"]
    own = (f"{folder}/out", str(base / "temporary"), str(base / "codes.json"))
    named = (
        f"{folder}/gift",
        str(Path(case["path"]).parent) if case["kind"] == "honest" else own[0],
    )
    opened, written, called = set(), set(), set()
    for call in calls:
        if "connect(" in call and "AF_INET" in call:
            called.add(call.split("sa_family=", 1)[-1][:80])
        names = re.findall(r'"((?:[^"\\]|\\.)*)"', call)
        for name in names[:2]:
            if not name or "connect(" in call or "O_DIRECTORY" in call or name.startswith(NO_FILES):
                continue
            place = os.path.normpath(Path.cwd() / name)
            changes = not re.search(r" (openat?|execve)\(|resumed", call) or re.search(
                r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", call
            )
            if changes and not place.startswith((*own, "/dev/", "/proc/")):
                written.add(place)
            elif not place.startswith((*own, *named, *OWN, *OWN_FILES)):
                opened.add(place)
    right = (1, 2) if case["kind"] == "hostile" else (0,)
    wrong = bool(opened or written or called or code not in right)
    print(
        f"{'WRONG' if wrong else 'ok':5s} {case['kind']}: {command}: {case['title']}: "
        f"{'read' if code == 0 else f'refused ({code})'}, opened elsewhere: "
        f"{sorted(opened) or 'none'}, written: {sorted(written) or 'none'}, "
        f"connections: {sorted(called) or 'none'}"
    )
    return wrong


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2])
    else:
        sys.exit(main())
