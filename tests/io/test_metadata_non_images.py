import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio

import georsr
from georsr.errors import UsageError

MODEL = "segsr-lite-x2"


def described(name, unit=None, **tags):
    def after(dataset):
        dataset.set_band_description(1, name)
        if unit:
            dataset.set_band_unit(1, unit)
        dataset.update_tags(1, **tags)

    return after


@pytest.mark.parametrize(
    ("file", "after", "dtype", "what"),
    [
        ("a.tif", described("SCL"), "uint8", "classes"),
        ("a.tif", described("Land cover 2020"), "uint8", "classes"),
        ("a.tif", described("b", LAYER_TYPE="thematic"), "uint8", "classes"),
        ("a.tif", described("Elevation"), "float32", "heights"),
        ("a.tif", described("z", "m"), "float32", "heights"),
        ("srtm_dem_30m.tif", None, "int16", "heights"),
    ],
)
def test_super_resolve_classes_or_heights_without_force_is_refused(
    make_raster, tmp_path, file, after, dtype, what
):
    source = make_raster(np.arange(256).reshape(1, 16, 16).astype(dtype), file, after=after)
    said = rf"band 1 holds {what} .*indexes.*force=True"
    with pytest.raises(UsageError, match=said) as caught:
        georsr.super_resolve(source, tmp_path / "o.tif", MODEL)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.tif").exists()
    assert georsr.super_resolve(source, tmp_path / "o.tif", MODEL, force=True).bands == 1
    georsr.super_resolve(source, tmp_path / "b.tif", "bicubic-x2")  # suits any numbers


@pytest.mark.parametrize("name", ["Red", "democracy", "Band 1", "class4", "radar amplitude"])
def test_super_resolve_image_bands_need_no_force(make_raster, tmp_path, name):
    source = make_raster(np.zeros((1, 8, 8), "uint16"), after=described(name))
    assert georsr.super_resolve(source, tmp_path / "o.tif", MODEL).bands == 1


def test_super_resolve_palette_without_force_is_refused(make_raster, tmp_path):
    def after(dataset):
        dataset.write_colormap(1, {i: (i, 0, 0, 255) for i in range(8)})

    image = np.arange(64, dtype="uint8").reshape(1, 8, 8) % 8
    source = make_raster(image, photometric="PALETTE", after=after)
    with pytest.raises(UsageError, match=r"palette.*force=True"):
        georsr.super_resolve(source, tmp_path / "o.tif", "nearest-x2")
    georsr.super_resolve(source, tmp_path / "o.tif", "nearest-x2", force=True)
    with rasterio.open(tmp_path / "o.tif") as output:
        np.testing.assert_array_equal(output.read(), image.repeat(2, 1).repeat(2, 2))


CATEGORIES = "<CategoryNames><Category>water</Category><Category>wood</Category></CategoryNames>"
NAMES = (
    '<GDALRasterAttributeTable tableType="{}"><FieldDefn index="0"><Name>n</Name><Type>{}</Type>'
    '<Usage>{}</Usage></FieldDefn><Row index="0"><F>1</F></Row></GDALRasterAttributeTable>'
)


@pytest.mark.parametrize(
    ("table", "refused"),
    [
        (CATEGORIES, "category names"),
        (NAMES.format("thematic", 0, 0), "an attribute table of classes"),
        (NAMES.format("athematic", 2, 2), "an attribute table of classes"),
        (NAMES.format("athematic", 0, 1), None),  # a histogram
        ("<CategoryNames></CategoryNames>", None),
    ],
)
def test_super_resolve_table_of_classes_without_force_is_refused(
    make_raster, tmp_path, table, refused
):
    source = make_raster(np.arange(256).reshape(1, 16, 16).astype("uint8"))
    Path(f"{source}.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1">{table}</PAMRasterBand></PAMDataset>'
    )
    if refused is not None:
        with pytest.raises(UsageError, match=f"band 1 has {refused}.*force=True"):
            georsr.super_resolve(source, tmp_path / "o.tif", "bicubic-x2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", georsr.MetadataWarning)
        georsr.super_resolve(source, tmp_path / "o.tif", "bicubic-x2", force=refused is not None)
    assert (tmp_path / "o.tif").exists()


def test_super_resolve_table_of_classes_of_a_pansharpened_vrt_is_refused(make_raster, tmp_path):
    """GDAL cannot open its copy of such a VRT, from which the table is read."""
    make_raster(np.arange(256).reshape(1, 16, 16).astype("uint8"), "a.tif")
    source = '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>'
    (tmp_path / "sharp.vrt").write_text(
        '<VRTDataset subClass="VRTPansharpenedDataset"><VRTRasterBand dataType="Byte" band="1" '
        f'subClass="VRTPansharpenedRasterBand">{CATEGORIES}</VRTRasterBand><PansharpeningOptions>'
        f'<PanchroBand>{source}</PanchroBand><SpectralBand dstBand="1">{source}</SpectralBand>'
        "</PansharpeningOptions></VRTDataset>"
    )
    with pytest.raises(UsageError, match=r"band 1 has category names.*force=True"):
        georsr.super_resolve(tmp_path / "sharp.vrt", tmp_path / "o.tif", "bicubic-x2")
