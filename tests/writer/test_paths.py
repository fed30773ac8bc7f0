import errno
import os
import stat
from pathlib import Path

import pytest

from georsr.errors import OutputError, UsageError
from georsr.writer.paths import check_destination, is_disk_full, is_enospc, temp_paths
from tests.rasters import make_raster, ramp


def test_check_destination_free_name_is_accepted(tmp_path, rgb):
    check_destination(tmp_path / "new.tif", [rgb], overwrite=False)
    check_destination(tmp_path / "new.tif", [rgb], overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["rgb.tif"]


def test_check_destination_existing_file_needs_overwrite(tmp_path, rgb):
    other = tmp_path / "other.tif"
    other.write_bytes(b"precious")
    with pytest.raises(UsageError, match="won't be overwritten without overwrite=True"):
        check_destination(other, [rgb], overwrite=False)
    check_destination(other, [rgb], overwrite=True)
    assert other.read_bytes() == b"precious"


def aliases(rgb):
    folder = rgb.parent
    (folder / "sub").mkdir()
    (folder / "soft.tif").symlink_to(rgb)
    os.link(rgb, folder / "hard.tif")
    return {
        "itself": str(rgb),
        "dots": str(folder / "sub" / ".." / "rgb.tif"),
        "relative": os.path.relpath(rgb),
        "symbolic link": str(folder / "soft.tif"),
        "hard link": str(folder / "hard.tif"),
        "file url": f"file://{rgb}",
        "subdataset": f"GTIFF_DIR:1:{rgb}",
        "vsi": f"/vsisubfile/0_100,{rgb}",
        "vsi cache": f"/vsicached?file={rgb}",
        "vsi gzip": f"/vsigzip/{rgb}",
    }


@pytest.mark.parametrize("overwrite", [False, True])
def test_check_destination_source_is_refused(rgb, overwrite):
    content = rgb.read_bytes()
    names = aliases(rgb)
    for name in names.values():
        if "//" not in name and not name.startswith(("/vsi", "GTIFF")):
            with pytest.raises(UsageError, match="is the source"):
                check_destination(name, [rgb], overwrite)
        with pytest.raises(UsageError, match="is the source"):
            check_destination(rgb, [name], overwrite)
    with pytest.raises(UsageError, match="is the source"):
        check_destination("/vsimem/a.tif", ["/vsimem/a.tif"], overwrite)
    assert rgb.read_bytes() == content


def test_check_destination_missing_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match="does not exist; create it first"):
        check_destination(tmp_path / "none" / "a.tif", [], overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_check_destination_directory_or_device_is_refused(tmp_path, overwrite):
    with pytest.raises(OutputError, match="is a directory"):
        check_destination(tmp_path, [], overwrite)
    with pytest.raises(OutputError, match="not a regular file"):
        check_destination(os.devnull, [], overwrite)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody can write to")
def test_check_destination_unwritable_folder_is_refused():
    with pytest.raises(OutputError, match="cannot be written to"):
        check_destination("/proc/self/a.tif", [], overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_destination_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(OutputError, match="cannot be written to"):
            check_destination(tmp_path / "a.tif", [], overwrite=False)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["a.tif.msk", "a.tif.aux.xml", "a.tif.ovr", "a.tfw"])
def test_check_destination_stale_sidecar_needs_overwrite(tmp_path, name):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(UsageError, match="earlier output"):
        check_destination(tmp_path / "a.tif", [], overwrite=False)
    check_destination(tmp_path / "a.tif", [], overwrite=True)
    assert (tmp_path / name).exists()  # checking changes nothing


def test_temp_paths_are_hidden_and_do_not_depend_on_the_folder(tmp_path):
    place = temp_paths(str(tmp_path / "a.tif"))
    assert place == temp_paths(os.path.relpath(tmp_path / "a.tif"))
    names = [path.name for path in (place.part, place.cog, place.journal, place.lock)]
    assert all(name.startswith(".a.tif.part") for name in names)
    assert len(set(names)) == 4
    assert {path.parent for path in (place.part, place.cog, place.journal, place.lock)} == {
        tmp_path
    }
    link = tmp_path / "link.tif"
    link.symlink_to(tmp_path / "elsewhere" / "a.tif")
    assert temp_paths(str(link)).part.parent == tmp_path / "elsewhere"


def test_temp_paths_of_long_and_virtual_names_differ(tmp_path):
    one, two = (temp_paths(str(tmp_path / ("x" * 230 + end))) for end in ("1.tif", "2.tif"))
    assert one.part != two.part
    one.part.touch()
    one.part.unlink()
    far, other = temp_paths("/vsis3/bucket/a.tif"), temp_paths("/vsis3/another/a.tif")
    assert far.part != other.part
    assert far.part.parent.is_dir()


def test_temp_paths_leftovers_exclude_journal_and_lock(tmp_path):
    place = temp_paths(str(tmp_path / "a[1].tif"))
    beside = tmp_path / ".a[1].tif.part.cog.tif.ovr.tmp"
    for path in (place.part, place.cog, place.journal, place.lock, beside, tmp_path / "a[1].tif"):
        path.touch()
    assert set(place.leftovers()) == {place.part, place.cog, beside}


def test_is_disk_full_leaves_no_file(tmp_path):
    assert not is_disk_full(tmp_path / "a", 1000)
    assert is_disk_full(tmp_path / "a", 2**60)
    assert list(tmp_path.iterdir()) == []
    assert is_enospc(OSError(errno.ENOSPC, "full"))
    assert not is_enospc(OSError(errno.EPERM, "no"))


def test_check_destination_file_of_a_vrt_is_refused(tmp_path, rgb):
    make_raster(tmp_path / "b.tif", ramp())
    files = (str(tmp_path / "a.vrt"), str(rgb))
    with pytest.raises(UsageError, match="is the source"):
        check_destination(rgb, files, overwrite=True)
    check_destination(tmp_path / "b.tif", files, overwrite=True)
