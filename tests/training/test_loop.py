from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from georsr.errors import InputError, ModelError, UsageError
from georsr.models.load import open_model
from georsr.models.zoo import read_spec
from georsr.training.data.crops import dihedral
from georsr.training.data.degrade import make_pair
from georsr.training.data.images import open_folder, read_image
from georsr.training.export import export_checkpoint
from georsr.training.loop import Training, image_psnr, load_checkpoint, split_parameters
from georsr.training.recipe import Recipe, builtin_recipes, load_recipe
from georsr.training.sampler import CropSampler
from georsr.training.schedule import rate
from georsr.training.session import train

TINY = Recipe(
    name="tiny-x2",
    scale=2,
    network={"width": 8, "groups": 2, "blocks": 1, "tokens": 8},
    patch=16,
    batch=2,
    steps=6,
    warmup=2,
    validate_every=3,
    scene_epochs=0,
)


@pytest.fixture
def make_training(image_folder, tmp_path):
    def make(recipe=TINY, name="run"):
        part = open_folder(image_folder, "train")
        sampler = CropSampler.from_folder(
            part, scale=recipe.scale, patch=recipe.patch, batch=recipe.batch, seed=recipe.seed
        )
        pairs = [make_pair(read_image(i.path), recipe.scale) for i in list(part)[:3]]
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Training(recipe, sampler, pairs, 2, folder, torch.device("cpu"))

    return make


def test_every_parameter_is_trained_once_and_learns(make_training):
    training = make_training()
    kernels, rest = split_parameters(training.network)
    assert {id(p) for p in kernels + rest} == {id(p) for p in training.network.parameters()}
    assert not {id(p) for p in kernels} & {id(p) for p in rest}
    before = {k: v.clone() for k, v in training.network.named_parameters()}
    for _ in range(4):
        training.train_step()
    still = [k for k, v in training.network.named_parameters() if torch.equal(v, before[k])]
    assert still == []


def test_training_beats_its_own_start(make_training):
    training = make_training(replace(TINY, steps=60, scene_epochs=1))
    training.pretrain()
    start = image_psnr(training.average, training.validation, 2)
    assert training.run() > start + 0.5
    rows = (training.folder / "log.csv").read_text().splitlines()
    assert rows[0] == "step,loss,psnr_y,seconds_per_step"
    assert len(rows) == 1 + 60 // 3


def test_resuming_gives_the_very_weights_of_an_uninterrupted_run(make_training):
    whole = make_training(name="whole")
    whole.run()
    first = make_training(name="parts")
    first.run(until=3)
    second = make_training(name="parts")
    second.resume(first.folder / "last.pt")
    assert second.step == 3
    second.run()
    for key, value in whole.state()["network"].items():
        assert torch.equal(value, second.state()["network"][key]), key
    for key, value in whole.state()["average"].items():
        assert torch.equal(value, second.state()["average"][key]), key


def test_resuming_another_recipe_is_refused(make_training):
    training = make_training()
    training.save(training.folder / "last.pt")
    other = make_training(replace(TINY, batch=3))
    with pytest.raises(ModelError, match="differs in batch"):
        other.resume(training.folder / "last.pt")


def test_initialising_takes_what_fits(make_training):
    source = make_training()
    source.save(source.folder / "last.pt")
    other = make_training(replace(TINY, scale=4, patch=8))
    other.initialise(source.folder / "last.pt")
    ours, theirs = other.network.state_dict(), source.average.state_dict()
    assert torch.equal(ours["backbone.head.weight"], theirs["backbone.head.weight"])
    assert ours["tail.weight"].shape != theirs["tail.weight"].shape


