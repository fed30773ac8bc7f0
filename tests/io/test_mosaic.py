"""Several rasters read as one: the same pixels, validity and metadata, and few open files."""

import pickle
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from georsr.errors import BandWarning, GeorsrWarning, InputError, ResourceError, UsageError
from georsr.io import expand_sources, open_sources
from georsr.io.reader import choose_normalization, open_raster
from georsr.io.rgb_bands import detect_rgb_bands
from georsr.window import Window
from tests.rasters import UTM, make_raster, open_quietly, ramp

GRIDS = {
    "north-up": UTM,
    "south-up": Affine(10, 0, 500000, 0, 10, 4e6),
    "rotated": Affine.translation(3e5, 6e6) @ Affine.rotation(30) @ Affine.scale(10, -8),
    "degrees": Affine(8.98315e-05, 0, -3.2, 0, -8.98315e-05, 41.7),
}


def at(transform, column, row):
    return transform @ Affine.translation(column, row)


def pieces_of(tmp_path, data, places, transform=UTM, mask=None, **options):
    """Cut windows (top, left, height, width) out of an image, each into a file of its own."""
    paths = []
    for i, (top, left, height, width) in enumerate(places):
        here = np.s_[top : top + height, left : left + width]
        paths.append(
            make_raster(
                tmp_path / f"piece{i}.tif",
                data[:, here[0], here[1]],
                transform=at(transform, left, top),
                mask=None if mask is None else mask[here],
                **options,
            )
        )
    return paths


FOUR = [(0, 0, 40, 30), (0, 30, 40, 37), (40, 0, 21, 30), (40, 30, 21, 37)]
LAPPING = [(0, 0, 45, 40), (0, 25, 45, 42), (30, 0, 31, 40), (30, 25, 31, 42)]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("places", [FOUR, LAPPING], ids=["side by side", "lapping"])
def test_mosaic_of_pieces_equals_the_image(tmp_path, name, places):
    data = ramp(3, 61, 67)
    crs = "EPSG:4326" if name == "degrees" else "EPSG:32633"
    whole = make_raster(tmp_path / "whole.tif", data, transform=GRIDS[name], crs=crs)
    paths = pieces_of(tmp_path, data, places, GRIDS[name], crs=crs)
    with open_sources(paths) as mosaic, open_raster(whole) as image:
        assert (mosaic.info.width, mosaic.info.height) == (67, 61)
        assert mosaic.info.transform.almost_equals(image.info.transform, 1e-9)
        assert mosaic.info.crs == image.info.crs
        assert mosaic.info.mask_kind == "none"
        assert mosaic.info.files == tuple(map(str, paths))
        for window in (Window(0, 0, 61, 67), Window(35, 22, 20, 30), Window(60, 66, 1, 1)):
            got, expected = mosaic.read(window), image.read(window)
            np.testing.assert_array_equal(got.values, expected.values)
            assert got.valid.all()


def test_mosaic_later_raster_covers_earlier(tmp_path):
    paths = [
        make_raster(tmp_path / f"{i}.tif", np.full((1, 8, 8), i + 1, "uint8"),
                    transform=at(UTM, 4 * i, 0))
        for i in range(3)
    ]  # fmt: skip
    with open_sources(paths) as mosaic:
        row = mosaic.read(Window(0, 0, 1, 16)).values[0, 0]
    assert row.tolist() == [1] * 4 + [2] * 4 + [3] * 8
    with open_sources(paths[::-1]) as mosaic:
        row = mosaic.read(Window(0, 0, 1, 16)).values[0, 0]
    assert row.tolist() == [1] * 8 + [2] * 4 + [3] * 4


@pytest.mark.parametrize(("shift", "warned"), [(2, True), (4, False)])
def test_open_sources_largely_overlapping_rasters_warn(tmp_path, shift, warned, recwarn):
    paths = [
        make_raster(
            tmp_path / f"{i}.tif", np.ones((1, 8, 8), "uint8"), transform=at(UTM, shift * i, 0)
        )
        for i in range(2)
    ]
    open_sources(paths).close()
    texts = [str(w.message) for w in recwarn if "covers" in str(w.message)]
    assert len(texts) == warned
    assert not warned or ("75% of" in texts[0] and "super_resolve_many" in texts[0])


