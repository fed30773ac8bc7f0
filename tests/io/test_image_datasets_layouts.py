import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image

from georsr.errors import InputError, UsageError
from georsr.io.image_datasets import (
    AID_SIZES,
    UCMERCED_CLASSES,
    detect_layout,
    open_dataset,
)


@pytest.fixture(scope="module")
def pixel(tmp_path_factory):
    """An image to make links to: no test here looks at pixels."""
    path = tmp_path_factory.mktemp("pixel") / "pixel.tif"
    Image.new("RGB", (1, 1)).save(path)
    return path


@pytest.fixture(scope="module")
def ucmerced(tmp_path_factory, pixel):
    """UC Merced as distributed: 21 classes of 100 TIFFs."""
    root = tmp_path_factory.mktemp("ucmerced")
    for label in UCMERCED_CLASSES:
        folder = root / "UCMerced_LandUse" / "Images" / label
        folder.mkdir(parents=True)
        for i in range(100):
            os.link(pixel, folder / f"{label}{i:02d}.tif")
    (root / "UCMerced_LandUse" / "readme.txt").write_text("as distributed")
    return root


@pytest.fixture(scope="module")
def aid(tmp_path_factory, pixel):
    """AID as distributed: 30 classes, 10,000 JPEGs numbered from 1."""
    root = tmp_path_factory.mktemp("aid")
    for label, count in AID_SIZES.items():
        (root / "AID" / label).mkdir(parents=True)
        for i in range(1, count + 1):
            os.link(pixel, root / "AID" / label / f"{label.lower()}_{i}.jpg")
    return root


@pytest.mark.parametrize("inner", ["", "UCMerced_LandUse", "UCMerced_LandUse/Images"])
def test_open_dataset_ucmerced_as_distributed_is_read(ucmerced, inner):
    root = ucmerced / inner
    whole = open_dataset(root)
    assert (len(whole), len(whole.classes)) == (2100, 21)
    assert [len(open_dataset(root, split=p)) for p in ("train", "val", "test")] == [1260, 420, 420]
    test = open_dataset(root, "ucmerced", split="test", split_list="ucmerced-half")
    assert len(test) == 1050
    assert set(Counter(image.label for image in test).values()) == {50}
    assert test.images[0].path.name == "agricultural50.tif"


def test_open_dataset_aid_as_distributed_is_read(aid):
    assert detect_layout(aid) == "aid"
    whole = open_dataset(aid / "AID")
    assert (len(whole), whole.classes) == (10_000, tuple(AID_SIZES))
    parts = {part: open_dataset(aid, split=part) for part in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [7700, 300, 2000]
    assert set(Counter(image.label for image in parts["val"]).values()) == {10}
    airports = [image for image in parts["test"] if image.label == "Airport"]
    assert sorted(int(i.path.stem.split("_")[1]) for i in airports) == list(range(289, 361))


def test_open_dataset_split_folders_with_and_without_classes(tmp_path, write_tiny):
    for part, count in (("train", 3), ("val", 1)):
        for label in ("town", "field"):
            for i in range(count):
                write_tiny(tmp_path / "a" / part / label / f"{i}.webp")
                write_tiny(tmp_path / "b" / part / f"{label}{i}.png")
    train = open_dataset(tmp_path / "a", split="train")
    assert (len(train), train.classes) == (6, ("field", "town"))
    unlabelled = open_dataset(tmp_path / "b", split="val")
    assert (len(unlabelled), unlabelled.classes) == (2, ())
    with pytest.raises(UsageError, match="no folder 'test' in it"):
        open_dataset(tmp_path / "a", split="test")
    with pytest.raises(InputError, match="it has the parts train, val: name one"):
        open_dataset(tmp_path / "a")


def test_open_dataset_with_split_list_selects_images(tmp_path, write_tiny):
    for name in ("town/1", "town/2", "field/1"):
        write_tiny(tmp_path / "data" / f"{name}.png")
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"train": ["town/1.png", "field/1.png"], "val": ["town/2.png"]}))
    train = open_dataset(tmp_path / "data", split="train", split_list=str(path))
    assert [image.key for image in train] == ["field/1", "town/1"]
    path.write_text(json.dumps({"train": [f"town/{i}" for i in range(1, 9)]}))
    message = r"6 of the 8 images of part 'train' are missing: town/3, .*, town/7, \.\.\."
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / "data", split="train", split_list=str(path))


def test_open_dataset_missing_class_folders_are_named(ucmerced, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(ucmerced / "UCMerced_LandUse" / "Images", root, copy_function=os.link)
    shutil.rmtree(root / "beach")
    shutil.rmtree(root / "harbor")
    with pytest.raises(InputError, match="without 2 of its 21 class folders: beach, harbor"):
        open_dataset(root, split="train")
    (root / "beach").mkdir()
    (root / "harbor").mkdir()
    message = r"120 of the 1260 images .* missing: beach/beach00, .*, \.\.\."
    with pytest.raises(InputError, match=message):
        open_dataset(root, split="train")


def test_open_dataset_with_missing_images_fails(tmp_path, write_tiny):
    with pytest.raises(UsageError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images; expected <class>/<image>"):
        open_dataset(tmp_path / "empty")
    write_tiny(tmp_path / "mine" / "town" / "1.png")
    with pytest.raises(InputError, match="does not hold UC Merced Land Use; expected its 21"):
        open_dataset(tmp_path / "mine", "ucmerced")
    with pytest.raises(UsageError, match="layout 'coco': expected one of auto, ucmerced"):
        open_dataset(tmp_path / "mine", "coco")
    with pytest.raises(UsageError, match="neither a built-in list"):
        open_dataset(tmp_path / "mine", split="train", split_list="none")


def test_open_dataset_imports_neither_rasterio_nor_open_clip(tmp_path, write_image):
    for seed, part in enumerate(("train", "val")):
        for i in range(2):
            write_image(tmp_path / part / "town" / f"{i}.png", seed=10 * seed + i)
    program = f"""
import sys
sys.modules["rasterio"] = None
sys.modules["open_clip"] = None
import numpy as np
from georsr.radiometry.degradation import degradation_from_dict
from georsr.training.recipe import DataSettings
from georsr.training.data.source import open_source
data = DataSettings.from_dict({{"root": {str(tmp_path)!r}}}, "here")
degradation = degradation_from_dict({{"kind": "sensor"}}, "here")
crops, pairs = open_source(data, degradation, scale=2, patch=16)
assert crops.crop(np.random.default_rng(0)).hr.shape == (3, 32, 32)
assert len(list(pairs)) == len(pairs) == 2
"torch" in sys.modules and sys.exit("torch was imported")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
