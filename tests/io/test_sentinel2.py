"""Products of Sentinel-2: one raster of 10 m, as it is in the folder or in the archive."""

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from georsr.api import super_resolve
from georsr.errors import GeorsrError, InputError, UsageError
from georsr.io import expand_sources, open_sources
from georsr.io.gdal_env import find_safe_metadata
from georsr.io.reader import open_raster, reflectance_limits
from georsr.io.rgb_bands import detect_rgb_bands
from georsr.io.sentinel2 import open_safe
from georsr.window import Window
from tests.sentinel2_safe import NAME, ORDER, TEN, TWENTY, band_file, make_safe

ADDRESS = "SENTINEL2_L2A:{}/MTD_MSIL2A.xml:{}m:EPSG_32632"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_safe(tmp_path_factory.mktemp("product"))


@pytest.fixture
def own(made, tmp_path):
    """A copy to damage."""
    return shutil.copytree(made[0], tmp_path / made[0].name)


@pytest.fixture(scope="module")
def archive(made, tmp_path_factory):
    root = made[0]
    name = tmp_path_factory.mktemp("archive") / "download"
    return shutil.make_archive(str(name), "zip", root.parent, root.name)


def whole(reader):
    return reader.read(Window(0, 0, reader.info.height, reader.info.width))


def test_open_raster_safe_folder_metadata_and_archive_are_the_same(made, archive):
    root, bands = made
    found = []
    for path in (root, root / "MTD_MSIL2A.xml", archive):
        with open_raster(path) as reader:
            assert tuple(band.description for band in reader.info.bands) == ORDER
            assert reader.info.driver == "SENTINEL2"
            found.append(whole(reader).values)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    for band in TEN:
        np.testing.assert_array_equal(found[0][ORDER.index(band)], bands[band])


def test_safe_values_scale_and_offset_are_kept(made):
    with open_raster(made[0]) as reader:
        info = reader.info
    assert {(band.scale, band.offset, band.nodata) for band in info.bands} == {(1e-4, -0.1, 0.0)}
    assert info.tags[""]["PROCESSING_BASELINE"] == "05.09"
    assert info.bands[0].tags[""]["WAVELENGTH"] == "490"
    assert (info.width, info.height, info.crs.to_epsg()) == (96, 96, 32632)
    assert tuple(info.transform)[:6] == (10, 0, 600000, 0, -10, 5000000)
    low, high = reflectance_limits(info, "reflectance")
    assert low[0] == pytest.approx(1000)
    assert high[0] == pytest.approx(4000)


def test_safe_rgb_bands_are_detected(made):
    with open_raster(made[0]) as reader:
        guide = detect_rgb_bands(reader.info)
    assert (guide.numbers, guide.note) == ((3, 2, 1), "")


def test_safe_info_lists_all_files(made, archive):
    with open_raster(made[0]) as reader:
        names = [Path(name).name for name in reader.info.files]
    assert sum(name.endswith(".jp2") for name in names) == len(ORDER)
    assert {"MTD_MSIL2A.xml", "MTD_TL.xml"} <= set(names)


def test_safe_20_m_bands_are_enlarged_by_cubic_convolution(made):
    root, bands = made
    with open_raster(root) as reader:
        values = whole(reader).values.astype(float)
    for band in TWENTY:
        fine, coarse = values[ORDER.index(band)], bands[band].astype(float)
        # Keys' cubic, a = -0.5, a quarter of a pixel from the nearest sample
        weights = np.array([-0.0234375, 0.2265625, 0.8671875, -0.0703125])
        rows = sum(w * coarse[8 + i : 40 + i] for i, w in enumerate(weights))
        expected = sum(w * rows[:, 8 + i : 40 + i] for i, w in enumerate(weights))
        # centres of pixels 2 (10 + k) lie a quarter of a coarse pixel above those of 10 + k
        np.testing.assert_allclose(fine[20:84:2, 20:84:2], expected, atol=1)


def test_safe_20_m_nodata_keeps_its_extent(tmp_path):
    root, _ = make_safe(tmp_path, side=96, nodata_from=30)
    for band in TWENTY:  # constant, but for nodata
        name = band_file(root, band)
        with rasterio.open(name) as dataset:
            profile, values = dataset.profile, dataset.read()
        values[values != 0] = 3000
        name.unlink()
        with rasterio.open(name, "w", **profile | {"QUALITY": 100, "REVERSIBLE": "YES"}) as dataset:
            dataset.write(values)
    with open_raster(root) as reader:
        patch = whole(reader)
    valid = np.zeros((96, 96), bool)
    valid[:, :60] = True
    for band in ORDER:
        np.testing.assert_array_equal(patch.valid[ORDER.index(band)], valid)
    for band in TWENTY:
        assert (patch.values[ORDER.index(band)][valid] == 3000).all()


