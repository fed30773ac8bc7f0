"""Links, folders and pipes that somebody has laid where georsr is about to write."""

import json
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from georsr.cli.main import invoke

from georsr import _files
from georsr.errors import OutputError
from georsr.writer.paths import Lock

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX links and pipes")

PRECIOUS = b"precious"


def lay_link(path, victim):
    path.symlink_to(victim)


def lay_relative_link(path, victim):
    path.symlink_to(os.path.relpath(victim, path.parent))


def lay_dangling(path, victim):
    path.symlink_to(victim.with_name("not-there"))


def lay_circle(path, victim):
    path.symlink_to(path.name)


def lay_long_circle(path, victim):
    other = victim.with_name("circle")
    other.symlink_to(path)
    path.symlink_to(other)


def lay_folder(path, victim):
    path.mkdir()


def lay_full_folder(path, victim):
    path.mkdir()
    (path / "file").write_bytes(PRECIOUS)


def lay_pipe(path, victim):
    os.mkfifo(path)


def lay_socket(path, victim):
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def lay_device_link(path, victim):
    path.symlink_to("/dev/full")


LAID = [
    lay_link,
    lay_relative_link,
    lay_dangling,
    lay_circle,
    lay_long_circle,
    lay_folder,
    lay_full_folder,
    lay_pipe,
    lay_socket,
    lay_device_link,
]
STRANGE = [lay for lay in LAID if lay not in (lay_link, lay_relative_link)]
"""What cannot be replaced, even where ``--overwrite`` replaces a file or the link to one."""


@pytest.fixture
def scene(make_raster):
    return make_raster(np.arange(3 * 16 * 20, dtype=np.uint8).reshape(3, 16, 20))


@pytest.fixture
def victim(tmp_path):
    (tmp_path / "home").mkdir()
    path = tmp_path / "home" / "profile"
    path.write_bytes(PRECIOUS)
    yield path
    assert path.read_bytes() == PRECIOUS
    assert {each.name for each in path.parent.iterdir()} <= {"profile", "circle"}


@pytest.fixture
def run(capsys):
    """Run a command; returns exit code and what it said, at most one line of which is an error."""

    def invoked(*arguments):
        capsys.readouterr()
        code = invoke(list(map(str, arguments)))
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert sum(line.startswith("Error") for line in err.splitlines()) == (code != 0)
        return code, err

    return invoked


FAST = ("-m", "bicubic", "-s", "2", "--progress", "none")


@pytest.mark.parametrize("lay", LAID)
@pytest.mark.parametrize("end", ["tif", "cog.tif", "jsonl", "lock"])
def test_sr_with_a_link_at_a_working_file_is_refused(scene, victim, tmp_path, run, end, lay):
    own = tmp_path / f".out.tif.part.{end}"
    lay(own, victim)
    code, error = run("sr", scene, tmp_path / "out.tif", *FAST, "--cog")
    assert code == 1
    assert str(own) in error
    assert os.path.lexists(own)
    assert not (tmp_path / "out.tif").exists()
    assert [path.name for path in tmp_path.glob(".out*")] == [own.name]


@pytest.mark.parametrize("end", ["tif", "cog.tif", "jsonl", "lock"])
def test_sr_with_a_hard_linked_working_file_removes_the_link(scene, victim, tmp_path, run, end):
    os.link(victim, tmp_path / f".out.tif.part.{end}")
    assert run("sr", scene, tmp_path / "out.tif", *FAST, "--cog")[0] == 0
    assert list(tmp_path.glob(".out*")) == []


@pytest.mark.parametrize("lay", LAID)
@pytest.mark.parametrize("name", ["index.json", ".parts.jsonl", ".parts.lock"])
def test_sr_with_a_link_in_the_parts_folder_is_refused(scene, victim, tmp_path, run, name, lay):
    folder = tmp_path / "parts"
    folder.mkdir()
    lay(folder / name, victim)
    code, error = run("sr", scene, tmp_path / "out.vrt", *FAST, "--parts", folder)
    assert code == 1
    assert str(folder / name) in error
    assert not (tmp_path / "out.vrt").exists()
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("lay", LAID)
def test_sr_with_a_link_at_a_part_is_refused(scene, victim, tmp_path, run, lay):
    """Its name is known: another run with the same parts has shown it."""
    folder, out = tmp_path / "parts", tmp_path / "out.vrt"
    assert run("sr", scene, out, *FAST, "--parts", folder)[0] == 0
    (part,) = folder.glob("r0000_*.tif")
    made = part.read_bytes()
    part.unlink()
    lay(part, victim)
    code, error = run("sr", scene, out, *FAST, "--parts", folder, "--overwrite")
    if part.is_dir():
        assert code == 1
        assert str(part) in error
    else:
        assert code == 0
        assert not part.is_symlink()
        assert part.read_bytes() == made


