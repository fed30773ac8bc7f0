"""What a user is told about a source."""

import html
import re
import shutil

import numpy as np
import pytest
import rasterio.shutil
from rasterio.crs import CRS

import georsr
from georsr.errors import GeoreferenceWarning, MetadataWarning, RadiometryWarning, UsageError


@pytest.mark.parametrize("times", [1, 2, 4])
def test_run_of_an_upsampled_source_warns_once(make_raster, texture, tmp_path, recwarn, times):
    image = texture(3, 120 // times, 90).repeat(times, 1).repeat(times, 2)
    path = make_raster(image)
    report = georsr.super_resolve(path, tmp_path / "o.tif", "segsr-lite-x2")
    texts = [str(warning.message) for warning in recwarn if "every pixel" in str(warning.message)]
    assert texts == [text for text in report.warnings if "every pixel" in text]
    if times == 1:
        assert texts == []
    else:
        assert len(texts) == 1
        assert f"{times} x {times} times" in texts[0]
        assert f"-outsize {100 // times}% {100 // times}%" in texts[0]


def test_run_with_bicubic_of_an_upsampled_source_does_not_warn(make_raster, texture, tmp_path):
    path = make_raster(texture(3, 60, 60).repeat(2, 1).repeat(2, 2))
    report = georsr.super_resolve(path, tmp_path / "o.tif", "bicubic-x2")
    assert not any("every pixel" in text for text in report.warnings)


def warnings_of(kind, source, out, model="bicubic-x2", **options):
    """Return the only warning of a kind; the report has it, too."""
    with pytest.warns(kind) as warned:
        report = georsr.super_resolve(source, out, model, **options)
    (text,) = [str(warning.message) for warning in warned if warning.category is kind]
    assert text in report.warnings
    return text


def test_run_of_an_output_warns_with_its_model(make_raster, texture, tmp_path):
    first, out = tmp_path / "a.tif", tmp_path / "o.tif"
    georsr.super_resolve(make_raster(texture(1, 24, 24)), first, "bicubic-x2")
    text = warnings_of(RadiometryWarning, first, out)
    assert text.endswith(
        "a.tif: is an output of georsr (bicubic-x2, x2); its detail was not measured"
    )
    shutil.copy(first, tmp_path / "b.tif")
    text = warnings_of(
        RadiometryWarning, [first, tmp_path / "b.tif"], tmp_path / "p.tif", stack=True
    )
    assert text.endswith("its detail was not measured; outputs in the mosaic: 2")


def test_run_crs_that_geotiff_changes_is_told_with_both(make_raster, texture, tmp_path):
    make_raster(texture(1, 40, 30))
    paris = CRS.from_user_input("+proj=tmerc +lon_0=9 +k=0.9996 +x_0=500000 +ellps=intl +pm=paris")
    (tmp_path / "p.vrt").write_text(
        '<VRTDataset rasterXSize="30" rasterYSize="40">'
        f"<SRS>{html.escape(paris.to_wkt(version='WKT2_2019'))}</SRS>"
        "<GeoTransform>400000,1,0,5000000,0,-1</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="1">'
        "in.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        "</VRTDataset>"
    )
    text = warnings_of(GeoreferenceWarning, tmp_path / "p.vrt", tmp_path / "o.tif")
    stored = re.search(r"GeoTIFF stores its CRS (.+) as (.+); if the difference matters", text)
    assert stored
    assert stored[1] != stored[2]
    assert "gdal_translate -a_srs" in text


def test_run_miniswhite_as_cog_says_that_it_looks_negative(make_raster, texture, tmp_path):
    source = make_raster(texture(1, 40, 30), photometric="MINISWHITE")
    text = warnings_of(RadiometryWarning, source, tmp_path / "o.tif", cog=True)
    assert "MINISWHITE" in text
    assert "without cog=True" in text


def test_run_mosaic_of_mixed_photometric_interpretation_is_refused(make_raster, texture, tmp_path):
    east = rasterio.Affine(0.5, 0, 400020, 0, -0.5, 5000000)
    sources = [
        make_raster(texture(1, 40, 40), "a.tif", photometric="MINISWHITE"),
        make_raster(texture(1, 40, 40), "b.tif", transform=east, photometric="MINISBLACK"),
    ]
    with pytest.raises(UsageError, match=r"does not fit .* in all rasters"):
        georsr.super_resolve(sources, tmp_path / "o.tif", "bicubic-x2")


def test_run_network_of_wide_integers_says_which_digits_are_lost(make_raster, texture, tmp_path):
    values = texture(3, 40, 30, "float32")
    values = np.round((values - values.min()) * 2**31 / np.ptp(values)).astype("uint32")
    text = warnings_of(RadiometryWarning, make_raster(values), tmp_path / "o.tif", "segsr-lite-x2")
    step = float(re.search(r"differences below ([\d.e+]+) are rounded away", text)[1])
    assert step > 64
    assert "narrower stretch=" in text


def test_run_jp2_with_metadata_in_gml_says_that_they_are_left_out(make_raster, texture, tmp_path):
    plain, more = tmp_path / "plain.jp2", tmp_path / "more.jp2"
    source = make_raster(texture(1, 40, 30))
    rasterio.shutil.copy(source, plain, driver="JP2OpenJPEG", GMLJP2V2_DEF="YES")
    field = b'<swe:field name="Collection"> </swe:field>'
    metadata = b"<gmljp2:metadata></gmljp2:metadata>"
    assert field in plain.read_bytes()
    more.write_bytes(plain.read_bytes().replace(field, metadata.ljust(len(field))))
    georsr.super_resolve(plain, tmp_path / "plain.tif", "bicubic-x2")  # no warning
    assert "GML metadata" in warnings_of(MetadataWarning, more, tmp_path / "more.tif")
