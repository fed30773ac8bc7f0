import json

import pytest

from georsr.errors import InputError, UsageError
from georsr.io.image_datasets import AID_SIZES, BUILTIN, UCMERCED_CLASSES, load_split_list

SIZES = {
    "ucmerced-funsr": {"train": 1260, "val": 420, "test": 420},
    "ucmerced-half": {"train": 945, "val": 105, "test": 1050},
    "aid-80-20": {"train": 7700, "val": 300, "test": 2000},
}


@pytest.mark.parametrize("name", BUILTIN)
def test_load_split_list_built_in_covers_the_data_set_once(name):
    split = load_split_list(name)
    assert {part: len(split[part]) for part in split.parts} == SIZES[name]
    keys = [key for part in split.parts for key in split[part]]
    if name.startswith("ucmerced"):
        expected = {f"{c}/{c}{i:02d}" for c in UCMERCED_CLASSES for i in range(100)}
    else:
        expected = {f"{c}/{c.lower()}_{i}" for c, n in AID_SIZES.items() for i in range(1, n + 1)}
    assert set(keys) == expected
    assert len(keys) == len(expected)


@pytest.mark.parametrize("name", BUILTIN)
def test_load_split_list_built_in_is_balanced(name):
    split = load_split_list(name)
    for part in split.parts:
        counts = {}
        for key in split[part]:
            counts[key.split("/")[0]] = counts.get(key.split("/")[0], 0) + 1
        if name.startswith("ucmerced"):
            assert set(counts.values()) == {SIZES[name][part] // 21}
        else:
            assert set(counts) == set(AID_SIZES)


def test_load_split_list_funsr_equals_the_published_one(shared_data):
    published = json.loads((shared_data / "ucmerced" / "split.json").read_text())
    split = load_split_list("ucmerced-funsr")
    for part in ("train", "val", "test"):
        assert set(split[part]) == set(published[part])


def test_load_split_list_half_follows_its_rule():
    split = load_split_list("ucmerced-half")
    assert "beach/beach48" in split["train"]
    assert "beach/beach49" in split["val"]
    assert "beach/beach50" in split["test"]


def test_load_split_list_reads_files(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('{"train": ["a/x.tif", "C:\\\\data\\\\b\\\\y.JPG"], "val": ["a/z 1.5m"]}')
    split = load_split_list(str(path))
    assert split["train"] == ("a/x", "b/y")
    assert split["val"] == ("a/z 1.5m",)
    path = tmp_path / "list.txt"
    path.write_text("# mine\ntrain a/x.tif\n\nval  a/z 1.png # the last\n")
    split = load_split_list(str(path))
    assert (split["train"], split["val"]) == (("a/x",), ("a/z 1",))


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.json", "{", InputError, "cannot be read as a split list"),
        ("a.json", '["a"]', InputError, 'expected {"train"'),
        ("a.json", "{}", InputError, "is empty"),
        ("a.txt", "train\n", InputError, "a line is 'train', expected '<part> <class>/<name>'"),
        ("a.txt", "train a/x\nval a/x.png\n", UsageError, "a/x is both in train and in val"),
    ],
)
def test_load_split_list_of_malformed_files_fails(tmp_path, name, text, error, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(error, match=message):
        load_split_list(str(path))


def test_load_split_list_unknown_name_or_part_is_refused():
    with pytest.raises(UsageError, match=r"neither a built-in list .*ucmerced-half.* nor"):
        load_split_list("nwpu")
    with pytest.raises(UsageError, match="has no part 'dev'; it has train, val, test"):
        load_split_list("ucmerced-half")["dev"]
