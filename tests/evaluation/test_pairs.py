"""Gains on real pairs: made pairs whose answer is known, and every pair that is not one."""

import json

import numpy as np
import pytest
import torch
from affine import Affine
from scipy.ndimage import gaussian_filter

from georsr.errors import InputError, UsageError
from georsr.evaluation.pair_gains import (
    BEST_FILTER,
    ONE_FILTER,
    PairPixels,
    Score,
    band_weights,
    measure_gains,
    wiener,
)
from georsr.evaluation.pairs import open_pair, prepare_pairs, read_pairs
from georsr.evaluation.reports.pairs_report import (
    PairRow,
    PairsReport,
    bootstrap_mean,
    summarize,
)
from georsr.models.interpolation import Bicubic

FINE = Affine(10, 0, 500000, 0, -10, 5000000)


def ground(size, seed=0, shift=(0.0, 0.0)):
    """Texture as of ground, all of it resolved, moved (down, right) by parts of a pixel."""
    rng = np.random.default_rng(seed)
    f = np.fft.fftfreq(size + 64)
    fy, fx = f[:, None], f
    spectrum = np.fft.fft2(rng.normal(size=(size + 64,) * 2)) / (np.hypot(fy, fx) + 0.01)
    spectrum *= np.exp(-2j * np.pi * (fy * shift[0] + fx * shift[1]))
    image = np.fft.ifft2(spectrum).real[32:-32, 32:-32]
    return 1000 + 300 * (image / image.std())


def shrunk(fine, scale):
    """What a coarser sensor sees of it, (h, w)."""
    size = fine.shape[0] // scale
    return gaussian_filter(fine, 0.35 * scale).reshape(size, scale, size, scale).mean((1, 3))


def bicubic(scale):
    """Enlarge by bicubic interpolation: (C, h, w) -> (C, s * h, s * w)."""
    network = Bicubic(scale)

    def enlarge(values):
        with torch.inference_mode():
            return network(torch.from_numpy(values.astype("float32"))[None])[0].numpy()

    return enlarge


@pytest.mark.parametrize("scale", [2, 4])
def test_measure_gains_of_a_known_model_is_exact(scale):
    fine = ground(48 * scale, seed=1)
    coarse = shrunk(fine, scale)[None]
    error = np.random.default_rng(2).normal(0, 30, fine.shape)
    models = {
        "bicubic again": bicubic(scale),
        "truth with errors of 30": lambda _: (7 * (fine + error) - 900)[None],
    }
    found = measure_gains(PairPixels(coarse, fine, ()), scale, bicubic(scale), models, colour=False)
    assert found.gains["bicubic again"] == Score(0, 0)
    inside = fine[4 * scale : -4 * scale, 4 * scale : -4 * scale]
    span = np.subtract(*np.percentile(inside, (99, 1)))
    exact = 20 * np.log10(span / 30)
    gain = found.gains["truth with errors of 30"]
    assert found.bicubic.psnr + gain.psnr == pytest.approx(exact, abs=0.15)
    assert 0.1 < found.bicubic.detail + gain.detail <= 1
    assert gain.detail > 0.02
    assert np.abs(found.shift).max() < 0.02
    # sharpening helps what a lens has blurred, and the best filter is never worse than the one
    assert 0 < found.gains[ONE_FILTER].psnr <= found.gains[BEST_FILTER].psnr < gain.psnr


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("shift", [(0.3, -0.7), (-2.6, 1.4)])
def test_measure_gains_registers_shifted_pairs(scale, shift):
    size = 64 * scale
    coarse = shrunk(ground(size, seed=3), scale)[None]
    moved = PairPixels(coarse, ground(size, seed=3, shift=shift), ())
    found = measure_gains(moved, scale, bicubic(scale), {}, colour=False)
    assert found.shift == pytest.approx(shift, abs=0.05)
    still = PairPixels(coarse, ground(size, seed=3), ())
    plain = measure_gains(still, scale, bicubic(scale), {}, colour=False)
    assert found.bicubic.psnr == pytest.approx(plain.bicubic.psnr, abs=0.2)


def test_band_weights_recover_the_mixture():
    green, red, other = (ground(128, seed=n) for n in (4, 5, 6))
    coarse = np.stack([shrunk(band, 2) for band in (red, green, other)])
    weights = band_weights(coarse, 0.75 * red + 0.25 * green - 0.5 * other, 2)
    assert weights == pytest.approx([0.75, 0.25, 0], abs=0.04)
    assert weights.sum() == pytest.approx(1)


def test_measure_gains_colour_and_grey_agree():
    fine = ground(96, seed=7)
    coarse = np.stack([shrunk(fine, 2) * gain for gain in (0.5, 1.5, 1.0, 3.0)])
    seen = []

    def enlarge(values):
        seen.append(len(values))
        return bicubic(2)(values)

    pair = PairPixels(coarse, fine, (2, 1, 0))
    colour = measure_gains(pair, 2, enlarge, {}, colour=True)
    grey = measure_gains(pair, 2, enlarge, {}, colour=False)
    assert seen == [3, 1]
    assert colour.bicubic.psnr == pytest.approx(grey.bicubic.psnr, abs=0.1)


