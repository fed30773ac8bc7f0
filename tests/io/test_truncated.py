"""Files that end early are refused; none is read as if it went on."""

import warnings

import numpy as np
import pytest
import rasterio.shutil

from georsr.errors import GeorsrError, InputError
from georsr.io.reader import open_raster
from georsr.io.truncated import FIRST_BYTES
from georsr.window import Window

SIDE = 40
SHARES = (0.3, 0.5, 0.8, 0.95, 0.99)
FORMATS = {
    "png": ("PNG", 3, "uint8"),
    "png of 16 bits": ("PNG", 1, "uint16"),
    "jpg": ("JPEG", 3, "uint8"),
    "jpg of 12 bits": ("JPEG", 1, "uint16"),
    "webp": ("WEBP", 3, "uint8"),
    "bmp": ("BMP", 3, "uint8"),
    "jp2": ("JP2OpenJPEG", 3, "uint8"),
    "tif": ("GTiff", 3, "uint8"),
    "img": ("HFA", 1, "uint16"),
    "envi": ("ENVI", 3, "float32"),
    "bil": ("EHdr", 3, "uint8"),
    "nc": ("netCDF", 1, "float32"),
    "gpkg": ("GPKG", 1, "float32"),
}
pytestmark = pytest.mark.filterwarnings("ignore::georsr.GeoreferenceWarning")


def read(path):
    with open_raster(str(path)) as reader:
        return reader.read(Window(0, 0, SIDE, SIDE)).values


@pytest.mark.parametrize("name", FORMATS)
def test_read_of_a_truncated_file_is_refused_or_whole(make_raster, texture, tmp_path, name):
    driver, count, dtype = FORMATS[name]
    # noise, so that no compressor leaves pixels out
    noise = np.random.default_rng(0).integers(1, 250, (count, SIDE, SIDE)).astype(dtype)
    source, path = make_raster(noise), tmp_path / "copy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            rasterio.shutil.copy(source, str(path), driver=driver)
        except rasterio.errors.RasterioError as error:
            pytest.skip(f"this GDAL cannot write it: {error}")
    whole, content = read(path), path.read_bytes()
    for share in SHARES:
        path.write_bytes(content[: int(len(content) * share)])
        try:
            np.testing.assert_array_equal(read(path), whole)
        except GeorsrError:
            pass
        else:
            assert share > 0.5  # what was cut off was no pixel


def test_read_of_a_truncated_netcdf_with_records_is_refused(tmp_path):
    netcdf = pytest.importorskip("scipy.io").netcdf_file
    path = tmp_path / "records.nc"
    with netcdf(path, "w") as file:
        file.title = "a scene in records"
        for name, size in (("time", None), ("y", SIDE), ("x", SIDE)):
            file.createDimension(name, size)
        bands = file.createVariable("band", "f4", ("time", "y", "x"))
        bands[:] = np.random.default_rng(0).random((3, SIDE, SIDE)).astype("f4")
    read(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"incomplete: it has .* its header describes"):
        read(path)


@pytest.mark.parametrize(("start", "kind"), FIRST_BYTES.items())
def test_open_of_another_format_beside_a_raw_header_is_refused(tmp_path, start, kind):
    path = tmp_path / "scene.dat"
    path.write_bytes(start.ljust(SIDE * SIDE, b" "))
    path.with_suffix(".hdr").write_text(
        f"ENVI\nsamples = {SIDE}\nlines = {SIDE}\nbands = 1\nheader offset = 0\n"
        "data type = 1\ninterleave = bsq\nbyte order = 0\n"
    )
    with pytest.raises(InputError, match=f"of the format {kind}, expected"):
        read(path)
