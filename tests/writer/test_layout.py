import logging

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from georsr.errors import UsageError
from georsr.io.reader import open_raster
from georsr.window import Window
from georsr.writer.layout import output_layout
from georsr.writer.writer import RasterWriter
from tests.rasters import make_raster, ramp


def info_of(path, **options):
    with open_raster(path, **options) as reader:
        return reader.info


def publish(path, layout, value=1):
    with RasterWriter(path, layout) as writer:
        for _, _, block in layout.blocks():
            shape = block.height, block.width
            writer.write(
                block,
                np.full((len(layout.bands), *shape), value, layout.dtype),
                np.full(shape, 255, "uint8") if layout.mask else None,
                np.full(shape, 255, layout.dtype) if layout.alpha else None,
            )
        writer.commit()
    return path


def test_output_layout_follows_the_source(rgb):
    layout = output_layout(info_of(rgb), 4)
    assert (layout.height, layout.width, layout.count) == (160, 200, 3)
    assert (layout.dtype, layout.nodata, layout.mask, layout.alpha) == ("uint8", None, False, False)
    assert layout.photometric == "RGB"
    assert layout.options == {"COMPRESS": "DEFLATE", "BIGTIFF": "IF_SAFER", "PREDICTOR": "2",
                              "ZLEVEL": "1"}  # fmt: skip


def test_output_layout_predictor_follows_the_type(rgb):
    info = info_of(rgb)
    assert output_layout(info, 2, dtype="float32").options["PREDICTOR"] == "3"
    given = output_layout(info, 2, creation_options={"predictor": "1"})
    assert given.options["PREDICTOR"] == "1"
    none = output_layout(info, 2, creation_options={"compress": "none"})
    assert "PREDICTOR" not in none.options


@pytest.mark.parametrize("nodata", [256, -1, 0.5, float("nan"), float("inf"), "x"])
def test_output_layout_nodata_outside_the_type_is_refused(rgb, nodata):
    with pytest.raises(UsageError, match="nodata"):
        output_layout(info_of(rgb), 2, nodata=nodata)


def test_output_layout_source_nodata_outside_the_type_is_refused(tmp_path):
    info = info_of(make_raster(tmp_path / "a.tif", ramp(1, dtype="float32"), nodata=-9999))
    with pytest.raises(UsageError, match="of the source does not fit data type uint8"):
        output_layout(info, 2, dtype="uint8")
    assert output_layout(info, 2, dtype="uint8", nodata="0").nodata == 0


@pytest.mark.parametrize(
    ("dtype", "source", "options", "nodata", "mask"),
    [
        ("uint8", None, {}, None, False),
        ("uint8", 0, {}, 0, False),
        ("uint8", 0, {"nodata": "none"}, None, True),
        ("float32", None, {}, None, False),
        ("float32", None, {"dtype": "int16"}, None, True),
        ("float32", None, {"dtype": "int16", "nodata": -1}, -1, False),
        ("float32", float("nan"), {"nodata": "none"}, None, False),
        ("float32", -9999, {"nodata": "nan"}, "nan", False),
    ],
)
def test_output_layout_always_stores_validity(tmp_path, dtype, source, options, nodata, mask):
    info = info_of(make_raster(tmp_path / "a.tif", ramp(1, dtype=dtype), nodata=source))
    layout = output_layout(info, 2, **options)
    assert (str(layout.nodata) if nodata == "nan" else layout.nodata) == nodata
    assert layout.mask is mask


