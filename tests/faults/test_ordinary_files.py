"""Files as users have them, damaged or of another time: an output, or one line."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from georsr.api import super_resolve
from georsr.errors import BandWarning, InputError, UsageError
from georsr.io.reader import open_raster

SMALL = {"tile_size": 32, "blocksize": 32}


def replaced(path, old, new):
    data = Path(path).read_bytes()
    assert old in data
    Path(path).write_bytes(data.replace(old, new))


@pytest.mark.parametrize("kind", ["damaged", "cut off"])
def test_open_raster_unreadable_alpha_is_one_line(kind, make_raster, texture, tmp_path, capsys):
    def colours(dataset):
        dataset.colorinterp = [ColorInterp[c] for c in ("red", "green", "blue", "alpha")]

    source = make_raster(
        texture(4, 256, 256), after=colours, tiled=True, blockxsize=64, blockysize=64,
        photometric="RGB", compress="deflate", interleave="band",
    )  # fmt: skip
    data = Path(source).read_bytes()
    size = len(data)
    if kind == "damaged":
        Path(source).write_bytes(data[: size // 2] + bytes(size - size // 2))
    else:
        Path(source).write_bytes(data[: size * 3 // 4])
    for command in (["info", source], ["sr", source, str(tmp_path / "o.tif"), "-m", "bicubic"]):
        assert invoke(command) == 1
        said = capsys.readouterr().err
        assert said.startswith("Error: ")
        assert "not foreseen" not in said
        assert said.count("\n") == 1
    assert not (tmp_path / "o.tif").exists()


@pytest.mark.filterwarnings("ignore::georsr.errors.GeoreferenceWarning")
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_super_resolve_gcps_without_crs_are_kept(make_raster, texture, tmp_path):
    places = [(0, 0), (0, 40), (50, 0), (50, 40)]

    def points(dataset):
        dataset.gcps = ([GroundControlPoint(r, c, c / 2, -r / 2) for r, c in places], CRS())

    source = make_raster(texture(1, 50, 40), crs=None, transform=None, after=points)
    super_resolve(source, tmp_path / "o.tif", "bicubic", 2, **SMALL)
    with rasterio.open(tmp_path / "o.tif") as output:
        gcps, crs = output.gcps
    assert [(g.row, g.col) for g in gcps] == [(2 * r, 2 * c) for r, c in places]
    assert not crs


@pytest.mark.parametrize("kind", ["description", "unit"])
def test_open_raster_latin_1_names_are_left_out_with_a_warning(
    kind, make_raster, texture, tmp_path
):
    def name(dataset):
        dataset.set_band_description(1, "QQQQ" if kind == "description" else "green")
        dataset.units = ("QQQQ",) if kind == "unit" else ("m",)

    values = texture(1, 40, 40)
    source = make_raster(values, after=name)
    replaced(source, b"QQQQ", "grün".encode("latin-1"))
    with pytest.warns(BandWarning, match=f"{kind}s of bands are not UTF-8 and are not copied"):
        super_resolve(source, tmp_path / "o.tif", "nearest", 2, **SMALL)
    with rasterio.open(tmp_path / "o.tif") as output:
        np.testing.assert_array_equal(output.read(), values.repeat(2, 1).repeat(2, 2))
        kept = output.descriptions if kind == "unit" else output.units
    assert kept == (("green",) if kind == "unit" else ("m",))


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_super_resolve_path_not_utf_8_is_refused(make_raster, texture, tmp_path):
    source = make_raster(texture(1, 40, 40))
    odd = os.fsdecode(b"b\xfcrgle.tif")
    with pytest.raises(UsageError, match="the name is not UTF-8"):
        super_resolve(source, tmp_path / odd, "bicubic", 2)
    os.rename(source, tmp_path / odd)  # noqa: PTH104
    with pytest.raises(UsageError, match="the file name is not UTF-8"):
        super_resolve(tmp_path / odd, tmp_path / "o.tif", "bicubic", 2)


def test_open_raster_unreadable_header_is_one_line(make_raster, texture, monkeypatch):
    """Whatever rasterio raises while it is asked: geo keys, a CRS, tags."""
    source = make_raster(texture(1, 40, 40))

    class Broken(rasterio.io.DatasetReader):
        @property
        def gcps(self):
            raise rasterio.errors.CRSError("The WKT could not be parsed")

    monkeypatch.setattr("georsr.io.reader.open_source", lambda path, *_: Broken(path))
    with pytest.raises(InputError, match="cannot be read: The WKT could not be parsed"):
        open_raster(source)


def test_open_raster_many_bands_reads_properties_once(make_raster, monkeypatch):
    """Rasterio lists the properties of all bands at each question: they are asked for once."""
    asked = []
    source = make_raster(np.ones((300, 2, 2), "uint8"))
    descriptions = rasterio.io.DatasetReader.descriptions

    class Counting(rasterio.io.DatasetReader):
        @property
        def descriptions(self):
            asked.append(1)
            return descriptions.__get__(self)

    monkeypatch.setattr("georsr.io.reader.open_source", lambda path, *_: Counting(path))
    with open_raster(source) as reader:
        assert reader.info.count == 300
    assert len(asked) < 5
