"""Runs that are stopped: killed, interrupted, out of memory, or computed by a faulty network."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from georsr.inference.backends import ArrayBackend, TorchBackend
from georsr.inference.predictor import TilePredictor
from georsr.writer.paths import Lock, temp_paths
from tests.faults.oracle import KILLED, AtBlock, Patch, Raise, judge, kill, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
SR = ["sr", "{}/in.tif", "{}/out.tif", "-m", "bicubic-x2", "--tile", "32", "--blocksize", "32",
      "-j", "1", "-q"]  # fmt: skip
KINDS = {
    "plain": SR,
    "cog": [*SR, "--cog", "--blocksize", "128"],
    "overwrite": ["sr", "{}/in.tif", "{}/old.tif", *SR[3:], "--overwrite"],
    "quality": [*SR, "--quality", "{}/q.tif"],
    "stac": [*SR, "--stac", "{}/item.json"],
    "parts": ["sr", "{}/in.tif", "{}/out.vrt", *SR[3:], "--parts", "{}/P", "--blocksize", "128"],
    "batch": ["sr", "{}/in.tif", "{}/old.tif", "--out-dir", "{}/many", *SR[3:]],
}


@pytest.fixture
def folder(tmp_path, make_raster, texture):
    make_raster(texture(1, 100, 90), "in.tif", tiled=True, blockxsize=64, blockysize=64)
    make_raster(texture(1, 100, 90, seed=1), "old.tif")
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_command_killed_completes_when_repeated(kind, folder):
    fault = AtBlock(1 if kind in ("cog", "parts") else 5, kill, signal.SIGKILL)
    judge(KINDS[kind], folder, KILLED, fault=fault)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("kind", ["plain", "quality", "parts", "batch"])
def test_command_interrupted_completes_when_repeated(kind, number, code, folder):
    fault = AtBlock(1 if kind == "parts" else 5, kill, number)
    judge(KINDS[kind], folder, code, message="interrupted", fault=fault)


def flip(path, offset):
    """Change a byte in a file, if it exists."""
    if path.exists():
        data = bytearray(path.read_bytes())
        data[offset % len(data)] ^= 255
        path.write_bytes(data)


def cut(path, size):
    """Cut bytes off the end of a file, if it exists."""
    if path.exists():
        path.write_bytes(path.read_bytes()[:-size])


def replace_source(folder, *, keep_time):
    """Write other pixels of the same size under the name of the source."""
    path = folder / "in.tif"
    times = path.stat()
    path.write_bytes((folder / "other.tif").read_bytes())
    if keep_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


BETWEEN = {
    "source replaced": lambda d: replace_source(d, keep_time=False),
    "source of the same time": lambda d: replace_source(d, keep_time=True),
    "journal cut": lambda d: cut(d / ".out.tif.part.jsonl", 20),
    "journal changed": lambda d: flip(d / ".out.tif.part.jsonl", -90),
    "head of the journal changed": lambda d: flip(d / ".out.tif.part.jsonl", 90),
    "part cut": lambda d: cut(d / ".out.tif.part.tif", 3000),
    "header of the part changed": lambda d: flip(d / ".out.tif.part.tif", 4),
    "block of the part changed": lambda d: flip(d / ".out.tif.part.tif", -900),
    "part removed": lambda d: (d / ".out.tif.part.tif").unlink(missing_ok=True),
    "journal removed": lambda d: (d / ".out.tif.part.jsonl").unlink(missing_ok=True),
}


@pytest.mark.parametrize("case", BETWEEN)
@pytest.mark.parametrize("options", [[], ["--no-verify", "--co", "COMPRESS=JPEG"]])
def test_command_killed_and_files_changed_is_never_mixed(
    case, options, folder, make_raster, texture
):
    if options and case.startswith("source"):
        pytest.skip("the source is compared in the same way")
    make_raster(texture(1, 100, 90, seed=2), "other.tif", tiled=True, blockxsize=64, blockysize=64)
    mend = lambda: BETWEEN[case](folder)  # noqa: E731
    judge([*SR, *options], folder, KILLED, fault=AtBlock(5, kill, signal.SIGKILL), mend=mend)


def test_command_onto_an_output_in_work_is_refused(folder):
    lock = Lock(temp_paths(str(folder / "out.tif")).lock, "out.tif")
    lock.acquire()
    try:
        judge(SR, folder, 1, message="another run is writing it", mend=lock.release)
    finally:
        lock.release()


def too_large(before, predictor, tiles):
    """Fail as an allocator does on tiles above a size."""
    if tiles.shape[-1] > 40:
        raise MemoryError
    return before(predictor, tiles)


def not_finite(before, predictor, tiles):
    return before(predictor, tiles) * float("nan")


def too_few_rows(before, backend, tiles):
    return before(backend, tiles)[..., 1:, :]


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        (too_large, "tiles tried: 64"),
        (Raise(RuntimeError("a bug")), "a bug"),
        (Raise(RuntimeError("DefaultCPUAllocator: can't allocate memory")), "tiles tried: 64"),
        (Raise(RuntimeError("Failed to allocate memory for requested buffer")), "tiles tried: 64"),
        (not_finite, "not finite at tile 2"),
    ],
)
def test_network_failing_at_one_tile_ends_the_run(instead, message, folder):
    fault = Patch(TilePredictor, "predict", instead, first=2)
    judge([*SR, "--tile", "64"], folder, 1, message=message, fault=fault)


@pytest.mark.parametrize("backend", [ArrayBackend, TorchBackend])
def test_network_of_another_shape_ends_the_run(backend, folder):
    name = "onnx" if backend is ArrayBackend else "torch"
    command = [*SR, "-m", "segsr-lite-x2", "--backend", name, "--tile", "64"]
    fault = Patch(backend, "forward", too_few_rows, first=1)
    judge(command, folder, 1, message="expected (", fault=fault)


YEAR = 365 * 86400.0
JUMPS = itertools.cycle((0.0, YEAR, -YEAR, 1.0, -3600.0))


def jumping(before):
    """Return the time of a clock that is set again and again."""
    return before() + next(JUMPS)


@pytest.mark.parametrize("progress", ["bar", "json"])
@pytest.mark.parametrize("kind", ["cog", "stac", "parts"])
def test_command_while_the_clock_jumps_completes(kind, progress, folder):
    words = [word for word in KINDS[kind] if word != "-q"]
    fault = Patch(time, "time", jumping)
    judge([*words, "--progress", progress], folder, 0, fault=fault)


@pytest.mark.parametrize("moment", [0, 4e9])
def test_command_killed_and_resumed_at_another_time_completes(moment, folder):
    """The source, too, is of another time: of long ago, or of the future."""
    os.utime(folder / "in.tif", (moment, moment))

    def age():
        for path in folder.glob(".out*"):
            os.utime(path, (4e9 - moment, 4e9 - moment))

    judge(SR, folder, KILLED, fault=AtBlock(5, kill, signal.SIGKILL), mend=age)


def test_command_whose_folder_is_removed_meanwhile_is_one_line(folder, tmp_path):
    """Nothing can be kept, and nothing is left elsewhere."""
    (tmp_path / "out").mkdir()
    words = [*SR[:2], str(tmp_path / "out" / "out.tif"), *SR[3:]]
    fault = AtBlock(5, shutil.rmtree, tmp_path / "out")
    code, said = run([word.replace("{}", str(folder)) for word in words], folder, fault)
    assert code == 1
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    assert "not foreseen" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "old.tif"]


NO_PROC = "umount -l /proc"
PROCESSES_ONLY = "mount -t proc -o subset=pid proc /proc"


def run_without_proc(words, folder, mount):
    """Run a command where ``mount`` has changed /proc, as in a chroot or a strict sandbox."""
    code = "from georsr.cli.main import main; main()"
    hidden = f'mount --make-rprivate / && {mount} && exec "$@"'
    command = [sys.executable, "-c", code, *(word.replace("{}", str(folder)) for word in words)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden, "sh", *command],
        timeout=120, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("namespaces are not allowed")
    return done.returncode, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("mount", [NO_PROC, PROCESSES_ONLY])
def test_command_without_proc_completes(mount, folder):
    assert run_without_proc(SR, folder, mount) == (0, "")
    without = (folder / "out.tif").read_bytes()
    (folder / "out.tif").unlink()
    assert run([word.replace("{}", str(folder)) for word in SR], folder)[0] == 0
    assert (folder / "out.tif").read_bytes() == without


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("mount", [NO_PROC, PROCESSES_ONLY])
def test_train_without_proc_is_refused_at_once(mount, folder):
    words = ["train", "segsr-lite-x4", "--data", "{}", "--out", "{}/run"]
    code, said = run_without_proc(words, folder, mount)
    assert (code, said.count("\n")) == (1, 1), said
    assert said.startswith("Error: ")
    assert "mount -t proc proc /proc" in said
    assert not (folder / "run").exists()
