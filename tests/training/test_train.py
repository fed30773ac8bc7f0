"""Whole runs: they learn, they resume exactly, they stop when asked, they say what is wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from georsr.cli.main import invoke

from georsr.errors import InputError, ModelError, OutputError, UsageError
from georsr.models.io import open_model
from georsr.models.registry import read_spec
from georsr.models.segsr_lite import segsr_lite
from georsr.radiometry.degradation import degradation_from_dict
from georsr.training.callbacks import AtomicCheckpointIO, StoppedError
from georsr.training.checkpoint import best_score
from georsr.training.export import averaged_weights, load_checkpoint, load_init_weights
from georsr.training.module import SuperResolution
from georsr.training.recipe import DataSettings, LossSettings, OptimizerSettings, load_recipe
from georsr.training.train import Machine, train


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def history(folder):
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    assert rows[0] == ["step", "loss", "psnr", "seconds_per_step", "compute_share"]
    assert rows[1][:2] == ["0", ""]
    return [(int(r[0]), float(r[2])) for r in rows[1:]]


def test_train_improves_and_exports_a_model(tiny, tmp_path):
    recipe = replace(tiny, steps=70, scene_epochs=1, validate_every=30)
    weights = train(recipe, tmp_path / "run")
    measured = history(tmp_path / "run")
    # every thirty steps, and after the last one
    assert [step for step, _ in measured] == [0, 30, 60, 70]
    assert measured[-1][1] > measured[0][1] + 0.3
    spec = read_spec(weights)
    assert (spec.name, spec.scale, spec.degradation) == ("tiny-x2", 2, "bicubic")
    assert spec.kernel == "bicubic"
    assert spec.quality["validation-psnr"] == pytest.approx(max(p for _, p in measured), abs=1e-3)
    model = open_model(str(weights))
    assert model.network(torch.rand(1, 3, 9, 7)).shape == (1, 3, 18, 14)
    assert {"best.ckpt", "last.ckpt", "log.csv", "recipe.yaml"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }


@pytest.mark.parametrize("stop", [3, 4])
def test_train_resumed_equals_uninterrupted(stop, tiny, tmp_path):
    """Stopped before a validation or between two; with noise, whose seed is the step's own."""
    sensor = degradation_from_dict({"kind": "sensor", "noise": [0.0, 0.02]}, "test")
    recipe = replace(tiny, degradation=sensor, scene_epochs=1)
    train(recipe, tmp_path / "whole")
    asked = iter([False] * (stop - 1) + [True])
    with pytest.raises(StoppedError) as stopped:
        train(recipe, tmp_path / "parts", should_stop=lambda: next(asked))
    assert stopped.value.step == stop
    assert load_checkpoint(tmp_path / "parts" / "last.ckpt")["global_step"] == stop
    train(recipe, tmp_path / "parts", resume=True)
    whole, parts = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("whole", "parts"))
    assert parts["global_step"] == whole["global_step"] == 6
    assert same(whole["current_model_state"], parts["current_model_state"])
    assert same(averaged_weights(whole), averaged_weights(parts))
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    best_of_both = [load_checkpoint(tmp_path / n / "best.ckpt") for n in ("whole", "parts")]
    assert same(*(averaged_weights(state) for state in best_of_both))
    files = [tmp_path / name / "tiny-x2.safetensors" for name in ("whole", "parts")]
    assert same(*(open_model(str(file)).network.state_dict() for file in files))


def stop_in_validation(monkeypatch, step):
    """Let SIGTERM arrive in the first validation after a step."""
    validate = SuperResolution.validation_step

    def stopped(module, *arguments):
        if module.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(module, *arguments)

    monkeypatch.setattr(SuperResolution, "validation_step", stopped)


def test_train_stopped_in_the_first_validation_leaves_no_checkpoint(
    tiny, tmp_path, monkeypatch, capsys
):
    stop_in_validation(monkeypatch, 0)
    with pytest.raises(StoppedError) as error:
        train(tiny, tmp_path / "run")
    assert error.value.step == 0
    assert not list((tmp_path / "run").glob("*.ckpt"))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(tiny.to_yaml())
    invoke(["train", str(recipe), "--out", str(tmp_path / "new"), "-q"])
    expected = f"no checkpoint to continue from: remove {tmp_path / 'new'}"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("stop", [3, 6])
