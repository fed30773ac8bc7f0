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
    with pytest.raises(InputError, match="cannot be read as a list"):
        raster_paths([str(files / "none.txt")])
