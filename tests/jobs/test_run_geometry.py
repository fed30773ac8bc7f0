"""Products lie where their sources lie: from end to end, as GDAL reads them back."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer, RPCTransformer
from rio_cogeo.cogeo import cog_validate

import georsr
from georsr.evaluation.reports.output_report import shift_against_bicubic
from georsr.io.gdal_env import suppress_rasterio_warnings
from georsr.io.reader import open_raster
from georsr.models.registry import bundled_weights

REPOSITORY = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH, ROW, COLUMN = 40, 56, 29, 11
"""Size of the scenes, and the pixel that is marked."""
AFFINES = {
    "north-up": ("EPSG:32632", Affine(10, 0, 5e5, 0, -10, 5e6)),
    "south-up": ("EPSG:32632", Affine(10, 0, 5e5, 0, 10, 5e6)),
    "rotated": (
        "EPSG:32632",
        Affine.translation(5e5, 5e6) @ Affine.rotation(25) @ Affine.scale(10, -10),
    ),
    "sheared": ("EPSG:32632", Affine(10, 2.5, 5e5, -0.7, -9, 5e6)),
    "degrees": ("EPSG:4326", Affine(1 / 3600, 0, 11.4, 0, -1 / 3600, 47.3)),
    "antimeridian": ("EPSG:4326", Affine(1 / 1800, 0, 179.99, 0, -1 / 1800, -16.5)),
    "antimeridian, projected": ("EPSG:3832", Affine(30, 0, 3.338e6, 0, -30, -1.8e6)),
    "own CRS": ("+proj=laea +lat_0=10 +lon_0=-80 +ellps=GRS80", Affine(30, 0, 0, 0, -30, 0)),
}


def marked(dtype="uint8"):
    values = np.full((1, HEIGHT, WIDTH), 10, dtype)
    values[0, ROW, COLUMN] = 200
    return values


def centre_of_mark(dataset):
    """(row, column) of the middle of the marked area, in pixels from the outer corner."""
    rows, columns = np.nonzero(dataset.read(1) == 200)
    return float(rows.mean()) + 0.5, float(columns.mean()) + 0.5


def write(path, values, *, crs=None, transform=None, gcps=None, rpcs=None, point=False):
    count, height, width = values.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width}
    with (
        suppress_rasterio_warnings(),
        rasterio.open(
            path, "w", **profile, dtype=values.dtype, crs=crs, transform=transform
        ) as dataset,
    ):
        if gcps:
            dataset.gcps = (gcps, "EPSG:4326")
        if rpcs:
            dataset.rpcs = rpcs
        if point:
            dataset.update_tags(AREA_OR_POINT="Point")
        dataset.write(values)
    return str(path)


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("name", AFFINES)
def test_super_resolve_marked_pixel_keeps_its_place(name, point, tmp_path):
    crs, transform = AFFINES[name]
    source = write(tmp_path / "a.tif", marked(), crs=crs, transform=transform, point=point)
    georsr.super_resolve(source, tmp_path / "b.tif", "nearest-x4", consistency="off")
    with rasterio.open(source) as old, rasterio.open(tmp_path / "b.tif") as new:
        assert new.crs == old.crs
        assert new.tags()["AREA_OR_POINT"] == ("Point" if point else "Area")
        (row, column), (old_row, old_column) = centre_of_mark(new), centre_of_mark(old)
        here, there = new.transform @ (column, row), old.transform @ (old_column, old_row)
        assert here == pytest.approx(there, rel=1e-12, abs=1e-9)
        for x, y in ((0, 0), (WIDTH, 0), (0, HEIGHT), (WIDTH, HEIGHT)):
            corner = new.transform @ (4 * x, 4 * y)
            assert corner == pytest.approx(old.transform @ (x, y), rel=1e-12, abs=1e-9)


def test_super_resolve_gcps_give_the_marked_pixel_the_same_place(tmp_path):
    gcps = [
        GroundControlPoint(row=r, col=c, x=20 + c * 0.01 + r * 0.002, y=50 - r * 0.01, z=0)
        for r, c in ((0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH), (20.5, 10.25))
    ]
    source = write(tmp_path / "a.tif", marked(), gcps=gcps)
    georsr.super_resolve(source, tmp_path / "b.tif", "nearest-x2", consistency="off")
    places = []
    for path in (source, tmp_path / "b.tif"):
        with suppress_rasterio_warnings(), rasterio.open(path) as dataset:
            row, column = centre_of_mark(dataset)
            with GCPTransformer(dataset.gcps[0]) as ground:
                places.append(ground.xy(row, column, offset="ul"))
    assert places[1] == pytest.approx(places[0], abs=1e-9)


def test_super_resolve_rpcs_give_the_marked_pixel_the_same_place(tmp_path):
    rpcs = RPC(
        height_off=100, height_scale=500, lat_off=10, lat_scale=0.1, long_off=20, long_scale=0.1,
        line_off=19.5, line_scale=20, samp_off=27.5, samp_scale=28,
        line_num_coeff=[0.0, 0, -1] + [0.0] * 17, line_den_coeff=[1.0] + [0.0] * 19,
        samp_num_coeff=[0.0, 1] + [0.0] * 18, samp_den_coeff=[1.0] + [0.0] * 19,
    )  # fmt: skip
    source = write(tmp_path / "a.tif", marked(), rpcs=rpcs)
    georsr.super_resolve(source, tmp_path / "b.tif", "nearest-x4", consistency="off")
    places = []
    for path in (source, tmp_path / "b.tif"):
        with suppress_rasterio_warnings(), rasterio.open(path) as dataset:
            row, column = centre_of_mark(dataset)
            with RPCTransformer(dataset.rpcs) as ground:
                places.append(ground.xy(row, column, zs=100, offset="ul"))
    assert places[1] == pytest.approx(places[0], abs=1e-7)


@pytest.mark.parametrize("kind", ["plain", "mask", "nodata", "alpha"])
def test_cog_with_overviews_and_masks_is_valid(kind, make_raster, texture, tmp_path):
    values = np.maximum(texture(4 if kind == "alpha" else 3, 300, 400), 1)

    def hide(dataset):
        if kind == "mask":
            shade = np.full((300, 400), 255, np.uint8)
            shade[50:120, 60:200] = 0
            dataset.write_mask(shade)

    if kind == "nodata":
        values[:, 50:120, 60:200] = 0
    if kind == "alpha":
        values[3] = 255
        values[3, 50:120, 60:200] = 0
    more = {"nodata": 0} if kind == "nodata" else {}
    more |= {"photometric": "RGB", "alpha": "YES"} if kind == "alpha" else {}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        source = make_raster(values, after=hide, **more)
    out = tmp_path / "out.tif"
    georsr.super_resolve(source, out, "nearest-x2", cog=True, blocksize=256, consistency="off")
    valid, errors, warnings = cog_validate(out, strict=True, quiet=True)
    assert valid, (errors, warnings)
    with rasterio.open(out) as cog:
        assert cog.overviews(1), "800 pixels need overviews"
        footprint = cog.dataset_mask()
        step = cog.overviews(1)[0]
        small = cog.dataset_mask(out_shape=(600 // step, 800 // step))
    assert (footprint[100:240, 120:400] == 0).all() == (kind != "plain")
    if kind != "plain":
        middle = small[110 // step : 230 // step, 130 // step : 390 // step]
        assert (middle == 0).all()
        assert (small[: 90 // step] == 255).all()


def test_quality_layers_of_a_cog_are_a_cog(lite_model, make_raster, texture, tmp_path):
    source = make_raster(texture(3, 24, 24))
    out, layers = tmp_path / "out.tif", tmp_path / "q.tif"
    georsr.super_resolve(
        source, out, lite_model, cog=True, blocksize=128, quality=layers, consistency="off"
    )
    for path in (out, layers):
        assert cog_validate(path, quiet=True)[0]


@pytest.mark.parametrize("name", sorted(bundled_weights()))
def test_bundled_model_output_has_no_shift(name, tmp_path):
    """Below 0.05 output pixels against the bicubic enlargement, on a sample scene."""
    scale = 4 if "x4" in name else 2
    source = REPOSITORY / "sample_data" / ("town_rgb_2m.tif" if scale == 4 else "town_rgb_1m.tif")
    with rasterio.open(source) as dataset:  # the middle of the larger one will do
        side = 72
        window = rasterio.windows.Window(4, 4, side, side)
        values, crs = dataset.read(window=window), dataset.crs
        transform = dataset.transform @ Affine.translation(4, 4)
    part = write(tmp_path / "part.tif", values, crs=crs, transform=transform)
    out = tmp_path / "out.tif"
    georsr.super_resolve(part, out, name)
    with open_raster(out) as sr, open_raster(part) as lr:
        shift = shift_against_bicubic(sr, lr, scale)
    assert np.hypot(*shift) < 0.05


def test_phase_shift_detects_a_moved_output(tmp_path):
    source = REPOSITORY / "sample_data" / "town_rgb_2m.tif"
    with rasterio.open(source) as dataset:
        values, transform, crs = dataset.read(), dataset.transform, dataset.crs
    out = tmp_path / "out.tif"
    georsr.super_resolve(source, out, "bicubic-x4", consistency="off")
    with rasterio.open(out) as dataset:
        moved = np.roll(dataset.read(), 1, 2)
    path = write(tmp_path / "moved.tif", moved, crs=crs, transform=transform @ Affine.scale(1 / 4))
    with open_raster(path) as sr, open_raster(source) as lr:
        down, right = shift_against_bicubic(sr, lr, 4)
    assert down == pytest.approx(0, abs=0.05)
    assert right == pytest.approx(1, abs=0.05)
    assert values.shape[0] == 3
