"""Damaged or invented files: a success or one line, whatever is in them.

The examples were found by ``benchmarks/robustness/fuzz.py``, of which a short form runs here.
"""

import io
import json
import struct
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio
from affine import Affine
from georsr.cli.main import invoke
from rasterio.crs import CRS

from georsr import _files
from georsr.api import super_resolve
from georsr.errors import InputError, InterruptedRunError, ModelError, UsageError
from georsr.geo.aoi import read_polygons
from georsr.geo.stac import compute_footprint
from georsr.io.reader import open_raster
from georsr.models.io import create_model, open_model, save_model
from georsr.models.spec import ModelSpec
from georsr.training.module import training_network
from georsr.training.recipe import Recipe
from georsr.writer.encoder import tile_tables
from tests.conftest import REPOSITORY
from tests.sentinel2_safe import make_safe

DEEP = "[" * 100_000
SMALL = {"tile_size": 32, "halo": 2, "overlap": 4, "blocksize": 32}


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_fuzz_short_run_finds_nothing():
    program = REPOSITORY / "benchmarks" / "robustness" / "fuzz.py"
    done = subprocess.run(
        [sys.executable, str(program), "--cases", "30", "--minutes", "1"],
        timeout=300, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def polygon(*ring):
    return {"type": "Polygon", "coordinates": [list(ring)]}


@pytest.mark.parametrize(
    "content",
    [
        {"type": "FeatureCollection", "features": 0.5},
        {"type": "FeatureCollection", "features": "abc"},
        {"type": "FeatureCollection", "features": [7]},
        {"type": "FeatureCollection", "features": [None]},
        {"type": "Feature", "geometry": [1, 2]},
        {"type": ["Feature"]},
        {"type": "GeometryCollection", "geometries": {"a": 1}},
        polygon([0, 0], [1, 1], [float("inf"), 0], [0, 0]),
        polygon([0, 0], [1, [1]], [1, 0], [0, 0]),
        polygon([0, 0], [1, 1e308], [1, 0], [0, 0]),
        {"type": "Polygon", "coordinates": 1e308},
    ],
    ids=repr,
)
def test_geojson_of_odd_values_is_refused(content, tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"GeoJSON|not a list|not a geometry|not finite") as caught:
        read_polygons(str(path), "area")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", [DEEP, '{"type": "Feature", "geometry": ' * 5000])
def test_geojson_nested_deeply_is_refused(text, tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(InputError, match="GeoJSON"):
        read_polygons(str(path), "area")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", "4"), ("scale", True), ("scale", 2.0), ("tile", 10**9), ("tile", None),
        ("halo", [4]), ("overlap", -1), ("kernel", 0.5), ("kernel", ["scene"]),
        ("name", "x" * 5000),
        ("band_names", [1, 2, 3]), ("value_range", [0]), ("value_range", [1, 1]),
        ("value_range", [0, float("inf")]), ("parameters", []), ("quality", {"psnr": "high"}),
        ("multiple_of", 0), ("bands", -1),
    ],
)  # fmt: skip
def test_model_spec_of_odd_values_is_refused(field, value, lite_model):
    raw = json.loads(lite_model.spec.to_json())
    with pytest.raises(ModelError) as caught:
        ModelSpec.from_json(json.dumps(raw | {field: value}))
    assert field in str(caught.value)
    assert len(str(caught.value)) < 300


def test_model_spec_nested_deeply_is_refused():
    with pytest.raises(ModelError, match="not valid JSON"):
        ModelSpec.from_json(DEEP)


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("segsr-lite", {"embed_dim": 200_000}),
        ("segsr-lite", {"depth": 10**9}),
        ("segsr-lite", {"token_dim": 10**9}),
        ("segsr-lite", {"num_groups": 2**40}),
        ("segsr", {"encoder": "scene", "backbone": "hat", "embed_dim": 180_000}),
        ("segsr", {"encoder": "scene", "backbone_options": {"window_size": 10_000}}),
        ("segsr", {"encoder": "scene", "backbone": "plain", "num_groups": 10**7}),
    ],
)
def test_weights_whose_spec_asks_for_a_huge_network_are_refused(
    architecture, parameters, lite_model, tmp_path
):
    path = tmp_path / "w.safetensors"
    spec = replace(lite_model.spec, architecture=architecture, parameters=parameters)
    save_model(path, spec, lite_model.network)
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"far larger network|bad parameters"):
        open_model(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize(
    "network",
    [
        {"embed_dim": 10**9},
        {"embed_dim": 8, "num_groups": 2**32 - 1, "depth": 1, "token_dim": 0},
        {"embed_dim": 30_000, "num_groups": 30_000},
    ],
    ids=repr,
)
def test_recipe_that_asks_for_a_huge_network_is_refused_at_once(network):
    tracemalloc.start()
    with pytest.raises((ModelError, UsageError), match="recipe huge: network"):
        training_network(Recipe("huge", 2, network=network))
    with pytest.raises(ModelError, match=r"far larger network|bad parameters"):
        create_model("segsr-lite", 2, **network)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "sizes", [{"patch": 4096, "batch": 64}, {"batch": 65536}, {"scale": 8, "patch": 4000}]
)
def test_recipe_whose_step_needs_too_many_pixels_is_refused(sizes):
    with pytest.raises(UsageError, match="pixels, expected at most"):
        Recipe(**{"name": "huge", "scale": 4} | sizes)


