"""A run folder, a recipe or an image of somebody else: nothing outside the run is touched."""

import io
import json
import os
import pickle
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from georsr.cli.main import invoke
from PIL import Image

from georsr.errors import InputError, ModelError, UsageError
from georsr.io.image_datasets import read_image
from georsr.training.callbacks import AtomicCheckpointIO, StoppedError
from georsr.training.checkpoint import load_checkpoint
from georsr.training.recipe import DataSettings, Recipe, ScheduleSettings, load_recipe
from georsr.training.train import train


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """A recipe, and the folder of a run of it that stopped after the second of four steps."""
    folder = tmp_path_factory.mktemp("stopped")
    rng = np.random.default_rng(1)
    for part in ("train", "val"):
        for i in range(2):
            place = folder / "data" / part / "fields"
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png")
    recipe = Recipe(
        name="tiny-x2",
        scale=2,
        network={"embed_dim": 8, "num_groups": 1, "depth": 1, "token_dim": 0},
        data=DataSettings(root=(str(folder / "data"),)),
        patch=16,
        batch=2,
        steps=4,
        schedule=ScheduleSettings(warmup=2),
        precision="fp32",
        validate_every=2,
    )
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        train(recipe, folder / "run", should_stop=lambda: next(asked))
    return recipe, folder / "run"


@pytest.fixture
def given_away(stopped_run, tmp_path):
    """The recipe, a copy of the folder, and a folder of the user's that has to survive."""
    recipe, run = stopped_run
    shutil.copytree(run, tmp_path / "work" / "run")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("three years")
    return recipe, tmp_path / "work" / "run", tmp_path / "thesis"


def survives(thesis):
    return [p.name for p in thesis.iterdir()] == ["chapter.txt"] and (
        thesis / "chapter.txt"
    ).read_text() == "three years"


def changed(path, change):
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def believed_paths(*paths):
    """State of Lightning's ModelCheckpoint, as it writes and believes it."""

    def change(state):
        worst = torch.tensor(-99.0)
        state["callbacks"]["ModelCheckpoint{'monitor': 'psnr'}"] = {
            "best_model_score": worst,
            "best_model_path": paths[0],
            "kth_best_model_path": paths[0],
            "kth_value": worst,
            "best_k_models": dict.fromkeys(paths, worst),
            "last_model_path": paths[-1],
        }
        state["callbacks"]["ModelCheckpoint"] = state["callbacks"][
            "ModelCheckpoint{'monitor': 'psnr'}"
        ]

    return change


@pytest.mark.parametrize(
    "path",
    ["{thesis}", "{run}/../../thesis", "{run}/link", "{thesis}/chapter.txt", "file://{thesis}"],
)
def test_resume_checkpoint_paths_are_ignored(path, given_away):
    recipe, run, thesis = given_away
    (run / "link").symlink_to(thesis)
    evil = path.format(run=run, thesis=thesis)
    changed(run / "last.ckpt", believed_paths(evil))
    train(recipe, run, resume=True)
    assert survives(thesis)
    assert (run / "link").is_symlink()
    assert set(load_checkpoint(run / "last.ckpt")["callbacks"]) == {
        "WeightAveraging",
        "ModelCheckpoint",
    }


def other_state(state):
    """State of callbacks, loops and hyper-parameters that a run of georsr does not have."""
    state["callbacks"]["OnExceptionCheckpoint"] = {"dirpath": "/thesis"}
    state["hyper_parameters"] = {"default_root_dir": "/thesis"}
    state["hparams_name"] = "kwargs"
    state["TrainingData"] = {"recipe": "/thesis"}
    state["loops"]["validate_loop"] = {"state_dict": {"trainer": "/thesis"}}
    state["loops"]["fit_loop"]["state_dict"] = {"combined_loader": [{"dataset": "/thesis"}]}
    state["lr_schedulers"][0]["step"] = "/thesis"
    state["optimizer_states"][0]["param_groups"][0]["params"] = [0] * 10
    state["pytorch-lightning_version"] = "0.0.1"