def test_output_layout_keeps_masks_and_alpha(tmp_path):
    mask = np.full((40, 50), 255, "uint8")
    path = make_raster(tmp_path / "mask.tif", ramp(), mask=mask)
    assert output_layout(info_of(path), 2).mask
    path = make_raster(tmp_path / "alpha.tif", ramp(4), colors=("red", "green", "blue", "alpha"))
    with_alpha = output_layout(info_of(path, alpha="mask"), 2)
    assert (with_alpha.mask, with_alpha.alpha, with_alpha.count) == (False, True, 4)
    without = output_layout(info_of(path, indexes=[1], alpha="mask"), 2)
    assert (without.mask, without.alpha, without.count) == (True, False, 1)
    with rasterio.open(publish(tmp_path / "b.tif", with_alpha)) as output:
        assert output.colorinterp[3] == ColorInterp.alpha
        assert output.photometric is None or output.colorinterp[0] == ColorInterp.red


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"compress": "foo"}, {"nonsense": "1"}, {"zlevel": "99", "level": "99"},
     {"photometric": "nonsense"}, {"TILED": "NO"}, {"blockxsize": "512"}, {"nbits": "4"}],
)  # fmt: skip
def test_output_layout_bad_creation_options_are_refused(rgb, options, cog):
    with pytest.raises(UsageError, match="creation option"):
        output_layout(info_of(rgb), 2, creation_options=options, cog=cog)


def test_output_layout_num_threads_is_refused(rgb):
    with pytest.raises(UsageError, match="NUM_THREADS"):
        output_layout(info_of(rgb), 2, creation_options={"num_threads": "2"})
    output_layout(info_of(rgb), 2, creation_options={"num_threads": "2"}, cog=True)


def test_output_layout_refusal_does_not_depend_on_logging(rgb, caplog):
    logger = logging.getLogger("rasterio._env")
    logger.setLevel(logging.CRITICAL)
    try:
        with pytest.raises(UsageError):
            output_layout(info_of(rgb), 2, creation_options={"nonsense": "1"})
        assert logger.level == logging.CRITICAL
        assert not logger.handlers or all("Collector" not in str(h) for h in logger.handlers)
    finally:
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("options", "lossless"),
    [({}, True), ({"compress": "ZSTD"}, True), ({"compress": "JPEG"}, False),
     ({"compress": "WEBP", "webp_lossless": "YES"}, True), ({"compress": "LERC"}, True),
     ({"compress": "LERC", "max_z_error": "1"}, False), ({"discard_lsb": "2"}, False)],
)  # fmt: skip
def test_output_layout_lossless_is_known(tmp_path, rgb, options, lossless):
    layout = output_layout(info_of(rgb), 2, creation_options=options)
    assert layout.lossless is lossless
    publish(tmp_path / "out.tif", layout, 77)


def test_output_layout_cog_needs_blocks_of_128(rgb):
    with pytest.raises(UsageError, match="should be >= 128"):
        output_layout(info_of(rgb), 2, blocksize=64, cog=True)


@pytest.mark.parametrize("kwargs", [{"scale": 0}, {"scale": 1.5}, {"blocksize": 100},
                                    {"blocksize": 0}, {"dtype": "int64"}])  # fmt: skip
def test_output_layout_bad_arguments_are_refused(rgb, kwargs):
    with pytest.raises(UsageError):
        output_layout(info_of(rgb), **({"scale": 2} | kwargs))


def test_output_layout_of_a_jpeg_source_is_lossless(tmp_path):
    path = make_raster(tmp_path / "a.tif", ramp(), compress="jpeg", photometric="YCBCR")
    info = info_of(path)
    with rasterio.open(publish(tmp_path / "b.tif", output_layout(info, 2))) as output:
        assert output.compression.name == "deflate"
        assert [item.name for item in output.colorinterp] == ["red", "green", "blue"]


