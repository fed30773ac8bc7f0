import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from georsr.cli.main import invoke

from georsr.api import super_resolve_array
from georsr.config import SRConfig
from georsr.device import select_device
from georsr.errors import InputError, ModelError, UsageError
from georsr.inference.pipeline import calibration_tiles
from georsr.inference.predictor import TilePredictor, place_model
from georsr.io.reader import open_raster
from georsr.models.io import Model, build, open_model
from georsr.models.onnx import export
from georsr.models.onnx.export import difference, export_model, to_onnx
from georsr.models.onnx.quantization import in_int8
from georsr.models.onnx.runtime import Graph, OnnxNetwork, onnxruntime
from georsr.models.spec import ModelSpec

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def bicubic_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "bicubic.onnx"
    export_model(open_model("bicubic-x2"), path, tile=32)
    return path


@pytest.fixture(scope="module")
def foreign_file(tmp_path_factory):
    """An ONNX file that georsr did not make."""
    import onnx

    path = tmp_path_factory.mktemp("onnx") / "foreign.onnx"
    proto = onnx.load_model_from_string(
        to_onnx(torch.nn.Identity(), open_model("nearest-x1").spec, (1, 3, 8, 8))
    )
    del proto.metadata_props[:]
    onnx.save_model(proto, path)
    return path


@pytest.fixture(scope="module")
def lite():
    """A small segsr-lite at x2 with random weights, and its ONNX file, which takes any size."""
    parameters = {"embed_dim": 16, "num_groups": 1, "depth": 1, "token_dim": 8, "film_dim": 4}
    torch.manual_seed(0)
    spec = ModelSpec("lite-x2", "segsr-lite", 2, parameters=parameters, tile=32, halo=2, overlap=4)
    network = build(spec)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.05)
    data = to_onnx(network, spec, (1, 3, 32, 32), dynamic=True)
    return Model(spec, network, "0" * 64, "untrained"), data


@pytest.mark.slow
def test_export_model_dynamic_agrees_at_any_size(lite, tmp_path, monkeypatch):
    lite_model, data = lite
    monkeypatch.setattr(export, "to_onnx", lambda *_, **__: data)
    path = tmp_path / "lite.onnx"
    assert export_model(lite_model, path, dynamic=True).difference <= 1e-4
    exported = open_model(str(path))
    assert exported.spec == lite_model.spec
    assert exported.network.tile is None
    for shape in ((1, 3, 40, 56), (3, 3, 24, 24)):
        assert difference(lite_model.network, exported.network, shape) <= 1e-4


def test_backend_onnx_converts_the_network_at_the_first_tile():
    model = open_model("bicubic-x2")
    placement = place_model(model, SRConfig(backend="onnx"))
    tiles = [np.random.default_rng(0).random((3, 32, 32), np.float32)]
    ours = TilePredictor(model, placement, 1)(tiles, ["tile"])
    theirs = TilePredictor(model, select_device("cpu"), 1)(tiles, ["tile"])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_place_model_fixed_tile_file_rejects_another_tile(bicubic_file):
    model = open_model(str(bicubic_file))
    assert (model.network.tile, model.spec.tile, model.spec.scale) == (32, 32, 2)
    assert place_model(model, SRConfig()).backend == "onnx"
    with pytest.raises(UsageError, match=r"exported for tiles of 32, not 64.*dynamic=True"):
        place_model(model, SRConfig(tile_size=64))
    with pytest.raises(UsageError, match="is an ONNX file"):
        place_model(model, SRConfig(backend="torch"))


@pytest.mark.parametrize("shape", [(1, 1), (20, 31), (5, 32)])
def test_fixed_tile_file_scene_smaller_than_the_tile_is_padded(bicubic_file, texture, shape):
    values = texture(3, *shape)
    ours = super_resolve_array(values, open_model(str(bicubic_file))).astype(int)
    theirs = super_resolve_array(values, "bicubic-x2").astype(int)
    assert ours.shape == theirs.shape
    inside = (slice(None), slice(0, -8), slice(0, -8))  # a kernel sees how the edge is continued
    assert np.abs(ours[inside] - theirs[inside]).max(initial=0) <= 1


