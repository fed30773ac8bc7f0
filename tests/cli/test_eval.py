"""``georsr eval``: data sets, pairs, outputs alone, reports, and every wrong request."""

import csv
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from affine import Affine
from georsr.cli.main import invoke
from PIL import Image

from georsr.radiometry.degradation import bicubic_downsample

GRID = Affine(0.5, 0, 400000, 0, -0.5, 5000000)


def picture(seed, height=48, width=52):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)).astype("uint8")
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path):
    """val/<class>/<n>.png: two classes of three images."""
    for label in ("fields", "town"):
        folder = tmp_path / "set" / "val" / label
        folder.mkdir(parents=True)
        for i in range(3):
            picture(10 * len(label) + i).save(folder / f"{i}.png")
    return tmp_path / "set"


@pytest.fixture
def run(capsys):
    def invoked(*arguments):
        code = invoke(["eval", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return invoked


class Page(HTMLParser):
    """Collects what a page refers to, and checks that every tag is closed."""

    EMPTY = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.scripts, self.words = [], [], 0, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.scripts += tag in ("script", "link", "iframe")
        self.sources += [v for k, v in attrs if k in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)


def test_eval_several_models_prints_one_table(data, run):
    wanted = ["--dataset", data, "--split", "val", "-m", "nearest-x2", "-m", "bicubic-x2"]
    code, out, err = run(*wanted)
    assert (code, err.splitlines()[-1]) == (0, "100 %: 6 of 6 images")
    assert "set/val, x2, 6 images, degraded by bicubic" in out
    assert "PSNR RGB" in out
    code, out, _ = run(*wanted, "--json")
    report = json.loads(out)
    assert list(report["overall"]) == ["bicubic-x2", "nearest-x2"]
    assert report["overall"]["nearest-x2"]["psnr_y"] < report["overall"]["bicubic-x2"]["psnr_y"]
    assert report["classes"]["town"]["nearest-x2"]["images"] == 3
    assert [m["name"] for m in report["run"]["models"]] == ["bicubic-x2", "nearest-x2"]
    assert len(report["run"]["models"][1]["sha256"]) == 64


def test_eval_dataset_with_root_and_limit_selects_images(data, run):
    code, out, _ = run(
        "--dataset", "folder", "--root", data, "--split", "val", "-m", "nearest-x4", "--limit", 4
    )
    assert code == 0
    assert "4 of 6 images" in out
    code, out, _ = run("--dataset", data / "val" / "town", "-m", "nearest-x4")
    assert code == 0
    assert "town, x4, 3 images" in out
    assert "by class" not in out


def test_eval_degrade_sensor_changes_the_scores(data, run):
    base = ["--dataset", data, "--split", "val", "-m", "nearest-x2", "--json"]
    reports = {}
    for how in ("bicubic", "sensor,mtf=0.1,noise=0", "sensor,mtf=0.1,noise=0.05"):
        code, out, _ = run(*base, "--degradation", how)
        assert code == 0
        reports[how] = json.loads(out)
        assert run(*base, "--degradation", how)[1] == out  # noise is drawn alike every time
    psnrs = [r["overall"]["nearest-x2"]["psnr_y"] for r in reports.values()]
    assert psnrs[0] > psnrs[1] > psnrs[2]
    assert "MTF 0.1" in reports["sensor,mtf=0.1,noise=0"]["run"]["degradation"]


def test_eval_csv_and_report_are_written(data, run, tmp_path):
    table, page = tmp_path / "a.csv", tmp_path / "a.html"
    code, _, _ = run(
        "--dataset", data, "--split", "val", "-m", "nearest-x2", "--csv", table, "--report", page
    )
    assert code == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 12
    assert {r["class"] for r in rows} == {"fields", "town"}
    assert rows[0]["image"] == "fields/0.png"
    text = page.read_text()
    parsed = Page(text)
    assert parsed.scripts == 0
    assert "url(" not in text
    assert all(s.startswith("data:image/png;base64,") for s in parsed.sources)
    assert len(parsed.sources) >= 3 * 5
    words = " ".join(parsed.words)
    for wanted in ("set/val", "nearest-x2", "best gain", "worst PSNR Y", "sha256", "fp32", "SAM"):
        assert wanted in words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.html", "set"]
    again = ["--dataset", data, "--split", "val", "-m", "nearest-x2", "--report", page]
    page.write_text("precious")
    code, _, err = run(*again)
    assert code == 2
    assert "--overwrite" in err
    assert page.read_text() == "precious"
    assert run(*again, "--overwrite")[0] == 0
    assert page.read_text() != "precious"


def test_eval_pair_with_lr_measures_consistency(make_raster, texture, run):
    truth = texture(3, 40, 60)
    down = np.clip(np.rint(bicubic_downsample(truth, 2)), 0, 255).astype("uint8")
    lr = make_raster(down, "lr.tif", transform=GRID @ Affine.scale(2))
    hr = make_raster(truth, "hr.tif", transform=GRID)
    code, out, _ = run(hr, hr, "--lr", lr, "--json")
    assert code == 0
    ours, bicubic = json.loads(out)
    assert ours["ergas"] == ours["sam"] == 0
    assert bicubic["sr"].startswith("bicubic of")
    assert bicubic["ergas"] > 0
    assert ours["consistency"]["mae"][0] < bicubic["consistency"]["mae"][0]
    code, out, _ = run(hr, hr, "--lr", lr, "--degradation", "sensor,mtf=0.2")
    assert code == 0
    assert "MTF 0.2" in out
    code, out, _ = run(hr, hr, "--lr", lr, "--degradation", "mean")
    assert code == 0
    assert "consistency with the source (kernel mean)" in out


def test_eval_output_alone_measures_edges(make_raster, texture, run):
    output = make_raster(texture(1, 80, 80), "sr.tif", transform=GRID)
    code, out, _ = run(output, "--scale", 2)
    assert code == 0
    assert "10-90 % width" in out
    code, _, err = run(output)
    assert code == 2
    assert "give its source (--lr) or --scale" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either"),
        (["--dataset", "aid"], "--root"),
        (["--dataset", "nowhere/at/all"], "no such folder"),
        (["--dataset", "wrong", "--root", "{data}"], "one of ucmerced, aid, folder"),
        (["--dataset", "{data}/empty"], "no images"),
        (["--dataset", "{data}", "--split", "holdout"], "holdout"),
        (["--dataset", "{data}", "--split", "val", "-m", "no-such"], "unknown model"),
        (["--dataset", "{data}", "--split", "val", "-m", "bicubic-x2", "-m", "nearest-x4"], "x4"),
        (
            ["--dataset", "{data}", "--degradation", "fog"],
            "bicubic, sensor, imaging-chain, mixture, got 'fog'",
        ),
        (["--dataset", "{data}", "--split", "val", "--degradation", "sensor,fog=1"], "'fog'"),
        (["--dataset", "{data}", "--split", "val", "--degradation", "sensor,mtf=x"], "'x'"),
        (["--dataset", "{data}", "--split", "val", "--degradation", "sensor,mtf"], "key=value"),
        (
            ["--dataset", "{data}", "--split", "val", "--report", "{data}/no/a.html"],
            "does not exist",
        ),
        (["--dataset", "{data}", "--split", "val", "--csv", "{data}"], "is a directory"),
        (["--dataset", "{data}", "--csv", "{data}/a", "--report", "{data}/a"], "are both"),
        (
            ["--dataset", "{data}", "--split", "val", "--guidance", "off", "-m", "nearest-x2"],
            "no g",
        ),
        (["--dataset", "{data}/grey", "-m", "nearest-x2"], "mode L, expected RGB"),
        (["--dataset", "{data}/small", "-m", "nearest-x4"], "expected at least 24"),
        (["--dataset", "{data}/broken", "-m", "nearest-x4"], "cannot be decoded"),
        (["--dataset", "{data}", "--lr", "a.tif"], "--lr is for rasters"),
        (["a.tif", "b.tif", "--report", "a.html"], "--report is for --dataset"),
        (["a.tif", "b.tif", "-m", "bicubic-x2"], "--model is for --dataset"),
        (["a.tif", "--consistency-kernel", "mean"], "for rasters, use --degradation"),
        (["a.tif", "b.tif", "c.tif"], "got 3 rasters"),
    ],
)
def test_eval_bad_arguments_are_one_line(data, run, arguments, message):
    (data / "empty").mkdir()
    (data / "grey").mkdir()
    picture(0).convert("L").save(data / "grey" / "a.png")
    (data / "small").mkdir()
    picture(0, 20, 60).save(data / "small" / "a.png")
    (data / "broken").mkdir()
    (data / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    code, out, err = run(*(a.format(data=data) for a in arguments))
    assert code in (1, 2)
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert err.rstrip().splitlines()[-1].startswith("Error: ")  # a message is one line
    assert err.count("Error: ") == 1


def test_eval_model_with_other_bands_is_refused(data, run, lite_model, tmp_path):
    from dataclasses import replace

    from georsr.models.io import build, save_model

    spec = replace(lite_model.spec, bands=4, band_names=("r", "g", "b", "nir"))
    save_model(tmp_path / "four.safetensors", spec, build(spec))
    code, _, err = run("--dataset", data, "--split", "val", "-m", tmp_path / "four.safetensors")
    assert code == 2
    assert "takes 4 bands; image folders are RGB" in err


def test_eval_dataset_without_pillow_names_the_extra(data, run, monkeypatch):
    import georsr.evaluation.dataset as dataset

    monkeypatch.setattr(dataset, "find_spec", lambda name: None)
    code, _, err = run("--dataset", data, "--split", "val", "-m", "nearest-x2")
    assert code == 2
    assert "pip install pillow" in err