@pytest.mark.parametrize("cog", [False, True])
def test_output_has_the_metadata_of_the_source(tmp_path, cog):
    path = make_raster(tmp_path / "a.tif", ramp(3, dtype="int16"), nodata=-5,
                       tags={"PLATFORM": "x"}, colors=("blue", "green", "undefined"))  # fmt: skip
    with rasterio.open(path, "r+") as dst:
        dst.scales, dst.offsets = (0.5, 1.0, 2.0), (1.0, 0.0, 3.0)
        dst.units = ("K", "m", "s")
        dst.descriptions = ("temperature", None, "age")
        dst.update_tags(3, wavelength="10")
        dst.update_tags(ns="IMAGERY", CLOUDCOVER="4")
    layout = output_layout(info_of(path, indexes=[3, 1]), 2, tags={"GEORSR_MODEL": "Lite"}, cog=cog)
    with rasterio.open(publish(tmp_path / "b.tif", layout)) as output:
        assert output.descriptions == ("age", "temperature")
        assert (output.scales, output.offsets) == ((2.0, 0.5), (3.0, 1.0))
        assert output.units == ("s", "K")
        assert output.nodata == -5
        assert output.tags()["PLATFORM"] == "x"
        assert output.tags()["GEORSR_MODEL"] == "Lite"
        assert output.tags(1)["wavelength"] == "10"
        # GDAL's COG driver keeps the default namespace only
        assert output.tags(ns="IMAGERY") == ({} if cog else {"CLOUDCOVER": "4"})
        assert output.colorinterp[1] == ColorInterp.blue
        assert output.profile["tiled"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.tif"]


def test_layout_blocks_cover_the_output_once(rgb):
    layout = output_layout(info_of(rgb), 3, blocksize=64)
    seen = np.zeros((layout.height, layout.width), int)
    for row, column, block in layout.blocks():
        assert (block.top, block.left) == (64 * row, 64 * column)
        seen[block.slices] += 1
    assert (seen == 1).all()
    assert layout.blocks_shape == (2, 3)
    assert len(list(layout.blocks(Window(64, 0, 56, 128)))) == 2


def test_layout_split_returns_bands_alpha_and_mask(tmp_path):
    path = make_raster(tmp_path / "a.tif", ramp(4), colors=("red", "green", "blue", "alpha"))
    planes = ramp(4)
    values, mask, alpha = output_layout(info_of(path, alpha="mask"), 2).split(planes)
    assert mask is None
    np.testing.assert_array_equal(alpha, planes[3])
    np.testing.assert_array_equal(values, planes[:3])
    layout = output_layout(info_of(path, indexes=[3, 2, 1], alpha="mask"), 2)
    assert layout.planes == 4
    values, mask, alpha = layout.split(planes)
    assert alpha is None
    np.testing.assert_array_equal(mask, planes[3])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_output_layout_keeps_white_as_zero(tmp_path, dtype):
    path = make_raster(tmp_path / "a.tif", ramp(1, dtype=dtype), photometric="MINISWHITE")
    with open_raster(path) as reader:
        layout = output_layout(reader.info, 2)
    assert layout.photometric == "MINISWHITE"
    with rasterio.open(tmp_path / "o.tif", "w", **layout.profile()) as dataset:
        layout.describe(dataset)
    with rasterio.open(tmp_path / "o.tif") as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["MINISWHITE"] == "YES"


def test_output_layout_keeps_cmyk_of_16_bits(tmp_path):
    path = make_raster(tmp_path / "a.tif", ramp(4, dtype="uint16"), photometric="CMYK")
    with open_raster(path) as reader:
        layout = output_layout(reader.info, 2)
        assert layout.photometric == "CMYK"
        assert output_layout(reader.info, 2, dtype="uint8").photometric == "MINISBLACK"
    with rasterio.open(tmp_path / "o.tif", "w", **layout.profile()) as dataset:
        layout.describe(dataset)
    with rasterio.open(tmp_path / "o.tif") as dataset:
        names = [color.name for color in dataset.colorinterp]
    assert names == ["cyan", "magenta", "yellow", "black"]


@pytest.mark.parametrize(
    ("photometric", "count", "options"),
    [("CMYK", 4, {}), ("CIELAB", 3, {}), ("YCBCR", 3, {"compress": "JPEG"})],
)
def test_output_layout_colours_that_gdal_decodes_are_rgb(tmp_path, photometric, count, options):
    path = make_raster(tmp_path / "a.tif", ramp(count), photometric=photometric, **options)
    with open_raster(path, alpha="mask") as reader:
        layout = output_layout(reader.info, 2)
    assert layout.photometric == "RGB"
    assert layout.colorinterp[:3] == ("red", "green", "blue")