def test_resume_checkpoint_with_foreign_state_ignores_it(given_away, stopped_run):
    recipe, run, _thesis = given_away
    honest = run.with_name("honest")
    shutil.copytree(run, honest)
    changed(run / "last.ckpt", other_state)
    weights = [
        load_checkpoint(train(recipe, folder, resume=True).parent / "last.ckpt")
        for folder in (run, honest)
    ]
    assert "/thesis" not in repr(weights[0])
    ours, theirs = (each["current_model_state"] for each in weights)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


HUGE = torch.zeros(1).expand(10**12)


def set_in(*keys, value):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


FIT = ("loops", "fit_loop", "epoch_loop.batch_progress")
MALFORMED = {
    "a number is text": (set_in("global_step", value="2"), "global_step"),
    "no weights": (set_in("current_model_state", value={}), "current_model_state"),
    "a weight of another shape": (
        set_in("current_model_state", "network.backbone.conv_first.weight", value=torch.zeros(2)),
        "current_model_state",
    ),
    "weights are text": (set_in("state_dict", value="x"), "dictionary of tensors"),
    "a method is replaced": (set_in(*FIT, "reset", value=1), "batch_progress"),
    "a count is a list": (set_in(*FIT, "total", value=[1]), "batch_progress"),
    "no loops": (set_in("loops", value=None), "fit_loop"),
    "an optimizer of a terabyte": (
        set_in("optimizer_states", 0, "state", 0, "exp_avg", value=HUGE),
        "state",
    ),
    "an optimizer of unknown state": (
        set_in("optimizer_states", 0, "state", 0, value={"hook": torch.zeros(())}),
        "state",
    ),
    "a parameter that is not there": (
        set_in("optimizer_states", 0, "state", 10**9, value={}),
        "state",
    ),
    "a rate that is no number": (
        set_in("optimizer_states", 0, "param_groups", 0, "lr", value="1"),
        "lr",
    ),
    "a rate without end": (
        set_in("optimizer_states", 0, "param_groups", 0, "lr", value=float("inf")),
        "lr",
    ),
    "two optimizers": (set_in("optimizer_states", value=[{}, {}]), "optimizer_states"),
    "a figure that is no number": (
        set_in("callbacks", "ModelCheckpoint", value={"best_model_score": torch.tensor(np.nan)}),
        "best_model_score",
    ),
    "a recipe that is no JSON": (set_in("recipe", value="{"), "recipe cannot be read"),
    "a recipe of endless depth": (set_in("recipe", value="[" * 100_000), "recipe cannot be read"),
    "a recipe that is a list": (set_in("recipe", value="[1]"), "recipe cannot be read"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_resume_malformed_checkpoint_is_one_line(what, given_away):
    recipe, run, _thesis = given_away
    change, message = MALFORMED[what]
    changed(run / "last.ckpt", change)
    before = {p.name: p.read_bytes() for p in run.iterdir() if "tfevents" not in p.name}
    with pytest.raises(ModelError, match=message) as refused:
        train(recipe, run, resume=True)
    assert "\n" not in str(refused.value)
    assert {p.name: p.read_bytes() for p in run.iterdir() if "tfevents" not in p.name} == before


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_resume_checkpoint_with_code_does_not_run_it(name, given_away, tmp_path, monkeypatch):
    recipe, run, _thesis = given_away
    monkeypatch.chdir(tmp_path)
    changed(run / "last.ckpt", lambda state: None)
    state = torch.load(run / "last.ckpt", weights_only=True)
    torch.save({**state, "callbacks": RunsCode()}, run / name)
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        train(recipe, run, resume=True)
    (run / name).write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        train(recipe, run, resume=True)
    assert not (tmp_path / "executed").exists()


def test_resume_checkpoint_that_inflates_is_refused(given_away):
    recipe, run, _thesis = given_away
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    (run / "last.ckpt").write_bytes(packed.getvalue())
    with pytest.raises(ModelError, match="unpacks to 10000000 bytes"):
        train(recipe, run, resume=True)


def test_best_checkpoint_of_another_recipe_is_refused(given_away):
    recipe, run, _thesis = given_away
    other = json.dumps(replace(recipe, clip="hf://some/where").to_dict())
    train(recipe, run, resume=True)
    changed(run / "best.ckpt", set_in("recipe", value=other))
    with pytest.raises(ModelError, match="differs in clip"):
        train(recipe, run, resume=True)
    changed(run / "best.ckpt", set_in("recipe", value=json.dumps(recipe.to_dict())))
    changed(run / "best.ckpt", lambda state: state["state_dict"].popitem())
    with pytest.raises(ModelError, match="do not fit"):
        train(recipe, run, resume=True)


OURS = ["last.ckpt", "best.ckpt", "log.csv", "recipe.yaml", "hparams.yaml", "tiny-x2.safetensors"]


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("goal", ["chapter.txt", "not there"])
def test_image_folder_links_out_of_it_are_not_followed(name, goal, given_away):
    recipe, run, thesis = given_away
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(thesis / goal)
    with pytest.raises(UsageError, match=r"is a link or not a regular file|no run to resume"):
        train(recipe, run, resume=True)
    if name != "last.ckpt":
        (run / "last.ckpt").unlink()
        with pytest.raises(UsageError, match=r"is a link or not a regular file|is not replaced"):
            train(recipe, run)
    assert survives(thesis)


def test_image_folder_with_a_folder_named_like_an_image_is_refused(given_away):
    recipe, run, _thesis = given_away
    (run / "log.csv").unlink()
    (run / "log.csv").mkdir()
    with pytest.raises(UsageError, match="is a link or not a regular file"):
        train(recipe, run, resume=True)


def test_image_folder_that_is_a_link_is_read(given_away, tmp_path):
    recipe, run, _thesis = given_away
    (tmp_path / "elsewhere").symlink_to(run)
    train(recipe, tmp_path / "elsewhere", resume=True)
    assert load_checkpoint(run / "last.ckpt")["global_step"] == 4
    assert not list(run.glob(".*.part"))


def test_image_folder_part_that_is_a_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "00")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".last.ckpt.00").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="File exists"):
        AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    ["/x", "../x", "a/b", "a\\b", ".x", "..", "", "C:x", "a\nb", "a b", "x" * 61, "~", "$HOME"],
)
def test_recipe_name_with_a_path_is_refused(name, stopped_run):
    with pytest.raises(UsageError, match=r"name is .* expected at most 60 letters") as refused:
        replace(stopped_run[0], name=name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["../train", "/etc", "a\\b", "..", "C:"])