@pytest.mark.parametrize(
    "parameters",
    [{"embed_dim": "8"}, {"embed_dim": 0}, {"embed_dim": -8}, {"num_groups": 2.5}, {"depth": None}],
)
def test_network_parameters_of_odd_values_are_refused(parameters):
    with pytest.raises(ModelError, match=r"bad parameters|expected at least"):
        create_model("segsr-lite", 2, **parameters)


@pytest.mark.parametrize("name", ["a" * 300, "a" * 5000, "../" * 2000, "hf://" + "a" * 300 + "/b"])
def test_model_names_that_are_too_long_are_one_line(name, make_raster, texture, tmp_path, capsys):
    source = make_raster(texture(3, 20, 20))
    assert invoke(["sr", source, str(tmp_path / "o.tif"), "-m", name]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 1000


@pytest.mark.parametrize("shape", [(1, 2**31 - 1), (2**31 - 1, 1), (1, 5 * 10**8), (2**29, 2)])
def test_raster_with_a_huge_side_is_refused_at_once(shape, tmp_path):
    path = tmp_path / "row.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=shape[0], width=shape[1], count=1, dtype="uint8",
        crs="EPSG:32632", transform=Affine(1, 0, 4e5, 0, -1, 5e6), sparse_ok=True,
        tiled=max(shape) < 2**30, compress="zstd", bigtiff=True,
    ):  # fmt: skip
        pass
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"of a GeoTIFF|use larger tiles"):
        super_resolve(path, tmp_path / "o.tif", "bicubic", 4, check_resources=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert [p.name for p in tmp_path.iterdir()] == ["row.tif"]


def journal_lines(path):
    lines = []
    for line in path.read_bytes().splitlines():
        entry = json.loads(line)
        del entry[_files.CHECKSUM]
        lines.append(entry)
    return lines


@pytest.mark.parametrize(
    "change",
    [
        lambda head, blocks: head.update(tile=[32]),
        lambda head, blocks: head.update(tile=-32),
        lambda head, blocks: head.update(tile=2**80),
        lambda head, blocks: head.update(header=[1]),
        lambda head, blocks: head.update(header=["1", "2"]),
        lambda head, blocks: head.update(header={"a": 1, "b": 2}),
        lambda head, blocks: head.update(key={"source": [1]}),
        lambda head, blocks: blocks.update(blocks=7),
        lambda head, blocks: blocks["blocks"][0].__setitem__(0, -1),
        lambda head, blocks: blocks["blocks"][0].__setitem__(0, {"a": 1}),
        lambda head, blocks: blocks["blocks"][0].__setitem__(2, -(10**9)),
        lambda head, blocks: blocks["blocks"][0].__setitem__(2, 2**40),
        lambda head, blocks: blocks["blocks"][0].__setitem__(4, [1]),
        lambda head, blocks: blocks["blocks"][0].__setitem__(4, -5),
        lambda head, blocks: blocks["blocks"][0].__setitem__(4, 2**62),
    ],
)
def test_journal_of_odd_values_is_not_believed(change, make_raster, texture, tmp_path):
    source, out = make_raster(texture(1, 150, 100)), tmp_path / "o.tif"
    super_resolve(source, tmp_path / "whole.tif", "bicubic", 2, **SMALL)
    asked = iter(range(1000))
    with pytest.raises(InterruptedRunError):
        super_resolve(source, out, "bicubic", 2, should_stop=lambda: next(asked) > 20, **SMALL)
    journal = tmp_path / ".o.tif.part.jsonl"
    head, blocks, *rest = journal_lines(journal)
    change(head, blocks)
    journal.write_bytes(b"".join(map(_files.jsonl_line, (head, blocks, *rest))))
    super_resolve(source, out, "bicubic", 2, **SMALL)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not journal.exists()


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:3857", Affine(1e12, 0, 0, 0, -1e12, 0)),
        ("EPSG:3031", Affine(1e12, 0, 4e5, 0, -1, 5e6)),
        ("EPSG:4326", Affine(1e-9, 0, 4e5, 0, -1e-9, 5e6)),
        ("EPSG:4326", Affine(1, 0, 4e5, 0, -1, 5e6)),
        ("EPSG:32632", Affine(1, 0, 4e5, 0, -1e12, 0)),
    ],
)
def test_footprint_of_impossible_places_is_valid_or_none(crs, transform, make_raster, texture):
    with open_raster(make_raster(texture(1, 20, 20))) as reader:
        info = replace(reader.info, crs=CRS.from_user_input(crs), transform=transform)
    footprint = compute_footprint(info)
    text = json.dumps([footprint.geometry, footprint.bbox], allow_nan=False)
    assert (footprint.geometry is None) == (footprint.bbox is None), text


