"""Every real scene through the main job with the bundled models; skipped where they are absent."""

import numpy as np
import pytest
import rasterio

from georsr.api import super_resolve
from georsr.models.registry import bundled_weights

BANDS = {
    "eurosat_13band_u16_10m_AnnualCrop_1.tif": (4, 3, 2),
    "hls_10band_f32_30m_utm14.tif": (3, 2, 1),
    "l7_6band_u8_28.5m_utm25s.tif": (3, 2, 1),
    "naip_4band_u8_0.6m_ca_3211605.tif": (1, 2, 3),
    "naip_4band_u8_1m_va_3607717.tif": (1, 2, 3),
    "naip_4band_u8_5m_nd_20090818.tif": (1, 2, 3),
    "s2_13band_i16_spain_sen1floods11.tif": (4, 3, 2),
    "s2_rgb_u16_10m_utm32.tif": (3, 2, 1),
    "spacenet6_ms1_4band_f64_1m.tif": (3, 2, 1),
    "spacenet6_pan1_1band_u16_0.5m.tif": (1, 1, 1),
}
PLAIN = [
    "aerial_rgb_u8_1.2m_3857.tif",
    "l8_rgb_u16_60m_utm20.tif",
    "neon_rgb_u8_0.1m_osbs029.tif",
    "rapideye_rgba_u8_5m_utm10.tif",
    "rasterio_RGB.byte.tif",
    "rasterio_cogeo_rgb_u8_0.6m_jpeg.tif",
]


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* not in the output. statistics:georsr.errors.MetadataWarning")
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", [*BANDS, *PLAIN])
def test_run_of_real_scenes_keeps_values_and_place(name, scale, shared_data, tmp_path):
    model = f"segsr-lite-x{scale}"
    if model not in bundled_weights():
        pytest.skip(f"{model} is not bundled")
    source, out = shared_data / "scenes" / name, tmp_path / "out.tif"
    super_resolve(source, out, model, indexes=BANDS.get(name))
    with rasterio.open(source) as a, rasterio.open(out) as b:
        assert (b.height, b.width) == (a.height * scale, a.width * scale)
        assert b.crs == a.crs
        assert b.dtypes[0] == a.dtypes[0]
        for row, column in ((0, 0), (0, a.width), (a.height, 0), (a.height, a.width)):
            expected = a.transform @ (column, row)
            got = b.transform @ (column * scale, row * scale)
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-9)
        bands = BANDS.get(name, (1, 2, 3))
        for number, band in enumerate(bands, 1):
            low, high = a.read(band), b.read(number)
            valid = a.read_masks(band) > 0
            if low.dtype.kind == "f":
                valid &= np.isfinite(low)
            fine = valid.repeat(scale, 0).repeat(scale, 1)
            np.testing.assert_array_equal(b.read_masks(number) > 0, fine)
            # radiometry: block means stay where they were
            blocks = high.astype(float).reshape(a.height, scale, a.width, scale).mean((1, 3))
            spread = np.percentile(low[valid], 99) - np.percentile(low[valid], 1)
            assert abs(blocks[valid].mean() - low[valid].mean()) < 0.01 * spread
            assert np.abs(blocks - low)[valid].mean() < 0.05 * spread
