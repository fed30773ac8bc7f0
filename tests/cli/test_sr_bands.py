"""Rasters whose bands or values are not what a network needs: one clear line, nothing written."""

import re

import numpy as np
import pytest
from affine import Affine
from georsr.cli.main import invoke

from georsr.errors import BandWarning

COARSE = Affine(1, 0, 400000, 0, -1, 5000000)
VRT = """<VRTDataset rasterXSize="24" rasterYSize="20"><SRS>EPSG:32632</SRS>
<GeoTransform>400000, 0.5, 0, 5000000, 0, -0.5</GeoTransform>{}</VRTDataset>"""
BAND = """<VRTRasterBand dataType="{}" band="{}"><SimpleSource>
<SourceFilename relativeToVRT="1">in.tif</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand>"""


@pytest.fixture
def run(tmp_path, capsys):
    """run(paths, *options) -> exit code and what stderr says; nothing is left where it fails."""

    def call(paths, *options):
        out = tmp_path / "out.tif"
        before = sorted(tmp_path.iterdir())
        code = invoke(["sr", *paths, str(out), "--model", "segsr-lite-x2", "-q", *options])
        said = capsys.readouterr().err.splitlines()
        if code:
            assert sorted(tmp_path.iterdir()) == before
            assert [line.startswith("Error: ") for line in said].count(True) == 1
            assert said[-1].startswith("Error: ")
        return code, said

    return call


@pytest.fixture
def plain(make_raster, texture):
    """plain(bands, dtype) -> a raster that says nothing about its bands."""

    def make(count, dtype="uint16", name="in.tif", **options):
        values = np.maximum(texture(count, 20, 24, dtype), 1)
        return make_raster(values, name, photometric="MINISBLACK", **options)

    return make


@pytest.mark.parametrize(
    ("count", "taken"), [(3, "1,2,3"), (4, "3,2,1"), (6, "3,2,1"), (7, "4,3,2"), (12, "4,3,2")]
)
def test_sr_assumed_band_order_warns_and_names_bidx(plain, run, count, taken):
    with pytest.warns(BandWarning, match=rf"assuming bands {taken} \(.*indexes=\(R, G, B\)"):
        code, said = run([plain(count)])
    assert (code, said) == (0, [])


@pytest.mark.parametrize("count", [2, 5, 9])
@pytest.mark.parametrize("options", [(), ("--bands", "all")])
def test_sr_unknown_band_order_is_refused(plain, run, count, options):
    code, said = run([plain(count)], *options)
    assert code == 2
    assert f"which of its {count} bands are red, green and blue" in said[-1]
    assert "--bidx R,G,B" in said[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bidx", "1,2"), "takes 3 bands (red, green, blue), got 2"),
        (("--bidx", "3,2,1,4"), "got 4; choose with --bidx"),
        (("--bidx", "3,2,1,4"), "--bands all carries the others"),
        (("--bidx", "3,2,1,4"), "gdal_translate -b 3 -b 2 -b 1 -b 4 IN few.vrt"),
        (("--bands", "3,2,1,4"), "gdal_translate -b 3 -b 2 -b 1 -b 4 IN few.vrt"),
        (("--bands", "3,2,1"), "for those bands: --bidx 3,2,1"),
        (("--bidx", "3,2,1,4", "--bands", "all"), "expected three bands"),
        (("--bidx", "0,1,2"), "there is no band 0; available: 1"),
        (("--bidx", "1,2,9"), "there is no band 9; available: 1"),
        (("--bidx", "1,2,9", "--bands", "all"), "there is no band 9 to guide; available: 1"),
        (("--bidx", "red"), "not a comma-separated list of band numbers"),
        (("--nodata", "-1"), "nodata -1 cannot occur in band 1 of type uint16"),
        (("--nodata", "nan"), "nodata nan cannot occur"),
        (("--dst-nodata", "70000"), "nodata 70000 does not fit data type uint16"),
        (("--dst-nodata", "x"), "nodata must be a number, nan or none"),
        (("--dtype", "int64"), "data type int64 is not one of uint8"),
        (("--stretch", "reflectance"), "band 3 has no scale and offset"),
        (("--stretch", "5,1"), "LO must be less than HI"),
        (("--consistency-kernel", "psf:9"), "expected bicubic, mean, or psf:MTF"),
        (("--alpha", "no"), "'no' is not one of 'auto', 'mask', 'data'"),
    ],
)
def test_sr_band_options_that_do_not_fit_are_refused(plain, run, options, message):
    code, said = run([plain(4)], *options)
    assert code == 2
    assert message in said[-1]


@pytest.mark.parametrize(
    ("dtype", "message"),
    [("complex64", "super-resolve its amplitude instead"), ("int64", "convert it first")],
)
def test_sr_unsupported_data_type_is_refused(make_raster, run, dtype, message):
    code, said = run([make_raster(np.ones((1, 20, 24), dtype))])
    assert code == 2
    assert f"data type {dtype}, which is not supported" in said[-1]
    assert message in said[-1]


def test_sr_mosaic_of_mixed_types_or_resolutions_is_refused(
    plain, make_raster, texture, run, tmp_path
):
    first = plain(1)
    coarse = make_raster(texture(1, 10, 12, "uint16"), "b.tif", transform=COARSE)
    for other, message in (
        (plain(1, "float32", "c.tif"), "does not fit .*in.tif: its data types float32"),
        (plain(3, name="d.tif"), "its number of bands 3, expected 1"),
        (coarse, r"pixels are 1 x -1, expected 0\.5 x -0\.5.*gdalwarp"),
    ):
        code, said = run([first, other])
        assert code == 2
        assert re.search(message, said[-1])
    mixed = tmp_path / "mixed.vrt"
    mixed.write_text(
        VRT.format("".join(BAND.format(t, i) for i, t in ((1, "UInt16"), (2, "Int64"))))
    )
    code, said = run([str(mixed)], "--bidx", "1,1,2")
    assert code == 2
    assert "band 2 has data type int64" in said[-1]
    mixed.write_text(
        VRT.format("".join(BAND.format(t, i) for i, t in ((1, "UInt16"), (2, "Float32"))))
    )
    assert run([str(mixed)], "--bidx", "1,1,2") == (0, [])


def test_sr_classes_or_palette_without_force_is_refused(make_raster, run, tmp_path):
    classes = np.ones((1, 20, 24), "uint8")
    named = make_raster(classes, after=lambda d: setattr(d, "descriptions", ("SCL",)))
    colours = {value: (value, 0, 0, 255) for value in range(256)}
    palette = make_raster(classes, "p.tif", after=lambda d: d.write_colormap(1, colours))
    for path, message in ((named, "holds classes (SCL)"), (palette, "has a colour palette")):
        code, said = run([path], "--overwrite")
        assert code == 2
        assert message in said[-1]
        assert "--force" in said[-1]
        layers, item = (str(tmp_path / name) for name in ("q.tif", "item.json"))
        options = ("--force", "--overwrite", "--quality", layers, "--stac", item)
        assert run([path], *options) == (0, [])


def test_sr_too_few_bands_lists_the_bands_of_the_source(plain, run):
    code, said = run([plain(5)], "--bidx", "4,2")
    assert code == 2
    assert "takes 3 bands (red, green, blue), got 2" in said[-1]
    for number in range(1, 6):
        assert f"{number} (" in said[-1].partition("from: ")[2]