def tiff(*entries, big=False, again=0):
    """Return a TIFF of one directory; `again` is the address of the next one."""
    entry, count, address = ("<HHQQ", "<Q", "<Q") if big else ("<HHII", "<H", "<I")
    head = b"II+\0\x08\0\0\0" if big else b"II*\0"
    data = b"".join(struct.pack(entry, *fields) for fields in entries)
    start = len(head) + struct.calcsize(address)
    last = struct.pack(address, again)
    return head + struct.pack(address, start) + struct.pack(count, len(entries)) + data + last


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff((324, 4, 1, 0)), "no size for each"),
        (tiff((324, 4, 1, 0), (325, 4, 2, 8)), "no size for each"),
        (tiff((324, 4, 1, 0), (325, 4, 1, 0), again=8), "in circles"),
        (tiff((324, 4, 1, 0), (325, 4, 1, 0), again=2**32 - 1), "ends too early"),
        (tiff((324, 4, 1, 0), (325, 4, 1, 0), big=True, again=2**64 - 1), "ends too early"),
        (tiff((324, 16, 2, 2**64 - 1), (325, 16, 2, 8), big=True), "ends too early"),
        (tiff((324, 16, 2**61, 8), (325, 16, 2**61, 8), big=True), "ends too early"),
    ],
)
def test_tile_tables_damaged_directory_is_a_value_error(data, message):
    with pytest.raises(ValueError, match=message):
        _ = [table.offsets.read(io.BytesIO(data)) for table in tile_tables(io.BytesIO(data))]


def test_info_safe_with_text_that_is_not_utf_8_is_one_line(tmp_path):
    output, _ = make_safe(tmp_path, side=24)
    metadata = output / "MTD_MSIL2A.xml"
    metadata.write_bytes(metadata.read_bytes().replace(b"GRANULE/", b"GRANUL\xa1/"))
    command = [sys.executable, "-m", "georsr.cli", "info", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("where", ["items", "one item", "sidecar"])
def test_raster_with_too_many_metadata_is_refused_at_once(where, make_raster, texture):
    size = 20_000_000 if where == "one item" else 8_000_000
    source = Path(
        make_raster(texture(1, 20, 20), after=lambda dataset: dataset.update_tags(K="x" * size))
    )
    if where == "items":
        items = b"</Item>" + b'<Item name="k">v</Item>' * 300_000 + b'<Item name="z">'
        source.write_bytes(source.read_bytes().replace(b"x" * size, items.ljust(size)))
    elif where == "sidecar":
        source = Path(make_raster(texture(1, 20, 20), "other.tif"))
        items = '<MDI key="k">v</MDI>' * 30_000
        sidecar = source.with_name("other.tif.aux.xml")
        sidecar.write_text(f"<PAMDataset><Metadata>{items}</Metadata></PAMDataset>")
    began = time.process_time()
    with pytest.raises(InputError, match=r"has \d+ (metadata items|bytes of metadata), expected"):
        open_raster(source)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("MTD_TL.xml", b"<NROWS>24<", b"<NROWS>0<"),
        ("MTD_MSIL2A.xml", b"SAFE_COMPACT", b"SAFE_COMP\xff"),
        ("MTD_MSIL2A.xml", b">10000<", b">0<"),
        ("MTD_MSIL2A.xml", b">10000<", b">many<"),
        ("MTD_MSIL2A.xml", b"<SPECIAL_VALUE_INDEX>0<", b"<SPECIAL_VALUE_INDEX>none<"),
        ("MTD_MSIL2A.xml", b">-1000<", b">none<"),
    ],
)
def test_open_raster_safe_of_odd_values_is_one_line(name, old, new, tmp_path):
    product, _ = make_safe(tmp_path, side=24)
    path = next(product.rglob(name))
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(InputError, match=r"cannot be read|no tile with bands") as caught:
        open_raster(str(product))
    assert "\n" not in str(caught.value)
