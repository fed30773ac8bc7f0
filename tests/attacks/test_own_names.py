"""No command writes or removes a file that it reads, under whatever name."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke

from georsr.errors import UsageError
from georsr.writer.paths import check_outputs

FAST = ("-m", "bicubic", "-s", "2", "--progress", "none")

BOX = (
    '{"type": "Polygon", "coordinates": '
    "[[[7.72, 45.1], [7.75, 45.1], [7.75, 45.2], [7.72, 45.2], [7.72, 45.1]]]}"
)

VRT = """<VRTDataset rasterXSize="20" rasterYSize="16">
<SRS>EPSG:32632</SRS><GeoTransform>400000, 0.5, 0, 5000000, 0, -0.5</GeoTransform>
{bands}</VRTDataset>"""
BAND = """<VRTRasterBand dataType="Byte" band="{number}"><SimpleSource>
<SourceFilename {relative}>{name}</SourceFilename><SourceBand>{number}</SourceBand>
</SimpleSource></VRTRasterBand>"""


def write_vrt(path, name, relative='relativeToVRT="1"'):
    bands = "".join(BAND.format(number=n, name=name, relative=relative) for n in (1, 2, 3))
    path.write_text(VRT.format(bands=bands))


@pytest.fixture
def folder(tmp_path, make_raster, monkeypatch):
    """A folder of everything that commands read; all commands are run in it."""
    monkeypatch.chdir(tmp_path)
    values = np.arange(3 * 16 * 20, dtype=np.uint8).reshape(3, 16, 20)
    for name in ("scene.tif", "far.tif", "near.tif", "product.tif", "layers.tif"):
        make_raster(values, name)
    (tmp_path / "sub").mkdir()
    (tmp_path / "soft.tif").symlink_to("scene.tif")
    os.link("scene.tif", "hard.tif")
    Path("scene.tfw").write_text("0.5\n0\n0\n-0.5\n400000\n5000000\n")
    write_vrt(Path("inner.vrt"), "far.tif")
    write_vrt(Path("sub/outer.vrt"), "../inner.vrt")
    write_vrt(Path("single.vrt"), tmp_path / "near.tif", "relativeToVRT='0'")
    Path("list.txt").write_text("scene.tif\n")
    Path("area.geojson").write_text(BOX)
    shutil.copyfile("scene.tif", ".out.tif.part.tif")
    Path("sub/parts").mkdir()
    shutil.copyfile("scene.tif", "sub/parts/r0000_c0000_00000000.tif")
    return tmp_path


@pytest.fixture
def refused(folder, capsys):
    """Run a command that must be refused in one line, and leave every file what it was."""

    def state():
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path: (path.stat().st_ino, path.read_bytes()) for path in files}

    def run(*arguments, code=2):
        before = state()
        capsys.readouterr()
        assert invoke([str(each) for each in arguments]) == code
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert state() == before
        return error

    return run


def spellings(folder, name):
    """One file under several names."""
    return [name, folder / name, f"sub/../{name}", f"./{name}"]


SOURCE = ["scene.tif", "soft.tif", "hard.tif", "sub/../scene.tif"]
BESIDE = [
    "scene.tif.aux.xml",
    "scene.tif.msk",
    "scene.tif.ovr",
    "SCENE.TIF.OVR",
    "scene.tfw",
    "scene.TFW",
    "scene.tifw",
    "scene.wld",
    "scene.qml",
    "scene.prj",
    "scene_rpc.txt",
    "scene.tif.msk.ovr",
]


@pytest.mark.parametrize("name", SOURCE + BESIDE)
@pytest.mark.parametrize("option", ["OUT", "--quality", "--stac"])
def test_output_named_like_the_source_or_its_sidecar_is_refused(refused, option, name):
    pytest.importorskip("pystac")
    out = [name] if option == "OUT" else ["out2.tif", option, name]
    refused("sr", "scene.tif", *out, *FAST, "--overwrite")
    code = 2 if name.endswith(".xml") and option != "--stac" else 1  # no name of a GeoTIFF
    refused("sr", "scene.tif", *out, *FAST, "--overwrite", "--dry-run", code=code)


READ = {
    "a mosaic's first": (["near.tif", "far.tif"], "near.tif"),
    "a mosaic's last": (["near.tif", "far.tif"], "far.tif"),
    "a file of a list": (["@list.txt"], "scene.tif"),
    "a file of a list, linked": (["@list.txt"], "hard.tif"),
    "a list": (["@list.txt"], "list.txt"),
    "a list, spelled otherwise": (["@sub/../list.txt"], "list.txt"),
    "behind a VRT": (["single.vrt"], "near.tif"),
    "a VRT": (["single.vrt"], "single.vrt"),
    "behind two VRTs": (["sub/outer.vrt"], "far.tif"),
    "the inner VRT": (["sub/outer.vrt"], "inner.vrt"),
    "beside what is behind a VRT": (["single.vrt"], "near.tif.aux.xml"),
    "in a folder": (["sub/parts"], "sub/parts/r0000_c0000_00000000.tif"),
    "an area": (["scene.tif", "--aoi", "area.geojson"], "area.geojson"),
    "an area, spelled otherwise": (["scene.tif", "--aoi", "sub/../area.geojson"], "area.geojson"),
    "a model": (["scene.tif", "-m", "mine.safetensors"], "mine.safetensors"),
    "a model in a folder": (["scene.tif", "-m", "models"], "models/mine.safetensors"),
}


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("option", ["OUT", "--quality", "--stac"])
def test_output_named_like_any_input_is_refused(refused, folder, lite_model, option, kind):
    pytest.importorskip("pystac")
    from georsr.models.io import save_model

    (folder / "models").mkdir()
    save_model(Path("models/mine.safetensors"), lite_model.spec, lite_model.network)
    shutil.copyfile("models/mine.safetensors", "mine.safetensors")
    given, name = READ[kind]
    sources = [each for each in given if given.index(each) < 2 and not each.startswith("-")]
    options = given[given.index("--aoi") :] if "--aoi" in given else []
    options = given[given.index("-m") :] if "-m" in given else [*options, "-m", "bicubic"]
    sources = sources[:1] if len(given) > 2 else sources
    scale = () if "mine" in str(options) or "models" in options else ("-s", "2")
    for spelled in spellings(folder, name):
        out = [spelled] if option == "OUT" else ["out2.tif", option, spelled]
        refused("sr", *sources, *out, *options, *scale, "--progress", "none", "--overwrite")


def test_output_that_would_remove_the_world_file_of_the_source_is_refused(refused, folder):
    error = refused("sr", "scene.tif", "scene.tiff", *FAST, "--overwrite")
    assert "scene.tfw" in error
    error = refused("sr", "scene.tif", "scene.vrt", *FAST, "--parts", "p", "--overwrite")
    assert "scene.tfw" in error
    Path("other.jp2").symlink_to("scene.tif")
    refused("sr", "sub/../other.jp2", "scene.tiff", *FAST, "--overwrite")


@pytest.mark.parametrize(
    "arguments",
    [
        ["out2.tif", "--quality", "out2.tif"],
        ["out2.tif", "--quality", "sub/../out2.tif"],
        ["out2.tif", "--quality", "OUT2.tif"],
        ["out2.tif", "--stac", "out2.tif"],
        ["out2.tif", "--stac", "out2.tif.aux.xml"],
        ["out2.tif", "--stac", "out2.tfw"],
        ["out2.tif", "--stac", ".out2.tif.part.tif"],
        ["out2.tif", "--stac", ".out2.tif.part.jsonl"],
        ["out2.tif", "--stac", ".out2.tif.part.lock"],
        ["out2.tif", "--quality", "q.tif", "--stac", "q.tif"],
        ["out2.tif", "--quality", "q.tif", "--stac", "q.qml"],
        ["out2.tif", "--quality", ".out2.tif.part.tif"],
        ["out2.vrt", "--parts", "p", "--stac", "p/index.json"],
        ["out2.vrt", "--parts", "p", "--stac", "p/.parts.lock"],
        ["out2.vrt", "--parts", "out2.vrt"],
    ],
)
def test_two_outputs_with_the_same_name_are_refused(refused, arguments):
    pytest.importorskip("pystac")
    refused("sr", "near.tif", *arguments, *FAST, "--overwrite")


@pytest.mark.parametrize("source", [".out.tif.part.tif", "@.out.tif.part.lock"])
def test_source_named_like_a_working_file_is_refused(refused, source):
    shutil.copyfile("list.txt", ".out.tif.part.lock")
    refused("sr", source, "out.tif", *FAST, "--overwrite")


def test_source_named_like_a_part_is_refused(refused):
    part = "sub/parts/r0000_c0000_00000000.tif"
    refused("sr", part, "out.vrt", *FAST, "--parts", "sub/parts", "--overwrite")
    refused("sr", "sub/parts", "out.vrt", *FAST, "--parts", "sub/parts", "--overwrite")


@pytest.mark.parametrize(
    "name",
    [
        "scene.tif",
        "hard.tif",
        "product.tif",
        "layers.tif",
        "scene.tfw",
        "product.tif.aux.xml",
        "scene.qml",
        "product.tfw",
        "layers.ovr",
        "single.vrt",
        "near.tif",
    ],
)
def test_quality_report_page_named_like_an_input_is_refused(refused, name):
    source = "single.vrt" if name in ("single.vrt", "near.tif") else "soft.tif"
    command = ("quality", "report", source, "product.tif", "--layers", "layers.tif")
    refused(*command, "--html", name, "--overwrite")


@pytest.mark.parametrize(
    "name",
    [
        "scene.tif",
        "soft.tif",
        "made.tif",
        "sub/../made.tif",
        "scene.tif.ovr",
        "made.tif.msk",
        "scene.tiff",
        "area.geojson",
    ],
)
def test_quality_layers_named_like_an_input_is_refused(refused, capsys, name):
    assert invoke(["sr", "scene.tif", "made.tif", *FAST]) == 0
    refused("quality", "layers", "scene.tif", "made.tif", name, "--aoi", "area.geojson")
    refused("quality", "layers", "scene.tif", "made.tif", name, "--aoi", "area.geojson")


def test_quality_layers_replacing_the_style_of_the_source_is_refused(refused):
    assert invoke(["sr", "near.tif", "made.tif", *FAST]) == 0
    shutil.move("near.tif", "near.tiff")
    Path("near.qml").write_text("<qgis/>")
    refused("quality", "layers", "near.tiff", "made.tif", "near.tif", "--overwrite")


@pytest.mark.parametrize("name", ["images/a/1.png", "sub/../images/a/1.png", "link.png"])
@pytest.mark.parametrize("option", ["--csv", "--report"])
def test_eval_output_named_like_an_image_is_refused(refused, option, name):
    from PIL import Image

    Path("images/a").mkdir(parents=True)
    for number in range(2):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(f"images/a/{number}.png")
    Path("link.png").symlink_to("images/a/1.png")
    command = ("eval", "--dataset", "images", "-m", "bicubic", "-s", "2", "--overwrite")
    refused(*command, option, name)


@pytest.mark.parametrize("option", ["--csv", "--report"])
def test_eval_output_named_like_the_model_is_refused(refused, lite_model, option):
    from georsr.models.io import save_model

    save_model(Path("mine.safetensors"), lite_model.spec, lite_model.network)
    command = ("eval", "--dataset", "images", "-m", "mine.safetensors", "--overwrite")
    refused(*command, option, "sub/../mine.safetensors")
    refused(*command, "--csv", "a", "--report", "sub/../a")


def test_export_output_named_like_the_weights_is_refused(refused):
    for name in ("theirs.onnx", "theirs.safetensors"):
        Path(name).write_bytes(b"weights")
        Path(f"link.{name.partition('.')[2]}").symlink_to(name)
    shutil.copyfile("scene.tif", "scene.onnx")
    for name in ("theirs.onnx", "sub/../theirs.onnx", "link.onnx"):
        refused("export", "theirs.onnx", name, "--overwrite")
    refused("export", "bicubic-x2", "scene.onnx", "--int8", "scene.onnx", "--overwrite")
    for name in ("theirs.safetensors", "sub/../theirs.safetensors", "link.safetensors"):
        refused("models", "convert", "theirs.safetensors", name, "--overwrite")


def test_super_resolve_output_named_like_the_source_is_refused(folder):
    import georsr

    for option in ({"destination": "scene.tif"}, {"destination": "a.tif", "quality": "hard.tif"}):
        with pytest.raises(UsageError, match="is the source"):
            georsr.super_resolve("scene.tif", model="bicubic", scale=2, overwrite=True, **option)


def test_check_outputs_same_file_in_other_letter_case_is_refused(folder, monkeypatch):
    """Of file systems without letter case: the name is another, the file is not."""
    os.link("scene.tif", "SCENE.tif")
    with pytest.raises(UsageError, match="is the source"):
        check_outputs({"OUT": ["SCENE.tif"]}, {"source": ["scene.tif"]})


class TestWhatIsStillAllowed:
    def test_check_outputs_names_beside_the_source_are_allowed(self, folder):
        check_outputs(
            {"OUT": ["scene_x4.tif"], "--stac": ["scene.json"], "--html": ["scene.html"]},
            {"source": ["scene.tif"], "model": ["segsr-lite-x4"], "area": ["area.geojson"]},
        )
        check_outputs({"OUT": ["sub/scene.tif"], "--csv": ["sub/scene.csv"]}, {"source": SOURCE})
        check_outputs({"OUT": ["a.tif"]}, {"source": ["https://example.org/a.tif", "/vsimem/a"]})

    def test_overwrite_removes_sidecars_of_the_earlier_output(self, folder):
        Path("out2.tfw").write_text("0.5\n0\n0\n-0.5\n1\n2\n")
        Path("out2.tif.aux.xml").write_text("<PAMDataset/>")
        Path("out2.tif").write_bytes(b"old")
        assert invoke(["sr", "near.tif", "out2.tif", *FAST, "--overwrite"]) == 0
        assert not Path("out2.tfw").exists()
        assert not Path("out2.tif.aux.xml").exists()
        with rasterio.open("out2.tif") as output:
            assert output.shape == (32, 40)

    def test_overwrite_keeps_a_folder_named_like_a_sidecar(self, folder):
        Path("out2.tif.msk").mkdir()
        assert invoke(["sr", "near.tif", "out2.tif", *FAST, "--overwrite"]) == 0
        assert Path("out2.tif.msk").is_dir()