def test_train_stopped_in_a_validation_validates_when_resumed(stop, tiny, tmp_path, monkeypatch):
    """The last validation is one of them: its weights are exported."""
    train(tiny, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_in_validation(patched, stop)
        with pytest.raises(StoppedError) as error:
            train(tiny, tmp_path / "parts")
    assert error.value.step == stop
    train(tiny, tmp_path / "parts", resume=True)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    for name in ("best.ckpt", "last.ckpt"):
        whole, parts = (load_checkpoint(tmp_path / run / name) for run in ("whole", "parts"))
        assert same(averaged_weights(whole), averaged_weights(parts))
        assert best_score(whole) == best_score(parts)
    files = [tmp_path / name / "tiny-x2.safetensors" for name in ("whole", "parts")]
    assert same(*(open_model(str(file)).network.state_dict() for file in files))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on one processor
def test_train_with_worker_processes_draws_the_same_crops(tiny, tmp_path):
    recipe = replace(tiny, steps=3)
    train(recipe, tmp_path / "alone")
    train(recipe, tmp_path / "helped", machine=Machine(workers=2))
    alone, helped = (load_checkpoint(tmp_path / n / "last.ckpt") for n in ("alone", "helped"))
    assert same(alone["current_model_state"], helped["current_model_state"])


def test_train_changes_every_parameter(tiny, tmp_path):
    train(replace(tiny, steps=4), tmp_path / "run")
    train(replace(tiny, steps=1), tmp_path / "one")
    late, early = (
        load_checkpoint(tmp_path / name / "last.ckpt")["current_model_state"]
        for name in ("run", "one")
    )
    assert [k for k in late if torch.equal(late[k], early[k])] == []


def test_train_with_adam_and_all_loss_terms(tiny, tmp_path):
    recipe = replace(
        tiny,
        optimizer=OptimizerSettings(kind="adam", lr=1e-3, clip=0.0),
        loss=LossSettings(frequency=0.1, semantic=0.1),
    )
    train(recipe, tmp_path / "run")
    state = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert len(state["optimizer_states"][0]["param_groups"]) == 1


def test_train_refuses_the_folder_of_another_run(tiny, tmp_path):
    train(replace(tiny, steps=2), tmp_path / "run")
    with pytest.raises(UsageError, match="use resume=True"):
        train(replace(tiny, steps=2), tmp_path / "run")
    with pytest.raises(ModelError, match="differs in batch"):
        train(replace(tiny, steps=4, batch=3), tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="no run to resume"):
        train(tiny, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_last_checkpoint_without_improvement_is_that_of_the_last_step(tiny, tmp_path):
    still = OptimizerSettings(lr=0.0, muon_lr=0.0)
    train(replace(tiny, optimizer=still), tmp_path / "run")
    steps = [
        load_checkpoint(tmp_path / "run" / f"{n}.ckpt")["global_step"] for n in ("best", "last")
    ]
    assert steps == [3, 6]


@pytest.mark.slow
def test_train_with_init_starts_from_other_weights(tiny, tmp_path, caplog):
    weights = train(tiny, tmp_path / "first")
    expected = open_model(str(weights)).network
    x = torch.rand(1, 3, 12, 12)
    still = replace(tiny, steps=1, optimizer=OptimizerSettings(lr=1e-9, muon_lr=1e-9))
    for source in (weights, tmp_path / "first" / "best.ckpt"):
        out = tmp_path / source.suffix
        started = train(replace(still, init=str(source), seed=5), out)
        torch.testing.assert_close(
            open_model(str(started)).network(x), expected(x), atol=2e-3, rtol=0
        )
    other = {"embed_dim": 12, "num_groups": 1, "depth": 1, "token_dim": 0}
    with pytest.raises(ModelError, match="no tensor fits"):
        train(replace(tiny, scale=4, patch=8, network=other, init=str(weights)), tmp_path / "other")
    caplog.set_level("INFO", logger="georsr")
    caplog.clear()
    load_init_weights(segsr_lite(2, 3, **tiny.network), str(weights))
    assert caplog.messages == [f"starting from {weights}"]
    caplog.clear()
    load_init_weights(segsr_lite(2, 3, **{**tiny.network, "depth": 3}), str(weights))
    (message,) = caplog.messages
    assert re.fullmatch(r"starting from .*: \d+ of \d+ tensors fit; not trained yet: .+", message)


def test_train_diverging_fails(tiny, tmp_path):
    hot = replace(tiny, optimizer=OptimizerSettings(kind="adam", lr=1e30, clip=0.0), steps=20)
    with pytest.raises(ModelError, match="diverged at step"):
        train(hot, tmp_path / "run")


def test_checkpoint_on_a_full_disk_keeps_the_previous_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    keeper = AtomicCheckpointIO()
    keeper.save_checkpoint({"step": 1}, path)
    before = path.read_bytes()
    real = torch.save

    def full(state, file):
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"No space left on device.*unchanged"):
        keeper.save_checkpoint({"step": 2}, path)
    monkeypatch.setattr(torch, "save", real)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"network": {"widht": 3}}, "no argument 'widht'"),
        ({"patch": 40}, "smaller patch|crop"),
        ({"architecture": "segsr", "network": {}, "clip": "no/such"}, "neither a file nor a name"),
    ],
)
def test_train_with_bad_recipe_writes_nothing(change, message, tiny, tmp_path):
    with pytest.raises((UsageError, InputError), match=message):
        train(replace(tiny, **change), tmp_path / "run", machine=Machine(device="cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("scene", [0.001, 0.0])
def test_train_on_two_devices_equals_twice_the_batch(scene, tiny, tmp_path):
    """Without a loss of scenes no gradient reaches their classifier."""
    tiny = replace(tiny, scene_epochs=1, loss=replace(tiny.loss, scene=scene))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(tiny.to_yaml())
    command = [sys.executable, "-m", "georsr.cli", "train", str(recipe), "-q", "--device", "cpu"]
    run = subprocess.run(
        [*command, "--devices", "2", "--out", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("use it with georsr sr") == 1
    train(replace(tiny, batch=2 * tiny.batch), tmp_path / "one")
    two, one = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("two", "one"))
    assert two["global_step"] == one["global_step"]
    for key, value in averaged_weights(one).items():
        torch.testing.assert_close(averaged_weights(two)[key], value, atol=2e-4, rtol=1e-3)
    # validation is shared out, and comes to the same mean
    assert history(tmp_path / "two")[-1][1] == pytest.approx(
        history(tmp_path / "one")[-1][1], abs=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_train_with_a_signal_saves_a_checkpoint(sent, code, tiny, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(replace(tiny, steps=100000, validate_every=50).to_yaml())
    out = tmp_path / "run"
    command = [sys.executable, "-m", "georsr.cli", "train", str(recipe), "--out", str(out), "-q"]
    # background jobs of a shell ignore SIGINT: give the child its default back
    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (out / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(sent)
    _, errors = child.communicate(timeout=240)
    assert child.returncode == code, errors
    assert "the same command with --resume continues" in errors
    assert "Traceback" not in errors
    step = load_checkpoint(out / "last.ckpt")["global_step"]
    assert f"stopped after step {step} of 100000" in errors
    assert not list(out.glob("*.part"))


@pytest.fixture
def scene(tmp_path):
    """A four-band raster with a hole, wide enough for blocks to be held out."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:400, :420]
    bands = [
        1000 + 300 * np.sin(x / (3 + i)) * np.cos(y / 5) + rng.normal(0, 20, x.shape)
        for i in range(4)
    ]
    values = np.stack(bands).astype("uint16")
    values[:, 100:130, 200:260] = 0
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=420,
        height=400,
        count=4,
        dtype="uint16",
        nodata=0,
        crs="EPSG:32632",
        transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
        photometric="minisblack",
    ) as dataset:
        dataset.write(values)
    return path


@pytest.mark.slow
def test_train_fine_tuning_on_rasters_of_any_bands(tiny, scene, tmp_path):
    weights = train(tiny, tmp_path / "rgb")
    recipe = replace(
        load_recipe("finetune-sensor"),
        scale=2,
        init=str(weights),
        data=DataSettings(kind="scenes", root=(str(scene),), holdout=0.2),
        patch=12,
        batch=2,
        steps=4,
        validate_every=2,
        precision="fp32",
    )
    with pytest.raises(UsageError, match="4 bands, the network takes 3: choose bands with indexes"):
        train(recipe, tmp_path / "fine")
    assert not (tmp_path / "fine").exists()
    chosen = replace(recipe, data=replace(recipe.data, bands=(3, 2, 1)))
    tuned = open_model(str(train(chosen, tmp_path / "fine")))
    # the network is that of the model it started from
    assert tuned.spec.parameters["embed_dim"] == 8
    assert tuned.spec.trained_on.startswith("scene.tif")
    four = replace(recipe, network={**tiny.network, "bands": 4}, init="")
    spec = read_spec(train(four, tmp_path / "four"))
    assert (spec.bands, spec.band_names) == (4, ())
