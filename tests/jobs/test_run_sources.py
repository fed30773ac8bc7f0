"""Sources that are not plain GeoTIFFs: web addresses, archives, VRTs, JPEG 2000."""

import http.server
import re
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rioxarray

import georsr.xarray  # noqa: F401  registers the accessor
from georsr.api import super_resolve


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves files of one folder with byte ranges, as object stores do."""

    folder: Path

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.folder / Path(self.path).name
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = 0, len(data) - 1
        if wanted:
            first = int(wanted[1])
            last = min(last, int(wanted[2] or last))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if body:
            self.wfile.write(data[first : last + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    RangeHandler.folder = tmp_path
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def expected(image):
    return image.repeat(2, 1).repeat(2, 2)


def check(source, image, tmp_path):
    super_resolve(source, tmp_path / "o.tif", "nearest", 2, tile_size=32)
    with rasterio.open(tmp_path / "o.tif") as out:
        np.testing.assert_array_equal(out.read(), expected(image))
        assert out.crs.to_epsg() == 32632


def test_run_from_a_web_address_gives_the_same_pixels(served, make_raster, texture, tmp_path):
    image = texture(1, 90, 70)
    make_raster(image, tiled=True, blockxsize=32, blockysize=32)
    check(f"{served}/in.tif", image, tmp_path)


def test_run_from_an_archive_gives_the_same_pixels(make_raster, texture, tmp_path):
    image = texture(1, 40, 30)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(make_raster(image), "inner/in.tif")
    check(f"/vsizip/{tmp_path}/a.zip/inner/in.tif", image, tmp_path)


def test_run_from_a_vrt_gives_the_same_pixels(make_raster, texture, tmp_path):
    image = texture(1, 40, 30)
    make_raster(image)
    rasterio.shutil.copy(tmp_path / "in.tif", tmp_path / "v.vrt", driver="VRT")
    check(tmp_path / "v.vrt", image, tmp_path)


def test_run_from_jpeg_2000_gives_the_same_pixels(make_raster, texture, tmp_path):
    image = texture(1, 64, 48)
    rasterio.shutil.copy(
        make_raster(image),
        tmp_path / "in.jp2",
        driver="JP2OpenJPEG",
        QUALITY="100",
        REVERSIBLE="YES",
    )
    check(tmp_path / "in.jp2", image, tmp_path)


LARGEST = 3.4028234663852886e38
TEXT = b"-1.2345678901234567e+30"


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
@pytest.mark.parametrize("model", ["nearest-x2", "bicubic-x2", "segsr-lite-x2", "xarray"])
@pytest.mark.parametrize(
    ("text", "pixel"),
    [
        ("-3.4028234663852886e+38", -LARGEST),
        ("-3.40282346638529e+38", -LARGEST),  # as ESRI writes it
        ("-3.40282347e+38", -LARGEST),  # beyond the largest float32
        ("-3.4e+38", -LARGEST),
        ("-3.4028234663852886e+38", -3.4e38),
        ("-1.79769313486232e+308", -LARGEST),  # the lowest float64, as ESRI writes it
    ],
)
def test_run_of_huge_nodata_in_other_digits_is_nodata(
    text, pixel, model, make_raster, texture, tmp_path
):
    values = texture(3, 40, 44, "float32")
    values[:, 10:20, 12:30] = pixel
    source, out = Path(make_raster(values, nodata=float(TEXT))), tmp_path / "out.tif"
    data = source.read_bytes()
    assert data.count(TEXT) == 1  # the header has nodata as text
    source.write_bytes(data.replace(TEXT, text.encode().ljust(len(TEXT), b"\0")))
    if model == "xarray":
        with rioxarray.open_rasterio(source) as array:
            array.georsr.super_resolve("bicubic-x2").rio.to_raster(out)
    else:
        super_resolve(source, out, model)
    expected = np.zeros((80, 88), bool)
    expected[20:40, 24:60] = True
    with rasterio.open(out) as dataset:
        assert np.array_equal(dataset.read_masks(1) == 0, expected)
        assert np.abs(dataset.read()[:, ~expected]).max() < 10_000
