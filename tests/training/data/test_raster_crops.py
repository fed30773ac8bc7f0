import logging
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from georsr.errors import InputError, UsageError
from georsr.io.reader import choose_normalization, open_raster
from georsr.radiometry.degradation import BicubicDegradation, SensorDegradation
from georsr.training.data.crops import flip_rotate
from georsr.training.data.raster_crops import valid_after_degradation
from georsr.training.data.source import open_source, open_training, open_validation
from georsr.training.recipe import DataSettings
from georsr.window import Window

BLUR = SensorDegradation(mtf=(0.2, 0.2), noise=(0.0, 0.0), bits=None)


def rng(*seed):
    return np.random.default_rng(seed)


@pytest.fixture
def scenes(make_raster, texture):
    """scenes(shape, ..., **profile) -> settings for rasters of these (bands, height, width)."""

    def make(*shapes, dtype="uint16", settings=None, spoil=None, **profile):
        paths = []
        for i, shape in enumerate(shapes):
            values = texture(*shape, dtype=dtype, seed=i)
            if spoil is not None:
                spoil(values)
            paths.append(make_raster(values, f"scene{i}.tif", **profile))
        return replace(settings or DataSettings(holdout=0.0), kind="scenes", root=tuple(paths))

    return make


def whole(path, degradation, scale, stretch="auto"):
    """(HR, LR) of a whole raster without invalid pixels."""
    with open_raster(path) as reader:
        height, width = (n - n % scale for n in (reader.info.height, reader.info.width))
        values = reader.read(Window(0, 0, height, width)).values.astype(np.float32)
        hr = np.clip(choose_normalization(reader, stretch).forward(values), 0, 1)
    return hr, degradation(hr, scale, rng())


@pytest.mark.parametrize("degradation", [BicubicDegradation(), BLUR])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (4, "uint16"), (5, "float32")])
def test_raster_crops_are_crops_of_the_degraded_scene(scenes, degradation, scale, bands, dtype):
    data = scenes((bands, 71, 90), dtype=dtype)
    source = open_training(data, degradation, scale=scale, patch=8)
    hr, lr = whole(data.root[0], degradation, scale)
    edges = set()
    for i in range(40):
        crop = source.crop(rng(i))
        assert crop.valid is None
        top, left, element = find(crop.hr, hr, scale, 8)
        expected = flip_rotate(lr[:, top : top + 8, left : left + 8], element)
        np.testing.assert_allclose(crop.lr, expected, atol=1e-6)
        edges |= {("top", top == 0), ("right", left == lr.shape[2] - 8)}
    assert len(edges) == 4
    assert (source.bands, source.classes, crop.label) == (bands, (), -1)


