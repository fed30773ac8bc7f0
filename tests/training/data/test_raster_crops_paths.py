import pytest

from georsr.errors import InputError, UsageError
from georsr.training.data.raster_crops import raster_paths


@pytest.fixture
def files(tmp_path):
    for name in ("b.tif", "a.TIF", "inner/c.jp2", "notes.md", "d.tif.aux.xml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def names(paths, root):
    return [path.removeprefix(f"{root}/") for path in paths]


def test_raster_paths_of_folders_patterns_and_lists(files):
    assert names(raster_paths([str(files)]), files) == ["a.TIF", "b.tif", "inner/c.jp2"]
    assert names(raster_paths([f"{files}/*.tif"]), files) == ["b.tif"]
    assert names(raster_paths([f"{files}/**/*.jp2"]), files) == ["inner/c.jp2"]
    (files / "list.txt").write_text("# mine\nb.tif\n\ninner/c.jp2 # late\ns3://bucket/x.tif\n")
    listed = raster_paths([str(files / "list.txt")])
    assert names(listed, files) == ["b.tif", "inner/c.jp2", "s3://bucket/x.tif"]
    assert raster_paths(["/vsicurl/http://x/y.tif", "z.tif", "z.tif"]) == [
        "/vsicurl/http://x/y.tif",
        "z.tif",
    ]


def test_raster_paths_with_brackets_prefers_files(files):
    (files / "a[1].tif").touch()
    assert raster_paths([f"{files}/a[1].tif"]) == [f"{files}/a[1].tif"]


def test_raster_paths_without_rasters_fail(files):
    with pytest.raises(UsageError, match="no raster is given"):
        raster_paths([])
    with pytest.raises(UsageError, match=r"\*\.img: no file matches this pattern"):
        raster_paths([f"{files}/*.img"])
    (files / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no rasters in this folder \(\.tif"):
        raster_paths([str(files / "empty")])
    (files / "list.txt").write_text("# nothing\n")
    with pytest.raises(UsageError, match="the list names no raster"):
        raster_paths([str(files / "list.txt")])
    with pytest.raises(UsageError, match=r"none\.txt: no such file"):
        raster_paths([str(files / "none.txt")])
    (files / "list.txt").write_bytes(b"\xff\x00\xe4")
    with pytest.raises(InputError, match="cannot be read as a list"):
        raster_paths([str(files / "list.txt")])


@pytest.mark.parametrize(
    "name",
    [".part.tif", "._b.tif", "__MACOSX/b.tif", "@eaDir/b.tif/x.tif", ".hidden/b.tif", "Thumbs.db"],
)
def test_raster_paths_skips_hidden_and_system_files(files, name):
    (files / name).parent.mkdir(exist_ok=True, parents=True)
    (files / name).touch()
    assert names(raster_paths([str(files)]), files) == ["a.TIF", "b.tif", "inner/c.jp2"]
    matched = names(raster_paths([f"{files}/**/*"]), files)
    assert matched == ["a.TIF", "b.tif", "d.tif.aux.xml", "inner/c.jp2", "notes.md"]


def test_raster_paths_with_a_hidden_name_given_keeps_it(files):
    (files / ".hidden").mkdir()
    (files / ".hidden/x.tif").touch()
    assert names(raster_paths([f"{files}/.hidden/*.tif"]), files) == [".hidden/x.tif"]
    assert names(raster_paths([f"{files}/.hidden"]), files) == [".hidden/x.tif"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_raster_paths_reads_lists_of_windows(files, encoding, end):
    lines = ["b#1.tif", "scene #2.tif", "inner/c.jp2 # comment", "#b.tif"]
    (files / "scene #2.tif").touch()
    (files / "list.txt").write_bytes((end.join(lines) + end).encode(encoding))
    listed = names(raster_paths([str(files / "list.txt")]), files)
    assert listed == ["b#1.tif", "scene #2.tif", "inner/c.jp2"]