GAPPY = [(0, 0, 30, 30), (31, 40, 30, 27)]


@pytest.mark.parametrize("kind", ["nothing", "nodata", "override", "nan", "mask", "alpha"])
def test_mosaic_gaps_are_invalid(tmp_path, kind):
    data = ramp(4 if kind == "alpha" else 3, 61, 67, "float32" if kind == "nan" else "uint8")
    options, mask, nodata = {}, None, None
    if kind == "nodata":
        options["nodata"] = 0
    if kind == "override":
        nodata = 255
    if kind == "nan":
        options["nodata"] = float("nan")
    if kind == "mask":
        mask = np.full((61, 67), 255, "uint8")
    if kind == "alpha":
        options |= {"colors": ("red", "green", "blue", "alpha"), "photometric": "RGB"}
        data[3] = 255
    paths = pieces_of(tmp_path, data, GAPPY, mask=mask, **options)
    inside = np.zeros((61, 67), bool)
    for top, left, height, width in GAPPY:
        inside[top : top + height, left : left + width] = True
    with open_sources(paths, nodata=nodata) as mosaic:
        patch = mosaic.read(Window(0, 0, 61, 67))
        assert (patch.valid == inside).all()
        np.testing.assert_array_equal(patch.values[:, inside], data[:3, inside])
        empty = mosaic.read(Window(0, 31, 30, 36))
        assert not empty.valid.any()
        assert empty.values.dtype == patch.values.dtype
        if kind == "alpha":
            assert mosaic.info.keep_alpha
            np.testing.assert_array_equal(patch.alpha != 0, inside)


@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha"])
def test_mosaic_holes_show_the_raster_below(tmp_path, kind):
    low, high = np.full((4, 20, 20), 7, "uint8"), np.full((4, 20, 20), 9, "uint8")
    hole = np.zeros((20, 20), bool)
    hole[5:10, 5:10] = True
    low[3], high[3] = 255, np.where(hole, 0, 255)
    bands, options, masks = 3, {}, (None, None)
    if kind == "nodata":
        high[:, hole] = 0
        options["nodata"] = 0
    if kind == "mask":
        masks = (np.full((20, 20), 255, "uint8"), np.where(hole, 0, 255).astype("uint8"))
    if kind == "alpha":
        bands = 4
        options |= {"colors": ("red", "green", "blue", "alpha"), "photometric": "RGB"}
    below = make_raster(tmp_path / "a.tif", low[:bands], mask=masks[0], **options)
    above = make_raster(tmp_path / "b.tif", high[:bands], mask=masks[1], **options)
    with open_sources([below, above]) as mosaic:
        patch = mosaic.read(Window(0, 0, 20, 20))
    assert patch.valid.all()
    np.testing.assert_array_equal(patch.values[0], np.where(hole, 7, 9))
    with open_sources([above, below, above]) as mosaic:
        assert (mosaic.read(Window(0, 0, 20, 20)).values[1] == np.where(hole, 7, 9)).all()
    elsewhere = make_raster(
        tmp_path / "c.tif", low[:bands], mask=masks[0], transform=at(UTM, 20, 0), **options
    )
    with open_sources([above, elsewhere]) as mosaic:
        patch = mosaic.read(Window(0, 0, 20, 40))
    np.testing.assert_array_equal(~patch.valid.all(0)[:, :20], hole)


def test_mosaic_keeps_shared_metadata(tmp_path):
    def named(path, tags, shift):
        import rasterio

        path = make_raster(path, ramp(2, 9, 9, "uint16"), transform=at(UTM, shift, 0), tags=tags,
                           point=True)  # fmt: skip
        with rasterio.open(path, "r+") as dataset:
            dataset.descriptions = ("red", "near <infrared> & more")
            dataset.scales, dataset.offsets = (1e-4, 1e-4), (-0.1, -0.1)
            dataset.units = ("reflectance", "reflectance")
        return path

    a = named(tmp_path / "a.tif", {"SENSOR": "MSI", "TIME": "10:00"}, 0)
    b = named(tmp_path / "b.tif", {"SENSOR": "MSI", "TIME": "10:05"}, 9)
    with open_sources([a, b], indexes=[2]) as mosaic:
        info = mosaic.info
    assert info.tags[""] == {"SENSOR": "MSI"}
    assert info.area_or_point == "Point"
    (band,) = info.bands
    assert band.description == "near <infrared> & more"
    assert (band.scale, band.offset, band.unit) == (1e-4, -0.1, "reflectance")
    assert band.dtype == "uint16"
    assert info.path == f"{a} + 1 more"
    assert info.driver == "mosaic"


