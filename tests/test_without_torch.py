"""Commands and functions run on a CPU without torch; what needs torch says so in one line."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke

from georsr.api import super_resolve_array
from georsr.inference.blur_and_noise import with_sensor
from georsr.models.io import open_model
from georsr.models.registry import bundled_weights, list_models

BLOCKED = """
import sys
from importlib.machinery import PathFinder

MISSING = ("torch", "open_clip", "huggingface_hub", "safetensors.torch", "lightning")


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in MISSING or name.partition(".")[0] in MISSING:
            return None
        return super().find_spec(name, path, target)


sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""
COMMAND = f"{BLOCKED}\nfrom georsr.cli.main import main\nsys.exit(main())"


def run(*arguments):
    """Run a command of georsr in a process in which torch cannot be found."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture
def scene(make_raster, texture):
    return make_raster(texture(3, 40, 50))


@pytest.mark.parametrize("model", ["segsr-lite-x2", "bicubic-x3", "nearest-x2"])
def test_sr_without_torch_writes_the_pixels_of_the_same_backend_with_torch(model, scene, tmp_path):
    out = tmp_path / "out.tif"
    done = run("sr", scene, out, "-m", model, "--tile", 32, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    with rasterio.open(scene) as source, rasterio.open(out) as made:
        expected = super_resolve_array(source.read(), model, tile_size=32, num_threads=1)
        np.testing.assert_array_equal(made.read(), expected)


def test_quality_eval_and_info_run_without_torch(scene, tmp_path):
    out, layers = tmp_path / "out.tif", tmp_path / "layers.tif"
    options = ("-m", "segsr-lite-x2", "--tile", 32, "--tta")
    assert run("sr", scene, out, *options, "--quality", layers).returncode == 0
    again = tmp_path / "again.tif"
    done = run("quality", "layers", scene, out, again)
    assert done.returncode == 0, done.stderr
    assert layers.read_bytes() == again.read_bytes()
    with rasterio.open(layers) as made:
        assert made.descriptions[4:] == tuple(f"guidance {i}" for i in range(1, 5))
    assert run("eval", out, "--lr", scene).returncode == 0
    assert json.loads(run("info", scene, "--json").stdout)["width"] == 50
    assert json.loads(run("info", "segsr-lite-x4", "--json").stdout)["scale"] == 4
    assert "segsr-lite-x2" in run("models", "list").stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--bbox", "400002,4999985,400020,5000000", "-m", "segsr-lite-x2"),
        ("--bands", "all", "--band-mode", "per-band", "--bidx", "1,2,3", "-m", "segsr-lite-x2"),
        ("--parts", "PARTS", "-m", "segsr-lite-x2"),
        ("--cog", "--consistency", "on", "-m", "segsr-lite-x2"),
        ("--fast", "-m", "segsr-lite-x2"),
        ("--dry-run",),
    ],
)
def test_sr_options_without_torch_give_the_bytes_with_torch_installed(
    options, make_raster, texture, tmp_path
):
    scene, made = make_raster(texture(4, 40, 50)), []
    for call in (run, lambda *words: invoke([*map(str, words)])):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        words = [str(folder / "parts") if word == "PARTS" else word for word in options]
        out = folder / ("out.vrt" if "--parts" in options else "out.tif")
        done = call("sr", scene, out, *words)
        assert getattr(done, "returncode", done) == 0, done
        files = sorted(path for path in folder.rglob("*.tif"))
        made.append([path.read_bytes() for path in files])
    assert made[0] == made[1]
    assert bool(made[0]) == ("--dry-run" not in options)


def test_stack_rio_and_xarray_run_without_torch(scene, make_raster, tmp_path):
    with rasterio.open(scene) as source:
        bands = [make_raster(source.read([i]), name=f"{i}.tif") for i in (1, 2, 3)]
    out, same = tmp_path / "out.tif", tmp_path / "same.tif"
    options = ("-m", "segsr-lite-x2", "--bidx", "1,2,3")
    done = run("sr", *bands, out, "--stack", *options)
    assert done.returncode == 0, done.stderr
    code = f"""{BLOCKED}
import rioxarray, georsr.xarray
from rasterio.rio.main import main_group
array = rioxarray.open_rasterio({str(scene)!r}, chunks=(3, 32, 32))
made = array.georsr.super_resolve("segsr-lite-x2").compute()
main_group(["superres", {str(scene)!r}, {str(same)!r}, *{options!r}], standalone_mode=False)
assert (rioxarray.open_rasterio({str(same)!r}) == made).all()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with rasterio.open(out) as stacked, rasterio.open(same) as made:
        np.testing.assert_array_equal(stacked.read(), made.read())


def test_sr_out_dir_without_torch_writes_each_raster_as_a_run_of_its_own(scene, tmp_path):
    options = ("-m", "segsr-lite-x2-sensor", "--tile", 32)
    done = run("sr", scene, "--out-dir", tmp_path / "many", *options)
    assert done.returncode == 0, done.stderr
    assert run("sr", scene, tmp_path / "one.tif", *options).returncode == 0
    (made,) = (tmp_path / "many").iterdir()
    assert made.read_bytes() == (tmp_path / "one.tif").read_bytes()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_preview_without_torch_equals_that_with_torch(scene, tmp_path):
    options = ("--size", 32, "-m", "segsr-lite-x2-sensor", "-m", "bicubic-x2")
    done = run("preview", scene, "--out", tmp_path / "a", *options)
    assert done.returncode == 0, done.stderr
    assert invoke([*map(str, ("preview", scene, "--out", tmp_path / "b", *options))]) == 0
    made, expected = (rasterio.open(tmp_path / f"{name}.png").read() for name in "ab")
    difference = np.abs(made.astype(int) - expected)
    assert difference.max() <= 1
    assert (tmp_path / "a.html").stat().st_size > 1000


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float64"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_of_numpy_and_torch_has_the_same_bytes(dtype, scale):
    rng = np.random.default_rng(scale)
    if dtype == "float64":
        values = rng.normal(0, 1e6, (2, 70, 45))
    else:
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max, (2, 70, 45), dtype, endpoint=True)
    made = [
        super_resolve_array(values, f"bicubic-x{scale}", backend=backend, tile_size=32, force=True)
        for backend in ("onnx", "torch")
    ]
    np.testing.assert_array_equal(*made)


