import pytest

from georsr.errors import UsageError
from georsr.io.reader import open_raster
from georsr.io.rgb_bands import detect_rgb_bands


@pytest.fixture
def guide_of(make_raster, texture):
    def find(names, dtype="uint16", tags=None, **profile):
        def after(dataset):
            dataset.descriptions = tuple(names)
            for number, tag in enumerate(tags or (), 1):
                dataset.update_tags(number, **tag)

        profile.setdefault("photometric", "minisblack")
        path = make_raster(texture(len(names), 8, 8, dtype), after=after, **profile)
        with open_raster(path) as reader:
            return detect_rgb_bands(reader.info)

    return find


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["red", "green", "blue", "nir"], (1, 2, 3)),
        (["blue", "green", "red", "nir"], (3, 2, 1)),
        (["Blue", "Green", "Red", "Red Edge", "Near-Infrared"], (3, 2, 1)),
        (["coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"],
         (6, 4, 2)),
        (["B01", "B02", "B03", "B04", "B05", "B08", "B8A", "B11"], (4, 3, 2)),
        (["B2", "B3", "B4", "B8"], (3, 2, 1)),
        (["B4, central wavelength 665 nm", "B3, central wavelength 560 nm",
          "B2, central wavelength 490 nm", "B8, central wavelength 842 nm"], (1, 2, 3)),
        (["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"], (4, 3, 2)),
        (["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"], (3, 2, 1)),
        (["Band 1 (0.485 um)", "Band 2 (0.56 um)", "Band 3 (0.66 um)", "Band 4 (0.83 um)"],
         (3, 2, 1)),
    ],
)  # fmt: skip
def test_detect_rgb_bands_by_names(guide_of, names, numbers):
    guide = guide_of(names)
    assert guide.numbers == numbers
    assert guide.note == ""


def test_detect_rgb_bands_by_color_interpretation(guide_of):
    guide = guide_of(["", "", "", ""], "uint8", photometric="RGB")
    assert guide == type(guide)((1, 2, 3))


def test_detect_rgb_bands_by_wavelengths(guide_of):
    tags = [{"wavelength": value} for value in ("842", "490", "560", "665")]
    guide = guide_of(["a", "b", "c", "d"], tags=tags)
    assert (guide.numbers, guide.note) == ((4, 3, 2), "")


@pytest.mark.parametrize(
    ("count", "dtype", "numbers"),
    [(3, "uint16", (1, 2, 3)), (4, "uint8", (1, 2, 3)), (4, "uint16", (3, 2, 1)),
     (6, "uint8", (3, 2, 1)), (13, "int16", (4, 3, 2))],
)  # fmt: skip
def test_detect_rgb_bands_undeclared_are_assumed_with_a_note(guide_of, count, dtype, numbers):
    guide = guide_of([""] * count, dtype)
    assert guide.numbers == numbers
    listed = ",".join(map(str, numbers))
    assert f"assuming bands {listed} (" in guide.note
    assert "--bidx" in guide.note
    assert "\n" not in guide.note


def test_detect_rgb_bands_ambiguous_are_refused(guide_of):
    with pytest.raises(
        UsageError, match=r"which of its 5 bands are red, green and blue: .*indexes"
    ):
        guide_of([""] * 5)
