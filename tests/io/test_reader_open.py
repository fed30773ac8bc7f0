import gzip

import pytest

from georsr.errors import InputError, UsageError
from georsr.io.reader import open_raster
from georsr.window import Window
from tests.rasters import make_raster, ramp

VRT = """<VRTDataset rasterXSize="50" rasterYSize="40"><SRS>EPSG:32633</SRS>
<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize("name", ["none.tif", "none.jp2", "/vsizip/none.zip/a.tif"])
def test_open_raster_missing_file_raises_usage_error(tmp_path, name):
    path = name if name.startswith("/") else str(tmp_path / name)
    with pytest.raises(UsageError, match="no such file") as caught:
        open_raster(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_raster_directory_raises_input_error(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        open_raster(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"hello world" * 9, "not a raster")]
)
@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_open_raster_not_a_raster_raises_input_error(tmp_path, content, message, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_raster(path)
    assert caught.value.__cause__ is not None
    assert str(path) in str(caught.value)


def test_open_raster_truncated_header_raises_input_error(rgb):
    rgb.write_bytes(rgb.read_bytes()[:100])
    with pytest.raises(InputError, match="not a raster"):
        open_raster(rgb)


def test_open_raster_vrt_is_read(tmp_path, rgb):
    path = tmp_path / "a.vrt"
    path.write_text(VRT.format(relative=1, source="rgb.tif"))
    with open_raster(path) as reader:
        assert reader.info.driver == "VRT"
        assert str(rgb) in reader.info.files


@pytest.mark.parametrize("source", ["/etc/passwd", "../rgb.tif", "/vsicurl/http://127.0.0.1:1/a"])
@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.jp2"])
def test_open_raster_vrt_under_another_name_is_refused(tmp_path, source, name):
    path = tmp_path / name
    path.write_text(VRT.format(relative=0, source=source))
    with pytest.raises(UsageError, match="VRT document under another name"):
        open_raster(path)


def test_open_raster_vrt_under_another_name_is_read_if_allowed(tmp_path, rgb):
    path = tmp_path / "a.tif"
    path.write_text(VRT.format(relative=1, source="rgb.tif"))
    with open_raster(path, allow_drivers=["VRT"]) as reader:
        assert reader.info.driver == "VRT"


def test_open_raster_unlisted_driver_needs_allow_drivers(tmp_path):
    path = tmp_path / "a.pix"
    make_raster(
        path,
        ramp(1),
        driver="PCIDSK",
        tiled=None,
        blockxsize=None,
        blockysize=None,
        photometric=None,
    )
    with pytest.raises(InputError, match="allow_drivers"):
        open_raster(path)
    with open_raster(path, allow_drivers=["PCIDSK"]) as reader:
        assert reader.info.driver == "PCIDSK"


def test_open_raster_unknown_driver_raises_usage_error(rgb):
    with pytest.raises(UsageError, match=r"\"NONSENSE\".*: this GDAL has no such driver"):
        open_raster(rgb, allow_drivers=["NONSENSE"])


def test_open_raster_subdataset_and_vsi_path_are_read(rgb):
    zipped = rgb.with_suffix(".tif.gz")
    zipped.write_bytes(gzip.compress(rgb.read_bytes()))
    for path in (f"GTIFF_DIR:1:{rgb}", f"/vsigzip/{zipped}"):
        with open_raster(path) as reader:
            assert (reader.read(Window(0, 0, 40, 50)).values == ramp()).all()