def test_export_model_stores_the_settings_of_deepness(bicubic_file):
    tags = onnxruntime().InferenceSession(bicubic_file).get_modelmeta().custom_metadata_map
    facts = {key: json.loads(value) for key, value in tags.items()}
    assert facts["model_type"] == "Superresolution"
    assert facts["tile_size"] == facts["tiles_size"] == 32
    assert facts["tiles_overlap"] == 0
    assert facts["resolution"] == 100
    assert facts["standardization_mean"] == [0, 0, 0]
    assert facts["standardization_std"] == [1, 1, 1]


def test_export_model_names_no_folder_of_this_machine(bicubic_file):
    package = Path(export.__file__).parents[2]
    assert str(package).encode() not in bicubic_file.read_bytes()


def test_deepness_tags_map_bytes_to_the_value_range():
    """Bytes / 255, less the mean, through the deviation, is the network's value range."""
    from georsr.models.onnx.export import deepness_tags

    spec = replace(open_model("bicubic-x2").spec, value_range=(-1.0, 3.0))
    tags = deepness_tags(spec, 0.5)
    mean, deviation = (json.loads(tags[f"standardization_{part}"])[0] for part in ("mean", "std"))
    assert (np.array([0.0, 1.0]) - mean) / deviation == pytest.approx([-1.0, 3.0])
    assert json.loads(tags["resolution"]) == 50


@pytest.mark.parametrize("options", [["--backend", "onnx"], []])
def test_sr_with_onnx_agrees_with_torch(options, bicubic_file, make_raster, texture, tmp_path):
    source = make_raster(texture(3, 70, 90))
    model = ["-m", "bicubic-x2", "--tile", "32"] if options else ["-m", str(bicubic_file)]
    outs = []
    for name, way in (("onnx", [*model, *options]), ("torch", ["-m", "bicubic-x2"])):
        outs.append(tmp_path / f"{name}.tif")
        assert invoke(["sr", source, str(outs[-1]), "-q", *way]) == 0
    ours, theirs = (rasterio.open(out).read().astype(int) for out in outs)
    assert np.abs(ours - theirs).max() <= 1


def test_plan_job_another_backend_has_another_key(make_raster, texture, tmp_path):
    from georsr.io.reader import open_raster
    from georsr.jobs.job import plan_job

    model = open_model("bicubic-x2")
    with open_raster(make_raster(texture(3, 16, 16))) as reader:
        keys = [
            plan_job(reader, str(tmp_path / "out.tif"), model, SRConfig(backend=backend)).key
            for backend in ("torch", "auto", "onnx")
        ]
    assert "torch" in keys[0]["software"]
    assert keys[1]["software"] == keys[2]["software"]
    assert "ONNX Runtime" in keys[2]["software"]


def test_onnx_network_does_not_depend_on_threads(bicubic_file):
    tiles = [np.random.default_rng(0).random((3, 32, 32), np.float32)]
    network = open_model(str(bicubic_file))
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(TilePredictor(network, place_model(network, SRConfig()), 1)(tiles, ["tile"]))
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cuda"},
        {"precision": "bf16"},
        {"compile": True},
    ],
)
def test_place_model_onnx_rejects_gpu_precision_and_compile(options):
    with pytest.raises(UsageError, match="backend onnx"):
        place_model(open_model("bicubic-x2"), SRConfig(backend="onnx", **options))


def test_open_model_foreign_onnx_file_is_an_error(foreign_file, tmp_path):
    with pytest.raises(ModelError, match=r"foreign.onnx: has no georsr model spec.*georsr export"):
        open_model(str(foreign_file))
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(foreign_file.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"torn.onnx: not a readable ONNX file"):
        open_model(str(torn))


def test_export_model_differing_outputs_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "difference", lambda *_: float("nan"))
    with pytest.raises(ModelError, match="differs from torch by nan"):
        export_model(open_model("nearest-x2"), tmp_path / "out.onnx", tile=16)
    assert list(tmp_path.iterdir()) == []