@pytest.mark.slow
def test_safe_pixels_do_not_depend_on_the_window(tmp_path):
    root, _ = make_safe(tmp_path, side=1080, nodata_from=400)
    with open_raster(root) as reader:
        everything = whole(reader).values
    rng = np.random.default_rng(1)
    with open_raster(root) as reader:
        for _ in range(12):
            top, left = (int(n) for n in rng.integers(0, 1000, 2))
            window = Window(top, left, *(int(n) for n in rng.integers(1, 80, 2)))
            part = reader.read(window).values
            np.testing.assert_array_equal(part, everything[(slice(None), *window.slices)])


def test_safe_level_1c_has_its_own_offset(tmp_path):
    root, bands = make_safe(tmp_path, side=48, level="L1C")
    with open_raster(root) as reader:
        assert {(band.scale, band.offset) for band in reader.info.bands} == {(1e-4, -0.1)}
        np.testing.assert_array_equal(whole(reader).values[2], bands["B04"])


def test_safe_without_offset_has_none(tmp_path):
    root, _ = make_safe(tmp_path, side=48, offset=False)
    with open_raster(root) as reader:
        assert {(band.scale, band.offset) for band in reader.info.bands} == {(1e-4, 0.0)}


def test_safe_is_super_resolved(made, archive, tmp_path):
    super_resolve(archive, tmp_path / "rgb.tif", "bicubic", 2, indexes=(3, 2, 1))
    super_resolve(made[0], tmp_path / "all.tif", "bicubic", 2)
    with rasterio.open(tmp_path / "rgb.tif") as rgb, rasterio.open(tmp_path / "all.tif") as every:
        assert rgb.descriptions == ("B04", "B03", "B02")
        assert [color.name for color in rgb.colorinterp] == ["red", "green", "blue"]
        assert every.descriptions == ORDER
        assert every.scales == (1e-4,) * 10
        assert every.offsets == (-0.1,) * 10
        assert every.nodata == 0
        assert every.tags(1)["BOA_ADD_OFFSET"] == "-1000"
        np.testing.assert_array_equal(rgb.read(), every.read([3, 2, 1]))


def test_safe_with_a_network_super_resolves_rgb_and_other_bands(made, lite_model, tmp_path):
    super_resolve(made[0], tmp_path / "rgb.tif", lite_model)
    super_resolve(made[0], tmp_path / "all.tif", lite_model, output_bands="all")
    with rasterio.open(tmp_path / "rgb.tif") as rgb, rasterio.open(tmp_path / "all.tif") as every:
        assert rgb.descriptions == ("B04", "B03", "B02")
        assert every.descriptions == ORDER
        np.testing.assert_array_equal(rgb.read(), every.read([3, 2, 1]))


def test_safe_reader_unpickled_in_another_folder_reads(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made[0].parent)
    with open_raster(made[0].name) as reader:
        before, packed = whole(reader).values, pickle.dumps(reader)
    monkeypatch.chdir(tmp_path)
    with pickle.loads(packed) as again:
        np.testing.assert_array_equal(whole(again).values, before)


@pytest.mark.parametrize("band", ["B03", "B11"])
def test_safe_missing_bands_are_named(own, band):
    band_file(own, band).unlink()
    with pytest.raises(InputError, match=f"files of the bands {band} are missing") as caught:
        open_raster(own)
    said = str(caught.value)
    assert said.startswith(str(own))
    assert "expected B02, B03, B04, B05" in said
    assert "\n" not in said


def test_safe_missing_bands_of_one_resolution_are_named(own):
    band_file(own, "B03").unlink()
    with pytest.raises(InputError, match="files of the bands B03 are missing, expected B02, B03"):
        open_raster(ADDRESS.format(own, 10))
    with open_raster(ADDRESS.format(own, 20)) as reader:
        assert reader.info.bands[0].description.startswith("B5,")


def test_safe_archive_with_missing_bands_is_refused(own, tmp_path):
    band_file(own, "B8A").unlink()
    path = shutil.make_archive(str(tmp_path / "part"), "zip", own.parent, own.name)
    with pytest.raises(InputError, match=r"part\.zip: files of the bands B8A are missing"):
        open_raster(path)


@pytest.mark.parametrize("left", [0, 100, 5000])
def test_safe_damaged_band_is_refused(own, left):
    name = band_file(own, "B04")
    name.write_bytes(name.read_bytes()[:left])
    with pytest.raises(InputError, match=r"damaged or incomplete|B04 are missing"):
        whole(open_raster(own, indexes=[3]))