def test_measure_gains_of_other_ground_fails():
    coarse = shrunk(ground(128, seed=8), 2)
    for seed in range(9, 15):
        other = PairPixels(coarse[None], ground(128, seed=seed), ())
        with pytest.raises(InputError, match="same ground"):
            measure_gains(other, 2, bicubic(2), {}, colour=False)


def test_wiener_undoes_a_blur():
    sharp = ground(128, seed=16)
    blurred = gaussian_filter(sharp, 0.9)
    error = [np.std((x - sharp)[16:-16, 16:-16]) for x in (blurred, wiener(blurred, 0.9, 1e-3))]
    assert error[1] < 0.5 * error[0]
    assert wiener(np.full((64, 64), 5.0), 0.9, 0.1) == pytest.approx(np.full((64, 64), 5.0))


def row(name, gain, kind="grey", scale=2):
    gains = {"model": Score(gain, gain / 10), "one": Score(0.5, 0.05)}
    return PairRow(name, scale, kind, (1.0,), (0.0, 0.0), Score(30.0, 0.5), gains, (0.3, 0.1))


def test_summarize_groups_by_scale_and_kind():
    rows = [row("a", 1.0), row("b", -0.5), row("c", 0.7), row("d", 2.0, "rgb", 4)]
    first, second = summarize(rows)
    assert (first.scale, first.kind, first.pairs) == (2, "grey", 3)
    model, one = first.methods
    assert model.psnr.mean == pytest.approx(0.4)
    assert model.detail.mean == pytest.approx(0.04)
    assert (model.better, model.worst, model.worst_pair) == (2, -0.5, "b")
    assert -0.5 <= model.psnr.interval[0] < 0.4 < model.psnr.interval[1] <= 1.0
    assert one.psnr.interval == (0.5, 0.5)
    assert second.methods[0].psnr.interval is None


def test_bootstrap_mean_interval_is_that_of_a_mean():
    values = list(np.random.default_rng(0).normal(1, 0.5, 200))
    low, high = bootstrap_mean(values).interval
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / np.sqrt(200), rel=0.1)
    assert bootstrap_mean(values).interval == (low, high)


def test_pairs_report_text_fits_100_columns():
    long = "s2_" + "x" * 60
    gains = {f"{'a-model-of-a-long-name':{30 + n}}": Score(-12.3456, 0.1) for n in range(9)}
    rows = [
        PairRow(long + n, 2, "grey", (1.0,), (0.0, 0.0), Score(30.0, 0.5), gains, (0.3, 0.1))
        for n in "ab"
    ]
    report = PairsReport("pairs", summarize(rows), tuple(rows), (), "auto", "cpu", "fp32")
    lines = report.describe().splitlines()
    assert max(map(len, lines)) <= 100
    assert "[9]" in report.describe()
    assert json.loads(report.to_json())["rows"][0]["gains"]


