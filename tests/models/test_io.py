"""Open and save models."""

import json
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from georsr.errors import ModelError, UsageError
from georsr.models.io import open_model, save_model
from georsr.models.registry import COMPUTED, bundled_weights, list_models, read_spec, resolve_name
from georsr.models.spec import METADATA_KEY, ModelSpec


@pytest.fixture
def saved(lite_model, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(path, lite_model.spec, lite_model.network, torch.float32)
    return path


def test_open_model_saved_file_gives_the_same_outputs(saved, lite_model):
    again = open_model(str(saved))
    assert again.spec == lite_model.spec
    x = torch.rand(1, 3, 12, 12)
    assert torch.equal(again.network(x), lite_model.network(x))
    assert not again.network.training
    assert len(again.sha256) == 64
    assert open_model(str(saved.parent)).spec == again.spec


def test_save_model_half_precision_changes_outputs_little(lite_model, tmp_path):
    save_model(tmp_path / "half.safetensors", lite_model.spec, lite_model.network)
    x = torch.rand(1, 3, 12, 12)
    again = open_model(str(tmp_path / "half.safetensors"))
    assert next(again.network.parameters()).dtype == torch.float32
    torch.testing.assert_close(again.network(x), lite_model.network(x), atol=5e-3, rtol=0)


def test_save_model_disk_full_keeps_the_old_file(lite_model, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save_model(path, lite_model.spec, lite_model.network)
    before = path.read_bytes()

    def full(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_model(path, lite_model.spec, lite_model.network)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def tamper(saved, change):
    """Save the same weights after ``change(tensors)``."""
    model = open_model(str(saved))
    tensors = dict(model.network.state_dict())
    change(tensors)
    metadata = {METADATA_KEY: model.spec.to_json()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, saved, metadata=metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("upsampler.conv.bias"),
            "1 tensors do not fit: missing upsampler.conv.bias",
        ),
        (lambda t: t.update(extra=torch.zeros(2)), "unexpected extra"),
        (
            lambda t: t.update({"upsampler.conv.bias": torch.zeros(5)}),
            r"shape \(5,\), expected \(12,\)",
        ),
        (lambda t: [t.pop(k) for k in list(t)[:9]], "9 tensors do not fit"),
    ],
)
def test_open_model_misfitting_tensors_are_named(saved, change, message):
    tamper(saved, change)
    with pytest.raises(ModelError, match=message):
        open_model(str(saved))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"\xff" * 8 + b"{}",
        (10**12).to_bytes(8, "little") + b"{}",
        pickle.dumps({"a": 1}),
    ],
)
def test_open_model_not_safetensors_is_an_error(content, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        open_model(str(path))


def test_open_model_truncated_file_is_an_error(saved):
    data = saved.read_bytes()
    saved.write_bytes(data[:-100])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        open_model(str(saved))


def test_open_model_pickle_is_never_executed(tmp_path):
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    for name in ("m.safetensors", "m.pth", "m.pt"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Payload()))
        with pytest.raises(ModelError):
            open_model(str(path))
        assert not marker.exists()


def test_open_model_safetensors_without_spec_is_an_error(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="no georsr model spec"):
        open_model(str(path))


def test_resolve_name_completes_and_checks_names(tmp_path):
    assert resolve_name(None, None) == "segsr-lite-x4-sensor"
    assert resolve_name(None, 2) == "segsr-lite-x2-sensor"
    assert resolve_name("bicubic", 3) == "bicubic-x3"
    assert resolve_name("segsr-lite", 2) == "segsr-lite-x2-sensor"
    assert resolve_name("segsr-lite-x2", None) == "segsr-lite-x2"
    with pytest.raises(UsageError, match="no bundled network enlarges x3, they enlarge x2 and x4"):
        resolve_name(None, 3)
    assert resolve_name("segsr-lite-x2-sensor", None) == "segsr-lite-x2-sensor"
    assert resolve_name("some/file.safetensors", 2) == "some/file.safetensors"
    with pytest.raises(UsageError, match="enlarges x2, but x4"):
        resolve_name("bicubic-x2", 4)
    with pytest.raises(UsageError, match=r"unknown model .*; built-in models: .*bicubic-x2"):
        open_model("segsr-huge")
    with pytest.raises(UsageError, match="does not exist"):
        open_model("../nowhere/m.safetensors")
    with pytest.raises(UsageError, match="holds 0 safetensors files"):
        open_model(str(tmp_path))


def test_open_model_of_another_scale_is_an_error(saved):
    with pytest.raises(UsageError, match="enlarges x2, but x4"):
        open_model(str(saved), 4)


def test_model_spec_json_round_trips_and_rejects_invalid_text(lite_model):
    for spec in [*COMPUTED.values(), lite_model.spec]:
        assert ModelSpec.from_json(spec.to_json()) == spec
    raw = json.loads(lite_model.spec.to_json())
    for text, message in (
        (json.dumps({**raw, "colour": 1}), "unknown fields colour"),
        (json.dumps({k: v for k, v in raw.items() if k != "scale"}), "incomplete"),
        ("[1]", "expected an object"),
        ("{", "not valid JSON"),
        (json.dumps({**raw, "scale": 99}), "expected 1 to 8"),
        (json.dumps({**raw, "tile": 30, "multiple_of": 16}), "not a multiple of 16"),
        (json.dumps({**raw, "halo": -1}), "expected 0 to 16384"),
    ):
        with pytest.raises(ModelError, match=message):
            ModelSpec.from_json(text)


def test_open_model_unknown_architecture_or_parameter_is_an_error(lite_model, tmp_path):
    path = tmp_path / "m.safetensors"
    for spec, message in (
        (replace(lite_model.spec, architecture="mamba"), "unknown architecture 'mamba'"),
        (replace(lite_model.spec, parameters={"steps": 3}), "bad parameters"),
    ):
        save_model(path, spec, lite_model.network)
        with pytest.raises(ModelError, match=message):
            open_model(str(path))


@pytest.mark.parametrize("name", [s.name for s in list_models()])
def test_every_listed_model_opens_and_runs(name):
    model = open_model(name)
    s = model.spec.scale
    bands = model.spec.bands or 1
    x = torch.linspace(0.3, 0.7, 8).expand(1, bands, 12, 8)
    with torch.no_grad():
        y = model.network(x)
    assert y.shape == (1, bands, 12 * s, 8 * s)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(y, s), x, atol=0.1, rtol=0)


def test_bundled_weights_are_small_and_documented():
    for name, path in bundled_weights().items():
        spec = read_spec(path)
        assert spec.name == name
        assert path.stat().st_size < 3_000_000
        assert spec.trained_on
        assert spec.quality
        assert spec.licence == "Apache-2.0"


def test_open_model_in_threads_disturbs_no_other_thread_that_builds_networks(lite_file):
    """Limits on the size of a network hold in the thread that builds it alone."""
    stop, interval = threading.Event(), sys.getswitchinterval()

    def build_others():
        while not stop.is_set():
            nn.Sequential(*(nn.Linear(2, 2) for _ in range(20)))

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            others = pool.submit(build_others)
            opened = [pool.submit(lambda: open_model(str(lite_file)).network) for _ in range(120)]
            try:
                assert all(isinstance(each.result(), nn.Module) for each in opened)
            finally:
                stop.set()
            assert others.result() is None
    finally:
        sys.setswitchinterval(interval)