def test_recipe_part_with_a_path_is_refused(part):
    for key in ("train", "validation"):
        with pytest.raises(UsageError, match=rf"{key} is .* expected a name without"):
            DataSettings(**{key: part})
    assert DataSettings(train="Übung 1").train == "Übung 1"


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\x00",
        b"a: 2001-99-99",
        b"[" * 20000,
        b"!!python/object/apply:os.system [touch executed]",
        b"a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        b"c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n"
        b"e: &e [*d, *d, *d, *d, *d, *d, *d]\nscale: [*e, *e, *e, *e, *e, *e]\nname: x\n",
    ],
)
def test_load_recipe_malformed_file_is_one_line(text, tmp_path):
    (tmp_path / "r.yaml").write_bytes(text)
    with pytest.raises(UsageError) as refused:
        load_recipe(str(tmp_path / "r.yaml"))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("name", ["recipe.yaml", "tiny-x2.safetensors", "best.ckpt", "log.csv"])
def test_train_into_a_used_folder_replaces_nothing(
    name, stopped_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(stopped_run[0].to_yaml())
    (tmp_path / name).write_text("mine")
    assert invoke(["train", "mine.yaml", "--out", "."]) == 2
    assert f"{name}: exists and is not replaced" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"mine.yaml", name}


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "ICNS", "TGA"])
def test_read_image_other_formats_are_refused(kind, tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (64, 64)).save(path, kind)
    with pytest.raises(InputError, match="cannot be decoded as an image"):
        read_image(path)
    Image.new("RGB", (64, 64)).save(path, "JPEG")
    assert read_image(path).shape == (3, 64, 64)


def test_read_image_with_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match="cannot be decoded as an image"):
        read_image(tmp_path / "image.png")
