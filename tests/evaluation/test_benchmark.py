import json

import numpy as np
import pytest

from georsr.evaluation.benchmark import Sample, benchmark
from georsr.evaluation.metrics import psnr_y


def test_means_by_class_and_overall():
    rng = np.random.default_rng(0)
    hr = [rng.integers(0, 256, (3, 32, 32)).astype(np.uint8) for _ in range(3)]
    samples = [Sample(label, h, h[:, ::2, ::2]) for label, h in zip("aab", hr, strict=True)]

    def repeat(lr):
        return lr.repeat(2, 1).repeat(2, 2)

    report = benchmark("made", samples, 2, {"nearest": repeat, "black": lambda x: repeat(x) * 0})
    each = [psnr_y(repeat(s.lr), s.hr, 2) for s in samples]
    assert report.overall["nearest"].psnr_y == pytest.approx(np.mean(each))
    assert report.classes["a"]["nearest"].psnr_y == pytest.approx(np.mean(each[:2]))
    assert report.classes["b"]["nearest"].images == 1
    assert report.overall["black"].psnr_y < report.overall["nearest"].psnr_y
    assert json.loads(report.to_json())["overall"]["nearest"]["images"] == 3
    assert "PSNR Y by class" in report.table()