def variants(tmp_path):
    def other(**options):
        data = options.pop("data", ramp())
        return make_raster(tmp_path / "other.tif", data, **options)

    return {
        "CRS": lambda: other(crs="EPSG:32632"),
        "number of bands": lambda: other(data=ramp(2)),
        "data types": lambda: other(data=ramp(dtype="uint16")),
        "nodata": lambda: other(nodata=0),
        "colours": lambda: other(photometric="RGB", colors=("red", "green", "blue")),
        "is off by 0.5 pixels": lambda: other(transform=at(UTM, 50.5, 0)),
        "is off by 0.02 pixels": lambda: other(transform=at(UTM, 50, 3.02)),
        "expected 10 x -10": lambda: other(transform=UTM @ Affine.scale(2)),
        "rotated by": lambda: other(transform=UTM @ Affine.rotation(1)),
        "no affine georeferencing": lambda: other(transform=None, crs="EPSG:32633"),
    }


@pytest.mark.parametrize("what", variants(None))
def test_open_sources_misfitting_rasters_are_refused(tmp_path, what):
    first = make_raster(tmp_path / "first.tif", ramp())
    other = variants(tmp_path)[what]()
    with pytest.raises(UsageError, match=what) as caught:
        open_sources([first, other])
    assert "other.tif" in str(caught.value)
    assert "super_resolve_many" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_sources_different_scale_or_offset_is_refused(tmp_path):
    import rasterio

    paths = [make_raster(tmp_path / f"{i}.tif", ramp()) for i in range(2)]
    with rasterio.open(paths[1], "r+") as dataset:
        dataset.offsets = (1.0, 1.0, 1.0)
    with pytest.raises(UsageError, match="scales and offsets"):
        open_sources(paths)


def test_open_sources_shift_below_a_hundredth_pixel_is_accepted(tmp_path):
    a = make_raster(tmp_path / "a.tif", ramp())
    b = make_raster(tmp_path / "b.tif", ramp(), transform=at(UTM, 50.009, 0))
    with open_sources([a, b]) as mosaic:
        assert mosaic.info.width == 100


def test_open_sources_expands_folders_and_lists(tmp_path, monkeypatch):
    folder = tmp_path / "tiles"
    folder.mkdir()
    a = make_raster(folder / "b.tif", ramp())
    b = make_raster(folder / "a.TIF", ramp(), transform=at(UTM, 50, 0))
    (folder / "readme.txt").write_text("no raster")
    (folder / ".hidden.tif").write_text("no raster")
    (folder / "sub").mkdir()
    with open_sources(folder) as mosaic:
        assert mosaic.info.files == (str(b), str(a))
    listing = tmp_path / "list.txt"
    listing.write_text(f"# two of them\n{a}\n\n  tiles/a.TIF  \n")
    monkeypatch.chdir(tmp_path)
    with open_sources(f"@{listing}") as mosaic:
        assert mosaic.info.files == (str(a), "tiles/a.TIF")
    with open_sources([a]) as single:
        assert single.info.driver == "GTiff"
    with pytest.raises(UsageError, match=r"none\.txt: no such file"):
        open_sources("@none.txt")
    with pytest.raises(UsageError, match="no input raster"):
        open_sources([])
    with pytest.raises(UsageError, match="sub: it is empty"):
        open_sources(folder / "sub")
    with pytest.raises(UsageError, match=r"gone\.tif: no such file"):
        open_sources([a, folder / "gone.tif"])
    (folder / "c.tif").write_text("no raster")
    with pytest.raises(InputError, match=r"c\.tif"):
        open_sources(folder)


