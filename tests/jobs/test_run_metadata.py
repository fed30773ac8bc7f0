"""What a source carries besides pixels is in the output, on its grid, or is said to be missing."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image, ImageCms
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from georsr.api import estimate, super_resolve
from georsr.errors import MetadataWarning, UsageError

PIXELS = np.random.default_rng(0).integers(1, 255, (4, 24, 32), dtype="uint8")
WAVELENGTHS = (0.443, 0.490, 0.560, 0.665)


@pytest.fixture
def resolve(tmp_path):
    """resolve(source, ...) -> path of the output, and what was said about metadata."""

    def run(source, **options):
        out = tmp_path / "out.tif"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            super_resolve(source, out, "bicubic", 2, overwrite=True, **options)
        said = [str(w.message) for w in caught if w.category is MetadataWarning]
        assert len(said) < 2, said
        return out, said[0].partition(": not in the output: ")[2] if said else ""

    return run


@pytest.fixture
def raster(tmp_path):
    """raster(name, driver, ...) -> path of four bands of 24 x 32 pixels of 10 m."""

    def make(name="in.tif", driver="GTiff", pixels=PIXELS, **profile):
        profile = {"crs": "EPSG:32630", "transform": Affine(10, 0, 5e5, 0, -10, 4e6)} | profile
        count, height, width = pixels.shape
        with rasterio.open(
            tmp_path / name, "w", driver=driver, count=count, height=height, width=width,
            dtype=pixels.dtype, **profile,
        ) as dataset:  # fmt: skip
            dataset.write(pixels)
        return tmp_path / name

    return make


def tags_of(path, band=0, ns=None):
    ignored = warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning)
    with ignored, rasterio.open(path) as dataset:
        return dataset.tags(band, ns=ns)


@pytest.mark.parametrize("indexes", [None, (3, 2, 1)])
def test_tags_of_bands_in_every_domain_are_kept(raster, resolve, indexes):
    source = raster()
    with rasterio.open(source, "r+") as dataset:
        for number, length in enumerate(WAVELENGTHS, 1):
            dataset.update_tags(number, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=str(length))
            dataset.update_tags(number, ns="LAB", calibration=f"c{number}")
            dataset.update_tags(number, plain="kept", STATISTICS_MEAN="3")
    out, said = resolve(source, indexes=indexes)
    assert said == "statistics"
    for number, band in enumerate(indexes or (1, 2, 3, 4), 1):
        for space in ("", "IMAGERY", "LAB"):
            expected = {
                name: value
                for name, value in tags_of(source, band, space or None).items()
                if name != "STATISTICS_MEAN"
            }
            assert tags_of(out, number, space or None) == expected


def test_tags_of_an_envi_header_are_those_of_the_selected_bands(raster, resolve, tmp_path):
    source = raster("in.dat", "ENVI")
    with Path(tmp_path / "in.hdr").open("a") as header:
        lengths = ", ".join(map(str, WAVELENGTHS))
        header.write(f"wavelength units = Micrometers\nwavelength = {{{lengths}}}\n")
        header.write("acquisition time = 2020-01-02T03:04:05Z\n")
    out, said = resolve(source, indexes=(4, 3, 2))
    assert said.startswith("tags Band_1, Band_2, Band_3 and 1 more; ENVI ")
    assert tags_of(out, ns="ENVI") == {
        "band_names": "{Band 4, Band 3, Band 2}",
        "acquisition_time": "2020-01-02T03:04:05Z",
        "description": tags_of(source, ns="ENVI")["description"],
        "wavelength": "{0.665, 0.56, 0.49}",
        "wavelength_units": "Micrometers",
    }
    assert tags_of(out, 1, "IMAGERY") == {"CENTRAL_WAVELENGTH_UM": "0.665"}
    out, _ = resolve(source)
    assert tags_of(out, ns="ENVI")["wavelength"] == tags_of(source, ns="ENVI")["wavelength"]
    assert tags_of(out)["Band_2"] == "Band 2 (0.49 Micrometers)"


@pytest.mark.parametrize(
    ("space", "name"),
    [
        ("IMD", "numRows"),
        ("IMD", "IMAGE_1.meanProductGSD"),
        ("IMD", "MAP_PROJECTED_PRODUCT.colSpacing"),
        ("IMD", "BAND_R.ULLon"),
        ("IMD", "Raster_Data.Raster_Dimensions.NCOLS"),
        ("IMD", "L1_METADATA_FILE.PRODUCT_METADATA.REFLECTIVE_LINES"),
        ("IMD", "L1_METADATA_FILE.PROJECTION_PARAMETERS.GRID_CELL_SIZE_REFLECTIVE"),
        ("IMD", "L1_METADATA_FILE.PRODUCT_METADATA.CORNER_UL_LAT_PRODUCT"),
        ("", "spatial_ref#GeoTransform"),
        ("", "NC_GLOBAL#geospatial_lat_resolution"),
        ("", "x#actual_range"),
        ("", "NITF_IGEOLO"),
        ("", "EXIF_PixelXDimension"),
        ("EXIF", "EXIF_XResolution"),
        ("", "resolution"),
        ("", "GeoTransform"),
        ("MINE", "pixel size"),
    ],
)
def test_tags_of_the_grid_are_left_out_and_said(raster, resolve, space, name):
    source = raster()
    kept = {"satId": "WV02", "cloudCover": "0.1", "WRS_ROW": "33", "height": "700km"}
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(ns=space or None, **{name: "24", **kept})
    out, said = resolve(source)
    assert said == f"{space or 'tags'} {name}"
    got = tags_of(out, ns=space or None)
    assert name not in got
    assert kept.items() <= got.items()


def test_tags_that_equal_the_size_of_the_source_are_left_out(raster, resolve):
    source = raster()
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(ns="MINE", width="32", height="24")
    assert resolve(source)[1] == "MINE height, width"


def test_resolution_of_a_scan_is_scaled_and_its_colour_profile_kept(tmp_path, resolve):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(np.moveaxis(PIXELS[:3], 0, -1).copy())
    image.save(tmp_path / "in.tif", icc_profile=profile, dpi=(300, 200))
    out, said = resolve(tmp_path / "in.tif")
    assert said == ""
    tags = tags_of(out)
    assert tags["TIFFTAG_XRESOLUTION"] == "600"
    assert tags["TIFFTAG_YRESOLUTION"] == "400"
    key = "SOURCE_ICC_PROFILE"
    expected = tags_of(tmp_path / "in.tif", ns="COLOR_PROFILE")[key]
    assert tags_of(tmp_path / "out.tif", ns="COLOR_PROFILE")[key] == expected
    out, said = resolve(tmp_path / "in.tif", indexes=(1,))
    assert said == "colour profile"
    assert tags_of(out, ns="COLOR_PROFILE") == {}


def test_exif_is_kept_and_xmp_is_said_to_be_missing(tmp_path, resolve):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    image = Image.fromarray(np.moveaxis(PIXELS[:3], 0, -1).copy())
    image.save(tmp_path / "in.jpg", exif=exif, xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    out, said = resolve(tmp_path / "in.jpg")
    assert said.startswith("XMP")
    assert tags_of(out)["EXIF_Make"] == "Maker"


def test_other_pages_are_said_to_be_missing(tmp_path, resolve):
    image = Image.fromarray(PIXELS[0])
    image.save(tmp_path / "in.tif", save_all=True, append_images=[image, image])
    _, said = resolve(tmp_path / "in.tif")
    assert said.startswith("2 other rasters in the file, such as GTIFF_DIR:3:")


@pytest.mark.parametrize(
    ("element", "text"),
    [
        ("<Histograms/>", "histograms"),
        ("<GDALRasterAttributeTable/>", "raster attribute table"),
        ("<CategoryNames><Category>a</Category></CategoryNames>", "names of categories"),
        ('<Metadata><MDI key="STATISTICS_MEAN">4</MDI></Metadata>', "statistics"),
    ],
)
def test_contents_of_aux_xml_are_said_to_be_missing(raster, resolve, element, text):
    source = raster()
    Path(f"{source}.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1">{element}</PAMRasterBand></PAMDataset>'
    )
    assert resolve(source, force=True)[1] == text


def test_ground_control_points_beside_a_transform_are_said_to_be_missing(raster, resolve, tmp_path):
    raster()
    points = "".join(
        f'<GCP Id="{i}" Pixel="{x}" Line="{y}" X="{x}" Y="{y}"/>'
        for i, (x, y) in enumerate([(0, 0), (32, 0), (0, 24)])
    )
    (tmp_path / "in.vrt").write_text(
        '<VRTDataset rasterXSize="32" rasterYSize="24"><SRS>EPSG:32630</SRS>'
        "<GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform>"
        f'<GCPList Projection="EPSG:32630">{points}</GCPList>'
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">in.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    assert resolve(tmp_path / "in.vrt")[1] == "ground control points (it has a transform)"


def test_tags_of_mosaic_rasters_that_differ_are_said_to_be_missing(raster, resolve):
    sources = [raster("a.tif"), raster("b.tif", transform=Affine(10, 0, 500320, 0, -10, 4e6))]
    for i, source in enumerate(sources):
        with rasterio.open(source, "r+") as dataset:
            dataset.update_tags(same="x", date=str(i))
            dataset.update_tags(2, ns="IMAGERY", CENTRAL_WAVELENGTH_UM="0.49")
    out, said = resolve(sources)
    assert said == "tags that differ between its rasters"
    assert tags_of(out)["same"] == "x"
    assert "date" not in tags_of(out)
    assert tags_of(out, 2, "IMAGERY") == {"CENTRAL_WAVELENGTH_UM": "0.49"}


def test_colours_of_infrared_bands_are_kept(raster, resolve):
    source = raster(photometric="minisblack")
    colors = (ColorInterp.nir, ColorInterp.red, ColorInterp.swir, ColorInterp.coastal)
    with rasterio.open(source, "r+") as dataset:
        dataset.colorinterp = colors
    out, said = resolve(source)
    with rasterio.open(out) as dataset:
        assert dataset.colorinterp == colors
    assert said == ""


HEIGHTS = "EPSG:32618+4326"
ROTATED_POLE = "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +ellps=sphere"


@pytest.mark.parametrize("crs", [HEIGHTS, ROTATED_POLE], ids=["heights", "rotated pole"])
@pytest.mark.parametrize("points", [False, True], ids=["transform", "points"])
def test_crs_that_geotiff_cannot_hold_is_refused_before_the_work(tmp_path, raster, crs, points):
    source = raster(crs=crs)
    if points:
        with rasterio.open(source) as dataset:
            crs = dataset.crs
        corners = [GroundControlPoint(r, c, c, r) for r, c in ((0, 0), (0, 9), (9, 0))]
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
            source = raster(crs=None, transform=None)
            with rasterio.open(source, "r+") as dataset:
                dataset.gcps = (corners, crs)
    message = "GeoTIFF cannot hold the CRS of the source, .*: give a copy of it another one"
    for cog in (False, True):
        with pytest.raises(UsageError, match=message):
            super_resolve(source, tmp_path / "out.tif", "bicubic", 2, cog=cog)
        with pytest.raises(UsageError, match=message):
            estimate(source, "bicubic", 2, destination=tmp_path / "out.tif", cog=cog)
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"PROFILE": "BASELINE"}, "PROFILE cannot be set"),
        ({"PROFILE": "GeoTIFF"}, "PROFILE cannot be set"),
        ({"RPB": "YES"}, "RPB cannot be set.*gdal_translate -co RPB=YES"),
        ({"RPCTXT": "YES"}, "RPCTXT cannot be set"),
        ({"COPY_SRC_OVERVIEWS": "YES"}, "overviews with cog=True"),
    ],
)
def test_creation_options_without_effect_are_refused(tmp_path, raster, options, message):
    for call in (super_resolve, estimate):
        destination = [tmp_path / "out.tif"] if call is super_resolve else []
        with pytest.raises(UsageError, match=message):
            call(raster(), *destination, "bicubic", 2, creation_options=options)


@pytest.mark.parametrize(
    "options",
    [
        {"TILING_SCHEME": "GoogleMapsCompatible"},
        {"TARGET_SRS": "EPSG:3857"},
        {"RES": "7"},
        {"TFW": "YES"},
    ],
)
def test_creation_options_that_change_the_grid_of_a_cog_are_refused(tmp_path, raster, options):
    with pytest.raises(UsageError, match=r"cannot be set.* afterwards, with gdal"):
        super_resolve(
            raster(), tmp_path / "out.tif", "bicubic", 2, cog=True, creation_options=options
        )


@pytest.mark.parametrize("overwrite", [False, True])
def test_world_file_that_was_asked_for_is_written(tmp_path, raster, overwrite):
    out = tmp_path / "out.tif"
    if overwrite:
        out.write_bytes(b"old")
        (tmp_path / "out.tfw").write_text("old")
    super_resolve(raster(), out, "bicubic", 2, creation_options={"tfw": "yes"}, overwrite=overwrite)
    lines = (tmp_path / "out.tfw").read_text().splitlines()
    assert list(map(float, lines)) == [5, 0, 0, -5, 500002.5, 3999997.5]
    super_resolve(raster(), out, "bicubic", 2, overwrite=True)
    assert not (tmp_path / "out.tfw").exists()


def test_world_file_of_a_run_that_was_killed_after_publishing_is_written_by_the_next(
    tmp_path, raster, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    call = (raster(), tmp_path / "out.tif", "bicubic", 2)
    with monkeypatch.context() as patch:
        patch.setattr("georsr.writer.verify_and_publish.replace_sidecars", killed)
        with pytest.raises(KeyboardInterrupt):
            super_resolve(*call, creation_options={"TFW": "YES"})
    assert (tmp_path / "out.tif").exists()
    super_resolve(*call, creation_options={"TFW": "YES"})
    assert {path.name for path in tmp_path.iterdir()} == {"in.tif", "out.tif", "out.tfw"}


def test_run_nodata_of_all_bands_together_becomes_the_mask(resolve, raster):
    """GDAL's NODATA_VALUES: a pixel is invalid if every band has its value."""
    path = raster(pixels=PIXELS[:3])
    with rasterio.open(path, "r+") as dataset:
        pixels = dataset.read()
        pixels[:, 4:8, 4:8] = 255
        pixels[0, 20, 20] = 255
        dataset.write(pixels)
        dataset.update_tags(NODATA_VALUES="255 255 255")
    out, _ = resolve(path)
    expected = np.full((48, 64), 255, "uint8")
    expected[8:16, 8:16] = 0
    with rasterio.open(out) as dataset:
        np.testing.assert_array_equal(dataset.dataset_mask(), expected)
        assert "NODATA_VALUES" not in dataset.tags()