@pytest.fixture
def pairs(make_raster, tmp_path):
    """write(name, scale, fine=..., coarse=..., **profiles): one pair, and its line of the list."""
    lines = ["name\tscale\trgb\tsensor"]

    def write(name, scale=2, rgb="-", *, fine=None, coarse=None, at=FINE, lr=None, hr=None):
        fine = ground(64 * scale, seed=20) if fine is None else fine
        coarse = shrunk(fine, scale)[None] if coarse is None else coarse
        make_raster(
            fine[None].astype("float32"), f"{name}_hr.tif", **{"transform": at} | (hr or {})
        )
        grid = {"transform": FINE @ Affine.scale(scale)} | (lr or {})
        make_raster(coarse.astype("float32"), f"{name}_lr.tif", **grid)
        lines.append(f"{name}\t{scale}\t{rgb}\tmade")
        (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
        return tmp_path

    return write


def test_open_pair_crops_to_common_ground(pairs):
    fine = ground(160, seed=21)
    coarse = shrunk(fine, 2)[None, 10:]
    moved = FINE @ Affine.translation(14, 0)
    folder = pairs(
        "a",
        fine=fine[:, 14:],
        coarse=coarse,
        at=moved,
        lr={"transform": FINE @ Affine.translation(0, 20) @ Affine.scale(2)},
    )
    found = open_pair(read_pairs(folder)[0])
    assert found.coarse.shape == (1, 70, 73)
    assert np.array_equal(found.fine, fine[20:, 14:].astype("float32"))
    assert np.array_equal(found.coarse, coarse[:, :, 7:].astype("float32"))


def test_prepare_pairs_and_run_measure_a_folder(pairs):
    pairs("a")
    pairs("b", fine=ground(128, seed=22), coarse=np.stack([shrunk(ground(128, seed=22), 2)] * 3))
    folder = pairs("c", 4, lr={"transform": FINE @ Affine.scale(4)})
    models = ["bicubic", "nearest-x2"]
    options = {"device": "cpu", "precision": "fp32", "consistency": "auto"}
    evaluation = prepare_pairs(folder, models, **options)
    report = evaluation.run(pictures=True)
    assert [(g.scale, g.pairs) for g in report.groups] == [(2, 2), (4, 1)]
    assert all(each.gains[f"bicubic-x{each.scale}"] == Score(0, 0) for each in report.rows)
    assert all(each.gains["nearest-x2"].psnr < 0 for each in report.rows[:2])
    assert len(evaluation.examples) == 3
    assert {name for names in evaluation.files.values() for name in names} > {
        str(folder / "pairs.tsv"),
        str(folder / "c_hr.tif"),
    }


def hole(values):
    values = values.copy()
    values[..., 20, 20] = -9999
    return values


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"at": FINE @ Affine.translation(2000, 0)}, UsageError, "do not overlap"),
        ({"at": FINE @ Affine.translation(90, 0)}, UsageError, "19 x 64 coarse pixels"),
        ({"at": FINE @ Affine.rotation(5)}, UsageError, "rotated against each other by 5 degrees"),
        ({"at": FINE @ Affine.scale(1.5)}, UsageError, "expected a ratio of 2"),
        ({"at": FINE @ Affine.scale(1, -1)}, UsageError, "expected a ratio of 2"),
        ({"hr": {"crs": "EPSG:32633"}}, UsageError, "differ in CRS"),
        ({"fine": hole(ground(128)), "hr": {"nodata": -9999}}, InputError, "1 of 16384 pixels"),
        ({"coarse": np.full((1, 64, 64), 7.0)}, InputError, "one value"),
        ({"rgb": "3,2,1"}, UsageError, "available: 1"),
        ({"scale": 3, "lr": {"transform": FINE @ Affine.scale(3)}}, UsageError, "scale 3"),
        ({"scale": 12}, InputError, "scale '12', expected a whole number"),
        ({"rgb": "red"}, InputError, "rgb 'red'"),
        ({"rgb": f"{'9' * 5000},2,1"}, InputError, "9, expected three band numbers"),
        ({"name": ""}, InputError, "name ''"),
    ],
)
def test_prepare_pairs_of_unrelated_rasters_fails(pairs, how, error, words):
    folder = pairs(**{"name": "a", **how})
    with pytest.raises(error, match=words) as caught:
        prepare_pairs(folder, ["bicubic-x2"])
    assert len(str(caught.value).splitlines()) == 1


def test_read_pairs_of_malformed_lists_fails(tmp_path, pairs):
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path / "nowhere")
    folder = pairs("a")
    (folder / "a_hr.tif").unlink()
    with pytest.raises(InputError, match=r"line 2: .*a_hr.tif does not exist"):
        read_pairs(folder)
    for text, words in (
        ("name\tscale\na\t2\n", "no column rgb"),
        ("", "no column name"),
        ("name\tscale\trgb\n", "lists no pair"),
        ("name\tscale\trgb\na\n", "scale ''"),
        (b"name\tscale\trgb\n\xff\t2\t-\n", "UTF-8"),
    ):
        data = text if isinstance(text, bytes) else text.encode()
        (folder / "pairs.tsv").write_bytes(data)
        with pytest.raises(InputError, match=words):
            read_pairs(folder)


def test_prepare_pairs_without_a_model_of_the_scale_fails(pairs):
    folder = pairs("a")
    with pytest.raises(UsageError, match=r"bicubic-x4 enlarges x4, as no pair"):
        prepare_pairs(folder, ["bicubic-x2", "bicubic-x4"])
    with pytest.raises(UsageError, match=r"a has scale 2, the models have 4"):
        prepare_pairs(folder, ["bicubic-x4"])


def test_pairs_of_real_sensors_have_the_known_gain(shared_data, tmp_path):
    """Gain of the one filter, measured by an independent program that registers otherwise."""
    pairs = shared_data / "pairs"
    if not pairs.is_dir():
        pytest.skip(f"no real pairs at {pairs}")
    lines = (pairs / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    kept = [lines[0], *(line for line in lines if line.startswith("l8pan_"))]
    (tmp_path / "pairs.tsv").write_text("\n".join(kept), encoding="utf-8")
    for raster in pairs.glob("l8pan_*.tif"):
        (tmp_path / raster.name).symlink_to(raster)
    options = {"device": "cpu", "precision": "fp32", "consistency": "auto"}
    report = prepare_pairs(tmp_path, ["bicubic"], **options).run()
    for group, psnr, detail in zip(report.groups, (0.561, 0.569), (0.017, 0.0172), strict=True):
        one_filter = group.methods[1]
        assert one_filter.psnr.mean == pytest.approx(psnr, abs=0.01)
        assert one_filter.detail.mean == pytest.approx(detail, abs=0.0005)
    assert all(each.bicubic.detail > 0.7 for each in report.rows)
    assert all(each.gains["bicubic-x2"] == Score(0, 0) for each in report.rows)
