"""Damage what georsr reads at random, and run its commands on it.

    python benchmarks/robustness/fuzz.py [--minutes 5 | --cases 1000] [--seed 0] [--kinds tiff ...]

A case is one command line on one damaged file, in a process of its own that is forked after the
imports. It has to end within 30 seconds and 2 GiB, with exit code 0 or with one line on stderr that
says what is wrong. A command that fails leaves no new file; one that succeeds leaves an output that
can be read. A run that goes on from a damaged journal or partial file and succeeds has to give the
bytes of a run that was never interrupted. Each finding is printed, with the number that repeats it
(``--first N --cases 1``). Exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

MAX_SECONDS, MAX_BYTES = 30.0, 2 << 30
SMALL = ["--tile", "32", "--halo", "2", "--overlap", "4", "--blocksize", "64", "-q", "-j", "1"]
NUMBERS: list[Any] = [
    *(0, 1, -1, 2, 3, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 10**30, -(10**9)),
    *(0.5, -0.1, 1e-300, 1e308, float("inf"), float("-inf"), float("nan")),
]
VALUES: list[Any] = [
    *NUMBERS,
    *(None, True, False, "", "\0", "x" * 5000, "../../x", "4", "nan", "\ud800", "é\x1b[2J\n"),
    *([], {}, [[]], [None], [1, 2], {"a": 1}, [0] * 1000, ["a", {"b": []}]),
]
KEPT = ("run", "parts")
"""Folders of finished work that is kept for a later run."""
ROOT = Path(__file__).resolve().parents[2]
Case = tuple[list[str], Path | None]
"""Arguments of the command, and the folder with the files that it must make if it succeeds."""


# Damage


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change a few places of a file; headers, which come first, more often than the rest."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        size = len(result)
        at = int(size * rng.random() ** rng.choice((1, 4)))
        match rng.randrange(8):
            case 0:
                result[at : at + 1] = bytes([rng.randrange(256)])
            case 1 if at < size:
                result[at] ^= 1 << rng.randrange(8)
            case 2 | 3:
                value, form = rng.choice(NUMBERS[:13]), rng.choice(("<H", "<I", "<Q", ">H", ">I"))
                number = struct.pack(form, value % 2 ** (8 * struct.calcsize(form)))
                result[at : at + len(number)] = number
            case 4:
                del result[at:]
            case 5:
                del result[at : at + rng.randrange(1, 64)]
            case 6:
                result[at:at] = result[at : at + rng.randrange(1, 64)]
            case 7:
                other = rng.randrange(size + 1)
                length = rng.randrange(1, 64)
                result[at : at + length] = result[other : other + length]
    return bytes(result)


def damage_tree(value: Any, rng: random.Random) -> Any:
    """Return a copy of nested lists and dictionaries with a few values changed."""
    tree = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return _value(rng)
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1:
                nested = _value(rng)
                for _ in range(rng.choice((2, 60, 3000))):
                    nested = [nested]
                holder[key] = nested
            case 2 if isinstance(holder[key], int | float):
                holder[key] = rng.choice(NUMBERS)
            case 3 if isinstance(holder, dict):
                holder[rng.choice(("x", "", "\0", *map(str, holder)))] = _value(rng)
            case 4:
                other, name = rng.choice(places)
                with suppress(RecursionError):
                    holder[key] = copy.deepcopy(other[name])
            case _:
                holder[key] = _value(rng)
    return tree


def _value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))


def _places(tree: Any, depth: int = 0) -> Any:
    """Yield (list or dictionary, index or key) of every value in a tree."""
    if isinstance(tree, dict | list) and depth < 50:
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key], depth + 1)


def as_json(tree: Any) -> bytes:
    """Return JSON text, also of what is too deep for the encoder."""
    try:
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 100_000


def damage_json(text: bytes, rng: random.Random) -> bytes:
    """Damage the bytes of JSON, or the values in it."""
    if rng.random() < 0.3:
        return damage_bytes(text, rng)
    return as_json(damage_tree(json.loads(text), rng))


def damage_xml(text: bytes, rng: random.Random) -> bytes:
    """Damage the bytes of XML, or its elements and attributes."""
    if rng.random() < 0.4:
        return damage_bytes(text, rng)
    root = ET.fromstring(text)
    for _ in range(rng.choice((1, 2, 4))):
        element = rng.choice(list(root.iter()))
        value = str(rng.choice(VALUES)).replace("\0", "").replace("\x1b", "")
        if element.attrib and rng.random() < 0.5:
            element.set(rng.choice(list(element.attrib)), value)
        elif len(element) and rng.random() < 0.5:
            element.append(copy.deepcopy(rng.choice(list(root.iter()))))
        else:
            element.text = value
    return ET.tostring(root, "unicode").encode("utf-8", "surrogatepass")


# Kinds of files


@dataclass(frozen=True)
class Seeds:
    """Files that are damaged, and what undamaged runs made of them."""

    folder: Path

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return (self.folder / name).read_bytes()

    @property
    def safe(self) -> Path:
        """Return the product of Sentinel-2."""
        return next(self.folder.glob("*.SAFE"))


def damaged(seeds: Seeds, name: str, work: Path, rng: random.Random) -> str:
    """Write a copy of a file with damaged bytes; return its path."""
    path = work / name
    path.write_bytes(damage_bytes(seeds.read(name), rng))
    return str(path)


def sr(source: str | Path, work: Path, *options: str) -> list[str]:
    """Return the arguments of ``georsr sr``."""
    return ["sr", str(source), str(work / "out.tif"), *SMALL, *(options or ("-m", "bicubic-x2"))]


def make_tiff(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """A raster with masks, tags, alpha or control points, whose bytes are damaged."""
    name = rng.choice(("rgb.tif", "masked.tif", "tagged.tif", "rgba.tif", "gcps.tif"))
    path = damaged(seeds, name, work, rng)
    return (["info", path] if rng.random() < 0.2 else sr(path, work)), None


def make_jp2(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """A JPEG 2000 file."""
    return sr(damaged(seeds, "rgb.jp2", work, rng), work), None


def make_vrt(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """A VRT: its text, or the values of its elements."""
    path = work / "mosaic.vrt"
    for name in ("rgb.tif", "masked.tif"):
        shutil.copy(seeds.folder / name, work)
    path.write_bytes(damage_xml(seeds.read("mosaic.vrt"), rng))
    return sr(path, work), None


def make_safe(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """A product of Sentinel-2, one of whose metadata files is damaged."""
    product = work / seeds.safe.name
    shutil.copytree(seeds.safe, product)
    path = rng.choice(sorted(product.rglob("*.xml")))
    path.write_bytes(damage_xml(path.read_bytes(), rng))
    target = rng.choice((product, next(product.glob("MTD_MSI*.xml"))))
    return (["info", str(target)] if rng.random() < 0.2 else sr(target, work)), None


def make_geojson(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """An area of interest."""
    path = work / "area.geojson"
    path.write_bytes(damage_json(seeds.read(path.name), rng))
    return _with_area(seeds, work, str(path)), None


def _with_area(seeds: Seeds, work: Path, area: str) -> list[str]:
    return sr(seeds.folder / "rgb.tif", work, "-m", "bicubic-x2", f"--aoi={area}")


def make_area(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """An area of interest as WKT, GeoPackage, Shapefile or FlatGeobuf."""
    places = sorted(seeds.folder.glob("area/*"))
    if not places or rng.random() < 0.3:
        text = damage_bytes(WKT.encode(), rng).decode("latin-1").replace("\0", "")
        return _with_area(seeds, work, text), None
    path = work / rng.choice(places).name
    for place in places:  # a Shapefile is several files
        shutil.copy(place, work)
    path.write_bytes(damage_bytes(path.read_bytes(), rng))
    main = path if path.suffix in (".gpkg", ".fgb") else path.with_suffix(".shp")
    return _with_area(seeds, work, str(main)), None


def make_safetensors(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """Weights: their bytes, their header, or the specification in it."""
    path, data = work / "net.safetensors", seeds.read("net.safetensors")
    if rng.random() < 0.3:
        path.write_bytes(damage_bytes(data, rng))
    else:
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        if rng.random() < 0.7:
            spec = json.loads(header["__metadata__"]["georsr"])
            header["__metadata__"]["georsr"] = as_json(damage_tree(spec, rng)).decode("latin-1")
        else:
            header = damage_tree(header, rng)
        text = as_json(header)
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return sr(seeds.folder / "rgb.tif", work, "-m", str(path)), None


def make_onnx(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """An exported network: its bytes, or its specification."""
    import onnx

    path, data = work / "net.onnx", seeds.read("net.onnx")
    if rng.random() < 0.5:
        path.write_bytes(damage_bytes(data, rng))
    else:
        model = onnx.load_from_string(data)
        entry = next(e for e in model.metadata_props if e.key == "georsr")
        spec = damage_tree(json.loads(entry.value), rng)
        entry.value = as_json(spec).decode("latin-1")
        path.write_bytes(model.SerializeToString())
    return sr(seeds.folder / "rgb.tif", work, "-m", str(path)), None


def make_journal(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """A damaged journal; most of the time its lines have true checksums again.

    Such a journal may name other blocks than were written. Nothing can tell then.
    """
    from georsr._files import CHECKSUM, jsonl_line

    name = rng.choice(("half", "whole", "half.parts", "whole.parts"))
    arguments, expected = _started(seeds, name, work)
    path = next(p for p in (work / ".out.tif.part.jsonl", work / "parts/.parts.jsonl",
                            work / "parts/index.json") if p.exists())  # fmt: skip
    if path.name == "index.json":
        path.write_bytes(damage_json(path.read_bytes(), rng))
        return arguments, None
    lines = path.read_bytes().split(b"\n")[:-1]
    number = rng.randrange(len(lines))
    if rng.random() < 0.3:
        path.write_bytes(damage_bytes(path.read_bytes(), rng))
        return arguments, expected
    entry = json.loads(lines[number])
    entry.pop(CHECKSUM)
    entry = damage_tree(entry, rng)
    try:
        text = jsonl_line(entry if isinstance(entry, dict) else {"a": entry})
    except (RecursionError, UnicodeError):
        text = b"[" * 100_000 + b"\n"
    lines[number] = text[:-1]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return arguments, None


def make_part(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """The unfinished file of a run that goes on."""
    arguments, expected = _started(seeds, rng.choice(("half", "half.parts", "whole.parts")), work)
    path = rng.choice(sorted(p for p in work.rglob("*.tif") if p.name != "out.tif"))
    path.write_bytes(damage_bytes(path.read_bytes(), rng))
    return arguments, expected


def _started(seeds: Seeds, name: str, work: Path) -> Case:
    """Copy what a stopped or killed run left; return its command, and what it has to make."""
    work.rmdir()
    shutil.copytree(seeds.folder / name, work)
    arguments = sr(seeds.folder / "masked.tif", work)
    if name.endswith("parts"):
        arguments = [*in_parts(seeds.folder / "masked.tif", work), "--overwrite"]
    return arguments, seeds.folder / ("made.parts" if name.endswith("parts") else "made")


def in_parts(source: Path, work: Path) -> list[str]:
    """Return the arguments of ``georsr sr`` that write parts."""
    options = ("-m", "bicubic-x2", "--parts", str(work / "parts"), "--blocksize", "128")
    arguments = sr(source, work, *options)
    arguments[2] = str(work / "out.vrt")
    return arguments


def make_recipe(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """A recipe of a training."""
    import yaml

    path, text = work / "recipe.yaml", seeds.read("recipe.yaml")
    if rng.random() < 0.3:
        path.write_bytes(damage_bytes(text, rng))
    else:
        tree = damage_tree(yaml.safe_load(text), rng)
        with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
            try:
                yaml.safe_dump(tree, file, allow_unicode=True)
            except (RecursionError, yaml.YAMLError):
                file.write("&a [*a, *a]" if rng.random() < 0.5 else "[" * 100_000)
    steps = ["--steps", "1"] if rng.random() < 0.8 else []
    return ["train", str(path), "--out", str(work / "run"), "-q", "-j", "1", *steps], None


def make_checkpoint(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """A run that is stopped, its checkpoint damaged; or a published form of weights."""
    import torch

    shutil.copytree(seeds.folder / "run", work / "run")
    path = work / "run" / "last.ckpt"
    if rng.random() < 0.3:
        path.write_bytes(damage_bytes(path.read_bytes(), rng))
    else:
        state = damage_tree(torch.load(path, weights_only=True), rng)
        with open(path, "wb") as file:  # noqa: PTH123
            try:
                torch.save(state, file)
            except (RecursionError, UnicodeError):
                file.write(b"\x80\x02" + b"(" * 100_000)
    if rng.random() < 0.2:
        shutil.copy(path, work / "net.pth")
        return sr(seeds.folder / "rgb.tif", work, "-m", str(work / "net.pth")), None
    recipe = str(seeds.folder / "recipe.yaml")
    return ["train", recipe, "--out", str(work / "run"), "-q", "-j", "1", "--resume"], None


def make_stac(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """An output whose run was killed before it could write its Item, which exists, damaged."""
    work.rmdir()
    shutil.copytree(seeds.folder / "item", work)
    path = work / "out.json"
    path.write_bytes(damage_json(path.read_bytes(), rng))
    return sr(seeds.folder / "masked.tif", work, "-m", "bicubic-x2", "--stac", str(path)), None


def make_product(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """An output or its quality layers, whose tags or bytes are damaged."""
    import rasterio

    source, product, layers = (str(seeds.folder / f"{name}.tif") for name in ("small", "sr", "q"))
    path = work / rng.choice(("sr.tif", "sr.tif", "q.tif"))
    shutil.copy(seeds.folder / path.name, path)
    if rng.random() < 0.3:
        path.write_bytes(damage_bytes(path.read_bytes(), rng))
    else:
        with rasterio.open(path, "r+") as dataset:
            tags = dataset.tags()
            for name in rng.sample(sorted(n for n in tags if n.startswith("GEORSR_")), 2):
                text = str(_value(rng)).replace("\0", "").encode("utf-8", "replace").decode()
                if tags[name].startswith("{"):
                    text = damage_json(tags[name].encode(), rng).decode("latin-1")
                dataset.update_tags(**{name: text.replace("\0", "")[:100_000]})
    if path.name == "q.tif":
        layers = str(path)
    else:
        product = str(path)
    return rng.choice((
        ["info", str(path)], ["info", str(path), "--json"],
        ["eval", product, "--lr", source],
        ["quality", "report", source, product, "--json"],
        ["quality", "report", source, product, "--json", "--layers", layers],
        ["quality", "layers", source, product, str(work / "new.tif"), "-j", "1"],
        sr(path, work),
    )), None  # fmt: skip


def make_outputs(seeds: Seeds, work: Path, rng: random.Random) -> Case:
    """Odd metadata in a sound raster: the Item and the style of its output have to be valid."""
    import rasterio
    from rasterio.transform import Affine

    text = (
        "",
        "a" * 3000,
        "<b>&\"'",
        "é日本\u202e",
        "\x1b[2J",
        "nan",
        "2020-13-45",
        "%s{}",
        "2020",
    )
    path = work / "odd.tif"
    with rasterio.open(seeds.folder / "rgb.tif") as dataset:
        pixels, profile = dataset.read(), dataset.profile
    profile["transform"] = Affine(*(rng.choice((*profile["transform"][:6], 0.0, 1e-9, 1e12))
                                    if rng.random() < 0.15 else v
                                    for v in profile["transform"][:6]))  # fmt: skip
    profile["crs"] = rng.choice(("EPSG:4326", "EPSG:32632", "EPSG:3031", "EPSG:3857", None))
    if rng.random() < 0.3:
        profile |= {"dtype": "float32", "nodata": rng.choice((float("nan"), -9999, 1e38))}
        pixels = pixels.astype("float32")
        pixels[:, :, :9] = rng.choice((float("nan"), float("inf"), -9999, 1e38))
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels)
        names = ("TIFFTAG_DATETIME", "ACQUISITION_DATE", "DATE_ACQUIRED", "LAYER", rng.choice(text))
        dataset.update_tags(
            **{name: rng.choice(text) for name in names if name and "=" not in name}
        )
        for band in dataset.indexes:
            if rng.random() < 0.5:
                dataset.set_band_description(band, rng.choice(text))
                dataset.set_band_unit(band, rng.choice(text))
                dataset.update_tags(band, **{"NAME": rng.choice(text)})
        if rng.random() < 0.3:
            dataset.scales = [rng.choice((0.5, 1e-4, 1e30)) for _ in dataset.indexes]
            dataset.offsets = [rng.choice((0.0, -0.1, 1e30)) for _ in dataset.indexes]
    layers = ["--quality", str(work / "layers.tif")] if rng.random() < 0.3 else []
    options = ("-m", str(seeds.folder / "net.safetensors"), "--stac", str(work / "out.json"))
    return sr(path, work, *options, *layers), None


KINDS: dict[str, Callable[[Seeds, Path, random.Random], Case]] = {
    "journal": make_journal,
    "part": make_part,
    "tiff": make_tiff,
    "jp2": make_jp2,
    "vrt": make_vrt,
    "safe": make_safe,
    "geojson": make_geojson,
    "area": make_area,
    "safetensors": make_safetensors,
    "onnx": make_onnx,
    "recipe": make_recipe,
    "checkpoint": make_checkpoint,
    "stac": make_stac,
    "product": make_product,
    "outputs": make_outputs,
}


# Seeds


def make_seeds(folder: Path) -> int:
    """Write the files that are damaged; in a process of its own, because it runs networks."""
    _write_rasters(folder)
    _write_areas(folder)
    _write_models(folder)
    _write_runs(folder)
    _write_training(folder)
    return 0


def _write_rasters(folder: Path) -> None:
    import numpy as np
    import rasterio
    from rasterio.control import GroundControlPoint
    from rasterio.transform import Affine

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (4, 90, 100)).astype("uint8")
    profile = {"driver": "GTiff", "height": 90, "width": 100, "count": 3, "dtype": "uint8",
               "crs": "EPSG:32632", "transform": Affine(1, 0, 4e5, 0, -1, 5e6)}  # fmt: skip

    def write(name: str, **options: Any) -> Any:
        dataset = rasterio.open(folder / name, "w", **profile | options)
        dataset.write(pixels[: dataset.count])
        return dataset

    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        write("rgb.tif").close()
        write("rgb.jp2", driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES").close()
        with write("masked.tif", compress="deflate") as dataset:
            dataset.write_mask((rng.random((90, 100)) < 0.8).astype("uint8") * 255)
        with write("tagged.tif", nodata=0, tiled=True, blockxsize=16, blockysize=16) as dataset:
            dataset.update_tags(AREA_OR_POINT="Point", AUTHOR="me")
            for band in dataset.indexes:
                dataset.set_band_description(band, f"band {band}")
            dataset.build_overviews([2])
        write("rgba.tif", count=4, photometric="RGB", alpha="YES", compress="lzw").close()
        corners = [GroundControlPoint(r, c, c, -r) for r, c in ((0, 0), (0, 90), (80, 0), (80, 90))]
        with write("gcps.tif", crs=None, transform=None) as dataset:
            dataset.gcps = (corners, "EPSG:32632")
    from rasterio.shutil import copy as copy_raster

    copy_raster(folder / "masked.tif", folder / "mosaic.vrt", driver="VRT")
    ring = [[400010, 4999990], [400080, 4999985], [400050, 4999930], [400010, 4999990]]
    area = {"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name":
            "urn:ogc:def:crs:EPSG::32632"}}, "features": [
            {"type": "Feature", "properties": {"a": 1}, "geometry":
             {"type": "Polygon", "coordinates": [ring]}},
            {"type": "Feature", "properties": None, "geometry":
             {"type": "MultiPolygon", "coordinates": [[ring]]}}]}  # fmt: skip
    (folder / "area.geojson").write_text(json.dumps(area))


WKT = "SRID=32632;MULTIPOLYGON(((400010 4999990,400080 4999985,400050 4999930,400010 4999990)))"


def _write_areas(folder: Path) -> None:
    """Write a product of Sentinel-2, and areas in formats that need pyogrio, if it is installed."""
    sys.path.insert(0, str(ROOT))
    from tests.sentinel2_safe import make_safe

    make_safe(folder, side=24)
    try:
        import pyogrio
    except ImportError:
        return
    import numpy as np
    import shapely

    (folder / "area").mkdir()
    geometries = np.array([shapely.to_wkb(shapely.from_wkt(WKT.partition(";")[2]))])
    for suffix in ("gpkg", "shp", "fgb"):
        pyogrio.raw.write(
            folder / "area" / f"area.{suffix}", geometries, [np.array([7])], ["number"],
            geometry_type="MultiPolygon", crs="EPSG:32632",
        )  # fmt: skip


def _write_models(folder: Path) -> None:
    import torch

    from georsr.models.io import Model, build, create_model, save_model
    from georsr.models.onnx.export import to_onnx

    small = {"embed_dim": 8, "num_groups": 1, "depth": 1, "token_dim": 8}
    model = create_model("segsr-lite", 2, name="tiny-x2", **small)
    spec = replace(model.spec, tile=32, halo=2, overlap=4)
    model = Model(spec, build(spec), "0" * 64, spec.name)
    save_model(folder / "net.safetensors", spec, model.network, torch.float32)
    data = to_onnx(model.network, spec, (1, 3, 32, 32), dynamic=True)
    (folder / "net.onnx").write_bytes(data)


def _write_runs(folder: Path) -> None:
    """Write an output, runs that were stopped half-way and at the end, and a training run."""
    import rasterio
    from georsr.cli.main import invoke

    import georsr
    from georsr.errors import InterruptedRunError
    from georsr.writer import writer

    writer.SYNC_SECONDS = 0.0
    masked, states = folder / "masked.tif", ("made", "whole", "half", "item", "kept")
    for name in (*states, "made.parts", "whole.parts", "half.parts"):
        (folder / name).mkdir()
    stac = ["--stac", str(folder / "item" / "out.json")]
    assert invoke(sr(masked, folder / "made")) == 0
    assert invoke(in_parts(masked, folder / "made.parts")) == 0
    assert invoke(in_parts(masked, folder / "whole.parts")) == 0
    # killed between giving the output its name and removing the journal
    removed = writer.Journal.remove
    for name, options in (("whole", []), ("item", stac)):
        pid = os.fork()
        if not pid:
            writer.Journal.remove = lambda self: (
                removed(self) if self._file is None else os._exit(7)
            )
            invoke([*sr(masked, folder / name), *options])
            os._exit(0)
        os.waitpid(pid, 0)
    shutil.copytree(folder / "item", folder / "kept", dirs_exist_ok=True)
    assert invoke([*sr(masked, folder / "item"), *stac]) == 0
    shutil.copy(folder / "item/out.json", folder / "kept/out.json")
    shutil.rmtree(folder / "item")
    (folder / "kept").rename(folder / "item")
    half, parts = folder / "half", folder / "half.parts" / "parts"
    asked = iter(range(1000))
    for out, options in (
        (half / "out.tif", {"blocksize": 64, "should_stop": lambda: next(asked) > 12}),
        (
            parts.with_name("out.vrt"),
            {"parts": parts, "blocksize": 128, "should_stop": lambda: any(parts.glob("r*.tif"))},
        ),
    ):
        with suppress(InterruptedRunError):
            georsr.super_resolve(
                masked, out, "bicubic", 2, tile_size=32, halo=2, overlap=4, **options
            )
    assert (folder / "half" / ".out.tif.part.jsonl").exists()
    assert (parts / ".parts.jsonl").exists()
    # an output of a bundled model, and its quality layers
    with rasterio.open(folder / "rgb.tif") as dataset:
        profile = dataset.profile | {"height": 40, "width": 48}
        pixels = dataset.read(window=((0, 40), (0, 48)))
    with rasterio.open(folder / "small.tif", "w", **profile) as dataset:
        dataset.write(pixels)
    run = sr(folder / "small.tif", folder, "-m", "segsr-lite-x2", "--quality", f"{folder}/q.tif")
    run[2] = str(folder / "sr.tif")
    assert invoke(run) == 0


def _write_training(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    from georsr.training.callbacks import StoppedError
    from georsr.training.recipe import DataSettings, Recipe, ScheduleSettings
    from georsr.training.train import train

    rng = np.random.default_rng(1)
    for part in ("train", "val"):
        for i in range(2):
            place = folder / "data" / part / "fields"
            place.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8))
            image.save(place / f"{i}.png")
    recipe = Recipe(
        name="tiny-x2",
        scale=2,
        network={"embed_dim": 8, "num_groups": 1, "depth": 1, "token_dim": 0},
        data=DataSettings(root=(str(folder / "data"),)),
        patch=16,
        batch=2,
        steps=3,
        schedule=ScheduleSettings(warmup=2),
        precision="fp32",
        validate_every=2,
    )
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    asked = iter([False, True])
    try:
        train(recipe, folder / "run", should_stop=lambda: next(asked))
    except StoppedError:
        return
    raise AssertionError("the run was not stopped")


# Cases


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    seconds: float
    peak: int
    stderr: str


def start(call: Callable[[], int], stderr: Path) -> int:
    """Fork a process that calls a function and exits with its result; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setpgid(0, 0)
        file = os.open(stderr, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        code = call()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
    return 0


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def wait(pid: int, stderr: Path) -> Outcome:
    """Wait for a process; it is killed at the limits of time and memory."""
    since, peak = time.monotonic(), 0
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            peak = max(peak, usage.ru_maxrss * 1024)
            break
        try:
            resident = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            peak = max(peak, int(resident[1]) * 1024 if resident else 0)
        except OSError:
            pass
        # others may use the processors: waiting for them is not counted
        if (
            max(_cpu_seconds(pid), (time.monotonic() - since) / 10) > MAX_SECONDS
            or peak > MAX_BYTES
        ):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            status = signal.SIGKILL
            break
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    text = stderr.read_bytes().decode(errors="replace")
    return Outcome(code, time.monotonic() - since, peak, text)


def problem_of(
    outcome: Outcome, work: Path, before: set[Path], expected: Path | None
) -> str | None:
    """Return what is wrong with the end of a case, if anything."""
    if outcome.peak > MAX_BYTES:
        return f"takes {outcome.peak >> 20} MiB"
    if outcome.code == -signal.SIGKILL:
        return f"takes {outcome.seconds:.0f} s"
    lines = outcome.stderr.splitlines()
    errors = [line for line in lines if line.startswith(("Error: ", "Usage: "))]
    # libgeotiff writes this itself, to stderr, about the GeoTIFF keys of a JPEG 2000 file
    errors = [line for line in errors if not re.fullmatch(r"Error: Key \w+ (is )?of .*", line)]
    if outcome.code not in (0, 1, 2):
        return f"exit code {outcome.code}: {lines[-1] if lines else ''}"
    if "not foreseen" in outcome.stderr or "Traceback" in outcome.stderr:
        return "not foreseen"
    output = work / "out.tif"
    if outcome.code:
        if len(errors) != 1 or errors != lines[-1:]:
            return f"{len(errors)} lines of errors, or others after it"
        new = [str(path) for path in sorted(files_in(work) - before) if path.parts[0] not in KEPT]
        return f"a run that failed leaves {new}" if new else None
    if expected is not None:
        made = {path: (work / path).read_bytes() for path in files_in(work)}
        if made != {path: (expected / path).read_bytes() for path in files_in(expected)}:
            return "other files or bytes than an undisturbed run"
    return problem_of_output(output) if output.exists() else None


def files_in(folder: Path) -> set[Path]:
    """Return the files with final names in a folder, relative to it."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in files if not path.name.startswith(".")}


def problem_of_output(output: Path) -> str | None:
    """Return what is wrong with the output of a run that succeeded."""
    left = [path.name for path in output.parent.iterdir() if path.name.startswith(".out.tif")]
    if left:
        return f"left behind: {left}"
    item = output.with_name("out.json")
    if item.exists():
        import pystac

        def refuse(word: str) -> None:
            raise ValueError(f"{word} in the Item")

        try:
            pystac.Item.from_dict(json.loads(item.read_text("utf-8"), parse_constant=refuse))
        except Exception as error:
            return f"an Item that is not valid: {error!r}"
    for style in output.parent.glob("*.qml"):
        try:
            ET.fromstring(style.read_text("utf-8"))
        except (ET.ParseError, ValueError) as error:
            return f"a style that is not valid: {error}"
    return None


def run_case(kind: str, seed: str, seeds: Seeds, work: Path) -> tuple[str | None, Outcome]:
    """Make a case, run its command, and judge it."""
    from georsr.cli.main import invoke

    work.mkdir()
    arguments, expected = KINDS[kind](seeds, work, random.Random(seed))
    before = files_in(work)
    stderr = work.with_name("stderr.txt")
    outcome = wait(start(lambda: invoke(arguments), stderr), stderr)
    return problem_of(outcome, work, before, expected), outcome


def main() -> int:
    """Run cases until the time is over, and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    options = parser.parse_args()
    from georsr.cli.main import prepare_process

    prepare_process()
    import onnxruntime  # noqa: F401
    import torch

    import georsr.api
    import georsr.training.train  # noqa: F401

    torch.set_num_threads(1)
    codes, findings = Counter[str](), 0
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "seeds").mkdir()
        seeds = Seeds(folder / "seeds")
        pid = start(lambda: make_seeds(seeds.folder), stderr := folder / "stderr.txt")
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"the files to damage cannot be made: {stderr.read_text()[-2000:]}")
        for number in range(options.first, options.first + options.cases):
            if time.monotonic() > end:
                break
            kind = options.kinds[number % len(options.kinds)]
            work = folder / "work"
            problem, outcome = run_case(kind, f"{options.seed} {number}", seeds, work)
            codes[f"{kind} {outcome.code}"] += 1
            if problem:
                findings += 1
                last = (outcome.stderr.strip().splitlines() or [""])[-1]
                print(f"case {number}, {kind}: {problem}: {last[:200]}", flush=True)
                if options.keep:
                    shutil.copytree(work, options.keep / f"{kind}-{options.seed}-{number}")
            shutil.rmtree(work, ignore_errors=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (usage.ru_utime + usage.ru_stime) / 60
    print(f"{sum(codes.values())} cases, {findings} findings, {cpu:.1f} minutes of processor time")
    print(json.dumps(dict(sorted(codes.items()))))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
