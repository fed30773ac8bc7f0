import shutil
from dataclasses import replace

import numpy as np
import pytest

from georsr.errors import InputError, UsageError
from georsr.radiometry.degradation import BicubicDegradation
from georsr.training.data.source import open_source
from georsr.training.recipe import DataSettings


@pytest.fixture
def data(tmp_path, write_image):
    for seed, part in enumerate(("train", "val")):
        for i in range(2):
            write_image(tmp_path / part / "town" / f"{i}.png", seed=10 * seed + i)
    return DataSettings(root=(str(tmp_path),))


def test_open_source_returns_crops_and_pairs(data):
    crops, pairs = open_source(data, BicubicDegradation(), scale=2, patch=12)
    assert (crops.scale, crops.patch, crops.bands, crops.classes) == (2, 12, 3, ("town",))
    assert crops.crop(np.random.default_rng(0)).lr.shape == (3, 12, 12)
    assert [pair.label for pair in pairs] == ["town", "town"]


def test_open_source_joins_several_roots(data, tmp_path, write_image):
    write_image(tmp_path / "more" / "train" / "field" / "0.png", seed=20)
    write_image(tmp_path / "more" / "val" / "field" / "0.png", seed=21)
    both = replace(data, root=(*data.root, str(tmp_path / "more")))
    crops, pairs = open_source(both, BicubicDegradation(), scale=2, patch=12)
    assert crops.classes == ("field", "town")
    assert len(pairs) == 3
    assert {crops.crop(np.random.default_rng(i)).label for i in range(20)} == {0, 1}


def test_open_source_leaves_out_training_images_of_validation(data, tmp_path, caplog):
    copy = tmp_path / "train" / "town" / "copy.png"
    shutil.copy(tmp_path / "val" / "town" / "1.png", copy)
    (tmp_path / "train" / "town" / "._0.png").write_bytes(b"\0\5\x16\7")
    crops, _ = open_source(data, BicubicDegradation(), scale=2, patch=12)
    assert crops.count == 2
    assert "copy.png is the same image as" in caplog.text
    for name in ("0.png", "1.png"):
        shutil.copy(tmp_path / "val" / "town" / name, tmp_path / "train" / "town" / name)
    with pytest.raises(InputError, match="every training image is also one for validation"):
        open_source(data, BicubicDegradation(), scale=2, patch=12)


def test_open_source_of_contradictory_settings_fails(data):
    with pytest.raises(UsageError, match="no root is given"):
        open_source(DataSettings(), BicubicDegradation(), scale=2, patch=12)
    with pytest.raises(UsageError, match="part 'train' is used for training and validation"):
        open_source(replace(data, validation="train"), BicubicDegradation(), scale=2, patch=12)


@pytest.mark.parametrize(
    "settings",
    [
        DataSettings(),
        DataSettings(root=("a", "b"), layout="aid", split_list="aid-80-20", skip_corrupt=True),
        DataSettings("pairs", ("hr.tif",), ("lr.tif",), bands=(1,), lr_bands=(2,), nodata=0),
    ],
)
def test_data_settings_round_trip(settings):
    mapping = settings.to_dict()
    assert DataSettings.from_dict(mapping, "recipe") == settings
    assert all(not isinstance(value, tuple) for value in mapping.values())


def test_data_settings_accept_one_value_for_a_list():
    made = DataSettings.from_dict({"root": "a", "bands": 3}, "recipe")
    assert (made.root, made.bands) == (("a",), (3,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("ucmerced", "recipe: expected 'key: value' lines, got 'ucmerced'"),
        ({"roots": "a"}, "recipe: unknown key 'roots'; known: kind, root"),
        ({"kind": "video"}, "recipe: kind is 'video', expected one of images, scenes, pairs"),
        ({"layout": "coco"}, "layout is 'coco'"),
        ({"root": [1]}, "root is"),
        ({"bands": [0]}, r"bands is \(0,\), expected band numbers from 1"),
        ({"bands": [True]}, "bands is"),
        ({"holdout": 1}, "holdout is 1, expected 0 to below 1"),
        ({"max_shift": 0}, "max_shift is 0"),
        ({"memory": "4G"}, "memory is '4G', expected GiB"),
        ({"nodata": "none"}, "nodata is 'none', expected a number"),
        ({"skip_corrupt": 1}, "skip_corrupt is 1, expected true or false"),
        ({"train": 1}, "train is 1, expected text"),
    ],
)
def test_data_settings_of_bad_values_fail(values, message):
    with pytest.raises(UsageError, match=message):
        DataSettings.from_dict(values, "recipe")
