import csv
import io
import json
import math
from dataclasses import fields

import numpy as np
import pytest

from georsr.evaluation.benchmark import (
    COLUMNS,
    ImageMetrics,
    Sample,
    benchmark,
    csv_table,
    mean_scores,
    measure,
    text_table,
    unique_models,
)
from georsr.evaluation.metrics import crop_border, luma, psnr_rgb, psnr_y, ssim
from georsr.models.io import create_model, open_model


def repeat(sample):
    return sample.lr.repeat(2, 1).repeat(2, 2)


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    hr = [rng.integers(0, 256, (3, 32, 32)).astype(np.uint8) for _ in range(3)]
    return [
        Sample(label, h, h[:, ::2, ::2], f"{label}/{i}.png", lambda x: x[:, ::2, ::2])
        for i, (label, h) in enumerate(zip("aab", hr, strict=True))
    ]


@pytest.fixture
def report(samples):
    rivals = {"nearest": repeat, "black": lambda s: repeat(s) * 0, "truth": lambda s: s.hr}
    return benchmark("made", samples, 2, rivals)


def test_mean_scores_by_class_and_overall(report, samples):
    each = [psnr_y(repeat(s), s.hr, 2) for s in samples]
    assert report.overall["nearest"].psnr_y == pytest.approx(np.mean(each))
    assert report.classes["a"]["nearest"].psnr_y == pytest.approx(np.mean(each[:2]))
    assert report.classes["b"]["nearest"].images == 1
    assert report.overall["black"].psnr_y < report.overall["nearest"].psnr_y
    assert report.images == json.loads(report.to_json())["overall"]["nearest"]["images"] == 3
    gains = report.gains("black")
    assert gains[1] == pytest.approx(psnr_y(repeat(samples[1]) * 0, samples[1].hr, 2) - each[1])
    assert report.gains("nearest") == [0, 0, 0]


def test_score_image_by_every_protocol(samples):
    sample = samples[0]
    scores = measure(repeat(sample), sample, 2)
    assert scores.psnr_y == psnr_y(repeat(sample), sample.hr, 2)
    assert scores.ssim_y == ssim(*(crop_border(luma(x), 2) for x in (repeat(sample), sample.hr)))
    assert scores.psnr_rgb == psnr_rgb(repeat(sample), sample.hr, 2)
    assert (scores.consistency, scores.consistency_psnr) == (0, math.inf)


def test_benchmark_of_the_truth_is_perfect(report):
    perfect = report.overall["truth"]
    assert (perfect.psnr_y, perfect.sam, perfect.ergas) == (math.inf, 0, 0)
    assert (perfect.consistency, perfect.shift_y, perfect.shift_x) == (0, 0, 0)
    assert perfect.detail == pytest.approx(1)
    assert report.overall["black"].detail == pytest.approx(0)
    assert math.isnan(report.overall["black"].shift_y)  # a flat image has no place


def test_mean_scores_leaves_out_undefined_figures():
    keys = [f.name for f in fields(ImageMetrics)][1:]
    one = ImageMetrics(1, **dict.fromkeys(keys, 2.0))
    other = ImageMetrics(1, **(dict.fromkeys(keys, 4.0) | {"sam": math.nan}))
    mean = mean_scores([one, other])
    assert (mean.images, mean.psnr_y, mean.sam) == (2, 3, 2)
    assert {figure.key for figure in COLUMNS} == set(keys)


def test_benchmark_tables_list_scores(report):
    table = text_table(report)
    assert "made, x2, 3 images" in table
    assert "PSNR Y by class" in table
    for figure in COLUMNS:
        assert figure.title in table
    rows = list(csv.DictReader(io.StringIO(csv_table(report))))
    assert len(rows) == 9
    assert rows[3]["image"] == "a/1.png"
    assert rows[3]["model"] == "nearest"
    assert float(rows[3]["psnr_y"]) == pytest.approx(report.rows[3].scores.psnr_y, rel=1e-5)
    assert rows[1]["shift_y"] == ""


def test_text_table_is_at_most_100_columns_wide(report):
    table = text_table(report)
    assert max(map(len, table.splitlines())) <= 100
    assert all(column.title in table for column in COLUMNS)
    assert table.count("nearest") >= 2  # the lines of a model go on below


def test_unique_models_numbers_those_of_one_name():
    first, second = open_model("segsr-lite-x2"), create_model("segsr-lite", 2, name="segsr-lite-x2")
    assert list(unique_models([first, second, first])) == ["segsr-lite-x2", "segsr-lite-x2 #2"]
