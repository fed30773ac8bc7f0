"""What a run says and records about the bands and the nodata value that it found."""

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke
from scipy import ndimage

import georsr
from georsr.jobs.job import large_areas

SENTINEL = [f"B{number:02}" for number in range(1, 14)]


@pytest.fixture
def stack(make_raster, texture):
    """13 bands named as those of Sentinel-2, without colours."""

    def name(dataset):
        dataset.descriptions = SENTINEL

    return make_raster(
        texture(13, 40, 50, "uint16") // 8 + 100, photometric="MINISBLACK", after=name
    )


def colors(path):
    with rasterio.open(path) as dataset:
        return [color.name for color in dataset.colorinterp]


def test_super_resolve_found_bands_are_reported_and_get_colors(stack, tmp_path):
    report = georsr.super_resolve(stack, tmp_path / "o.tif", "segsr-lite-x2", consistency="off")
    assert report.source_bands == (4, 3, 2)
    assert colors(tmp_path / "o.tif") == ["red", "green", "blue"]


def test_super_resolve_all_bands_gives_colors_to_those_found(stack, tmp_path):
    georsr.super_resolve(
        stack, tmp_path / "o.tif", "segsr-lite-x2", consistency="off", output_bands="all"
    )
    assert colors(tmp_path / "o.tif")[:5] == ["undefined", "blue", "green", "red", "undefined"]


NUMBERED = [f"Band {number}" for number in range(1, 14)]
WORDS = ["coastal", "blue", "green", "red", *SENTINEL[4:]]


@pytest.mark.parametrize(
    ("names", "indexes", "expected"),
    [
        (SENTINEL, (4, 3, 2), ["red", "green", "blue"]),
        (SENTINEL, (2, 3, 4), ["blue", "green", "red"]),
        (WORDS, (4, 3, 2), ["red", "green", "blue"]),
        (NUMBERED, (4, 3, 2), ["red", "green", "blue"]),
        ([None] * 13, (8, 4, 3), ["red", "green", "blue"]),
        (SENTINEL, (8, 4, 3), ["undefined"] * 3),  # false colour
    ],
)
def test_super_resolve_chosen_bands_get_the_colors_of_their_names(
    names, indexes, expected, make_raster, texture, tmp_path
):
    def name(dataset):
        dataset.descriptions = names

    values = texture(13, 40, 50, "uint16") // 8 + 100
    scene = make_raster(values, photometric="MINISBLACK", after=name)
    out = tmp_path / "o.tif"
    georsr.super_resolve(scene, out, "segsr-lite-x2", consistency="off", indexes=indexes)
    assert ["undefined" if c == "gray" else c for c in colors(out)] == expected


def test_super_resolve_all_bands_gives_colors_to_a_guide_without_names(
    make_raster, texture, tmp_path
):
    scene, out = make_raster(texture(4, 40, 50, "uint16")), tmp_path / "o.tif"
    options = {"consistency": "off", "indexes": (4, 3, 2), "output_bands": "all"}
    georsr.super_resolve(scene, out, "segsr-lite-x2", **options)
    assert colors(out) == ["undefined", "blue", "green", "red"]


def test_sr_says_which_bands_it_takes_and_leaves(stack, tmp_path, capsys):
    arguments = ["sr", str(stack), str(tmp_path / "o.tif"), "-m", "segsr-lite-x2"]
    assert invoke(arguments) == 0
    line = "bands 4,3,2 of 13 (red, green, blue); for the others: --bands all"
    assert line in capsys.readouterr().err.splitlines()
    assert invoke([*arguments, "--overwrite", "--quiet"]) == 0
    assert "of 13" not in capsys.readouterr().err


def speckled(values):
    rng = np.random.default_rng(1)
    image = rng.integers(60, 200, (1, 60, 70)).astype(np.uint8)
    image[0, 10::20, 10::20] = 255
    image[:, :, :values] = 255
    return image


@pytest.mark.parametrize("edge", [0, 20])
def test_super_resolve_isolated_nodata_pixels_warn_with_their_number(edge, make_raster, tmp_path):
    scene = make_raster(speckled(edge), nodata=255)
    specks = int((speckled(edge)[0, :, edge:] == 255).sum())
    with pytest.warns(
        georsr.RadiometryWarning, match=f'{specks} of .* src_nodata="none" keeps them'
    ):
        georsr.super_resolve(scene, tmp_path / "o.tif", "bicubic-x2")


def test_super_resolve_nodata_none_takes_every_value(make_raster, tmp_path, recwarn):
    scene = make_raster(speckled(0), nodata=255)
    georsr.super_resolve(scene, tmp_path / "o.tif", "nearest-x2", src_nodata="none")
    assert not [w for w in recwarn if "nodata" in str(w.message)]
    with rasterio.open(tmp_path / "o.tif") as dataset:
        assert dataset.nodata is None
        assert dataset.dataset_mask().all()
        assert np.array_equal(dataset.read()[:, ::2, ::2], speckled(0))


def test_sr_config_nodata_of_another_word_is_refused():
    with pytest.raises(georsr.UsageError, match="src_nodata 'all': expected a number or 'none'"):
        georsr.SRConfig(src_nodata="all")
    config = georsr.SRConfig(src_nodata="none")
    assert georsr.SRConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("shape", [(1, 40, 33), (3, 25, 30), (1, 2, 9)])
def test_large_areas_equals_opening_and_propagation_of_scipy(shape):
    for seed in range(5):
        mask = ndimage.uniform_filter(np.random.default_rng(seed).random(shape), (0, 3, 3)) < 0.52
        opened = np.stack([ndimage.binary_opening(plane, np.ones((3, 3))) for plane in mask])
        expected = ndimage.binary_propagation(opened, mask=mask)
        np.testing.assert_array_equal(large_areas(mask, 3), expected)
