from weakref import WeakKeyDictionary

import numpy as np
import pytest
import rasterio.shutil
from affine import Affine
from rasterio.env import get_gdal_config

from georsr.errors import InputError
from georsr.io import gdal_env as blockcache
from georsr.io.gdal_env import CACHE_BYTES, gdal_env
from georsr.io.reader import open_raster
from georsr.radiometry import nodata
from georsr.window import Window
from georsr.writer import encoder
from georsr.writer.layout import output_layout
from tests.rasters import make_raster

SCALED_DOWN = 1000
"""A cache so small that small rasters want more."""


@pytest.fixture(autouse=True)
def nobody_else_reads(monkeypatch):
    monkeypatch.setattr(blockcache, "cache_requests", WeakKeyDictionary())


@pytest.mark.parametrize(
    ("name", "profile", "share"),
    [
        ("a.tif", {}, 0.25),
        # one block: decoded again for each window, if it is not kept
        ("a.tif", {"blockxsize": 3808, "blockysize": 9008}, 1),
        ("a.vrt", {}, 1),  # says nothing of the blocks of its files
    ],
)
def test_block_cache_of_a_narrow_raster_is_bounded(tmp_path, monkeypatch, name, profile, share):
    make_raster(tmp_path / "a.tif", np.zeros((1, 9000, 3800), "uint8"), **profile)
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    given = []

    def recorded(**options):
        given.append(options["cache"])
        return gdal_env(**options)

    with open_raster(tmp_path / name) as reader:
        monkeypatch.setattr("georsr.io.reader.gdal_env", recorded)
        reader.read(Window(0, 0, 192, 192))
        monkeypatch.undo()
    assert given == [share * CACHE_BYTES] == [reader.cache]


@pytest.fixture
def jpeg_2000(tmp_path):
    """Two bands of 200 x 300, in blocks of 64 x 128 pixels and one file; and a VRT of five."""
    image = make_raster(tmp_path / "a.tif", np.zeros((2, 200, 300), "uint16"))
    options = {"BLOCKXSIZE": 128, "BLOCKYSIZE": 64, "REVERSIBLE": "YES", "QUALITY": "100"}
    rasterio.shutil.copy(image, tmp_path / "a.jp2", driver="JP2OpenJPEG", **options)
    source = '<SimpleSource><SourceFilename relativeToVRT="1">a.jp2</SourceFilename></SimpleSource>'
    bands = [
        f'<VRTRasterBand dataType="UInt16" band="{number}">{source}</VRTRasterBand>'
        for number in range(1, 6)
    ]
    where = ", ".join(map(str, Affine(10, 0, 500000, 0, -10, 5000000).to_gdal()))
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset rasterXSize="300" rasterYSize="200"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>{where}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    return tmp_path


def test_block_cache_of_jpeg_2000_holds_two_rows(jpeg_2000, monkeypatch):
    monkeypatch.setattr(blockcache, "CACHE_BYTES", SCALED_DOWN)
    with open_raster(jpeg_2000 / "a.jp2", indexes=[1]) as reader:
        assert reader.cache == 2 * 64 * 300 * 2 * 2, "one file: all bands are decoded together"
    with open_raster(jpeg_2000 / "a.vrt", indexes=[1, 2, 4]) as reader:
        assert reader.cache == 2 * 64 * 300 * 2 * 3, "files of their own: those that are read"


def test_block_cache_that_would_not_fit_is_not_requested(jpeg_2000, monkeypatch):
    monkeypatch.setattr(blockcache, "CACHE_BYTES", SCALED_DOWN)
    wanted = 2 * 64 * 300 * 2 * 2
    for limit, kept in ((8 * wanted, wanted), (8 * wanted - 8, SCALED_DOWN)):
        monkeypatch.setattr(blockcache, "memory_limit", lambda limit=limit: limit)
        with open_raster(jpeg_2000 / "a.jp2") as reader:
            assert reader.cache == kept
    monkeypatch.setattr(blockcache, "memory_limit", lambda: 2**40)
    monkeypatch.setattr(blockcache, "MAX_CACHE_BYTES", wanted - 1)
    with open_raster(jpeg_2000 / "a.jp2") as reader:
        assert reader.cache == SCALED_DOWN


def test_block_cache_of_a_remote_file_holds_two_rows(tmp_path, monkeypatch):
    path = make_raster(tmp_path / "a.tif", np.zeros((3, 200, 300), "uint8"))
    monkeypatch.setattr(blockcache, "CACHE_BYTES", SCALED_DOWN)
    with open_raster(path) as near:
        monkeypatch.setattr(blockcache, "is_remote", lambda name: True)
        with open_raster(path) as far:
            assert far.cache == 2 * 64 * 300 * 3
    assert near.cache == SCALED_DOWN


def test_vrt_file_missing_is_refused_at_opening(jpeg_2000):
    (jpeg_2000 / "a.jp2").unlink()
    with pytest.raises(InputError, match=r"a\.vrt: cannot be read: .*a\.jp2: No such file"):
        open_raster(jpeg_2000 / "a.vrt")


def test_block_cache_of_two_readers_is_the_larger(tmp_path):
    path = make_raster(tmp_path / "a.tif", np.zeros((1, 20, 30), "uint8"))
    with open_raster(path) as one, open_raster(path) as other:
        one.cache, other.cache = 100 * 2**20, 200 * 2**20
        assert blockcache.gdal_cachemax() == 300 * 2**20
        one.cache = 400 * 2**20
        assert blockcache.gdal_cachemax() == 512 * 2**20, "not more, however many there are"
        one.cache = 600 * 2**20
        assert blockcache.gdal_cachemax() == 600 * 2**20, "but what one wants, it gets"
        one.close()
        assert blockcache.gdal_cachemax() == 200 * 2**20
        one.read(Window(0, 0, 20, 30))
        assert blockcache.gdal_cachemax() == 200 * 2**20 + CACHE_BYTES // 4, "open again"


@pytest.mark.parametrize("room", [encoder, nodata])
def test_block_cache_is_kept_while_other_datasets_open(tmp_path, monkeypatch, room):
    """GDAL drops what is above a new limit at once: blocks would be decoded again."""
    name = "MemoryFile" if room is encoder else "fillnodata"
    real, seen = getattr(room, name), []

    def watched(*arguments, **options):
        seen.append(get_gdal_config("GDAL_CACHEMAX"))
        return real(*arguments, **options)

    monkeypatch.setattr(room, name, watched)
    values = np.zeros((1, 64, 64), np.float32)
    valid = np.ones(values.shape, bool)
    valid[0, 5, 5] = False
    with gdal_env(cache=200 * 2**20):
        if room is nodata:
            nodata.fill_invalid(values, valid)
        else:
            with open_raster(make_raster(tmp_path / "a.tif", values)) as reader:
                by_gdal = {"ZLEVEL": "6"}
                layout = output_layout(reader.info, 2, creation_options=by_gdal)
            encoder.BlockEncoder(layout)(values, None)
    assert seen == [200 * 2**20]
