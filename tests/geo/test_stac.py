"""STAC Items of outputs: valid by the schema that pystac ships, and true."""

import json
import math
import os
from pathlib import Path

import jsonschema
import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from pystac.validation.stac_validator import JsonSchemaSTACValidator

import georsr
from georsr.errors import UsageError
from georsr.geo.stac import compute_footprint
from georsr.io.gdal_env import suppress_rasterio_warnings
from georsr.io.reader import open_raster

PLAIN = {"consistency": "off"}
FIELDS = {
    "proj": {"code", "wkt2", "bbox", "shape", "transform"},
    "processing": {"level", "lineage", "facility", "software"},
}
"""Of the extensions' schemas, what an output has."""

NUMBERS = {"type": "array", "items": {"type": "number"}}
TEXT = {"type": "string", "minLength": 1}
RASTER = {
    "raster:sampling": {"enum": ["area", "point"]},
    "raster:spatial_resolution": {"type": "number", "exclusiveMinimum": 0},
    "raster:scale": {"type": "number"},
    "raster:offset": {"type": "number"},
}
MODEL = {
    "properties": {
        "properties": {
            "anyOf": [{"required": [name]} for name in ("proj:code", "proj:shape")],
            "properties": {
                "proj:code": {"type": ["string", "null"], "pattern": "^[A-Z]+:\\w+$"},
                "proj:wkt2": {"type": ["string", "null"]},
                "proj:bbox": NUMBERS | {"minItems": 4, "maxItems": 4},
                "proj:shape": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 1},
                    "minItems": 2,
                    "maxItems": 2,
                },
                "proj:transform": {
                    "oneOf": [NUMBERS | {"minItems": n, "maxItems": n} for n in (6, 9)]
                },
                "processing:level": TEXT,
                "processing:lineage": TEXT,
                "processing:facility": TEXT,
                "processing:software": {"type": "object", "additionalProperties": TEXT},
            },
            "patternProperties": {"^(proj|processing):": True, "^raster:": False},
        },
        "assets": {
            "additionalProperties": {
                "required": ["raster:sampling", "bands"],
                "properties": RASTER
                | {"bands": {"items": {"properties": RASTER, "required": ["name"]}}},
            }
        },
    }
}
"""The extensions' schemas as far as an output's fields go, written from their descriptions. That of
Raster wants one of its fields at least."""


def core_schema(item):
    """Validate by the schema of STAC 1.1 that pystac ships; raises, or gives the schema's name."""
    return JsonSchemaSTACValidator().validate_core(item, pystac.STACObjectType.ITEM, "1.1.0")


@pytest.fixture
def item(lite_model, make_raster, texture, tmp_path):
    def note(dataset):
        dataset.update_tags(TIFFTAG_DATETIME="2021:07:03 10:20:30")
        dataset.scales, dataset.offsets = (1e-4,) * 3, (-0.1,) * 3
        dataset.descriptions = ("red", "green", "blue")

    values = np.maximum(texture(3, 24, 40, "uint16"), 1)
    source = make_raster(values, nodata=0, after=note)
    out, layers, path = (tmp_path / name for name in ("out.tif", "q.tif", "out.json"))
    georsr.super_resolve(
        source, out, lite_model, quality=layers, stac=path, stretch="0,60000", **PLAIN
    )
    return json.loads(path.read_text())


def check_extensions(item):
    """By our own model of the extensions, and by their schemas where there is a folder of them.

    GEORSR_STAC_SCHEMAS names one that holds projection.json, raster.json and processing.json, of
    the versions that Items declare; no package ships them.
    """
    jsonschema.validate(item, MODEL)
    folder = os.environ.get("GEORSR_STAC_SCHEMAS")
    for address in item["stac_extensions"] if folder else ():
        schema = json.loads((Path(folder) / f"{address.split('/')[3]}.json").read_text())
        assert schema["$id"].rstrip("#") == address
        jsonschema.validate(item, schema)


def test_stac_item_is_valid(item):
    """By the core schema and the extensions."""
    assert core_schema(item)
    check_extensions(item)
    read = pystac.Item.from_dict(item)
    assert read.assets["data"].href == "./out.tif"