def test_expand_sources_folder_warns_of_pictures_formats_and_folders_left_out(tmp_path):
    folder = tmp_path / "tiles"
    (folder / "old").mkdir(parents=True)
    (folder / "empty").mkdir()
    make_raster(folder / "a.tif", ramp())
    make_raster(folder / "old" / "a.tif", ramp())
    for name in ("a.PNG", "cube.nc", "readme.txt", "a.tif.aux.xml", "product.SAFE", ".b.png"):
        (folder / name).touch()
    expected = r"tiles: 4 left out .*: a.PNG, cube.nc, product.SAFE, old; .* name it: .*a\.PNG$"
    with pytest.warns(GeorsrWarning, match=expected):
        assert expand_sources(folder) == [str(folder / "a.tif")]
    for number in range(8):
        (folder / f"{number}.jpg").touch()
    with pytest.warns(GeorsrWarning, match=r"12 left out .*: 0.jpg, .*, 7.jpg, and 4 more; "):
        expand_sources(folder)


def test_expand_sources_picture_that_is_named_is_not_said_to_be_left_out(tmp_path):
    for name in ("a.tif", "b.png"):
        (tmp_path / name).touch()
    sources = [str(tmp_path), str(tmp_path / "b.png")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert expand_sources(sources) == [str(tmp_path / "a.tif"), str(tmp_path / "b.png")]


def test_expand_sources_folder_of_pictures_alone_reads_them(tmp_path):
    for name in ("note.txt", "b.png", "a.jpg"):
        (tmp_path / name).touch()
    assert expand_sources(tmp_path) == [str(tmp_path / "a.jpg"), str(tmp_path / "b.png")]


def test_open_sources_vrt_under_another_name_is_refused(tmp_path):
    a = make_raster(tmp_path / "a.tif", ramp())
    (tmp_path / "b.tif").write_text("<VRTDataset rasterXSize='1' rasterYSize='1'></VRTDataset>")
    with pytest.raises(UsageError, match="VRT"):
        open_sources([a, tmp_path / "b.tif"])


def test_mosaic_pickled_reads_the_same_pixels(tmp_path):
    data = ramp(3, 61, 67)
    with open_sources(pieces_of(tmp_path, data, FOUR)) as mosaic:
        copy = pickle.loads(pickle.dumps(mosaic))
    with copy:
        np.testing.assert_array_equal(copy.read(Window(0, 0, 61, 67)).values, data)
        copy.close()
        np.testing.assert_array_equal(copy.read(Window(3, 4, 5, 6)).values, data[:, 3:8, 4:10])


def test_mosaic_sample_ignores_gaps(tmp_path):
    """Of a mosaic that is nearly all gap the few rasters are sampled."""
    paths = [
        make_raster(tmp_path / f"{i}.tif", np.full((1, 10, 10), 1000 * (i + 1), "uint16"),
                    transform=at(UTM, 9000 * i, 7000 * i))
        for i in range(3)
    ]  # fmt: skip
    with open_sources(paths) as mosaic:
        stretch = choose_normalization(mosaic)
    assert stretch.lo == (1000,)
    assert stretch.hi == (3000,)


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts files in /proc")
@pytest.mark.slow
def test_mosaic_of_many_rasters_keeps_few_files_open(tmp_path):
    side, count = 8, 24
    paths = [
        make_raster(tmp_path / f"{i}.tif", np.full((1, side, side), i % 200 + 1, "uint8"),
                    transform=at(UTM, side * (i % count), side * (i // count)),
                    tiled=False, blockxsize=None, blockysize=None)
        for i in range(count * count)
    ]  # fmt: skip
    before, since = open_files(), time.process_time()
    with open_sources(paths) as mosaic:
        patch = mosaic.read(Window(0, 0, side * count, side * count))
        expected = np.arange(count * count).reshape(count, count) % 200 + 1
        np.testing.assert_array_equal(patch.values[0], expected.repeat(side, 0).repeat(side, 1))
        assert open_files() - before < 150
    assert time.process_time() - since < 60
    assert Path(paths[-1]).exists()


def test_mosaic_without_crs_is_read(tmp_path):
    paths = pieces_of(tmp_path, ramp(1, 61, 67), FOUR, crs=None)
    with open_quietly(paths[0]) as one:
        assert one.info.crs is None
    with open_sources(paths) as mosaic:
        assert mosaic.info.crs is None


def test_vrt_sample_is_taken_where_it_has_pixels(tmp_path):
    """Its gaps are nodata; a regular grid of windows would meet nothing else."""
    from georsr.io.mosaic import build_mosaic, mosaic_vrt
    from georsr.io.vrt import vrt_dst_windows

    paths = [
        make_raster(tmp_path / f"{i}.tif", np.full((1, 10, 10), 1000 * (i + 1), "uint16"), nodata=0,
                    transform=at(UTM, 9000 * i, 7000 * i))
        for i in range(3)
    ]  # fmt: skip
    with open_sources(paths) as mosaic:
        document = mosaic_vrt(mosaic.mosaic)
        assert build_mosaic([p.info for p in mosaic.mosaic.sources]).width == mosaic.info.width
    (tmp_path / "v.vrt").write_text(document)
    assert vrt_dst_windows(document) == [Window(7000 * i, 9000 * i, 10, 10) for i in range(3)]
    with open_raster(tmp_path / "v.vrt") as reader:
        stretch = choose_normalization(reader)
    assert (stretch.lo, stretch.hi) == ((1000,), (3000,))
    assert vrt_dst_windows("<not xml") == []
    assert vrt_dst_windows("<VRTDataset/>") == []


UNMARKED = """<VRTDataset rasterXSize="30" rasterYSize="20"><SRS>EPSG:32633</SRS>
<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>
<VRTRasterBand dataType="{dtype}" band="1">{nodata}<SimpleSource>
<SourceFilename relativeToVRT="1">in.tif</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="20"/>
<DstRect xOff="0" yOff="0" xSize="{width}" ySize="20"/>
</SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_vrt_unmarked_gaps_warn(tmp_path, recwarn, dtype):
    make_raster(tmp_path / "in.tif", np.full((1, 20, 30), 7, dtype), transform=at(UTM, 0, 0))
    path = tmp_path / "v.vrt"

    def notes(width, stored="", **options):
        kind = {"uint8": "Byte", "float32": "Float32"}[dtype]
        path.write_text(UNMARKED.format(dtype=kind, width=width, nodata=stored))
        recwarn.clear()
        with open_raster(path, **options) as reader:
            assert list(reader.info.notes) == [str(warning.message) for warning in recwarn]
            return reader.info.notes

    (note,) = notes(24)
    assert note.startswith(f"{path}: 20 % of it is not covered by its files, and it has no nodata")
    assert "\n" not in note
    assert notes(30) == ()
    assert notes(24, "<NoDataValue>0</NoDataValue>") == ()
    assert notes(24, nodata=0) == ()


@pytest.mark.parametrize("count", [1, 3, 40, 5000])
def test_sample_windows_in_are_spread_over_all_rasters(count):
    from georsr.radiometry.normalization import sample_windows_in

    places = [Window(3000 * i, 0, 2500, 2000) for i in range(count)]
    windows = sample_windows_in(places, 2**20)
    assert sum(w.height * w.width for w in windows) <= 2**20
    assert 150 < len(windows) <= 256
    inside = [next(i for i, p in enumerate(places) if w.intersection(p) == w) for w in windows]
    assert len(set(inside)) == min(count, 256)
    first = [w for w, i in zip(windows, inside, strict=True) if i == 0]
    if len(first) > 1:  # from one end to the other
        assert (min(w.top for w in first), max(w.bottom for w in first)) == (0, 2500)
        assert (min(w.left for w in first), max(w.right for w in first)) == (0, 2000)


@pytest.fixture
def bands(tmp_path):
    """bands(...) -> paths of one band each: B04.tif, B03.tif and B02.tif on one grid."""

    def make(numbers=(4, 3, 2), **profiles):
        return [
            make_raster(
                tmp_path / f"T32_B0{n}_10m.tif", ramp(1, 20, 24) + n, **profiles.get(f"b{n}", {})
            )
            for n in numbers
        ]

    return make


def test_stack_has_the_bands_in_the_order_given(bands):
    paths = bands(b3={"nodata": 7})
    with open_sources(paths, stack=True) as reader:
        assert [b.description for b in reader.info.bands] == [
            "T32_B04_10m", "T32_B03_10m", "T32_B02_10m",
        ]  # fmt: skip
        assert reader.info.nodata == (None, 7, None)
        block = pickle.loads(pickle.dumps(reader)).read(Window(0, 0, 20, 24))
        for i, path in enumerate(paths):
            with open_quietly(path) as alone:
                expected = alone.read(Window(0, 0, 20, 24))
                np.testing.assert_array_equal(block.values[i], expected.values[0])
                np.testing.assert_array_equal(block.valid[i], expected.valid[0])
        assert detect_rgb_bands(reader.info).numbers == (1, 2, 3)
    with open_sources([paths[2], paths[0]], stack=True, indexes=(2,)) as reader:
        assert reader.info.bands[0].description == "T32_B04_10m"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"transform": UTM @ Affine.scale(2)}, "does not lie on the grid.*pixels are 20 x -20"),
        ({"transform": at(UTM, 1, 0)}, "cut it to this extent first, with gdalwarp -te"),
        ({"crs": "EPSG:4326"}, "its CRS EPSG:4326, expected EPSG:32633"),
        ({"mask": np.ones((20, 24), bool)}, "has a mask or alpha band, which stack=True does not"),
    ],
)
def test_stack_of_rasters_on_other_grids_is_refused(bands, other, message):
    with pytest.raises(UsageError, match=message):
        open_sources(bands(b2=other), stack=True)


def test_mosaic_of_the_bands_of_one_scene_is_refused(bands):
    paths = bands()
    for sources in (paths, [Path(paths[0]).parent]):
        with pytest.raises(UsageError, match=r"the last would hide the others; use stack=True"):
            open_sources(sources)


def test_mosaic_with_hidden_rasters_is_told(tmp_path):
    data = ramp(3, 61, 67)
    paths = pieces_of(tmp_path, data, [(10, 10, 20, 20), *FOUR, (0, 0, 61, 67)])
    with (
        pytest.warns(BandWarning, match=r"piece0.*is covered by.*, as are 4 others"),
        open_sources(paths),
    ):
        pass
    with pytest.warns(BandWarning, match="piece0.*is covered by"), open_sources(paths[:5]):
        pass
    with open_sources(paths[1:5]) as reader:  # side by side
        assert reader.info.count == 3


@pytest.mark.parametrize("corner", [(2e9, 5e6), (1e15, 5e6), (5e5, -3e10)])
def test_mosaic_of_rasters_far_apart_is_refused(corner, tmp_path):
    paths = []
    for name, (x, y) in (("a.tif", (5e5, 5e6)), ("b.tif", corner)):
        transform = Affine(0.5, 0, x, 0, -0.5, y)
        paths.append(make_raster(tmp_path / name, ramp(), transform=transform))
    with pytest.raises(UsageError, match=r"lie too far apart: a mosaic of.*super_resolve_many"):
        open_sources(paths)


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")
@pytest.mark.parametrize("limit", [64, 16])
def test_mosaic_of_more_rasters_than_files_may_be_open_is_read(limit, tmp_path):
    import subprocess

    for i in range(100):
        make_raster(
            tmp_path / f"{i:03}.tif",
            np.full((1, 8, 8), i + 1, "uint8"),
            transform=at(UTM, 8 * (i % 10), 8 * (i // 10)),
            tiled=False, blockxsize=None, blockysize=None,
        )  # fmt: skip
    program = (
        "import resource, sys, georsr.api, georsr.models.io, georsr.io.mosaic, georsr.io.vrt\n"
        "georsr.models.io.open_model('nearest-x1')\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "from georsr.cli.main import main; main()"
    )
    out = tmp_path / "out" / "o.tif"
    out.parent.mkdir()
    command = [sys.executable, "-c", program, "sr", str(tmp_path), str(out), "-m", "nearest-x1"]
    done = subprocess.run(
        [*command, "-q", "-j", "1"], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with open_raster(out) as reader:
        expected = np.arange(1, 101).reshape(10, 10).repeat(8, 0).repeat(8, 1)
        np.testing.assert_array_equal(reader.read(Window(0, 0, 80, 80)).values[0], expected)


def test_read_with_too_many_open_files_does_not_blame_the_file(tmp_path, monkeypatch):
    path = make_raster(tmp_path / "a.tif", ramp())

    def fail(*_, **__):
        raise rasterio.errors.RasterioIOError("b.tif: Too many open files")

    with open_raster(path) as reader:
        monkeypatch.setattr("georsr.io.reader.RasterReader._values", fail)
        with pytest.raises(ResourceError, match=r"may open \d+\); raise the limit") as caught:
            reader.read(Window(0, 0, 8, 8))
    assert "damaged" not in str(caught.value)