def test_sr_bicubic_keeps_all_digits_without_torch(make_raster, tmp_path):
    values = 3_000_000_000 + np.arange(3 * 40 * 50, dtype="uint32").reshape(3, 40, 50)
    scene, out = make_raster(values), tmp_path / "out.tif"
    done = run("sr", scene, out, "-m", "bicubic-x2")
    assert done.returncode == 0, done.stderr
    with rasterio.open(out) as made:
        expected = super_resolve_array(values, "bicubic-x2", backend="torch")
        np.testing.assert_array_equal(made.read(), expected)
    assert expected[0, 40, 50] - 3_000_000_000 == pytest.approx(20 * 50 + 25, abs=30)


def test_sr_workers_without_torch_write_the_bytes_of_one_process(scene, tmp_path):
    made = []
    for name, options in (("one", ()), ("two", ("--workers", 2))):
        out = tmp_path / f"{name}.tif"
        done = run("sr", scene, out, "-m", "segsr-lite-x2", "--tile", 32, *options)
        assert done.returncode == 0, done.stderr
        made.append(out.read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "options",
    [
        ("sr", "IN", "OUT", "--device", "cuda"),
        ("sr", "IN", "OUT", "--backend", "torch"),
        ("sr", "IN", "OUT", "-m", "hf://owner/repository"),
        ("sr", "IN", "OUT", "-m", "FILE.pth"),
        ("export", "bicubic-x2", "OUT.onnx"),
    ],
)
def test_what_needs_torch_says_so_in_one_line(options, scene, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    words = {"IN": scene, "OUT": tmp_path / "out.tif", "OUT.onnx": tmp_path / "out.onnx"}
    words["FILE.pth"] = tmp_path / "weights.pth"
    done = run(*(words.get(option, option) for option in options))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "not installed: run 'pip install .' in the folder" in done.stderr
    assert not (tmp_path / "out.tif").exists()


def test_doctor_without_torch_works_and_names_what_torch_is_for():
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    assert "torch" in done.stdout


def test_model_call_without_torch_equals_the_run_with_torch(tmp_path):
    image = np.random.default_rng(0).random((3, 20, 30), np.float32)
    np.save(tmp_path / "in.npy", image)
    code = (
        f"{BLOCKED}\nimport numpy as np\nfrom georsr import open_model\n"
        f"image = np.load({str(tmp_path / 'in.npy')!r})\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, open_model('segsr-lite-x2')(image))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), open_model("segsr-lite-x2")(image), atol=1e-5
    )


@pytest.mark.parametrize("name", list(bundled_weights()))
def test_bundled_graph_equals_its_weights_in_torch(name):
    import torch

    model = open_model(name)
    graph = model.array_network()
    assert graph.spec == model.spec
    for shape in ((1, 3, 192, 192), (1, 3, 16, 16), (1, 3, 37, 53), (2, 3, 48, 24)):
        x = np.random.default_rng(0).random(shape, np.float32)
        with torch.inference_mode():
            enlarged = model.network(torch.from_numpy(x)).numpy()
            maps = model.network.guidance_maps(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(graph(x), enlarged, atol=1e-5)
        np.testing.assert_allclose(graph.guidance_maps(x), maps, atol=1e-4)
    assert graph.guidance_count == model.network.guidance_count


@pytest.mark.parametrize("name", [spec.name for spec in list_models() if spec.uses_sensor])
def test_bundled_graph_takes_and_estimates_the_sensor_as_torch_does(name, texture):
    import torch

    model = with_sensor(open_model(name), (0.5, -0.25, 1.0, 0.3))
    graph, x = model.array_network(), np.random.default_rng(0).random((1, 3, 64, 52), np.float32)
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(x)).numpy()
        estimates = model.network.sensor_estimator(torch.from_numpy(x))
    made = graph(x, np.array([model.sensor], np.float32))
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert np.abs(graph(x) - made).max() > 1e-3
    for ours, theirs in zip(graph.sensor_estimator(x), estimates, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    scene = texture(3, 90, 100)
    backends = [super_resolve_array(scene, name, backend=b) for b in ("torch", "onnx")]
    assert np.abs(backends[0].astype(int) - backends[1]).max() <= 1


def test_view_without_torch_opens_its_rasters(scene):
    """It gets as far as its port, which is in use."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("view", scene, scene, "--layers", scene, "--no-browser", "--port", port)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"--port {port}: cannot be used" in done.stderr


def test_sr_by_onnx_runtime_writes_nothing_into_the_home_folder(scene, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    done = run("sr", scene, tmp_path / "out.tif", "-m", "segsr-lite-x2")
    assert done.returncode == 0, done.stderr
    assert not [path for path in home.rglob("*") if path.is_file()]
