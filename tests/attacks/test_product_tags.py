"""Tags of an output are somebody's words: no file, network or option of theirs is used."""

import json

import pytest
import rasterio
from georsr.cli.main import invoke

import georsr
from georsr.config import SRConfig
from georsr.errors import UsageError
from georsr.evaluation.reports.output_report import report_output

MODEL = "segsr-lite-x2"


@pytest.fixture
def output(make_raster, texture, tmp_path):
    """A source, its output, and what changes tags of the output."""
    source, out = make_raster(texture(3, 40, 48)), str(tmp_path / "out.tif")
    georsr.super_resolve(source, out, MODEL, consistency="off")

    def retag(**tags):
        with rasterio.open(out, "r+") as dataset:
            dataset.update_tags(**{f"GEORSR_{name}": text for name, text in tags.items()})

    return source, out, retag


@pytest.fixture
def no_download(monkeypatch):
    """Fail where anything is fetched from the hub."""

    def fetch(*args, **options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("georsr.models.io.download", fetch)


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "model",
    [
        "hf://evil/model",
        "hf://evil/model@main/x.safetensors#sha256=" + "0" * 64,
        "{folder}/model.safetensors",
        "{folder}",
        "../model.pth",
        "model.onnx",
        "segsr-lite",
        "no\nsuch\x1b[31m" + "x" * 5000,
    ],
)
def test_model_tag_other_than_a_bundled_model_is_refused(
    model, output, no_download, monkeypatch, tmp_path
):
    source, out, retag = output
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"opened")
    (tmp_path / "model.onnx").write_bytes(b"opened")
    retag(MODEL=model.format(folder=tmp_path))
    with pytest.raises(UsageError, match=r"does not ship with georsr.*with model") as refused:
        georsr.quality_layers(source, out, tmp_path / "q.tif")
    assert one_line(refused)
    assert "\x1b" not in str(refused.value)
    assert not (tmp_path / "q.tif").exists()
    assert not report_output(source, out).seams


def test_model_sha256_tag_of_other_weights_is_refused(output, tmp_path):
    source, out, retag = output
    retag(MODEL_SHA256="0" * 64)
    with pytest.raises(UsageError, match="name the model that made it with model"):
        georsr.quality_layers(source, out, tmp_path / "q.tif")


OPTIONS = {
    "overwrite": {"overwrite": True},
    "max_pixels": {"max_pixels": 10**18},
    "allow_drivers": {"allow_drivers": ["VRT"]},
    "creation_options": {"creation_options": {"COPY_SRC_OVERVIEWS": "YES"}},
    "device": {"device": "cuda"},
    "jobs": {"jobs": 4096},
    "check_space": {"check_space": False},
    "verify": {"verify": False},
    "resume": {"resume": True},
    "backend": {"backend": "onnx"},
    "aoi": {"aoi": "/etc/passwd"},
    "aoi of an address": {"aoi": "/vsicurl/http://127.0.0.1:9/x.geojson"},
    "aoi of polygons": {"aoi": {"type": "Polygon", "coordinates": []}},
    "bidx of text": {"bidx": "1,2,3"},
    "bidx of floats": {"bidx": [1.0, 2.0, 3.0]},
    "bidx below one": {"bidx": [0, 1, 2]},
    "bidx of truths": {"bidx": [True, True, True]},
    "tile without end": {"tile": 10**9},
    "tile of text": {"tile": "64"},
    "tile below one": {"tile": -5},
    "halo without end": {"halo": 10**9},
    "tta of text": {"tta": "yes"},
    "bbox of infinity": {"bbox": [0, 0, float("inf"), 1]},
    "bbox of three": {"bbox": [0, 0, 1]},
    "crs of a file": {"bbox": [0, 0, 1, 1], "bbox_crs": "/etc/passwd"},
    "crs of an address": {"bbox": [0, 0, 1, 1], "bbox_crs": "http://127.0.0.1:9/crs"},
    "crs of a grid file": {"bbox": [0, 0, 1, 1], "bbox_crs": "+proj=utm +nadgrids=@/etc/passwd"},
    "a type of objects": {"dtype": "object"},
    "an unknown option": {"exec": "id"},
    "a method": {"__class__": "x"},
    "a blend": {"blend": "../x"},
    "a kernel": {"consistency_kernel": "psf:nan"},
}


@pytest.mark.parametrize("what", OPTIONS)
def test_options_tag_with_other_options_is_refused(what, output, tmp_path, capsys):
    source, out, retag = output
    retag(OPTIONS=json.dumps(OPTIONS[what]))
    with pytest.raises(UsageError, match=r"GEORSR_OPTIONS: \S+") as refused:
        georsr.quality_layers(source, out, tmp_path / "q.tif")
    assert one_line(refused)
    assert invoke(["quality", "layers", source, out, str(tmp_path / "q.tif")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "q.tif").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 50_000, '{"tile": ' + "9" * 5000 + "}", "x" * 200_000]
)
def test_from_tag_malformed_json_is_refused(text):
    with pytest.raises(UsageError) as refused:
        SRConfig.from_tag(text)
    assert one_line(refused)


def test_from_tag_takes_compile_from_the_user():
    text = SRConfig(compile=True, tile_size=64, tta=True).tags_json()
    assert SRConfig.from_tag(text) == SRConfig(tile_size=64, tta=True)
    assert SRConfig.from_tag(text, compile=True).compile


def test_from_tag_takes_polygons_from_the_user():
    text = SRConfig(aoi="fields/a.geojson", aoi_mask=False).tags_json()
    with pytest.raises(UsageError, match=r"polygons of 'a.geojson'; give them with aoi"):
        SRConfig.from_tag(text)
    assert SRConfig.from_tag(text, aoi="b.geojson") == SRConfig(aoi="b.geojson", aoi_mask=False)


def test_from_tag_of_tags_json_round_trips():
    config = SRConfig(
        indexes=(4, 3, 2),
        output_bands="all",
        bounds=(1, 2.5, 3, 4),
        bounds_crs="EPSG:4326",
        stretch="percentile:1,99",
        src_nodata=float("inf"),
        dst_nodata="none",
        dtype="uint16",
        tile_size=64,
        halo=8,
        overlap=0,
        blend="crop",
        tta=True,
        force=True,
        consistency="on",
        consistency_kernel="psf:0.2+0.5",
    )
    assert SRConfig.from_tag(config.tags_json()) == config


@pytest.mark.parametrize("scale", ["²", "9" * 5000, "0", "-2", "1e3", "2\n"])
def test_scale_tag_that_is_not_the_factor_is_refused(scale, output, capsys):
    _, out, retag = output
    retag(SCALE=scale)
    assert invoke(["eval", out]) == 2
    assert "its scale is not known" in capsys.readouterr().err


@pytest.mark.parametrize("kernel", ["psf:1e999", "psf:nan", "x\ny", "<script>", "gaussian"])
def test_kernel_tag_malformed_is_one_line(kernel, output):
    source, out, retag = output
    retag(CONSISTENCY=kernel)
    with pytest.raises(UsageError, match="expected bicubic, mean, or psf") as refused:
        report_output(source, out, seams=False)
    assert one_line(refused)


def test_quality_layers_of_an_unchanged_output_are_written(output, tmp_path):
    source, out, _ = output
    assert georsr.quality_layers(source, out, tmp_path / "q.tif").layers[0] == "uncertainty"
