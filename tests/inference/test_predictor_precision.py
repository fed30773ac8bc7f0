"""Precisions of a CPU, and `fast`, which chooses one."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke

from georsr import device
from georsr.api import super_resolve, super_resolve_array
from georsr.config import SRConfig
from georsr.errors import GeorsrError, ModelError, UsageError
from georsr.evaluation.dataset import prepare
from georsr.inference import predictor
from georsr.inference.predictor import place_model
from georsr.models import registry
from georsr.models.io import open_model
from georsr.models.onnx import runtime
from georsr.models.registry import bundled_weights

IN_8_BITS = [name for name in bundled_weights() if open_model(name).int8_graph]


@pytest.fixture
def cpu(monkeypatch):
    """cpu(*precisions): let the CPU have instructions for these."""

    def has(*precisions):
        for module in (device, predictor):
            monkeypatch.setattr(module, "cpu_supports", precisions.__contains__)
        monkeypatch.setattr(predictor, "may_have_accelerator", lambda: False)

    return has


@pytest.mark.parametrize(
    ("name", "options", "instructions", "expected"),
    [
        ("segsr-lite-x4-sensor", {}, ("int8", "bf16"), ("int8", "onnx")),
        ("segsr-lite-x4-sensor", {"device": "cpu"}, ("int8",), ("int8", "onnx")),
        ("segsr-lite-x4-sensor", {}, ("bf16",), ("bf16", "torch")),
        ("segsr-lite-x4-sensor", {}, (), ("fp32", "onnx")),
        ("segsr-lite-x4-sensor", {"backend": "torch"}, ("int8",), ("fp32", "torch")),
        ("segsr-lite-x4-sensor", {"backend": "torch"}, ("int8", "bf16"), ("bf16", "torch")),
        ("segsr-lite-x4-sensor", {"backend": "onnx"}, ("bf16",), ("fp32", "onnx")),
        ("bicubic-x2", {}, ("int8", "bf16"), ("fp32", "onnx")),
        (None, {}, ("int8", "bf16"), ("bf16", "torch")),
        (None, {}, ("int8",), ("fp32", "torch")),
    ],
)
def test_place_model_fast_chooses_by_model_and_cpu(
    name, options, instructions, expected, cpu, lite_file
):
    cpu(*instructions)
    placement = place_model(open_model(name or lite_file), SRConfig(fast=True, **options))
    assert (placement.precision, placement.backend) == expected
    assert placement.device == "cpu"


def test_place_model_fast_on_a_gpu_keeps_its_half_precision(cpu, monkeypatch):
    cpu("int8", "bf16")
    monkeypatch.setattr(predictor, "may_have_accelerator", lambda: True)
    config = predictor.with_precision(open_model("segsr-lite-x4"), SRConfig(fast=True))
    assert config.precision == "auto"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("segsr-lite-x2", {"precision": "int8", "backend": "torch"}, "on cpu by torch"),
        ("segsr-lite-x2", {"precision": "int8", "device": "cuda"}, "on cuda by torch"),
        (None, {"precision": "int8"}, "does not ship in 8 bits"),
    ],
)
def test_place_model_in_8_bits_where_there_are_none_says_why(
    name, options, message, cpu, lite_file
):
    cpu("int8")
    with pytest.raises(UsageError, match=message):
        place_model(open_model(name or lite_file), SRConfig(**options))


def test_place_model_in_8_bits_on_a_cpu_without_instructions_is_refused(cpu):
    cpu()
    with pytest.raises(UsageError, match="lacks the instructions"):
        place_model(open_model("segsr-lite-x2"), SRConfig(precision="int8"))


def test_config_fast_with_a_precision_is_refused():
    with pytest.raises(UsageError, match="fast chooses the precision"):
        SRConfig(fast=True, precision="bf16")


def test_sr_fast_prints_and_records_the_precision(cpu, make_raster, texture, tmp_path, capsys):
    cpu("int8")
    scene, out, same = make_raster(texture(3, 40, 50)), tmp_path / "out.tif", tmp_path / "same.tif"
    assert invoke(["sr", str(scene), str(out), "-m", "segsr-lite-x2", "--fast"]) == 0
    assert "segsr-lite-x2 in int8, " in capsys.readouterr().err
    with rasterio.open(out) as made:
        assert made.tags()["GEORSR_PRECISION"] == "int8"
    report = super_resolve(scene, same, "segsr-lite-x2", precision="int8", num_threads=1)
    assert report.precision == "int8"
    assert same.read_bytes() == out.read_bytes()


def test_sr_fast_does_not_continue_a_run_in_float32(cpu, make_raster, texture, tmp_path, capsys):
    cpu("int8")
    scene, out = make_raster(texture(3, 90, 90)), tmp_path / "out.tif"
    options = ["-m", "segsr-lite-x2", "--tile", "32", "--blocksize", "64"]
    calls = iter(range(100))
    with pytest.raises(GeorsrError):
        super_resolve(
            scene,
            out,
            "segsr-lite-x2",
            tile_size=32,
            blocksize=64,
            should_stop=lambda: next(calls) > 12,
        )
    capsys.readouterr()
    assert invoke(["sr", str(scene), str(out), *options, "--resume", "--fast"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "arithmetic" in error
    assert not out.exists()


@pytest.mark.parametrize("name", IN_8_BITS)
def test_model_in_8_bits_is_small_and_close_to_float32(name, cpu):
    cpu("int8")
    model = open_model(name)
    assert model.int8_graph.stat().st_size < 1_000_000
    rows, columns = np.mgrid[:160, :150] / 40
    scene = np.stack([np.sin(rows * k) * np.cos(columns * rows / k) for k in (1, 2, 3)])
    scene = np.rint(127 + 120 * scene).astype("uint8")
    exact, rough = (
        super_resolve_array(scene, name, precision=precision, backend="onnx").astype(float)
        for precision in ("fp32", "int8")
    )
    assert 0 < np.square(exact - rough).mean() < 255**2 / 10**4.5


def test_eval_fast_of_models_in_other_precisions_is_refused(cpu, lite_file, tmp_path):
    from PIL import Image

    cpu("int8")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a.png")
    with pytest.raises(UsageError, match="measure them one by one"):
        prepare(
            tmp_path / "images", models=["segsr-lite-x2", lite_file], config=SRConfig(fast=True)
        )


def test_open_model_with_a_damaged_file_that_ships_says_so(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    shutil.copytree(registry.weights_folder(), folder)
    monkeypatch.setattr(registry, "weights_folder", lambda: folder)
    graph = folder / "segsr-lite-x2.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match="is not the file that ships with georsr"):
        open_model("segsr-lite-x2").array_network()
    weights = folder / "segsr-lite-x2.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match="is not the file that ships with georsr"):
        open_model("segsr-lite-x2")


def test_checksums_list_every_file_that_ships():
    folder = registry.weights_folder()
    listed = {line.split()[1] for line in (folder / registry.SUMS).read_text().splitlines()}
    assert listed == {path.name for path in folder.iterdir()} - {registry.SUMS}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"__version__": "1.16.3"}, "ONNX Runtime 1.16.3 is too old, expected 1.18 or newer"),
        ({}, r"cannot be loaded \(.*no attribute '__version__'"),  # what an uninstallation left
        (ImportError("illegal instruction"), r"cannot be loaded \(illegal instruction\)"),
        (ModuleNotFoundError("No module"), "ONNX Runtime is not installed: pip install"),
    ],
)
def test_onnxruntime_that_does_not_fit_is_an_error_of_one_line(damage, message, monkeypatch):
    if isinstance(damage, dict):
        monkeypatch.setitem(__import__("sys").modules, "onnxruntime", SimpleNamespace(**damage))
    else:

        class Broken:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name == "onnxruntime":
                    raise damage

        monkeypatch.delitem(__import__("sys").modules, "onnxruntime", raising=False)
        monkeypatch.setattr("sys.meta_path", [Broken, *__import__("sys").meta_path])
    with pytest.raises(UsageError, match=message):
        runtime.onnxruntime()


def test_graph_without_memory_for_its_arena_is_an_error_of_one_line(monkeypatch):
    class Runtime:
        SessionOptions = runtime.onnxruntime().SessionOptions

        @staticmethod
        def InferenceSession(*_, **__):  # noqa: N802
            raise RuntimeError(
                "[ONNXRuntimeError] : Failed to allocate memory for requested buffer"
            )

    monkeypatch.setattr(runtime, "onnxruntime", lambda: Runtime)
    with pytest.raises(GeorsrError, match="memory is too small to load the network") as caught:
        runtime.Graph(b"", "x.onnx").session()
    assert "\n" not in str(caught.value)
