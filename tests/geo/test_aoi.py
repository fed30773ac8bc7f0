"""Boxes and polygons in any CRS, brought into the pixels of a raster."""

import json
import subprocess
import sys

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import geometry_mask
from rasterio.warp import transform_geom
from shapely.affinity import affine_transform, translate
from shapely.geometry import box, mapping, shape

from georsr.errors import GeoreferenceWarning, InputError, UsageError
from georsr.geo.aoi import resolve_aoi
from georsr.window import Window
from tests.rasters import make_raster, open_quietly, ramp

UTM = "EPSG:32633"
TRIANGLE = [[500103, 4999897], [500377, 4999731], [500059, 4999655], [500103, 4999897]]


@pytest.fixture
def info(tmp_path):
    """40 rows and 50 columns of 10 m from (500000, 5000000)."""
    with open_quietly(make_raster(tmp_path / "a.tif", ramp())) as reader:
        return reader.info


def polygon(*rings, crs=None):
    geojson = {"type": "Polygon", "coordinates": list(rings)}
    if crs:
        geojson["crs"] = {"type": "name", "properties": {"name": crs}}
    return geojson


@pytest.mark.filterwarnings("ignore:.*lies outside")
@pytest.mark.parametrize(
    ("bounds", "window"),
    [
        ((500000, 4999600, 500500, 5000000), Window(0, 0, 40, 50)),
        ((500100, 4999700, 500200, 4999900), Window(10, 10, 20, 10)),
        ((500101, 4999701, 500199, 4999899), Window(10, 10, 20, 10)),  # whole pixels round it
        ((500099.9, 4999700, 500200, 4999900.1), Window(9, 9, 21, 11)),
        ((0, 0, 500010, 9e6), Window(0, 0, 40, 1)),  # what is there of it
        ((500105, 4999705, 500105.1, 4999705.1), Window(29, 10, 1, 1)),
    ],
)
def test_resolve_aoi_bounds_give_complete_pixels(info, bounds, window):
    area = resolve_aoi(info, bounds=bounds)
    assert area.window == window
    assert area.outside_mask(Window(0, 0, 1, 1), 2) is None
    assert area.intersects(Window(0, 0, 1, 1))


def test_resolve_aoi_bounds_crs_is_transformed(info):
    there = shape(transform_geom(UTM, "EPSG:4326", mapping(box(500200, 4999800, 500300, 4999900))))
    window = resolve_aoi(info, bounds=there.bounds, bounds_crs="EPSG:4326").window
    assert window.intersection(Window(10, 20, 10, 10)) == Window(10, 20, 10, 10)
    assert max(window.height, window.width) <= 12


@pytest.mark.filterwarnings("ignore:.*lies outside")
@pytest.mark.parametrize("rotation", [0, 30, 90])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_outside_mask_equals_rasterizing_the_output(tmp_path, rotation, scale):
    turn = Affine.rotation(rotation) @ Affine.scale(9, -7) @ Affine.translation(-25, -20)
    transform = Affine.translation(500180, 4999760) @ turn
    path = make_raster(tmp_path / "a.tif", ramp(), transform=transform)
    with open_quietly(path) as reader:
        area = resolve_aoi(reader.info, aoi=polygon(TRIANGLE, crs=UTM))
    window = area.window
    fine = transform @ Affine.translation(window.left, window.top) @ Affine.scale(1 / scale)
    shape = window.height * scale, window.width * scale
    expected = geometry_mask([polygon(TRIANGLE)], shape, fine)
    assert 0.2 < expected.mean() < 0.95
    whole = area.outside_mask(Window(0, 0, *shape), scale)
    np.testing.assert_array_equal(whole, expected)
    for top in range(0, shape[0], 13):
        for left in range(0, shape[1], 17):
            part = Window(top, left, min(13, shape[0] - top), min(17, shape[1] - left))
            outside = area.outside_mask(part, scale)
            if outside is None:
                outside = np.zeros((part.height, part.width), bool)
            np.testing.assert_array_equal(outside, expected[part.slices])
            source = Window(top // scale, left // scale, 13, 17)
            assert area.intersects(source) or outside.all()


def test_resolve_aoi_polygons_with_holes_and_parts(info):
    ring = list(box(500100, 4999700, 500200, 4999900).exterior.coords)
    hole = list(box(500130, 4999730, 500170, 4999870).exterior.coords)
    island = polygon(list(box(500400, 4999600, 500500, 4999650).exterior.coords))
    collection = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}},
        "features": [
            {"type": "Feature", "geometry": polygon(ring, hole)},
            {"type": "Feature", "geometry": None},
            {"type": "Feature", "geometry": island},
        ],
    }
    area = resolve_aoi(info, aoi=collection)
    assert area.window == Window(10, 10, 30, 40)
    outside = area.outside_mask(Window(0, 0, 30, 40), 1)
    assert (~outside).sum() == 20 * 10 - 14 * 4 + 5 * 10
    assert not area.intersects(Window(5, 4, 4, 2))  # in the hole
    assert not area.intersects(Window(0, 20, 10, 10))
    cut = resolve_aoi(info, aoi=collection, masked=False)
    assert cut.window == area.window
    assert cut.outline is None


