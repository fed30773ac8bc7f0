import numpy as np
import pytest

from georsr.errors import UsageError
from georsr.io import open_sources
from georsr.io.reader import choose_normalization, open_raster
from georsr.radiometry.normalization import normalization_of_sample


@pytest.fixture
def stretch_of(make_raster):
    def find(mode="reflectance", dtype="uint16", name="", tags=None, scale=None):
        def after(dataset):
            dataset.descriptions = (name,) * 2
            dataset.update_tags(**(tags or {}))
            if scale:
                dataset.scales, dataset.offsets = (scale[0],) * 2, (scale[1],) * 2

        with open_raster(make_raster(np.zeros((2, 8, 8), dtype), after=after)) as reader:
            return choose_normalization(reader, mode)

    return find


def test_stretch_reflectance_uses_scale_and_offset(stretch_of):
    stretch = stretch_of(scale=(0.0001, -0.1))
    np.testing.assert_allclose((stretch.lo[0], stretch.hi[1]), (1000, 4000))
    assert stretch.kind == "reflectance"
    wide = stretch_of("reflectance:0.1,0.5", scale=(0.0001, -0.1))
    np.testing.assert_allclose((wide.lo[0], wide.hi[0]), (2000, 6000))


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ({"tags": {"BOA_QUANTIFICATION_VALUE": "10000", "BOA_ADD_OFFSET": "-1000"}}, (1000, 4000)),
        ({"tags": {"QUANTIFICATION_VALUE": "10000"}}, (0, 3000)),
        ({"name": "SR_B4"}, (7272.727, 18181.818)),
        ({"name": "LC09_L2SP_191030_20230101_20230103_02_T1_SR_B4"}, (7272.727, 18181.818)),
        ({"name": "LC09_SR_B4.TIF"}, (7272.727, 18181.818)),
        ({"dtype": "float32"}, (0, 0.3)),
        ({"dtype": "float32", "name": "LC09_SR_B4"}, (0, 0.3)),
    ],
)
def test_stretch_reflectance_of_known_sensors(stretch_of, arguments, limits):
    stretch = stretch_of(**arguments)
    np.testing.assert_allclose((stretch.lo[0], stretch.hi[0]), limits, rtol=1e-6)


def test_stretch_reflectance_of_landsat_files_that_are_stacked(make_raster):
    values = np.ones((1, 8, 8), "uint16")
    paths = [make_raster(values, f"LC09_SR_B{number}.TIF") for number in (4, 3, 2)]
    with open_sources(paths, stack=True) as stacked, open_raster(paths[0]) as single:
        assert choose_normalization(stacked, "reflectance").lo == (0.2 / 2.75e-5,) * 3
        assert choose_normalization(single, "reflectance").lo == (0.2 / 2.75e-5,)


def test_stretch_reflectance_unknown_is_refused(stretch_of):
    for name in ("", "LC09_ST_B10", "LC09_SR_B4_old"):
        with pytest.raises(UsageError, match=r"set those of the product.*stretch=\"LO,HI\""):
            stretch_of(name=name)
    with pytest.raises(UsageError, match="expected reflectance:LO,HI"):
        stretch_of("reflectance:0.5,0.1", scale=(0.1, 0.0))
    with pytest.raises(UsageError, match="needs the scale and offset of a file"):
        normalization_of_sample(np.zeros((1, 4)), np.ones((1, 4), bool), "reflectance")


def test_stretch_reflectance_uses_offset_tags_of_each_band(make_raster):
    def after(dataset):
        dataset.update_tags(BOA_QUANTIFICATION_VALUE="10000")
        dataset.update_tags(1, BOA_ADD_OFFSET="-1000")

    with open_raster(make_raster(np.zeros((2, 8, 8), "uint16"), after=after)) as reader:
        stretch = choose_normalization(reader, "reflectance")
    np.testing.assert_allclose(stretch.lo, (1000, 0))
