"""A source that is written to while it is read, or replaced before a run goes on."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from georsr.api import super_resolve
from georsr.errors import InputError, InterruptedRunError

SMALL = {"tile_size": 32, "halo": 2, "overlap": 4, "blocksize": 32}


@pytest.fixture(autouse=True)
def every_block_is_noted(monkeypatch):
    monkeypatch.setattr("georsr.writer.writer.SYNC_SECONDS", -1.0)


def hidden(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.name.startswith("."))


def rewrite(path, make, *, keep_time):
    """Write other pixels into the same file, of the same size."""
    before = Path(path).stat()
    with rasterio.open(path, "r+") as dataset:
        dataset.write(make(dataset.read()))
    assert Path(path).stat().st_size == before.st_size
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def lower_half(values):
    values[:, values.shape[1] // 2 :] ^= 255
    return values


class Meanwhile:
    """Does something after so many tiles, and may then stop."""

    def __init__(self, tiles, work, stop=False):
        self.count, self.work, self.stop = tiles, work, stop

    def __call__(self):
        self.count -= 1
        if self.count == 0:
            self.work()
        return self.stop and self.count <= 0


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.parametrize("kind", ["file", "vrt", "mosaic", "quality", "parts"])
def test_run_source_rewritten_meanwhile_is_refused(kind, keep_time, make_raster, texture, tmp_path):
    path = make_raster(texture(1, 100, 90))
    source, out, options = path, tmp_path / "out.tif", {}
    if kind == "vrt":
        source = tmp_path / "v.vrt"
        rasterio.shutil.copy(path, source, driver="VRT")
    elif kind == "mosaic":
        east = rasterio.Affine(0.5, 0, 400045, 0, -0.5, 5000000)
        source = [make_raster(texture(1, 100, 90), "east.tif", transform=east), path]
    elif kind == "quality":
        options = {"quality": tmp_path / "q.tif"}
    elif kind == "parts":
        out, options = tmp_path / "out.vrt", {"parts": tmp_path / "P", "blocksize": 128}
    change = Meanwhile(5, lambda: rewrite(path, lower_half, keep_time=keep_time))
    with pytest.raises(InputError, match="has changed while it was read") as caught:
        super_resolve(source, out, "bicubic", 2, should_stop=change, **SMALL | options)
    assert "same command" not in "".join(getattr(caught.value, "__notes__", ()))
    assert not out.exists()
    assert not (tmp_path / "q.tif").exists()
    assert hidden(tmp_path) == []
    # the next run is of the new file alone
    super_resolve(source, out, "bicubic", 2, **SMALL | options)
    super_resolve(source, tmp_path / f"whole{out.suffix}", "bicubic", 2,
                  **SMALL | options | ({"quality": None} if kind == "quality" else {})
                  | ({"parts": tmp_path / "P2"} if kind == "parts" else {}))  # fmt: skip
    with rasterio.open(out) as one, rasterio.open(tmp_path / f"whole{out.suffix}") as other:
        np.testing.assert_array_equal(one.read(), other.read())


def test_run_source_removed_meanwhile_is_refused(make_raster, texture, tmp_path):
    path = make_raster(texture(1, 100, 90))
    with pytest.raises(InputError, match="has changed while it was read"):
        super_resolve(
            path,
            tmp_path / "o.tif",
            "bicubic",
            2,
            should_stop=Meanwhile(5, Path(path).unlink),
            **SMALL,
        )
    assert hidden(tmp_path) == []


def test_run_source_read_by_others_completes(make_raster, texture, tmp_path):
    path = make_raster(texture(1, 100, 90))

    def harmless():
        Path(path).chmod(0o600)
        os.link(path, tmp_path / "backup.tif")
        Path(path).read_bytes()

    super_resolve(
        path, tmp_path / "o.tif", "bicubic", 2, should_stop=Meanwhile(5, harmless), **SMALL
    )
    assert (tmp_path / "o.tif").exists()


@pytest.mark.parametrize("how", ["rewritten", "replaced"])
def test_resume_another_source_of_same_size_and_time_starts_over(
    how, make_raster, texture, tmp_path, caplog
):
    path, out = make_raster(texture(1, 100, 90)), tmp_path / "out.tif"
    with pytest.raises(InterruptedRunError):
        super_resolve(
            path, out, "bicubic", 2, should_stop=Meanwhile(12, lambda: None, stop=True), **SMALL
        )
    if how == "rewritten":
        rewrite(path, lower_half, keep_time=True)
    else:
        times = Path(path).stat()
        other = make_raster(texture(1, 100, 90, seed=2), "other.tif")
        os.replace(other, path)  # noqa: PTH105
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert super_resolve(path, out, "bicubic", 2, **SMALL).blocks_resumed == 0
    assert "the source has changed" in caplog.text
    super_resolve(path, tmp_path / "whole.tif", "bicubic", 2, **SMALL)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