def test_export_model_unconvertible_network_is_an_error(tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    model = Model(open_model("nearest-x1").spec, Branching(), "0" * 64, "branching")
    with pytest.raises(ModelError, match="cannot be converted to ONNX"):
        export_model(model, tmp_path / "out.onnx", tile=16)


def test_missing_onnx_packages_name_the_extra(bicubic_file, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install onnx"):
        open_model(str(bicubic_file))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    out = tmp_path / "out.onnx"
    assert invoke(["export", "nearest-x2", str(out)]) == 2
    assert "pip install onnx" in capsys.readouterr().err
    assert not out.exists()


def test_export_command_writes_a_model_and_checks_paths(tmp_path, capsys):
    out = tmp_path / "nearest.onnx"
    assert invoke(["export", "nearest-x2", str(out), "--tile", "16"]) == 0
    assert "x2, differs from torch by 0 at most" in capsys.readouterr().err
    assert isinstance(open_model(str(out)).network, OnnxNetwork)
    written = out.read_bytes()
    assert invoke(["export", "nearest-x2", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert invoke(["export", str(out), str(out), "--overwrite"]) == 2
    assert "is the model" in capsys.readouterr().err
    assert invoke(["export", str(out), str(tmp_path / "again.onnx")]) == 2
    assert "is an ONNX file already" in capsys.readouterr().err
    assert out.read_bytes() == written
    assert invoke(["export", "nearest-x2", str(tmp_path / "out.pt")]) == 2
    assert invoke(["export", "nearest-x2", str(tmp_path / "no" / "out.onnx")]) == 2


def test_export_model_int8_is_calibrated_on_a_raster(
    lite, make_raster, texture, tmp_path, monkeypatch
):
    model, data = lite
    monkeypatch.setattr(export, "to_onnx", lambda *_, **__: data)
    with open_raster(make_raster(texture(3, 90, 70))) as reader:
        tiles = calibration_tiles(reader, model.spec)
    assert {tile.shape for tile in tiles} == {(3, 32, 32)}
    path = tmp_path / "int8.onnx"
    made = export_model(model, path, dynamic=True, examples=tiles)
    assert 40 < made.fidelity < float("inf")
    rough = open_model(str(path))
    assert rough.spec == model.spec
    assert difference(model.network, rough.network, (1, 3, 40, 24)) < 0.05
    monkeypatch.setattr(export, "MIN_PSNR", 1000.0)
    with pytest.raises(ModelError, match=r"the 8-bit output has a PSNR of .* dB"):
        export_model(model, tmp_path / "worse.onnx", dynamic=True, examples=tiles)
    assert [p.name for p in tmp_path.glob("*.onnx")] == ["int8.onnx"]


def test_in_int8_without_feature_convolutions_is_an_error():
    model = open_model("bicubic-x2")
    with pytest.raises(ModelError, match="no convolutions that 8 bits would make faster"):
        in_int8(model.network, model.spec.name, [])


@pytest.mark.parametrize("activation", [torch.nn.ReLU(), torch.nn.LeakyReLU(0.2)])
def test_export_model_int8_of_another_network_is_like_float32(activation, tmp_path):
    """Convolutions of networks that are not segsr-lite are quantised one by one."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d
    network = torch.nn.Sequential(
        conv(3, 16, 3, padding=1), activation, conv(16, 16, 3, padding=1), conv(16, 3, 1)
    )
    spec = replace(open_model("nearest-x1").spec, name="plain-x1", bands=3, tile=32)
    model = Model(spec, network, "0" * 64, "untrained")
    tiles = [np.random.default_rng(0).random((3, 32, 32), np.float32)]
    made = export_model(model, tmp_path / "int8.onnx", examples=tiles)
    assert 40 < made.fidelity < 80
    import onnx

    operators = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert operators.count("QLinearConv") == 1


@pytest.mark.parametrize(
    ("scale", "options"),
    [
        pytest.param(4, {}, id="guided"),
        pytest.param(4, {"sensor_dim": 4, "film_dim": 4}, id="with films"),
        pytest.param(2, {"token_dim": 0, "depth": 3}, id="without guidance"),
    ],
)
def test_export_model_int8_of_every_segsr_lite_is_like_float32(scale, options, tmp_path):
    torch.manual_seed(0)
    parameters = {"embed_dim": 48, "num_groups": 2, "depth": 2, "token_dim": 8} | options
    spec = ModelSpec("lite", "segsr-lite", scale, parameters=parameters, tile=32, halo=2, overlap=4)
    network = build(spec)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.02)
    model = Model(spec, network, "0" * 64, "untrained")
    tiles = [np.random.default_rng(0).random((3, 32, 32), np.float32)]
    path = tmp_path / "int8.onnx"
    assert 40 < export_model(model, path, dynamic=True, examples=tiles).fidelity < 120
    exported = open_model(str(path)).network
    pair = np.random.default_rng(1).random((2, 3, 40, 24), np.float32)
    # one tile at a time: a tile does not see its neighbours
    np.testing.assert_array_equal(exported(pair)[1:], exported(pair[1:]))


def test_calibration_tiles_without_valid_pixels_is_an_error(make_raster):
    source = make_raster(np.zeros((3, 40, 40), "uint8"), nodata=0)
    with open_raster(source) as reader, pytest.raises(InputError, match="no valid pixel"):
        calibration_tiles(reader, open_model("bicubic-x2").spec)


def hand_made(path, *, weights=None, loop=False, width=1):
    """Write an ONNX file of a model `nearest-x1` that nobody exported.

    Parameters
    ----------
    weights
        Path of another file that holds a weight.
    loop
        Whether its graph never ends.
    width
        Width of the images to which it can be applied; 1 for any.
    """
    from onnx import TensorProto, helper

    def image(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"])

    zero = helper.make_tensor("zero", TensorProto.FLOAT, [width], [0.0] * width)
    if weights is not None:
        zero.ClearField("float_data")
        zero.data_location = TensorProto.EXTERNAL
        for key, value in (("location", weights), ("offset", "0"), ("length", "4")):
            entry = zero.external_data.add()
            entry.key, entry.value = key, value
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    nodes = [helper.make_node("Add", ["image", "zero"], ["sum"])]
    if loop:
        on, off = (helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("on", "off"))
        turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["on"], ["off"]),
                helper.make_node("Identity", ["before"], ["after"]),
            ],
            "body", [turn, on, image("before")], [off, image("after")],
        )  # fmt: skip
        nodes.append(helper.make_node("Loop", ["", "true", "sum"], ["enlarged"], body=body))
    else:
        nodes.append(helper.make_node("Identity", ["sum"], ["enlarged"]))
    graph = helper.make_graph(nodes, "graph", [image("image")], [image("enlarged")], [zero, true])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = replace(open_model("nearest-x1").spec, bands=3, tile=64)
    helper.set_model_props(model, {"georsr": spec.to_json()})
    path.write_bytes(model.SerializeToString())


def test_open_onnx_with_weights_in_another_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("w.bin", "sub/w.bin", "/" + "w.bin"):
        if not name.startswith("/"):
            (tmp_path / name).write_bytes(b"\1\2\3\4")
        hand_made(tmp_path / "net.onnx", weights=name)
        with pytest.raises(ModelError, match="not a readable ONNX file"):
            open_model(str(tmp_path / "net.onnx"))
    hand_made(tmp_path / "net.onnx")
    assert open_model(str(tmp_path / "net.onnx")).spec.bands == 3


def test_onnx_error_while_it_runs_is_one_line(make_raster, texture, tmp_path, capfd):
    hand_made(tmp_path / "net.onnx", width=7)
    command = ["sr", make_raster(texture(3, 40, 40)), str(tmp_path / "out.tif")]
    assert invoke([*command, "-m", str(tmp_path / "net.onnx"), "-q"]) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1, said
    assert "tile 0" in said


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_onnx_loop_without_end_is_left_by_ctrl_c(make_raster, texture, tmp_path):
    hand_made(tmp_path / "net.onnx", loop=True)
    source, out = make_raster(texture(3, 40, 40)), tmp_path / "out.tif"
    code = (
        "import georsr.models.onnx.runtime as runtime, sys\n"
        "from georsr.cli.main import main\n"
        "run = runtime.OnnxNetwork.__call__\n"
        "runtime.OnnxNetwork.__call__ = lambda *x: (print('begun', flush=True), run(*x))[1]\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "sr", source, str(out), "-m", str(tmp_path / "net.onnx")]
    with subprocess.Popen([*command, "-q", "-j", "1"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"begun\n"
            for _ in range(2):
                process.send_signal(signal.SIGINT)
                time.sleep(0.5)
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert not out.exists()


def test_graph_run_interrupted_waits_until_the_session_has_stopped(monkeypatch):
    """Python aborts if it ends while a thread is inside a session."""
    left = []

    class Session:
        def run(self, outputs, inputs, options):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            while not options.terminate:
                time.sleep(0.01)
            time.sleep(0.1)  # the layer in hand
            left.append("session")
            return []

    graph = Graph(b"", "graph")
    monkeypatch.setattr(graph, "session", Session)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            graph.run(None, {})
    finally:
        signal.signal(signal.SIGINT, before)
    assert left == ["session"]
