import itertools
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

import georsr.writer.writer as writer_module
from georsr.errors import OutputError, UsageError
from georsr.io.reader import open_raster
from georsr.radiometry.nodata import dataset_mask
from georsr.radiometry.quantize import quantize, quantize_alpha, replicate
from georsr.window import Window
from georsr.writer.layout import output_layout
from georsr.writer.paths import temp_paths
from georsr.writer.resumable_tiff import Journal, PartialTiff
from georsr.writer.writer import RasterWriter
from tests.rasters import make_raster, ramp

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


def rows(layout):
    for top in range(0, layout.height, layout.blocksize):
        yield Window(top, 0, min(layout.blocksize, layout.height - top), layout.width)


def layout_of(path, scale=2, **options):
    with open_raster(path) as reader:
        return output_layout(
            reader.info, scale, **{"blocksize": 128 if options.get("cog") else 32, **options}
        )


def pixels(layout, seed=0):
    rng = np.random.default_rng(seed)
    shape = len(layout.bands), layout.height, layout.width
    return rng.integers(1, 100, shape).astype(layout.dtype)


def fill(writer, layout, data):
    for window in rows(layout):
        shape = window.height, window.width
        writer.write(
            window,
            data[(slice(None), *window.slices)],
            np.full(shape, 255, "uint8") if layout.mask else None,
            np.full(shape, 9, layout.dtype) if layout.alpha else None,
        )


def only(folder, *names):
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_writer_pixels_are_read_back(tmp_path, dtype, cog):
    path = make_raster(tmp_path / "a.tif", (ramp() // 2).astype(dtype))
    layout = layout_of(path, 3, cog=cog)
    data = pixels(layout)
    with RasterWriter(tmp_path / "b.tif", layout) as writer:
        fill(writer, layout, data)
        assert not (tmp_path / "b.tif").exists()
        written = writer.commit()
    assert only(tmp_path, "a.tif", "b.tif")
    assert written.path == str(tmp_path / "b.tif")
    assert written.bytes == (tmp_path / "b.tif").stat().st_size
    assert len(written.checksum) == 8
    with rasterio.open(tmp_path / "b.tif") as output:
        assert output.dtypes == (dtype,) * 3
        np.testing.assert_array_equal(output.read(), data)
        assert output.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == ("COG" if cog else None)


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (16, 16), (17, 31)])
def test_writer_any_size_is_read_back(tmp_path, shape, cog):
    path = make_raster(tmp_path / "a.tif", ramp(1, *shape))
    layout = layout_of(path, 2, cog=cog)
    data = pixels(layout)
    with RasterWriter(tmp_path / "b.tif", layout) as writer:
        fill(writer, layout, data)
        writer.commit()
    with rasterio.open(tmp_path / "b.tif") as output:
        np.testing.assert_array_equal(output.read(), data)


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("kind", ["none", "nodata", "nan", "mask", "alpha", "alpha dropped"])
def test_writer_validity_of_a_nearest_run_is_kept(tmp_path, kind, cog):
    data = ramp(4, dtype="float32" if kind == "nan" else "uint16")
    hole = np.s_[5:20, 10:33]
    mask, options, bidx = None, {}, [1, 2, 3]
    if kind == "nodata":
        options, data[1][hole] = {"nodata": 0}, 0
    if kind == "nan":
        data[0][hole] = np.nan
    if kind == "mask":
        mask = np.full((40, 50), 255, "uint8")
        mask[hole] = 0
    if kind.startswith("alpha"):
        options = {"colors": ("red", "green", "blue", "alpha"), "photometric": "RGB"}
        data[3], bidx = 65535, None if kind == "alpha" else [1, 2, 3]
        data[3][hole] = 0
    source = make_raster(tmp_path / "a.tif", data, mask=mask, **options)
    with open_raster(source, indexes=bidx) as reader:
        patch = reader.read(Window(0, 0, 40, 50))
        layout = output_layout(reader.info, 2, blocksize=128 if cog else 32, cog=cog)
    values, valid = replicate(patch.values, 2), replicate(patch.valid, 2)
    junk = np.where(valid, values, 1234).astype("float32")
    result = quantize(
        junk, valid, values, layout.dtype, layout.nodata, masked=layout.mask or layout.alpha
    )
    with RasterWriter(tmp_path / "b.tif", layout) as writer:
        for window in rows(layout):
            here = window.slices
            writer.write(
                window,
                result[(slice(None), *here)],
                dataset_mask(valid)[here] if layout.mask else None,
                replicate(quantize_alpha(patch.alpha, layout.dtype), 2)[here]
                if layout.alpha
                else None,
            )
        writer.commit()
    assert only(tmp_path, "a.tif", "b.tif")
    np.testing.assert_array_equal(result, values)  # nothing under the mask was changed either
    with open_raster(tmp_path / "b.tif") as reader:
        again = reader.read(Window(0, 0, 80, 100))
    np.testing.assert_array_equal(again.values, values)
    if kind == "mask" or kind.startswith("alpha"):
        valid = np.broadcast_to(valid.all(0), valid.shape)
    np.testing.assert_array_equal(again.valid, valid)
    assert (kind == "none") == valid.all()
    if kind == "alpha":
        np.testing.assert_array_equal(again.alpha, replicate(data[3], 2))


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, RuntimeError, None], ids=lambda e: str(e)
)
@pytest.mark.parametrize("old", [None, b"the old product"])
def test_writer_without_commit_changes_nothing(tmp_path, rgb, error, old):
    dst = tmp_path / "b.tif"
    if old:
        dst.write_bytes(old)
    layout = layout_of(rgb)

    def work():
        with RasterWriter(dst, layout, overwrite=True) as writer:
            fill(writer, layout, pixels(layout))
            assert len(list(tmp_path.glob(".b.tif*.part.tif"))) == 1
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert (dst.read_bytes() if old else dst.exists()) == (old or False)
    assert only(tmp_path, "rgb.tif", *(["b.tif"] if old else []))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_writer_failing_at_the_start_leaves_no_files(tmp_path, rgb, monkeypatch, error):
    def fail(layout, dataset):
        raise error("stop")

    layout = layout_of(rgb)
    monkeypatch.setattr(type(layout), "describe", fail)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else OutputError
    with pytest.raises(expected), RasterWriter(tmp_path / "b.tif", layout):
        pass
    assert only(tmp_path, "rgb.tif")


