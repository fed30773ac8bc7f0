"""The encoder sees another scene; nothing else changes, and nothing stays changed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import georsr
from georsr.device import select_device
from georsr.errors import UsageError
from georsr.evaluation.benchmark import Sample
from georsr.evaluation.dataset import (
    DegradedImages,
    ablate_guidance,
    encoder_of,
    fit_to_size,
    make_candidates,
    make_super_resolver,
    mismatched_image,
)
from georsr.inference.predictor import TilePredictor
from georsr.io.image_datasets import open_dataset
from georsr.models.io import open_model
from georsr.radiometry.degradation import BicubicDegradation


@pytest.fixture
def sample(texture):
    return Sample("a", texture(3, 64, 48), texture(3, 32, 24), partner=texture(3, 32, 24, seed=1))


@pytest.fixture
def inference(lite_model):
    return TilePredictor(lite_model, select_device("cpu"), 1)


def expected(network, lr, seen):
    """The image ``lr`` enlarged while a hook hands the encoder ``seen`` in its place."""
    as_input = torch.from_numpy(np.stack([lr])).float() / 255
    other = torch.from_numpy(np.stack([seen])).float() / 255
    handle = network.encoder.register_forward_pre_hook(lambda module, inputs: (other,))
    with torch.inference_mode():
        image = network(as_input)[0].numpy() * 255
    handle.remove()
    return np.clip(np.rint(image), 0, 255).astype("uint8")


def test_ablate_guidance_feeds_the_other_image(inference, sample):
    normal = make_super_resolver(inference)
    right = normal(sample)
    wrong = ablate_guidance(inference, normal, "wrong")(sample)
    off = ablate_guidance(inference, normal, "off")(sample)
    network = inference.network
    assert not np.array_equal(wrong, right)
    assert not np.array_equal(wrong, off)
    np.testing.assert_array_equal(wrong, expected(network, sample.lr, sample.partner))
    grey = np.full_like(sample.lr, 128)
    np.testing.assert_array_equal(off, expected(network, sample.lr, grey))
    np.testing.assert_array_equal(normal(sample), right)
    assert ablate_guidance(inference, normal, "normal") is normal


def test_mismatched_image_is_of_another_class():
    labels = list("aaaabbbbcc")
    partners = [mismatched_image(i, labels) for i in range(10)]
    assert all(labels[p] != labels[i] for i, p in enumerate(partners))
    assert len(set(partners)) > 5
    assert mismatched_image(0, ["", "", ""]) == 1
    with pytest.raises(UsageError, match="two images"):
        mismatched_image(0, ["a"])


def test_fit_to_size_crops_or_mirrors(texture):
    image = texture(3, 5, 6)
    assert fit_to_size(image, 4, 3).shape == (3, 4, 3)
    grown = fit_to_size(image, 14, 7)
    assert grown.shape == (3, 14, 7)
    np.testing.assert_array_equal(grown[:, :5, :6], image)
    np.testing.assert_array_equal(grown[:, 5:10], grown[:, 4::-1])


def test_degraded_images_with_partners_have_them(tmp_path):
    rng = np.random.default_rng(0)
    for label, height in (("a", 40), ("b", 52)):
        (tmp_path / label).mkdir()
        pixels = rng.integers(0, 256, (height, 44, 3)).astype("uint8")
        Image.fromarray(pixels).save(tmp_path / label / "1.png")
    folder = open_dataset(tmp_path)
    first, second = DegradedImages(folder, BicubicDegradation(), 2, partners=True)
    np.testing.assert_array_equal(first.partner, second.lr[:, :20])
    assert second.partner.shape == second.lr.shape
    assert next(iter(DegradedImages(folder, BicubicDegradation(), 2))).partner is None


def test_make_candidates_ablates_guided_models_only(lite_model):
    bicubic = open_model("bicubic-x2")
    assert encoder_of(bicubic.network) is None
    names = [
        c.name for c in make_candidates([lite_model, bicubic], select_device("cpu"), ["wrong"])
    ]
    assert names == ["bicubic-x2", "tiny-x2", "tiny-x2 (wrong guidance)"]
    with pytest.raises(UsageError, match="no guidance to change"):
        make_candidates([bicubic], select_device("cpu"), ["off"])
    with pytest.raises(UsageError, match="expected one of normal"):
        make_candidates([lite_model], select_device("cpu"), ["odd"])


def test_make_candidates_runs_an_onnx_file_like_its_model(texture):
    """By ONNX Runtime, whatever runs the other models."""
    weights = Path(georsr.__file__).parent / "models" / "weights" / "segsr-lite-x4.onnx"
    models = [open_model("segsr-lite-x4"), open_model(str(weights))]
    _, ours, exported = make_candidates(models, select_device("cpu", "fp32"))
    image = texture(3, 24, 24)
    sample = Sample("a", image.repeat(4, 1).repeat(4, 2), image)
    difference = ours.super_resolve(sample).astype(int) - exported.super_resolve(sample)
    assert np.abs(difference).max() <= 1
