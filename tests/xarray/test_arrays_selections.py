"""Arrays of some bands, and selections that are empty."""

import json

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr

import georsr.xarray  # registers the accessor
from georsr.errors import UsageError
from georsr.evaluation.reports.output_report import report_output

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture
def stack(make_raster, texture):
    """Path of 13 bands named as those of Sentinel-2."""

    def name(dataset):
        dataset.descriptions = [f"B{number:02}" for number in range(1, 14)]

    return make_raster(
        texture(13, 40, 50, "uint16") // 8 + 100, photometric="MINISBLACK", after=name
    )


def test_accessor_selected_bands_are_written_with_their_names(stack, tmp_path):
    with rioxarray.open_rasterio(stack) as array:
        output = array.sel(band=[4, 3, 2]).georsr.super_resolve("bicubic-x2")
        assert output.attrs["long_name"] == ("B04", "B03", "B02")
        output.rio.to_raster(tmp_path / "o.tif")
    with rasterio.open(tmp_path / "o.tif") as dataset:
        assert dataset.descriptions == ("B04", "B03", "B02")


def test_accessor_named_bands_are_found(stack):
    with rioxarray.open_rasterio(stack) as array:
        found = array.georsr.super_resolve("segsr-lite-x2", consistency="off")
        named = array.sel(band=[4, 3, 2]).georsr.super_resolve("segsr-lite-x2", consistency="off")
        xr.testing.assert_equal(found, named)
        labels = array.assign_coords(band=list(array.attrs["long_name"]))
        by_label = labels.georsr.super_resolve("segsr-lite-x2", consistency="off")
        assert np.array_equal(by_label, named)
        assert by_label.band.values.tolist() == ["B04", "B03", "B02"]


def test_accessor_empty_selection_is_refused(stack):
    with rioxarray.open_rasterio(stack) as array:
        north, south = float(array.y[0]), float(array.y[-1])
        wrong_way = array.sel(y=slice(south, north))
        with pytest.raises(UsageError, match=r"has no rows: .* da.sel\(y=slice\(north, south\)"):
            wrong_way.georsr.super_resolve("bicubic-x2")


def test_selected_bands_are_recorded_for_quality_layers_and_report(make_raster, texture, tmp_path):
    source = make_raster(texture(5, 72, 80))
    path, layers = str(tmp_path / "x.tif"), str(tmp_path / "layers.tif")
    with rioxarray.open_rasterio(source, chunks={"x": 40, "y": 40}) as array:
        array.sel(band=[5, 1, 3]).georsr.super_resolve("segsr-lite-x2-sensor").rio.to_raster(path)
    with rasterio.open(path) as output:
        assert json.loads(output.tags()["GEORSR_OPTIONS"])["bidx"] == [5, 1, 3]
        assert output.tags()["GEORSR_CONSISTENCY"] == "scene"  # not known before it is computed
    georsr.quality_layers(source, path, layers)
    assert report_output(source, path, seams=False).consistency.degradation == "bicubic"