def test_writer_interrupted_while_a_block_is_appended_resumes_with_the_same_bytes(
    tmp_path, rgb, monkeypatch
):
    """Ctrl-C between a change of the file and its record, as a notebook sends it."""
    layout = layout_of(rgb)
    data = pixels(layout)

    def write(name):
        journal = Journal(temp_paths(str(tmp_path / name)).journal, name, {}, 32)
        with RasterWriter(str(tmp_path / name), layout, journal=journal) as writer:
            fill(writer, layout, data)
            writer.commit()
        return (tmp_path / name).read_bytes()

    whole, append, calls = write("whole.tif"), PartialTiff.append, itertools.count()

    def interrupted(part, *arguments):
        record = append(part, *arguments)
        if next(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return record

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(PartialTiff, "append", interrupted)
            with pytest.raises(KeyboardInterrupt):
                write("b.tif")
    finally:
        signal.signal(signal.SIGINT, previous)
    assert not (tmp_path / "b.tif").exists()
    assert write("b.tif") == whole


def test_writer_incomplete_output_is_not_published(tmp_path, rgb):
    layout = layout_of(rgb)
    with RasterWriter(tmp_path / "b.tif", layout) as writer:
        writer.write(Window(0, 0, 32, 96), np.zeros((3, 32, 96), "uint8"))
        with pytest.raises(OutputError, match="9 of 12 blocks were never written"):
            writer.commit()
    assert only(tmp_path, "rgb.tif")


@pytest.mark.parametrize(
    "window",
    [Window(1, 0, 32, 32), Window(0, 0, 31, 32), Window(0, 0, 32, 40), Window(0, 96, 32, 36),
     Window(-32, 0, 32, 32), Window(64, 0, 32, 32), Window(0, 0, 0, 32)],
)  # fmt: skip
def test_writer_incomplete_block_raises(tmp_path, rgb, window):
    with RasterWriter(tmp_path / "b.tif", layout_of(rgb)) as writer:
        values = np.zeros((3, max(window.height, 0), max(window.width, 0)), "uint8")
        with pytest.raises(ValueError, match="full blocks"):
            writer.write(window, values)


def test_writer_wrong_shape_or_type_raises(tmp_path, rgb):
    window, good = Window(0, 0, 32, 32), np.zeros((3, 32, 32), "uint8")
    writer = RasterWriter(tmp_path / "b.tif", layout_of(rgb))
    with pytest.raises(ValueError, match="not open"):
        writer.write(window, good)
    with writer:
        with pytest.raises(ValueError, match="float32, expected uint8"):
            writer.write(window, good.astype("float32"))  # GDAL would wrap it around
        with pytest.raises(ValueError, match="shape"):
            writer.write(window, good[:2])
        with pytest.raises(ValueError, match="mask is not in the layout"):
            writer.write(window, good, good[0])
        with pytest.raises(ValueError, match="alpha is not in the layout"):
            writer.write(window, good, None, good[0])


def test_writer_overwrite_removes_stale_sidecars(tmp_path, rgb):
    dst = make_raster(tmp_path / "b.tif", ramp(3, 80, 100))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(dst, "r+") as old:
        old.write_mask(np.zeros((80, 100), "uint8"))
    (tmp_path / "b.tif.aux.xml").write_text(
        '<PAMDataset><Metadata><MDI key="stale">1</MDI></Metadata></PAMDataset>'
    )
    layout = layout_of(rgb)
    with pytest.raises(UsageError, match="overwrite"), RasterWriter(dst, layout):
        pass
    with rasterio.open(dst) as output:
        assert output.tags()["stale"] == "1"
    with RasterWriter(dst, layout, overwrite=True) as writer:
        fill(writer, layout, pixels(layout))
        writer.commit()
    assert only(tmp_path, "rgb.tif", "b.tif")
    with rasterio.open(dst) as output:
        assert "stale" not in output.tags()
        assert (output.dataset_mask() == 255).all()


def test_writer_file_that_appears_meanwhile_is_kept(tmp_path, rgb):
    layout = layout_of(rgb)
    with RasterWriter(tmp_path / "b.tif", layout) as writer:
        fill(writer, layout, pixels(layout))
        (tmp_path / "b.tif").write_bytes(b"someone else's")
        with pytest.raises(UsageError, match="overwrite"):
            writer.commit()
    assert (tmp_path / "b.tif").read_bytes() == b"someone else's"
    assert only(tmp_path, "rgb.tif", "b.tif")


def test_writer_second_on_the_same_output_is_refused(tmp_path, rgb):
    layout = layout_of(rgb)
    with RasterWriter(tmp_path / "b.tif", layout) as first:
        fill(first, layout, pixels(layout))
        second = RasterWriter(tmp_path / "b.tif", layout, overwrite=True)
        with pytest.raises(OutputError, match=f"another run is writing it .process {os.getpid()}"):
            second.__enter__()
        first.commit()
    with RasterWriter(tmp_path / "b.tif", layout, overwrite=True) as third:
        fill(third, layout, pixels(layout, 2))
        third.commit()
    assert only(tmp_path, "rgb.tif", "b.tif")
    with rasterio.open(tmp_path / "b.tif") as output:
        np.testing.assert_array_equal(output.read(), pixels(layout, 2))


def test_writer_same_pixels_give_the_same_bytes(tmp_path, rgb):
    layout = layout_of(rgb)
    seen = set()
    for name in ("b.tif", "c.tif"):
        with RasterWriter(tmp_path / name, layout) as writer:
            fill(writer, layout, pixels(layout))
            seen.add((writer.commit().checksum, (tmp_path / name).read_bytes()))
    assert len(seen) == 1
    other = layout_of(rgb, creation_options={"compress": "lzw"})
    with RasterWriter(tmp_path / "d.tif", other) as writer:
        fill(writer, other, pixels(other))
        assert writer.commit().checksum == seen.pop()[0]
    with RasterWriter(tmp_path / "e.tif", layout) as writer:
        changed = pixels(layout)
        changed[2, 79, 99] += 1
        fill(writer, layout, changed)
        assert writer.commit().checksum != seen


def spoil(monkeypatch, tool):
    """Change the finished file before anyone looks at it."""
    seal = PartialTiff.finalize
    monkeypatch.setattr(PartialTiff, "finalize", lambda part: (seal(part), tool(part.path)))


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("cog", [False, True])
def test_writer_damaged_block_is_not_published(tmp_path, rgb, monkeypatch, cog, verify):
    layout = layout_of(rgb, 4, blocksize=128, creation_options={"compress": "none"}, cog=cog)

    def damage(path):
        with rasterio.open(path) as src:
            start = int(src.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
        with Path(path).open("r+b") as file:
            file.seek(start)
            byte = file.read(1)
            file.seek(start)
            file.write(bytes([byte[0] ^ 1]))

    if cog:
        original = writer_module.write_cog
        monkeypatch.setattr(
            writer_module,
            "write_cog",
            lambda source, target, layout: (original(source, target, layout), damage(target)),
        )
    else:
        spoil(monkeypatch, damage)
    with RasterWriter(tmp_path / "b.tif", layout, verify=verify) as writer:
        fill(writer, layout, pixels(layout))
        if verify or cog:
            with pytest.raises(OutputError, match=r"rows 128:160, columns 128:200 reads back"):
                writer.commit()
        else:
            writer.commit()
    assert (tmp_path / "b.tif").exists() is (not verify and not cog)
    assert not list(tmp_path.glob(".b*"))


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (
            lambda d: setattr(d, "transform", rasterio.Affine(5, 0, 500000, 0, -5.001, 5000000)),
            "transform",
        ),
        (lambda d: setattr(d, "crs", rasterio.CRS.from_epsg(4326)), "CRS|warn"),
        (lambda d: setattr(d, "nodata", 3), "nodata"),
    ],
    ids=["transform", "crs", "nodata"],
)
def test_writer_wrong_header_is_not_published(tmp_path, rgb, monkeypatch, tool, message):
    def change(path):
        with rasterio.open(path, "r+") as dataset:
            tool(dataset)

    spoil(monkeypatch, change)
    layout = layout_of(rgb)
    with RasterWriter(tmp_path / "b.tif", layout) as writer:
        fill(writer, layout, pixels(layout))
        with pytest.raises((OutputError, UserWarning), match=message + "|GeoTIFF changes the CRS"):
            writer.commit()
    assert only(tmp_path, "rgb.tif")