@pytest.mark.parametrize("name", ["../home/profile", "/etc/passwd", "r0000_c0000_0.tif/x"])
def test_parts_index_naming_a_path_elsewhere_is_not_followed(scene, victim, tmp_path, run, name):
    folder, out = tmp_path / "parts", tmp_path / "out.vrt"
    assert run("sr", scene, out, *FAST, "--parts", folder)[0] == 0
    index = json.loads((folder / "index.json").read_text())
    index["parts"][0]["name"] = name
    (folder / "index.json").write_text(json.dumps(index))
    assert run("sr", scene, out, *FAST, "--parts", folder, "--overwrite")[0] == 0
    assert name not in out.read_text()


@pytest.mark.parametrize("lay", [lay_dangling, lay_circle, lay_pipe, lay_socket])
def test_sr_with_a_link_at_the_parts_folder_is_refused(scene, victim, tmp_path, run, lay):
    lay(tmp_path / "parts", victim)
    code, error = run("sr", scene, tmp_path / "out.vrt", *FAST, "--parts", tmp_path / "parts")
    assert code == 1
    assert str(tmp_path / "parts") in error


@pytest.mark.parametrize("lay", STRANGE)
@pytest.mark.parametrize("option", ["OUT", "--quality", "--stac"])
def test_sr_with_a_link_at_an_output_is_refused(scene, victim, tmp_path, run, option, lay):
    pytest.importorskip("pystac")
    names = {"OUT": "out.tif", "--quality": "q.tif", "--stac": "out.json"}
    target = tmp_path / names.pop(option)
    lay(target, victim)
    out = () if option == "OUT" else (option, target)
    code, error = run("sr", scene, tmp_path / "out.tif", *out, *FAST, "--overwrite")
    assert code == 1
    assert str(target) in error
    assert os.path.lexists(target)
    assert not (tmp_path / "out.tif").is_file()