def find(wanted, image, scale, patch):
    for top in range(image.shape[1] // scale - patch + 1):
        for left in range(image.shape[2] // scale - patch + 1):
            window = Window(top, left, patch, patch).scaled(scale)
            place = image[(slice(None), *window.slices)]
            if not np.isin(place[0, 0, 0], wanted[0, [0, 0, -1, -1], [0, -1, 0, -1]]):
                continue
            for element in range(8):
                if np.array_equal(flip_rotate(place, element), wanted):
                    return top, left, element
    raise AssertionError("the crop is not in the image")


def test_raster_crops_bands_are_chosen_and_ordered(scenes):
    data = replace(scenes((4, 40, 40)), bands=(3, 1), stretch="dtype")
    source = open_training(data, BicubicDegradation(), scale=2, patch=20)
    crop = source.crop(rng(0))
    with open_raster(data.root[0], indexes=(3, 1)) as reader:
        values = reader.read(Window(0, 0, 40, 40)).values / np.float32(65535)
    assert any(np.allclose(flip_rotate(values, e), crop.hr, atol=1e-6) for e in range(8))


def test_raster_crops_normalization_is_that_of_the_scene(scenes):
    data = replace(scenes((1, 40, 40), (1, 40, 40)), stretch="percentile:10,90")
    source = open_training(data, BicubicDegradation(), scale=2, patch=8)
    for region, path in zip(source.regions, data.root, strict=True):
        with open_raster(path) as reader:
            assert region.normalization == choose_normalization(reader, "percentile:10,90")
    assert source.regions[0].normalization != source.regions[1].normalization


# -- invalid pixels -------------------------------------------------------------------------


def test_raster_crops_mask_covers_pixels_affected_by_invalid_ones(make_raster, texture):
    values = texture(2, 96, 96, "uint16")
    values[values == 9] = 10
    values[1, 40:44, 30:35] = 9
    values[0, 80, 80] = 9
    path = make_raster(values, nodata=9)
    data = DataSettings("scenes", (path,), holdout=0.0, stretch="dtype")
    source = open_training(data, BLUR, scale=2, patch=16)
    clean = np.clip(values.astype(np.float32) / 65535, 0, 1)
    lr = BLUR(clean, 2, rng())
    reached = valid_after_degradation((values != 9).all(0), 2, BLUR.margin(2) // 2)
    seen = 0
    for i in range(60):
        # the very window, by the very draw
        draw = rng(i)
        assert draw.random() < 1
        top, left = int(draw.integers(33)), int(draw.integers(33))
        element = int(rng_after_cut(draw, BLUR).integers(8))
        crop = source.crop(rng(i))
        window = Window(top, left, 16, 16)
        expected = flip_rotate(reached[window.scaled(2).slices], element)
        valid = np.ones((32, 32), bool) if crop.valid is None else crop.valid
        np.testing.assert_array_equal(valid, expected)
        truth = flip_rotate(clean[(slice(None), *window.scaled(2).slices)], element)
        np.testing.assert_allclose(crop.hr[:, valid], truth[:, valid], atol=1e-6)
        coarse = flip_rotate(lr[(slice(None), *window.slices)], element)
        known = valid[::2, ::2]
        np.testing.assert_allclose(crop.lr[:, known], coarse[:, known], atol=1e-6)
        assert np.isfinite(crop.lr).all()
        assert (crop.hr[truth == np.float32(9 / 65535)] > 0.01).all()  # filled, not nodata
        seen += crop.valid is not None
    assert 10 < seen < 60


def rng_after_cut(draw, degradation):
    """The generator as a noiseless degradation leaves it."""
    degradation(np.zeros((1, 4, 4), np.float32), 2, draw)
    return draw


def test_valid_after_degradation_grows_by_the_margin():
    good = np.ones((24, 24), bool)
    assert valid_after_degradation(good, 2, 3) is None
    good[8, 13] = False
    expected = np.ones((12, 12), bool)
    expected[4 - 2 : 4 + 3, 6 - 2 : 6 + 3] = False
    grown = valid_after_degradation(good, 2, 2)
    np.testing.assert_array_equal(grown, expected.repeat(2, 0).repeat(2, 1))


def test_raster_crops_with_few_valid_pixels_are_drawn_again(scenes):
    def spoil(values):
        values[:, :, 20:] = 7

    data = replace(scenes((1, 64, 400), spoil=spoil, nodata=7), holdout=0.0)
    source = open_training(data, BicubicDegradation(), scale=2, patch=8)
    for i in range(30):
        crop = source.crop(rng(i))
        assert crop.valid is None or crop.valid.mean() >= 0.5


def test_raster_crops_scene_without_valid_windows_is_refused(scenes):
    def spoil(values):
        values[:, 3:] = 7

    data = scenes((1, 64, 64), spoil=spoil, nodata=7)
    with pytest.raises(InputError, match=r"scene0\.tif: in 1000 windows of 8 LR pixels none has"):
        open_training(data, BicubicDegradation(), scale=2, patch=8)


# -- hold-out -------------------------------------------------------------------------------


@pytest.mark.parametrize("degradation", [BicubicDegradation(), BLUR])
def test_raster_crops_exclude_validation_blocks(make_raster, degradation):
    """Each pixel's value says where it is; whatever a crop holds or sees is outside all blocks."""
    rows, columns = np.mgrid[:300, :300]
    path = make_raster((rows * 300 + columns)[None].astype("uint32"))
    data = DataSettings("scenes", (path,), stretch="0,90000", holdout=0.2)
    crops, pairs = open_source(data, degradation, scale=2, patch=12)
    held = np.zeros((300, 300), bool)
    for _, window in pairs.windows:
        held[window.scaled(2).slices] = True
    assert 0.1 < held.mean() < 0.3
    reads = []
    reader = crops.regions[0].pool

    class Watched:
        def read(self, source, window):
            reads.append(window)
            return reader.read(source, window)

    crops.regions[0].pool = Watched()
    covered = np.zeros((300, 300), bool)
    for i in range(300):
        crops.crop(rng(i))
        covered[reads[-1].slices] = True
    assert len(reads) == 300
    assert not (covered & held).any()
    assert covered.mean() > 0.6


def test_raster_pairs_are_windows_of_the_degraded_scene(scenes):
    data = replace(scenes((3, 260, 200)), holdout=0.2)
    pairs = open_validation(data, BLUR, scale=2, patch=12)
    hr, lr = whole(data.root[0], BLUR, 2)
    assert len(pairs) == len(list(pairs)) >= 2
    for pair, (_, window) in zip(pairs, pairs.windows, strict=True):
        np.testing.assert_array_equal(pair.hr, hr[(slice(None), *window.scaled(2).slices)])
        np.testing.assert_allclose(pair.lr, lr[(slice(None), *window.slices)], atol=1e-6)
        assert (pair.label, pair.valid, pair.hr.dtype) == ("scene0", None, np.float32)
    again = [
        pair.lr.tobytes() for pair in open_validation(data, SensorDegradation(), scale=2, patch=12)
    ]
    assert again == [
        p.lr.tobytes() for p in open_validation(data, SensorDegradation(), scale=2, patch=12)
    ]


def test_raster_pairs_of_other_rasters(scenes, make_raster, texture):
    data = scenes((2, 64, 64))
    other = make_raster(texture(2, 70, 90, "uint16", seed=9), "other.tif")
    data = replace(data, validation_root=(other,), holdout=0.3)
    crops, pairs = open_source(data, BicubicDegradation(), scale=2, patch=8)
    assert crops.excluded == [[]]
    assert {pair.label for pair in pairs} == {"other"}
    assert sum(pair.hr[0].size for pair in pairs) == 70 * 90
    grey = make_raster(texture(1, 70, 90, "uint16"), "grey.tif")
    with pytest.raises(UsageError, match=r"grey\.tif has 1 bands, .*scene0\.tif has 2"):
        open_source(replace(data, validation_root=(grey,)), BicubicDegradation(), scale=2, patch=8)


def test_rasters_of_the_same_pixels_are_trained_on_once(scenes, caplog, make_raster, texture):
    data = scenes((2, 64, 64), (2, 64, 80), settings=DataSettings(holdout=0.3))
    copy = make_raster(texture(2, 64, 64, "uint16", seed=0), "copy.tif", compress="deflate")
    _, pairs = open_source(
        replace(data, root=(*data.root, copy)), BicubicDegradation(), scale=2, patch=8
    )
    assert [Path(region.name).name for region in pairs.regions] == ["scene0.tif", "scene1.tif"]
    assert "copy.tif: has the same pixels as" in caplog.text
    crops, pairs = open_source(
        replace(data, validation_root=(copy,)), BicubicDegradation(), scale=2, patch=8
    )
    assert [Path(region.name).name for region in crops.regions] == ["scene1.tif"]
    assert [Path(region.name).name for region in pairs.regions] == ["copy.tif"]
    both = replace(data, root=data.root[:1], validation_root=(copy,))
    with pytest.raises(InputError, match=r"scene0\.tif: no usable raster is left"):
        open_source(both, BicubicDegradation(), scale=2, patch=8)


def test_raster_crops_without_room_fail(scenes):
    with pytest.raises(InputError, match=r"no room for a window of 24 LR pixels .* held out"):
        open_source(
            replace(scenes((1, 64, 64)), holdout=0.1), BicubicDegradation(), scale=2, patch=24
        )
    with pytest.raises(UsageError, match="holdout is 0 and there is no validation_root"):
        open_source(scenes((1, 64, 64)), BicubicDegradation(), scale=2, patch=8)


# -- many rasters ---------------------------------------------------------------------------


def test_raster_crops_are_drawn_by_area_and_few_files_stay_open(scenes, monkeypatch):
    data = scenes((1, 40, 40), (1, 40, 160), (1, 6, 6))
    source = open_training(data, BicubicDegradation(), scale=2, patch=8)
    monkeypatch.setattr("georsr.training.data.raster_crops.MAX_OPEN", 1)
    counts = np.zeros(3)

    def counted(number, read):
        def count_and_read(window, rng):
            counts[number] += 1
            return read(window, rng)

        return count_and_read

    for number, region in enumerate(source.regions):
        region.read = counted(number, region.read)
    for i in range(400):
        source.crop(rng(i))
    small, large = 13 * 13, 13 * 73
    assert counts[2] == 0  # smaller than a crop
    assert source.count == 2
    assert counts[1] / 400 == pytest.approx(large / (small + large), abs=0.06)
    assert len(source.regions[0].pool) == 1


def test_raster_crops_pickled_or_forked_are_the_same(scenes):
    data = scenes((3, 90, 90), (3, 80, 120))
    source = open_training(data, SensorDegradation(jpeg=(60, 90)), scale=2, patch=12)
    expected = [source.crop(rng(i)).lr.tobytes() for i in range(6)]
    twin = pickle.loads(pickle.dumps(source))
    assert [twin.crop(rng(i)).lr.tobytes() for i in range(6)] == expected
    parent, child = multiprocessing.Pipe()

    def work():
        child.send([source.crop(rng(i)).lr.tobytes() for i in range(6)])

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    assert parent.poll(60)
    assert parent.recv() == expected
    process.join()
    # the child's reads have not moved the parent's file position
    assert [source.crop(rng(i)).lr.tobytes() for i in range(6)] == expected


def test_raster_crops_damaged_or_differing_rasters_are_refused(
    scenes, make_raster, texture, tmp_path, caplog
):
    data = scenes((2, 64, 64))
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"not a raster")
    both = replace(data, root=(*data.root, str(bad)))
    with pytest.raises(InputError, match=r"bad\.tif: not a raster"):
        open_training(both, BicubicDegradation(), scale=2, patch=8)
    with caplog.at_level(logging.WARNING):
        source = open_training(
            replace(both, skip_corrupt=True), BicubicDegradation(), scale=2, patch=8
        )
    assert len(source.regions) == 1
    assert "1 of 2 rasters left out" in caplog.text
    grey = make_raster(texture(1, 64, 64, "uint16"), "grey.tif")
    with pytest.raises(UsageError, match=r"grey\.tif has 1 bands, .*scene0\.tif has 2; choose"):
        open_training(
            replace(data, root=(*data.root, grey)), BicubicDegradation(), scale=2, patch=8
        )
    with pytest.raises(UsageError, match="there is no band 3"):
        open_training(replace(data, bands=(3,)), BicubicDegradation(), scale=2, patch=8)
    with pytest.raises(InputError, match="has less than 4 x 4 pixels"):
        open_training(scenes((1, 3, 64)), BicubicDegradation(), scale=4, patch=8)


@pytest.mark.parametrize(
    "name",
    [
        "naip_4band_u8_5m_nd_20090818",
        "rasterio_RGB.byte",
        "hls_10band_f32_30m_utm14",
        "s2_13band_i16_spain_sen1floods11",
        "rapideye_rgba_u8_5m_utm10",
        "rasterio_cogeo_rgb_u8_0.6m_jpeg",
    ],
)
def test_raster_crops_of_a_real_scene(shared_data, name):
    data = DataSettings("scenes", (str(shared_data / "scenes" / f"{name}.tif"),))
    crops, pairs = open_source(data, SensorDegradation(), scale=2, patch=24)
    for i in range(10):
        crop = crops.crop(rng(i))
        assert crop.lr.shape == (crops.bands, 24, 24)
        assert crop.hr.shape == (crops.bands, 48, 48)
        for image in (crop.lr, crop.hr):
            assert 0 <= image.min() <= image.max() <= 1
        assert crop.valid is None or crop.valid.mean() >= 0.5
    for pair in pairs:
        assert pair.hr.shape[1] == 2 * pair.lr.shape[1] >= 40