def test_exported_weights_can_be_trained_on(make_training, tmp_path):
    source = make_training()
    source.run(until=3)
    source.save(source.folder / "best.pt")
    weights = tmp_path / "tiny-x2.safetensors"
    export_checkpoint(source.folder / "best.pt", weights, trained_on="a test", quality={})
    other = make_training(replace(TINY, seed=9), name="other")
    x = torch.rand(1, 3, 12, 12)
    expected = open_model(str(weights)).network(x)
    assert not torch.allclose(other.average(x), expected, atol=1e-3)
    other.initialise(weights)
    torch.testing.assert_close(other.average(x), expected, atol=1e-5, rtol=0)


def test_a_failed_save_keeps_the_last_checkpoint(make_training, monkeypatch):
    training = make_training()
    path = training.folder / "last.pt"
    training.save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        Path(args[1]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        training.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in training.folder.iterdir()] == ["last.pt"]


def test_divergence_is_said_not_trained_through(make_training):
    training = make_training()
    with torch.no_grad():
        training.network.tail.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="diverged at step 1"):
        training.run()


def test_checkpoints_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "text.pt")
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="not a checkpoint of georsr"):
        load_checkpoint(tmp_path / "other.pt")


def test_session_ends_in_a_model_that_runs(image_folder, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(replace(TINY, steps=3).to_yaml())
    weights = train(str(recipe), image_folder, tmp_path / "out")
    spec = read_spec(weights)
    assert (spec.name, spec.scale) == ("tiny-x2", 2)
    assert "12 images" in spec.trained_on
    model = open_model(str(weights))
    assert model.network(torch.rand(1, 3, 9, 7)).shape == (1, 3, 18, 14)
    with pytest.raises(UsageError, match="use --resume"):
        train(str(recipe), image_folder, tmp_path / "out")
    train(str(recipe), image_folder, tmp_path / "out", resume=True)


def test_sampler_crops_are_aligned_and_repeatable(image_folder):
    part = open_folder(image_folder, "train")
    sampler = CropSampler.from_folder(part, scale=4, patch=6, batch=5, seed=1)
    a, b, other = sampler.batch(7), sampler.batch(7), sampler.batch(8)
    assert torch.equal(a.hr, b.hr)
    assert not torch.equal(a.hr, other.hr)
    assert (a.lr.shape, a.hr.shape, a.labels.shape) == ((5, 3, 6, 6), (5, 3, 24, 24), (5,))
    block_mean = torch.nn.functional.avg_pool2d(a.hr, 4)
    assert (block_mean - a.lr).abs().mean() < 0.03


def test_dihedral_has_eight_elements():
    image = np.arange(12).reshape(1, 3, 4)
    assert len({dihedral(image, i).tobytes() for i in range(8)}) == 8


def test_schedule():
    shares = [rate(step, 100, 10, 0.5) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[10:50] == [1.0] * 40
    assert shares[75] == pytest.approx(0.5)
    assert shares[100] == pytest.approx(0)


def test_recipes_round_trip_and_refuse_nonsense(tmp_path):
    for name in builtin_recipes():
        recipe = load_recipe(name)
        path = tmp_path / "again.yaml"
        path.write_text(recipe.to_yaml())
        assert load_recipe(str(path)) == recipe
    for text, message in (
        ("name: a\nscale: 2\nstepz: 3\n", "unknown key 'stepz'"),
        ("name: a\nscale: two\n", "scale is 'two', expected a value of type int"),
        ("name: a\n", "missing key 'scale'"),
        ("- a\n", "key: value"),
        ("a: [", "not valid YAML"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UsageError, match=message):
            load_recipe(str(tmp_path / "bad.yaml"))
    with pytest.raises(UsageError, match="segsr-lite-x4"):
        load_recipe("nonsense")


def test_folders_that_hold_nothing(tmp_path, image_folder):
    with pytest.raises(UsageError, match="no such folder"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        open_folder(tmp_path / "empty")
    bad = image_folder / "train" / "town" / "bad.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"bad\.png: cannot be decoded"):
        read_image(bad)
    small = open_folder(image_folder, "val")
    with pytest.raises(InputError, match="choose a smaller patch"):
        CropSampler.from_folder(small, scale=4, patch=13, batch=1, seed=0)