@pytest.mark.parametrize("content", ["", "<n1:Level-2A_User_Product", "<other/>"])
def test_safe_damaged_metadata_raise_input_error(own, content):
    (own / "MTD_MSIL2A.xml").write_text(content)
    with pytest.raises(InputError, match="cannot be read as a product of Sentinel-2") as caught:
        open_raster(own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BOA_QUANTIFICATION_VALUE", ""), ("BOA_QUANTIFICATION_VALUE", "0"),
        ("BOA_QUANTIFICATION_VALUE", "-1"), ("BOA_QUANTIFICATION_VALUE", "nan"),
        ("BOA_ADD_OFFSET", "x"), ("BOA_ADD_OFFSET", "inf"), ("BOA_ADD_OFFSET", "1e400"),
    ],
)  # fmt: skip
def test_safe_odd_numbers_in_the_metadata_raise_input_error(own, name, text):
    metadata = own / "MTD_MSIL2A.xml"
    changed, n = re.subn(rf"(<{name}\b[^>]*>)[^<]*<", rf"\g<1>{text}<", metadata.read_text())
    assert n
    metadata.write_text(changed)
    with pytest.raises(InputError, match=f"{name} is '{text}', expected a number") as caught:
        open_raster(own)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::georsr.errors.GeorsrWarning")
@pytest.mark.parametrize("text", ["", "x", "-5", "99999999999", "2147483647"])
@pytest.mark.parametrize("name", ["NROWS", "NCOLS", "ULX", "HORIZONTAL_CS_CODE"])
def test_safe_odd_numbers_of_the_grid_are_read_or_one_line(own, name, text):
    (metadata,) = own.glob("GRANULE/*/MTD_TL.xml")
    changed, n = re.subn(rf"(<{name}\b[^>]*>)[^<]*<", rf"\g<1>{text}<", metadata.read_text())
    assert n
    metadata.write_text(changed)
    said = []
    try:
        with open_raster(own) as reader:
            assert reader.info.width == reader.info.height == 96
    except GeorsrError as error:
        said.append(str(error))
    assert "\n" not in "".join(said)


def test_safe_metadata_without_tiles_raise_input_error(own):
    place = own / "MTD_MSIL2A.xml"
    place.write_text(place.read_text().replace("SAFE_COMPACT", "SAFE"))
    with pytest.raises(InputError, match="its metadata name no tile"):
        open_raster(own)


def test_safe_folder_without_metadata_raises_input_error(own):
    (own / "MTD_MSIL2A.xml").unlink()
    with pytest.raises(InputError, match=r"has no MTD_MSIL1C\.xml or MTD_MSIL2A\.xml"):
        open_raster(own)


def test_safe_missing_metadata_raise_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        open_raster(tmp_path / "MTD_MSIL2A.xml")


def test_open_raster_archive_of_other_files_names_the_vsi_path(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(b"")
    path = shutil.make_archive(str(tmp_path / "other"), "zip", tmp_path / "in")
    with pytest.raises(UsageError, match=r"holds no product of Sentinel-2.*/vsizip/.*/a\.tif"):
        open_raster(path)


def test_safe_damaged_archive_raises_input_error(archive, tmp_path):
    path = tmp_path / "cut.zip"
    path.write_bytes(Path(archive).read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read as an archive"):
        open_raster(path)


def test_safe_archive_of_two_products_is_refused(made, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(made[0] / "MTD_MSIL2A.xml", tmp_path / "in" / name)
    path = shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path / "in")
    with pytest.raises(UsageError, match="holds 2 products of Sentinel-2, expected one"):
        open_raster(path)


def test_open_sources_of_two_safe_products_is_refused(made, archive):
    with pytest.raises(
        UsageError, match=r"a Sentinel-2 product cannot be part of a mosaic.*super_resolve_many"
    ):
        open_sources([made[0], archive])


def test_safe_renamed_folder_is_read(made, tmp_path):
    place = tmp_path / "renamed"
    shutil.copytree(made[0], place)
    assert made[0].name == NAME.format(level="L2A")
    with open_raster(place) as reader:
        assert reader.info.count == len(ORDER)


def test_safe_folder_with_quicklook_is_one_source(own):
    (own / "S2A_MSIL2A-ql.jpg").touch()
    assert expand_sources(own) == [str(own)]


def test_safe_closed_leaves_no_dataset_open(made):
    root = made[0]
    metadata = find_safe_metadata(str(root))
    assert metadata is not None
    with open_safe(str(root), metadata) as dataset:
        assert not any(part.closed for part in dataset.parts)
    assert dataset.parts
    assert all(part.closed for part in dataset.parts)