def test_resolve_aoi_geojson_without_crs_is_longitude_latitude(info, tmp_path):
    there = transform_geom(UTM, "EPSG:4326", polygon(TRIANGLE))
    path = tmp_path / "aoi.geojson"
    path.write_text(json.dumps(there))
    area = resolve_aoi(info, aoi=str(path))
    exact = resolve_aoi(info, aoi=polygon(TRIANGLE, crs=UTM))
    assert area.window == exact.window
    assert shapely.hausdorff_distance(area.outline, exact.outline) < 1e-3
    assert area.describe() != exact.describe()


def test_resolve_aoi_edges_in_another_crs_are_densified(tmp_path):
    """A box of degrees is no box of metres: its parallels bulge by many pixels."""
    wide = Affine(1000, 0, 0, 0, -1000, 7_000_000)
    path = make_raster(tmp_path / "w.tif", ramp(1, 900, 1000), transform=wide)
    with open_quietly(path) as reader:
        area = resolve_aoi(reader.info, aoi=mapping(box(11, 56.5, 19, 61)))
        plain = shape_of_corners(reader.info)
    bent = translate(area.outline, area.window.left, area.window.top)
    assert shapely.hausdorff_distance(bent, shapely.segmentize(plain, 1)) > 5
    # the northernmost point lies in the corners, the southernmost in the middle
    middle = area.outside_mask(Window(0, area.window.width // 2, area.window.height, 1), 1)
    assert middle[0, 0]
    assert not middle[-2, 0]


def shape_of_corners(info):
    corners = shape(transform_geom("EPSG:4326", UTM, mapping(box(11, 56.5, 19, 61))))
    a, b, c, d, e, f = tuple(~info.transform)[:6]
    return affine_transform(corners, [a, b, d, e, c, f])


BOWTIE = [[500100, 4999700], [500200, 4999800], [500200, 4999700], [500100, 4999800],
          [500100, 4999700]]  # fmt: skip
WRONG = {
    "outside": (
        {"bounds": (0, 0, 10, 10)},
        r"lies outside .*a\.tif: it covers 0,0,10,10, the raster 500000,4999600,500500,5000000 "
        r"\(west,south,east,north in EPSG:32633\); is its CRS right",
    ),
    "x and y": ({"bounds": (4999700, 500100, 4999800, 500200)}, "with x and y swapped"),
    "box upside down": ({"bounds": (500100, 4999900, 500200, 4999700)}, "south < north"),
    "box of nothing": ({"bounds": (500100, 4999700, 500100, 4999900)}, "west < east"),
    "box of nan": ({"bounds": (float("nan"), 0, 1, 1)}, "expected WEST"),
    "no crs": ({"bounds": (0, 0, 1, 1), "bounds_crs": "EPSG:0815"}, "not a coordinate reference"),
    "bow tie": ({"aoi": polygon(BOWTIE, crs=UTM)}, "feature 0 is not a valid polygon: Self-inter"),
    "point": ({"aoi": {"type": "Point", "coordinates": [15, 45]}}, "Point, which has no area"),
    "nothing": ({"aoi": {"type": "FeatureCollection", "features": []}}, "holds no polygon"),
    "metres as degrees": ({"aoi": polygon(TRIANGLE)}, "not longitude and latitude"),
    "elsewhere": (
        {"aoi": mapping(box(30, 30, 31, 31))},
        r"lies outside .*a\.tif: it covers 30,30,31,31, the raster 15,45.1\d+,15.0\d+,45.1\d+ "
        r"\(west,south,east,north in EPSG:4326\); is its CRS right",
    ),
    "latitude first": (
        {"aoi": mapping(box(45.15, 15.001, 45.16, 15.003))},
        "the raster 15,45.*with its coordinates swapped: longitude comes before lat",
    ),
    "latitudes of the far east": (
        {"aoi": mapping(box(35, 135, 36, 136))},
        "35,135,36,136 are not longitude and latitude.*longitude comes first: swap them",
    ),
    "the other side of the world": (
        {"aoi": mapping(box(-165.1, -46, -165, -45))},
        "it covers -165.1,-46,-165,-45, the raster 15,45",
    ),
    "the other hemisphere": (
        {"aoi": mapping(box(15.001, -45.16, 15.003, -45.15))},
        "with latitudes of opposite sign",
    ),
    "beside each other": (
        {"aoi": polygon(TRIANGLE, crs=UTM), "bounds": (500400, 4999600, 500500, 4999650)},
        "outside the bounding box, which covers rows",
    ),
    "a crs that is none": ({"aoi": polygon(TRIANGLE, crs="flat")}, "member crs: 'flat' is not"),
    "beyond the pole": (
        {"aoi": mapping(box(-10, -90, 10, -89)) , "bounds": None},
        "lies outside|not defined|cannot be transformed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_resolve_aoi_impossible_area_is_refused(info, name):
    options, words = WRONG[name]
    with pytest.raises(UsageError, match=words) as caught:
        resolve_aoi(info, **options)
    assert "\n" not in str(caught.value)


def test_resolve_aoi_file_other_than_geojson_is_refused(info, tmp_path):
    with pytest.raises(UsageError, match=r"none\.geojson: no such file"):
        resolve_aoi(info, aoi=str(tmp_path / "none.geojson"))
    path = tmp_path / "aoi.kml"
    path.write_bytes(b"\x00\x00\x27\x0a" * 9)
    with pytest.raises(InputError, match=r"\.gpkg, \.shp or \.fgb"):
        resolve_aoi(info, aoi=str(path))
    for text in ("[1, 2]", '{"type": "Topology"}', '{"type": "Polygon", "coordinates": [[1]]}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"GeoJSON|not a geometry"):
            resolve_aoi(info, aoi=str(path))


SQUARE = box(500100, 4999700, 500200, 4999800)


@pytest.fixture(params=[".gpkg", ".shp", ".fgb"])
def vector_file(request, tmp_path):
    """A file with the polygon `SQUARE` in the raster's CRS."""
    pyogrio = pytest.importorskip("pyogrio")
    path = tmp_path / f"area{request.param}"
    geometry = np.array([shapely.to_wkb(SQUARE)], object)
    pyogrio.raw.write(
        path, geometry, field_data=[], fields=[], geometry_type="Polygon", crs="EPSG:32633"
    )
    return path


def test_resolve_aoi_vector_file_equals_geojson(info, vector_file):
    geojson = resolve_aoi(
        info, aoi=mapping(SQUARE) | {"crs": {"properties": {"name": "EPSG:32633"}}}
    )
    area = resolve_aoi(info, aoi=str(vector_file))
    assert area.window == geojson.window
    assert area.outline.equals(geojson.outline)


@pytest.mark.filterwarnings("ignore:Non closed ring")
def test_resolve_aoi_damaged_vector_file_is_an_area_or_one_error(info, vector_file):
    data, rng = vector_file.read_bytes(), np.random.default_rng(0)
    refused = []
    for _ in range(40):
        damaged = bytearray(data)
        at = int(len(data) * rng.random() ** 2)
        damaged[at : at + 8] = rng.bytes(8)
        vector_file.write_bytes(damaged[: len(data) - int(rng.integers(3)) * 60])
        try:
            resolve_aoi(info, aoi=str(vector_file))
        except (InputError, UsageError) as error:
            refused.append(str(error))
    assert refused
    assert all("\n" not in text for text in refused)


def test_resolve_aoi_layer_of_several_is_named(info, tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    path = str(tmp_path / "areas.gpkg")
    options = {"field_data": [], "fields": [], "geometry_type": "Polygon", "crs": "EPSG:32633"}
    for number, layer in enumerate(("parcels", "district")):
        geometry = np.array([shapely.to_wkb(translate(SQUARE, 10 * number))], object)
        pyogrio.raw.write(path, geometry, layer=layer, append=number > 0, **options)
    with pytest.raises(UsageError, match=r"has the layers parcels, district; name one.*layername"):
        resolve_aoi(info, aoi=path)
    area = resolve_aoi(info, aoi=f"{path}|layername=district")
    assert area.window.left == 11
    with pytest.raises(InputError, match="cannot be read"):
        resolve_aoi(info, aoi=f"{path}|layername=none")


def test_resolve_aoi_file_of_another_format_with_vector_suffix_is_refused(info, tmp_path):
    pytest.importorskip("pyogrio")
    (tmp_path / "a.gpkg").write_text("<OGRVRTDataSource/>")
    with pytest.raises(InputError, match=r"is not a \.gpkg file"):
        resolve_aoi(info, aoi=str(tmp_path / "a.gpkg"))


def test_resolve_aoi_vector_file_without_pyogrio_names_the_extra(info, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(UsageError, match=r"pip install pyogrio"):
        resolve_aoi(info, aoi=str(tmp_path / "a.shp"))


def test_resolve_aoi_wkt_has_the_crs_of_its_code(info):
    area = resolve_aoi(info, aoi=f"SRID=32633;{SQUARE.wkt}")
    assert (area.window.left, area.window.width) == (10, 10)
    with pytest.raises(UsageError, match="are not longitude and latitude"):
        resolve_aoi(info, aoi=SQUARE.wkt)
    with pytest.raises(UsageError, match="is not valid WKT"):
        resolve_aoi(info, aoi="POLYGON((1 2, 3))")


def test_resolve_aoi_without_georeferencing_is_refused(tmp_path):
    path = make_raster(tmp_path / "n.tif", ramp(), crs=None, transform=None)
    with open_quietly(path) as reader, pytest.raises(UsageError, match="no affine"):
        resolve_aoi(reader.info, bounds=(0, 0, 1, 1))
    path = make_raster(tmp_path / "c.tif", ramp(), crs=None)
    with open_quietly(path) as reader:
        assert resolve_aoi(reader.info, bounds=(500100, 4999700, 500200, 4999900)).window.top == 10
        with pytest.raises(UsageError, match="has no CRS, so"):
            resolve_aoi(reader.info, aoi=polygon(TRIANGLE, crs=UTM))


def test_resolve_aoi_without_area_is_none(info):
    assert resolve_aoi(info) is None
    assert info.crs == CRS.from_string(UTM)


ASKED_BY_THREADS = """
import threading
import numpy as np
from shapely.geometry import Polygon
from georsr.geo.aoi import AreaOfInterest
from georsr.window import Window

rng = np.random.default_rng(0)
for _ in range(10):
    angle = np.sort(rng.uniform(0, 2 * np.pi, 2000))
    radius = 300 + 100 * rng.random(2000)
    ring = np.c_[500 + radius * np.cos(angle), 500 + radius * np.sin(angle)]
    area = AreaOfInterest(Window(0, 0, 1000, 1000), Polygon(ring))
    windows = [Window(int(a), int(b), 20, 20) for a, b in rng.integers(0, 980, (300, 2))]
    asks = [
        lambda: [area.intersects(window) for window in windows],
        lambda: [np.sum(area.outside_mask(window, 2)) for window in windows],
        lambda: [list(area.intersects_each(windows)) for _ in range(20)],
    ]
    alone = [ask() for ask in asks]
    found = {}
    threads = [
        threading.Thread(target=lambda n=n, ask=ask: found.update({n: ask()}))
        for n, ask in enumerate(asks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(3)] == alone
"""


def test_area_used_by_threads_does_not_crash():
    """Reading, computing and writing threads share an area; a crash would end the process."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED_BY_THREADS], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def degrees(tmp_path):
    """degrees(west, width) -> metadata of a raster of 1 degree, 20 rows from 10 N to 10 S."""

    def make(west, width, crs="EPSG:4326"):
        transform = Affine(1, 0, west, 0, -1, 10)
        pixels = np.zeros((1, 20, width), "uint8")
        path = make_raster(tmp_path / "deg.tif", pixels, crs=crs, transform=transform)
        with open_quietly(path) as reader:
            return reader.info

    return make


def area_of(*boxes):
    return {"type": "MultiPolygon", "coordinates": [mapping(box(*b))["coordinates"] for b in boxes]}


CUT_AT_180 = area_of((175, 0, 180, 5), (-180, 0, -175, 5))
WITHOUT_CUT = area_of((175, 0, 185, 5))
NEGATIVE = area_of((-185, 0, -175, 5))


@pytest.mark.parametrize("area", [CUT_AT_180, WITHOUT_CUT, NEGATIVE])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4269"])
@pytest.mark.parametrize(("west", "width"), [(170, 24), (-190, 24), (0, 360), (-360, 360)])
def test_area_across_the_antimeridian_is_complete(degrees, area, crs, west, width):
    info = degrees(west, width, crs)
    found = resolve_aoi(info, aoi=area)
    assert found.window == Window(5, (175 - west) % 360, 5, 10)
    assert found.outline.area == pytest.approx(50, rel=1e-6)


@pytest.mark.parametrize("area", [CUT_AT_180, WITHOUT_CUT, NEGATIVE])
def test_area_at_both_edges_of_a_raster_is_complete(degrees, area):
    found = resolve_aoi(degrees(-180, 360), aoi=area)
    assert found.window == Window(5, 0, 5, 360)
    assert found.outline.area == pytest.approx(50)


@pytest.mark.parametrize("area", [area_of((-10, 0, 10, 5)), area_of((350, 0, 370, 5))])
def test_area_round_greenwich_of_a_raster_from_0_to_360_is_complete(degrees, area):
    found = resolve_aoi(degrees(0, 360), aoi=area)
    assert found.outline.area == pytest.approx(100)
    assert not found.outside_mask(Window(0, 0, 5, 10), 1).any()
    assert found.outside_mask(Window(0, 10, 5, 340), 1).all()


@pytest.mark.parametrize("bounds", [(175, 0, -175, 5), (175, 0, 185, 5), (-185, 0, -175, 5)])
@pytest.mark.parametrize(("west", "width"), [(170, 24), (0, 360)])
@pytest.mark.parametrize("crs", [None, "4326", "EPSG:4269"])
def test_bounds_across_the_antimeridian_are_complete(degrees, bounds, west, width, crs):
    found = resolve_aoi(degrees(west, width), bounds=bounds, bounds_crs=crs)
    assert found.window == Window(5, (175 - west) % 360, 5, 10)


@pytest.mark.parametrize(
    ("west", "bounds"), [(-180, (175, 0, -175, 5)), (0, (-10, 0, 10, 5)), (0, (355, 0, 365, 5))]
)
def test_bounds_at_both_edges_of_a_raster_are_refused(degrees, west, bounds):
    with pytest.raises(UsageError, match=r"at both edges.* with its own bounds"):
        resolve_aoi(degrees(west, 360), bounds=bounds)


def test_area_partly_outside_the_raster_is_told(degrees):
    with pytest.warns(GeoreferenceWarning, match="the area of interest: 50 % of it lies outside"):
        resolve_aoi(degrees(0, 30), aoi=area_of((20, 0, 40, 5)))