def test_writer_link_to_an_output_is_followed_and_kept(tmp_path, rgb):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.tif").write_bytes(b"old")
    link = tmp_path / "b.tif"
    link.symlink_to(tmp_path / "far" / "real.tif")
    layout = layout_of(rgb)
    with RasterWriter(link, layout, overwrite=True) as writer:
        fill(writer, layout, pixels(layout))
        writer.commit()
    assert link.is_symlink()
    assert only(tmp_path / "far", "real.tif")


def test_writer_virtual_destination_receives_a_finished_copy(tmp_path, rgb, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dst = "/vsimem/georsr-test/b.tif"
    layout = layout_of(rgb)
    data = pixels(layout)
    try:
        with RasterWriter(dst, layout) as writer:
            fill(writer, layout, data)
            writer.commit()
        with rasterio.open(dst) as output:
            np.testing.assert_array_equal(output.read(), data)
        with pytest.raises(UsageError, match="overwrite"), RasterWriter(dst, layout):
            pass
    finally:
        rasterio.shutil.delete(dst)
    (private,) = set(tmp_path.iterdir()) - {rgb}
    assert list(private.iterdir()) == []
    assert private.stat().st_mode & 0o077 == 0


def test_writer_without_georeferencing_does_not_warn(tmp_path):
    path = make_raster(tmp_path / "a.tif", ramp(), crs=None, transform=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layout = layout_of(path)
    with RasterWriter(tmp_path / "b.tif", layout) as writer:  # warnings are errors here
        fill(writer, layout, pixels(layout))
        writer.commit()
    assert (tmp_path / "b.tif").exists()
