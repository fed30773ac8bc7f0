"""Bicubic and nearest, from file to file, against a reference in float64 that is written here.

``GEORSR_EXAMPLES=2000`` draws more cases than 100.
"""

import os
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine
from scipy.ndimage import minimum_filter

import georsr
from georsr.io.metadata import SUPPORTED_DTYPES

DRIVERS = ("GTiff", "COG", "VRT", "PNG")
PLACES = ("north up", "rotated", "south up", "gcps", "none")


@dataclass(frozen=True)
class Case:
    """A source and the options of a run."""

    seed: int
    dtype: str
    shape: tuple[int, int, int]
    values: str
    nodata: float | None
    masking: str
    driver: str
    place: str
    scaling: tuple[float, float]
    model: str
    scale: int
    tile: int
    stretch: str
    backend: str

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return values (C, h, w), and which of the pixels (h, w) are valid."""
        rng = np.random.default_rng(self.seed)
        kind = np.dtype(self.dtype)
        limits = (np.finfo if kind.kind == "f" else np.iinfo)(kind)
        low, high = limits.min, limits.max
        unit = rng.random(self.shape)
        if self.values == "whole range":
            values = (unit - 0.5) * 2 * float(high) if low else unit * float(high)
        elif self.values == "small differences":
            values = float(high) * 0.7 + unit * 50 if kind.kind != "f" else 5e8 + unit * 50
        else:
            values = 20 + unit * 60
        if self.values == "undeclared fill":
            hole = rng.random(self.shape[1:]) < 0.3
            values[:, hole] = high if kind.kind != "f" else -3.4028234663852886e38
        values = np.clip(values, float(low), float(high))
        pixels = values.astype(kind) if kind.kind == "f" else np.rint(values).astype(kind)
        valid = np.ones(self.shape[1:], bool)
        if self.nodata is not None or self.masking != "none":
            top, left = rng.integers(0, self.shape[1]), rng.integers(0, self.shape[2])
            valid[top : top + 5, left : left + 5] = False
        if self.nodata is not None and np.isfinite(self.nodata):
            pixels[pixels == kind.type(self.nodata)] = 21
        if self.nodata is not None:
            pixels[:, ~valid] = kind.type(self.nodata)
        return pixels, valid


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from(SUPPORTED_DTYPES))
    kind = np.dtype(dtype)
    driver = draw(st.sampled_from(DRIVERS if dtype in ("uint8", "uint16") else DRIVERS[:3]))
    nodata = [None, 7.0]
    nodata += [float("nan"), -9999.0, -3.4028234663852886e38] if kind.kind == "f" else []
    nodata += [float(np.iinfo(kind).max), float(np.iinfo(kind).min)] if kind.kind != "f" else []
    masking = ["none"]
    if driver != "PNG":
        masking += ["mask", "alpha"] if dtype in ("uint8", "uint16") else ["mask"]
    chosen = draw(st.sampled_from(masking))
    declared = draw(st.sampled_from(nodata)) if chosen == "none" else None
    values = ["small differences", "few", "undeclared fill"]
    # GDAL's own mask takes most negative float32 values for nodata of -3.4e38: their sum overflows
    values += [] if dtype == "float32" and declared and abs(declared) > 1e38 else ["whole range"]
    bands = 1 if driver == "PNG" else draw(st.integers(1, 3))
    return Case(
        seed=draw(st.integers(0, 2**32)),
        dtype=dtype,
        shape=(bands, draw(st.integers(3, 40)), draw(st.integers(3, 40))),
        values=draw(st.sampled_from(values)),
        nodata=declared,
        masking=chosen,
        driver=driver,
        place=draw(st.sampled_from(PLACES)),
        scaling=draw(st.sampled_from(((1.0, 0.0), (1e-4, -0.1), (0.5, 300.0)))),
        model=draw(st.sampled_from(("bicubic", "nearest"))),
        scale=draw(st.integers(2, 4)),
        tile=draw(st.sampled_from((16, 32))),
        stretch=draw(st.sampled_from(("auto", "0,30", "percentile:20,80"))),
        backend=draw(st.sampled_from(("auto", "auto", "torch"))),
    )


def write(case, folder):
    """Write the source of a case; return its path."""
    pixels, valid = case.pixels()
    place = Affine(10, 0, 5e5, 0, -10, 4e6)
    if case.place == "rotated":
        place = place @ Affine.rotation(20)
    elif case.place == "south up":
        place = Affine(10, 0, 5e5, 0, 10, 4e6)
    bands, height, width = pixels.shape
    profile = {"count": bands, "height": height, "width": width, "dtype": case.dtype}
    alpha = case.masking == "alpha"
    path = folder / "plain.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", driver="GTiff", **profile | {"count": bands + alpha}, nodata=case.nodata
        ) as dataset:
            dataset.write(pixels, list(range(1, bands + 1)))
            if alpha:
                dataset.write(valid.astype(case.dtype) * np.iinfo(case.dtype).max, bands + 1)
                dataset.colorinterp = (*dataset.colorinterp[:-1], rasterio.enums.ColorInterp.alpha)
            elif case.masking == "mask":
                dataset.write_mask(valid)
            if case.place == "gcps":
                points = [(0, 0, 1, 2), (0, width, 3, 2), (height, 0, 1, 4), (height, width, 3, 4)]
                dataset.gcps = ([GroundControlPoint(*point) for point in points], "EPSG:4326")
            elif case.place != "none":
                dataset.crs, dataset.transform = "EPSG:32632", place
            dataset.scales = (case.scaling[0],) * dataset.count
            dataset.offsets = (case.scaling[1],) * dataset.count
        if case.driver == "GTiff":
            return path
        other = folder / {"COG": "cog.tif", "VRT": "a.vrt", "PNG": "a.png"}[case.driver]
        rasterio.shutil.copy(path, other, driver=case.driver)
    return other


def keys(distance):
    """Return Keys' cubic kernel with a = -0.75."""
    x, a = np.abs(distance), -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def matrix(length, scale, model):
    """Return the matrix that enlarges an axis, edges repeated: (scale * length, length)."""
    centres = (np.arange(scale * length) + 0.5) / scale - 0.5
    weights = np.zeros((scale * length, length))
    for row, centre in enumerate(centres):
        if model == "nearest":
            weights[row, row // scale] = 1
            continue
        for source in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[row, min(max(source, 0), length - 1)] += keys(source - centre)
    return weights


def enlarge(values, case):
    """Return the values (C, h, w) enlarged in float64, and a 16th of what they are summed from."""
    values = values.astype(np.float64) / 16  # sums of the largest values stay finite
    down, across = (matrix(n, case.scale, case.model) for n in values.shape[1:])
    weights = [np.abs(down), np.abs(across)]
    if case.dtype.startswith("float"):  # weights are rounded as fractions of 1, not of themselves
        weights = [down != 0, across != 0]
    with np.errstate(over="ignore"):
        return down @ values @ across.T * 16, weights[0] @ np.abs(values) @ weights[1].T


def compare(case, folder):
    """Super-resolve a case, and compare the pixels whose kernel covers valid pixels alone."""
    source, out = write(case, folder), folder / "out.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", georsr.GeorsrWarning)
        georsr.super_resolve(
            source,
            out,
            case.model,
            case.scale,
            tile_size=case.tile,
            stretch=case.stretch,
            backend=case.backend,
            blocksize=32,
            alpha="mask",
        )
    pixels, valid = case.pixels()
    bands = len(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        dataset = rasterio.open(out)
    with dataset:
        made = dataset.read(list(range(1, bands + 1)))
        assert dataset.dtypes[0] == case.dtype
        assert dataset.scales[:bands] == (case.scaling[0],) * bands or case.driver == "PNG"
        enlarged = valid.repeat(case.scale, 0).repeat(case.scale, 1)
        if not valid.all():
            # GDAL takes alpha for a mask only after one or three bands
            mask = dataset.read(bands + 1) if case.masking == "alpha" else dataset.dataset_mask()
            np.testing.assert_array_equal(mask != 0, enlarged)
    reach = 2 if case.model == "bicubic" else 0
    known = minimum_filter(valid, 2 * reach + 1, mode="nearest")
    known = known.repeat(case.scale, 0).repeat(case.scale, 1)
    clean = np.where(valid, pixels, pixels.dtype.type(0))
    expected, magnitude = enlarge(clean, case)
    kind = np.dtype(case.dtype)
    if kind.kind == "f":
        largest = float(np.finfo(kind).max)
        expected = np.clip(expected, -largest, largest)
        with np.errstate(over="ignore"):
            last = np.spacing(np.abs(expected).astype(kind)).astype(np.float64)
        allowed = last + 32 * 16 * np.finfo(np.float64).eps * magnitude
    else:
        expected = np.clip(expected, float(np.iinfo(kind).min), float(np.iinfo(kind).max))
        # integers of 16 bits are rounded to float32 before, which matters in ties alone
        allowed = 0.5 + 16 * (1e-6 if kind.itemsize <= 2 else 1e-12) * magnitude
    if case.model == "nearest":
        allowed = np.zeros_like(expected)
    if case.nodata is not None and np.isfinite(case.nodata):
        # a valid pixel that would be read as nodata moves to the next value
        step = 1.0 if kind.kind != "f" else 64 * np.finfo(kind).eps * abs(case.nodata)
        allowed = np.where(np.abs(expected - case.nodata) <= 0.5 + step, 1 + 2 * step, allowed)
    difference = np.abs(made[:, known].astype(np.float64) - expected[:, known])
    assert (difference <= allowed[:, known]).all(), float(np.max(difference - allowed[:, known]))


@settings(
    max_examples=int(os.environ.get("GEORSR_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cases())
def test_super_resolve_interpolation_equals_float64_reference(tmp_path_factory, case):
    compare(case, tmp_path_factory.mktemp("values"))


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [("uint32", 3_000_000_000), ("int32", -1_500_000_000), ("float64", 5e8), ("uint16", 60_000)],
)
@pytest.mark.parametrize("model", ["segsr-lite-x2", "segsr-lite-x2-sensor"])
def test_network_large_offset_keeps_the_digits_of_small_differences(dtype, offset, model, texture):
    image = texture(3, 48, 48).astype(float) * 3
    plain = georsr.super_resolve_array(image.astype("float32"), model, stretch="0,900")
    moved = georsr.super_resolve_array(
        (image + offset).astype(dtype), model, stretch=f"{offset},{offset + 900}"
    )
    np.testing.assert_allclose(moved.astype(np.float64) - offset, plain, atol=0.51)


def test_network_huge_undeclared_fill_changes_no_pixel_far_from_it(texture):
    image = texture(3, 96, 96).astype("float32") + 100
    image[:, :30, :30] = np.nan
    expected = georsr.super_resolve_array(image, "segsr-lite-x2")
    for fill in (1e20, -3.4028234663852886e38, 9.969209968386869e36, -9999e3):
        image[:, :30, :30] = fill
        with pytest.warns(georsr.RadiometryWarning, match="not declared as nodata"):
            made = georsr.super_resolve_array(image, "segsr-lite-x2")
        np.testing.assert_allclose(made[:, 100:, 100:], expected[:, 100:, 100:], atol=1e-2)
        np.testing.assert_array_equal(made[:, 4:52, 4:52], np.float32(fill))
