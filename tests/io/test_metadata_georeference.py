from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from georsr.errors import UsageError
from georsr.io.gdal_env import suppress_rasterio_warnings
from georsr.io.metadata import (
    crs_name,
    scale_gcps,
    scale_rpcs,
    scale_transform,
    window_metadata,
)
from georsr.io.reader import open_raster
from georsr.window import Window
from georsr.writer.layout import output_layout
from georsr.writer.writer import RasterWriter
from tests.rasters import make_raster, open_quietly, ramp

TRANSFORMS = {
    "north-up": Affine(10, 0, 5e5, 0, -10, 5e6),
    "south-up": Affine(10, 0, 5e5, 0, 10, 5e6),
    "not square": Affine(3.7, 0, 5e5, 0, -11.3, 5e6),
    "rotated": Affine(8.66, 5, 5e5, 5, -8.66, 5e6),
    "sheared": Affine(10, 2.5, 5e5, -0.7, -9, 5e6),
    "degrees": Affine(1 / 3600, 0, 179.99, 0, -1 / 3600, -16.5),
    "mirrored": Affine(-10, 0, 5e5, 0, -10, 5e6),
}
RPCS = RPC(
    height_off=100, height_scale=500, lat_off=10, lat_scale=0.1, long_off=20, long_scale=0.1,
    line_off=19.5, line_scale=20, samp_off=24.5, samp_scale=25,
    line_num_coeff=[0.0, 0, -1] + [0.0] * 17, line_den_coeff=[1.0] + [0.0] * 19,
    samp_num_coeff=[0.0, 1] + [0.0] * 18, samp_den_coeff=[1.0] + [0.0] * 19,
)  # fmt: skip


def at(transform, column, row):
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * column + b * row + c, d * column + e * row + f


def publish(source, scale, **options):
    """An output of zeros, made the way every output is made."""
    with open_quietly(source) as reader:
        layout = output_layout(reader.info, scale, **options)
    path = source.with_name("product.tif")
    with RasterWriter(path, layout) as writer:
        for _, _, block in layout.blocks():
            shape = block.height, block.width
            writer.write(block, np.zeros((len(layout.bands), *shape), layout.dtype))
        writer.commit()
    return path


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_scale_transform_keeps_the_outer_corners(name, scale):
    old = TRANSFORMS[name]
    new = scale_transform(old, scale)
    for column, row in [(0, 0), (50, 0), (0, 40), (50, 40), (12, 34)]:
        np.testing.assert_allclose(
            at(new, column * scale, row * scale), at(old, column, row), rtol=1e-12
        )


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_output_reopened_has_the_corners_of_the_source(tmp_path, name, point, cog):
    crs = "EPSG:4326" if name == "degrees" else "EPSG:32633"
    source = make_raster(
        tmp_path / "a.tif", ramp(1), crs=crs, transform=TRANSFORMS[name], point=point
    )
    with rasterio.open(source) as old, rasterio.open(publish(source, 4, cog=cog)) as new:
        assert (new.width, new.height, new.crs) == (200, 160, old.crs)
        assert new.tags().get("AREA_OR_POINT") == ("Point" if point else "Area")
        for column, row in [(0, 0), (50, 0), (0, 40), (50, 40)]:
            np.testing.assert_allclose(
                at(new.transform, 4 * column, 4 * row), at(old.transform, column, row), rtol=1e-9
            )


@pytest.mark.parametrize("point", [False, True])
def test_scale_gcps_mark_the_same_ground(tmp_path, point):
    gcps = [
        GroundControlPoint(row=r, col=c, x=20 + c * 0.01, y=50 - r * 0.01, z=3, id=str(i))
        for i, (r, c) in enumerate([(0, 0), (0, 50), (40, 0), (40, 50), (20.5, 10.25)])
    ]
    source = make_raster(
        tmp_path / "a.tif", ramp(1), crs="EPSG:4326", transform=None, gcps=gcps, point=point
    )
    with suppress_rasterio_warnings(), rasterio.open(source) as src:
        stored = src.gcps[0]
    with suppress_rasterio_warnings(), rasterio.open(publish(source, 2)) as new:
        found, crs = new.gcps
        assert crs == rasterio.CRS.from_epsg(4326)
        assert new.crs is None
    assert [(gcp.row, gcp.col) for gcp in scale_gcps(gcps, 2)][-1] == (41, 20.5)
    # what GDAL makes of the source is the truth: it moves GCPs of Point rasters
    for old, gcp in zip(scale_gcps(stored, 2), found, strict=True):
        assert (gcp.row, gcp.col, gcp.x, gcp.y, gcp.z) == pytest.approx(
            (old.row, old.col, old.x, old.y, old.z)
        )