def test_stac_item_fields_equal_the_output(item, tmp_path):
    properties = item["properties"]
    for prefix, known in FIELDS.items():
        found = {name.split(":")[1] for name in properties if name.startswith(f"{prefix}:")}
        assert found <= known
        assert any(f"/{prefix[:4]}" in address for address in item["stac_extensions"])
    with rasterio.open(tmp_path / "out.tif") as output:
        assert properties["proj:shape"] == [output.height, output.width]
        assert properties["proj:transform"] == list(output.transform)
        assert properties["proj:bbox"] == pytest.approx(list(output.bounds))
    assert properties["proj:code"] == "EPSG:32632"
    assert properties["datetime"] == "2021-07-03T10:20:30Z"
    assert properties["gsd"] == 0.25
    assert properties["processing:software"] == {"georsr": georsr.reports.georsr_version()}
    assert "synthesised detail" in properties["processing:lineage"]
    assert properties["georsr:synthesised_detail"] is True
    assert properties["georsr:options"] == {"consistency": "off", "stretch": "0,60000"}
    assert properties["mlm:name"] == "tiny-x2"
    band = item["assets"]["data"]["bands"][0]
    assert band == {
        "name": "red",
        "data_type": "uint16",
        "nodata": 0,
        "raster:scale": 1e-4,
        "raster:offset": -0.1,
    }
    for asset in item["assets"].values():
        assert asset["raster:sampling"] == "area"
        assert asset["raster:spatial_resolution"] == 0.25
    assert item["assets"]["quality"]["bands"][0]["name"] == "uncertainty"
    assert item["assets"]["quality"]["data_type"] == "float32"
    links = {link["rel"]: link["href"] for link in item["links"]}
    assert links["derived_from"] == "./in.tif"
    west, south, east, north = item["bbox"]
    assert 7.7 < west < east < 7.8
    assert 45.1 < south < north < 45.2


def test_stac_item_lists_the_residual_of_each_band(lite_model, make_raster, texture, tmp_path):
    source, path = make_raster(texture(3, 40, 48)), tmp_path / "out.json"
    report = georsr.super_resolve(
        source, tmp_path / "out.tif", lite_model, stac=path, consistency_kernel="mean"
    )
    item = json.loads(path.read_text())
    check_extensions(item)
    assert item["properties"]["georsr:consistency_kernel"] == "mean"
    with rasterio.open(source) as old, rasterio.open(tmp_path / "out.tif") as new:
        low = new.read().astype(float).reshape(3, 40, 2, 48, 2).mean((2, 4))
        apart = np.abs(low - old.read())
    bands = item["assets"]["data"]["bands"]
    for band, mean, largest in zip(bands, apart.mean((1, 2)), apart.max((1, 2)), strict=True):
        assert band["georsr:residual_mean"] == pytest.approx(mean, rel=1e-5)
        assert band["georsr:residual_max"] == pytest.approx(largest, rel=1e-5)
    assert report.consistency.output_mean == pytest.approx(apart.mean(), rel=1e-5)


def test_stac_item_of_a_source_without_date_and_place_says_so(make_raster, texture, tmp_path):
    path = tmp_path / "item.json"
    with suppress_rasterio_warnings():
        source = make_raster(texture(1, 8, 8), crs=None, transform=None)
    with pytest.warns(georsr.errors.GeoreferenceWarning):
        georsr.super_resolve(source, tmp_path / "o.tif", "bicubic-x2", stac=path, **PLAIN)
    item = json.loads(path.read_text())
    assert item["geometry"] is None
    assert "does not say its own" in item["properties"]["description"]
    assert "raster:scale" not in item["assets"]["data"]["bands"][0]
    assert core_schema(item)
    check_extensions(item)


def test_stac_item_existing_is_refused_before_the_run(make_raster, texture, tmp_path):
    source, path = make_raster(texture(1, 8, 8)), tmp_path / "item.json"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"item\.json.*overwrite"):
        georsr.super_resolve(source, tmp_path / "o.tif", "bicubic-x2", stac=path, **PLAIN)
    assert not (tmp_path / "o.tif").exists()


@pytest.mark.parametrize("degrees", [True, False])
def test_footprint_across_the_antimeridian_is_split(degrees, make_raster, texture):
    crs, transform = ("EPSG:4326", Affine(0.001, 0, 179.98, 0, -0.001, -16))
    if not degrees:
        crs, transform = "EPSG:32601", Affine(1000, 0, 380_000, 0, -1000, 8_200_000)
    path = make_raster(texture(1, 30, 60), crs=crs, transform=transform)
    with open_raster(path) as reader:
        where = compute_footprint(reader.info)
    assert where.geometry["type"] == "MultiPolygon"
    west, _, east, _ = where.bbox
    assert west > 178
    assert east < -178
    for part in where.geometry["coordinates"]:
        longitudes = [x for ring in part for x, _ in ring]
        assert max(longitudes) - min(longitudes) < 2
        assert -180 <= min(longitudes) <= max(longitudes) <= 180


def test_footprint_gsd_of_degrees_is_in_metres(make_raster, texture):
    side = 1 / 3600
    path = make_raster(
        texture(1, 8, 8), crs="EPSG:4326", transform=Affine(side, 0, 11, 0, -side, 60)
    )
    with open_raster(path) as reader:
        size = compute_footprint(reader.info).gsd
    assert size == pytest.approx(30.9 * math.sqrt(0.5), rel=0.01)
