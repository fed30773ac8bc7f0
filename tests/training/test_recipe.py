"""Recipes: YAML in, frozen settings out, and back."""

import numpy as np
import pytest
import torch
import yaml
from georsr.cli.main import invoke
from PIL import Image
from scipy.ndimage import gaussian_filter

from georsr.errors import UsageError
from georsr.models.registry import read_spec
from georsr.models.segsr_lite import segsr_lite
from georsr.radiometry.degradation import BicubicDegradation, SensorDegradation
from georsr.training.recipe import Recipe, builtin_recipes, load_recipe, with_overrides
from tests.conftest import REPOSITORY

WANTED = {
    "finetune-sensor",
    "segsr-aid-x4",
    "segsr-base-x4",
    "segsr-lite-x2",
    "segsr-lite-x2-sensor",
    "segsr-lite-x4",
    "segsr-lite-x4-sensor",
    "segsr-ucmerced-x4",
}


@pytest.mark.parametrize("name", builtin_recipes())
def test_builtin_recipes_round_trip(name, tmp_path):
    recipe = load_recipe(name)
    path = tmp_path / "again.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(str(path)) == recipe
    assert recipe.name == name


def test_builtin_recipes_are_complete():
    assert set(builtin_recipes()) == WANTED


def test_base_recipe_network_has_7_to_8_million_parameters():
    recipe = load_recipe("segsr-base-x4")
    with torch.device("meta"):
        network = segsr_lite(recipe.scale, **recipe.network)
    count = sum(weight.numel() for weight in network.parameters())
    assert 7e6 < count < 8e6  # below 16 MB in half precision