def test_scale_rpcs_mark_the_same_ground(tmp_path):
    new = scale_rpcs(RPCS, 4)
    # the centre of the raster: between pixels in both grids, counted from pixel centres
    assert (RPCS.line_off, RPCS.samp_off) == (40 / 2 - 0.5, 50 / 2 - 0.5)
    assert (new.line_off, new.samp_off) == (160 / 2 - 0.5, 200 / 2 - 0.5)
    assert (new.line_scale, new.samp_scale) == (80, 100)
    source = make_raster(tmp_path / "a.tif", ramp(1), crs=None, transform=None, rpcs=RPCS)
    with open_raster(source) as reader:
        assert reader.info.rpcs is not None
    with suppress_rasterio_warnings(), rasterio.open(publish(source, 4)) as output:
        assert output.rpcs.line_off == pytest.approx(79.5)
        assert output.rpcs.samp_off == pytest.approx(99.5)
        assert output.rpcs.samp_scale == pytest.approx(100)
        assert output.rpcs.lat_off == RPCS.lat_off
        assert output.crs is None


def test_output_of_a_source_without_georeferencing_has_none(tmp_path):
    source = make_raster(tmp_path / "a.tif", ramp(1), crs=None, transform=None)
    with suppress_rasterio_warnings(), rasterio.open(publish(source, 2)) as new:
        assert new.crs is None
        assert new.transform == Affine.identity()


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    """A raster of 40 x 50 pixels of 10 m."""
    with open_quietly(make_raster(tmp_path_factory.mktemp("grid") / "a.tif", ramp(1))) as reader:
        return reader.info


def test_window_metadata_marks_the_same_ground(info):
    point = GroundControlPoint(row=7.5, col=20, x=1, y=2, z=3, id="a", info="b")
    sheared = TRANSFORMS["sheared"]
    part = window_metadata(
        replace(info, transform=sheared, gcps=(point,), rpcs=RPCS), Window(5, 12, 8, 9)
    )
    assert (part.height, part.width) == (8, 9)
    assert tuple(part.transform)[:6] == pytest.approx(
        (10, 2.5, 5e5 + 120 + 12.5, -0.7, -9, 5e6 - 8.4 - 45)
    )
    (gcp,) = part.gcps
    assert (gcp.row, gcp.col, gcp.x, gcp.y, gcp.z, gcp.id, gcp.info) == (2.5, 8, 1, 2, 3, "a", "b")
    assert (part.rpcs.line_off, part.rpcs.samp_off) == (14.5, 12.5)
    bare = window_metadata(replace(info, transform=None), Window(5, 12, 8, 9))
    assert (bare.transform, bare.gcps, bare.rpcs) == (None, (), None)


def test_scale_gcps_keep_height_and_name():
    point = GroundControlPoint(row=7.5, col=20, x=1, y=2, z=3, id="a", info="b")
    (gcp,) = scale_gcps([point], 3)
    assert (gcp.row, gcp.col, gcp.x, gcp.y, gcp.z, gcp.id, gcp.info) == (
        22.5,
        60,
        1,
        2,
        3,
        "a",
        "b",
    )


@pytest.mark.parametrize(
    "transform",
    [Affine(0, 0, 5e5, 0, 0, 5e6), Affine(2, 4, 5e5, 1, 2, 5e6), Affine(np.nan, 0, 0, 0, 1, 0),
     Affine(1, 0, np.inf, 0, 1, 0)],
)  # fmt: skip
def test_open_raster_singular_geotransform_is_refused(transform, tmp_path):
    source = make_raster(tmp_path / "a.tif", ramp(1), driver="GTiff", transform=transform)
    with pytest.raises(UsageError, match="singular or has NaN"), suppress_rasterio_warnings():
        open_raster(source)


@pytest.mark.parametrize(
    ("crs", "name"),
    [
        (None, "none"), (rasterio.CRS(), "none"), (rasterio.CRS.from_epsg(32633), "EPSG:32633"),
        (rasterio.CRS.from_string("+proj=laea +lat_0=52 +lon_0=10"), '"unknown"'),
    ],
)  # fmt: skip
def test_crs_name_is_a_code_or_a_name(crs, name):
    assert crs_name(crs) == name
