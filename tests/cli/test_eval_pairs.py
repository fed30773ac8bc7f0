"""``georsr eval --pairs``: table, JSON and page; every wrong request."""

import json

import numpy as np
import pytest
from affine import Affine
from georsr.cli.main import invoke

from tests.cli.test_eval import Page
from tests.evaluation.test_pairs import FINE, ground, shrunk


@pytest.fixture
def folder(make_raster, tmp_path):
    fine = ground(128)
    make_raster(fine[None].astype("float32"), "field_hr.tif", transform=FINE)
    coarse = np.stack([shrunk(fine, 2)] * 3).astype("float32")
    make_raster(coarse, "field_lr.tif", transform=FINE @ Affine.scale(2))
    (tmp_path / "pairs.tsv").write_text("name\tscale\trgb\nfield\t2\t3,2,1\n")
    return tmp_path


@pytest.fixture
def run(capsys):
    def invoked(*arguments):
        code = invoke(["eval", *map(str, arguments)])
        return code, *capsys.readouterr()

    return invoked


def test_eval_pairs_prints_table_json_and_page(folder, run, tmp_path):
    page = tmp_path / "pairs.html"
    wanted = ["--pairs", folder, "-m", "nearest-x2", "-m", "bicubic"]
    code, out, err = run(*wanted, "--report", page)
    assert (code, err.splitlines()[-1]) == (0, "100 %: 2 of 2 pairs")
    assert "x2 grey, 1 pair" in out
    assert "x2 rgb, 1 pair" in out
    assert "best Wiener filter" in out
    assert max(map(len, out.splitlines())) <= 100 + len(str(folder))
    parsed = Page(page.read_text())
    assert all(source.startswith("data:image/png") for source in parsed.sources)
    assert len(parsed.sources) == 2 * (1 + 5 + 1)  # overview; bicubic, two models and filters; fine
    assert "x2 rgb, best gain, median gain" not in "".join(parsed.words)
    code, out, _ = run(*wanted, "--json")
    report = json.loads(out)
    assert [each["kind"] for each in report["rows"]] == ["grey", "rgb"]
    assert report["rows"][1]["gains"]["bicubic-x2"] == {"psnr": 0, "detail": 0}
    assert report["consistency"] == "auto"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "set"], "either"),
        (["out.tif"], "either"),
        (["--lr", "scene.tif"], "--lr is for rasters"),
        (["--split", "val"], "--split is for --dataset"),
        (["--scale", "2"], "--scale is for rasters and --dataset"),
        (["--degradation", "bicubic"], "--degradation is for rasters and --dataset"),
        (["-m", "no-such-model-x2"], "unknown model"),
    ],
)
def test_eval_pairs_bad_arguments_are_refused(folder, run, arguments, words):
    code, out, err = run("--pairs", folder, *arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_eval_pairs_of_different_ground_is_one_line(folder, run, make_raster, tmp_path):
    make_raster(ground(128, seed=1)[None].astype("float32"), "field_hr.tif", transform=FINE)
    page = tmp_path / "pairs.html"
    code, out, err = run("--pairs", folder, "-m", "bicubic", "--report", page, "--quiet")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "same ground" in err
    assert not page.exists()


def test_eval_pairs_report_named_like_a_pair_is_refused(folder, run):
    raster = folder / "field_hr.tif"
    before = raster.read_bytes()
    code, _, err = run("--pairs", folder, "-m", "bicubic", "--report", raster, "--overwrite")
    assert code == 2
    assert "field_hr.tif" in err
    assert raster.read_bytes() == before