def test_ucmerced_recipe_has_the_published_schedule():
    recipe = load_recipe("segsr-ucmerced-x4")
    assert (recipe.steps, recipe.batch, recipe.patch, recipe.ema) == (64000, 4, 64, 0.999)
    assert (recipe.optimizer.kind, recipe.optimizer.lr) == ("adam", 2e-4)
    assert recipe.optimizer.betas == (0.9, 0.99)
    assert (recipe.schedule.milestones, recipe.schedule.gamma) == ((50000,), 0.5)
    assert (recipe.loss.absolute, recipe.loss.squared_share) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nscale: 2\nstepz: 3\n", "unknown key 'stepz'"),
        ("name: a\nscale: two\n", "scale is 'two', expected a value of type int"),
        ("name: a\nscale: 2\nsteps: true\n", "steps is True"),
        ("name: a\nscale: 2\nsteps: 0\n", "steps is 0, expected at least 1"),
        ("name: a\nscale: 2\noptimizer: {betas: [3, 0.9]}\n", "betas are .3, 0.9., expected 0 to"),
        ("name: a\nscale: 0\n", "scale is 0, expected 1 to 8"),
        ("name: a\nscale: 2\noptimizer: {lr: -0.1}\n", "lr is -0.1, expected at least 0"),
        ("name: a\nscale: 2\noptimizer: {clip: -1}\n", "clip is -1, expected at least 0"),
        ("name: a\nscale: 2\nschedule: {warmup: -5}\n", "warmup is -5, expected at least 0"),
        ("name: a\nscale: 2\nschedule: {hold: 1.5}\n", "hold is 1.5, expected 0 to 1"),
        ("name: a\nscale: 2\nloss: {absolute: -1}\n", "absolute is -1, expected at least 0"),
        ("name: a\nscale: 2\nsensor_steps: -1\n", "sensor_steps is -1, expected at least 0"),
        ("name: a\nscale: 2\nseed: -1\n", "seed is -1, expected 0 to"),
        ("name: a\nscale: 2\nseed: 99999999999999999999\n", "seed is 99.*99, expected a finite"),
        ("name: a\nscale: 2\nlora: -1\n", "lora is -1, expected 0 to 4096"),
        ("name: a\nscale: 2\nema: .inf\n", "ema is inf, expected a finite number"),
        ("name: a\nscale: 2\nema: .nan\n", "ema is nan, expected a finite number"),
        ("name: a\nscale: 2\npatch: 100000\n", "patch is 100000, expected 1 to 4096"),
        ("name: a\nscale: 2\nloss: {luma: .inf}\n", "luma is inf, expected a finite number"),
        ("&a\nname: a\nscale: *a\n", "scale is .*, expected a value of type int"),
        ("&a [*a, *a]", "expected a recipe of"),
        ("name: a\n", "missing key 'scale'"),
        ("- a\n", "key: value"),
        ("a: [", "not valid YAML"),
        ("name: a\nscale: 2\noptimizer: {rate: 1}\n", "optimizer: unknown key 'rate'"),
        ("name: a\nscale: 2\noptimizer: {kind: sgd}\n", "kind is 'sgd', expected muon or adam"),
        ("name: a\nscale: 2\noptimizer: {betas: [0.9]}\n", "betas has 1 items, expected 2"),
        ("name: a\nscale: 2\nschedule: {milestones: [x]}\n", "an item of milestones is 'x'"),
        ("name: a\nscale: 2\nloss: {luma: 1.5}\n", "luma is 1.5, expected 0 to 1"),
        ("name: a\nscale: 2\nloss: 3\n", "loss: expected 'key: value'"),
        ("name: a\nscale: 2\ndata: {folder: x}\n", "unknown key 'folder'"),
        ("name: a\nscale: 2\ndegradation: {kind: fog}\n", "degradation"),
        ("name: a\nscale: 2\nprecision: half\n", "precision is 'half'"),
        ("name: a\nscale: 2\narchitecture: unet\n", "architecture is 'unet'"),
    ],
)
def test_load_recipe_of_bad_values_fails(text, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


def test_load_recipe_of_unknown_name_lists_builtin_recipes():
    with pytest.raises(UsageError, match="segsr-lite-x4"):
        load_recipe("nonsense")


def test_with_overrides_replaces_fields():
    parts = [{"kind": "bicubic"}, {"kind": "sensor", "mtf": [0.1, 0.5]}]
    mixed = {
        **load_recipe("segsr-lite-x4").to_dict(),
        "degradation": {"kind": "mixture", "of": parts},
    }
    recipe = Recipe.from_dict(mixed, "here")
    assert [type(each) for each in recipe.degradation.of] == [BicubicDegradation, SensorDegradation]
    other = with_overrides(
        recipe, {"data": ("a", "b"), "lr_data": (), "steps": 5, "seed": None, "init": "x"}
    )
    assert other.data.root == ("a", "b")
    assert (other.steps, other.seed, other.init) == (5, recipe.seed, "x")
    assert other.degradation == recipe.degradation
    assert with_overrides(recipe, {"bidx": (4, 3, 2), "lr_data": ("c",)}).data.bands == (4, 3, 2)
    assert with_overrides(recipe, {"near_infrared": ("d",)}).data.near_infrared == ("d",)
    assert Recipe.from_dict(other.to_dict(), "here") == other


def test_recipe_with_old_parameter_names_is_read_with_the_present_ones():
    recipe = Recipe.from_dict(
        {"name": "a", "scale": 2, "network": {"width": 8, "groups": 1, "blocks": 2, "tokens": 0}},
        "here",
    )
    present = {"embed_dim": 8, "num_groups": 1, "depth": 2, "token_dim": 0}
    assert (recipe.architecture, recipe.network) == ("segsr-lite", present)


def test_documented_recipe_loads(tmp_path):
    manual = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    block = manual.split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "documented.yaml"
    path.write_text(block)
    assert load_recipe(str(path)).name == "my-model"
    assert [name for name in builtin_recipes() if f"`{name}`" not in manual] == []


@pytest.fixture
def made_data(image_folder, tmp_path, make_raster):
    """Small data in the forms that the built-in recipes read: arguments of the command line."""
    infrared = tmp_path / "nir" / "train"
    infrared.mkdir(parents=True)
    for path in sorted((image_folder / "train").glob("*/*.png")):
        image = Image.open(path).resize((256, 256), Image.Resampling.BICUBIC)
        image.save(path)
        image.convert("L").save(infrared / path.name)
    scene = gaussian_filter(np.random.default_rng(5).normal(size=(3, 640, 640)), (0, 2, 2))
    raster = make_raster(np.uint8(np.clip(128 + 200 * scene, 0, 255)))
    return {
        "images": ["--data", str(image_folder)],
        "near infrared": ["--data", str(image_folder), "--near-infrared", str(infrared.parent)],
        "scenes": ["--data", raster],
    }


AS_SHIPPED = {
    "segsr-lite-x4": "images",
    "segsr-lite-x2": "images",
    "segsr-lite-x4-sensor": "near infrared",
    "segsr-lite-x2-sensor": "images",
    "finetune-sensor": "scenes",
}
"""Recipe -> its data, as `made_data` names them."""
LARGE = ("segsr-base-x4", "segsr-ucmerced-x4", "segsr-aid-x4")
"""Recipes whose network takes minutes for a step on a CPU."""


def test_recipes_run_by_the_tests_are_all_that_exist():
    assert {*AS_SHIPPED, *LARGE} == set(builtin_recipes())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", AS_SHIPPED)
def test_builtin_recipe_runs_from_start_to_end(recipe, made_data, tmp_path):
    out = str(tmp_path / "run")
    arguments = ["train", recipe, *made_data[AS_SHIPPED[recipe]], "--out", out, "--device", "cpu"]
    assert invoke([*arguments, "--steps", "2"]) == 0
    spec = read_spec(tmp_path / "run" / f"{recipe}.safetensors")
    assert (spec.name, spec.uses_sensor) == (recipe, "sensor" in recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", LARGE)
def test_builtin_recipe_runs_with_a_smaller_network(recipe, made_data, clip_file, tmp_path, capsys):
    """The rest is as it ships, but for CLIP's weights, which are random, and the data set."""
    assert invoke(["train", recipe, "--show"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    values["network"] = {"embed_dim": 60, "num_groups": 1, "depth": 1}
    if values["clip"]:
        values["clip"] = str(clip_file)
        values["data"]["layout"] = "auto"
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values))
    arguments = ["train", str(tmp_path / "small.yaml"), *made_data["images"], "--steps", "1"]
    assert invoke([*arguments, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert read_spec(tmp_path / "run" / f"{recipe}.safetensors").name == recipe