def documents(tmp_path, scene, target):
    """Commands that write a document or a file of weights to ``target``."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"")
    return {
        "a.html": ["quality", "report", scene, scene, "--html", target],
        "a.csv": ["eval", "--dataset", images, "--csv", target],
        "b.html": ["eval", "--dataset", images, "--report", target],
        "a.onnx": ["export", "bicubic-x2", target],
        "a.safetensors": ["models", "convert", "theirs.pth", target],
        "a.zip": ["qgis", "package", target],
    }


@pytest.mark.parametrize("lay", STRANGE)
@pytest.mark.parametrize("name", ["a.html", "a.csv", "b.html", "a.onnx", "a.safetensors", "a.zip"])
def test_command_with_a_link_at_its_document_is_refused(scene, victim, tmp_path, run, name, lay):
    target = tmp_path / name
    command = documents(tmp_path, scene, target)[name]
    lay(target, victim)
    code, error = run(*command, "--overwrite")
    assert code == 1
    assert str(target) in error
    assert os.path.lexists(target)


def test_qgis_package_overwrite_replaces_the_link_not_its_target(victim, tmp_path, run):
    target = tmp_path / "a.zip"
    target.symlink_to(victim)
    assert run("qgis", "package", target)[0] == 2
    assert run("qgis", "package", target, "--overwrite")[0] == 0
    assert not target.is_symlink()


def test_sr_does_not_write_to_predictable_names(scene, victim, tmp_path, run):
    """Temporary files of earlier versions, and those that GDAL makes beside a COG."""
    folder = tmp_path / "parts"
    folder.mkdir()
    names = [
        ".out.tif.part.jsonl.new",
        ".out.tif.part.tif.probe",
        ".out.tif.part.cog.tif.ovr.tmp",
        ".out.tif.part.cog.tif.msk.ovr.tmp",
        ".out.vrt.part.vrt",
        f".out.tif.{os.getpid()}.part",
        "parts/.parts.jsonl.new",
        "parts/index.json.new",
    ]
    for name in names:
        (tmp_path / name).symlink_to(victim)
    assert run("sr", scene, tmp_path / "out.tif", *FAST, "--cog")[0] == 0
    assert run("sr", scene, tmp_path / "out.vrt", *FAST, "--parts", folder)[0] == 0


def test_cog_with_links_created_during_the_copy_are_not_followed(
    scene, victim, tmp_path, run, monkeypatch
):
    """Whoever watches the folder lays links at every name as soon as he sees it."""
    import rasterio.shutil

    write, seen = rasterio.shutil.copy, []

    def watched(source, target, **options):
        if not target.startswith("/vsimem/"):
            seen.append(target)
            (tmp_path / ".out.tif.part.cog.tif").symlink_to(victim)
            (tmp_path / ".out.tif.part.cog.tif.ovr.tmp").symlink_to(victim)
        return write(source, target, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", watched)
    assert run("sr", scene, tmp_path / "out.tif", *FAST, "--cog")[0] == 0
    assert seen
    assert not (tmp_path / "out.tif").is_symlink()


@pytest.mark.parametrize("lay", LAID)
def test_lock_on_a_link_is_refused(victim, tmp_path, lay):
    own = tmp_path / ".lock"
    lay(own, victim)
    with pytest.raises(OutputError, match=r"\.lock"):
        Lock(own, "a.tif").acquire()
    Lock(own, "a.tif").clean()
    assert os.path.lexists(own)


@pytest.mark.parametrize("lay", [lay_link, lay_dangling])
def test_lock_without_flock_and_a_linked_pid_file_is_refused(victim, tmp_path, monkeypatch, lay):
    def refuse(handle, operation):
        raise OSError(38, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    lay(tmp_path / ".lock.pid", victim)
    with pytest.raises(OutputError, match="another run"):
        Lock(tmp_path / ".lock", "a.tif").acquire()


class TestPrivateFolder:
    @pytest.fixture(autouse=True)
    def shared(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def test_private_temp_dir_belongs_to_the_user_alone(self):
        folder = _files.private_temp_dir()
        assert folder == _files.private_temp_dir()
        assert folder.stat().st_mode & 0o077 == 0

    @pytest.mark.parametrize("lay", [each for each in LAID if "folder" not in each.__name__])
    def test_private_temp_dir_replaced_by_a_link_is_refused(self, victim, tmp_path, lay):
        lay(tmp_path / f"georsr-{os.getuid()}", victim)
        with pytest.raises(OutputError, match="georsr-"):
            _files.private_temp_dir()

    def test_private_temp_dir_linked_to_a_folder_is_refused(self, victim, tmp_path):
        (tmp_path / f"georsr-{os.getuid()}").symlink_to(victim.parent)
        with pytest.raises(OutputError, match="TMPDIR"):
            _files.private_temp_dir()

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o755])
    def test_private_temp_dir_open_to_others_is_refused(self, tmp_path, mode):
        folder = tmp_path / f"georsr-{os.getuid()}"
        folder.mkdir()
        folder.chmod(mode)
        with pytest.raises(OutputError, match="mode 700"):
            _files.private_temp_dir()

    def test_private_temp_dir_of_another_user_is_refused(self, monkeypatch):
        folder = _files.private_temp_dir()
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
        (folder.parent / f"georsr-{os.getuid()}").symlink_to(folder)
        with pytest.raises(OutputError, match="expected owner"):
            _files.private_temp_dir()


class TestRunFolder:
    @pytest.mark.parametrize("lay", LAID)
    @pytest.mark.parametrize(
        "name",
        "last.ckpt best.ckpt log.csv recipe.yaml hparams.yaml segsr-lite-x4.safetensors".split(),  # noqa: SIM905
    )
    def test_create_run_folder_with_a_link_at_a_file_is_refused(self, victim, tmp_path, name, lay):
        from georsr.training.recipe import load_recipe
        from georsr.training.train import create_run_folder

        (tmp_path / "run").mkdir()
        lay(tmp_path / "run" / name, victim)
        with pytest.raises(OutputError, match=name):
            create_run_folder(tmp_path / "run", load_recipe("segsr-lite-x4"))
        assert [path.name for path in (tmp_path / "run").iterdir()] == [name]

    @pytest.mark.parametrize("lay", [lay_link, lay_dangling, lay_circle, lay_pipe])
    def test_checkpoint_replaces_a_link_created_meanwhile(self, victim, tmp_path, lay):
        from georsr.training.callbacks import AtomicCheckpointIO

        target = tmp_path / "last.ckpt"
        lay(target, victim)
        AtomicCheckpointIO().save_checkpoint({"step": 1}, target)
        assert target.is_file()
        assert not target.is_symlink()


def test_save_model_replaces_the_link_not_its_target(victim, tmp_path, lite_model):
    from georsr.models.io import open_model, save_model

    target = tmp_path / "mine.safetensors"
    for name in (target, tmp_path / f".mine.safetensors.{os.getpid()}.part"):
        name.symlink_to(victim)
    save_model(target, lite_model.spec, lite_model.network)
    assert not target.is_symlink()
    assert open_model(str(target)).spec == lite_model.spec


def fail_to_write(path):
    with _files.atomic_write(path) as fresh:
        fresh.write_bytes(b"2")
        raise OSError("no space")


def test_atomic_write_keeps_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    with _files.atomic_write(tmp_path / "new") as fresh:
        fresh.write_bytes(b"1")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(OSError, match="no space"):
        fail_to_write(tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"1"
    assert {path.name for path in tmp_path.iterdir()} == {"usual", "new"}


def test_source_files_write_only_through_atomic_helpers():
    """Every file opened for writing has a random name, or lies in a folder of the process."""
    writing = re.compile(
        r"""(\w+)\)?\.(?:open\(\s*["'][wax]|write_text\(|write_bytes\(|touch\()"""
        r"""|rasterio\.open\((\w+)[^,]*, "w\""""
    )
    # in memory, in a temporary folder of the process, in a folder of a random name, in a docstring
    alone = {
        "georsr/_files.py",
        "georsr/diagnostics.py",
        "georsr/models/onnx/export.py",
        "georsr/qgis/install.py",
        "georsr/writer/layout.py",
    }
    package = Path(_files.__file__).parent
    wrong = []
    for path in [*package.rglob("*.py"), *package.parent.joinpath("cli").glob("*.py")]:
        for found in writing.finditer(path.read_text(encoding="utf-8")):
            name = path.relative_to(package.parent).as_posix()
            if name not in alone and "fresh" not in found.groups():
                wrong.append((name, found[0]))
    assert wrong == []
