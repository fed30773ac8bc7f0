"""The value range that PSNR and SSIM refer to."""

from __future__ import annotations

from georsr.raster.reader import RasterReader


def peak_of(reader: RasterReader) -> float:
    """255 for uint8, else highest minus lowest value of a sample of the raster."""
    if reader.info.dtype == "uint8":
        return 255.0
    sample = reader.sample()
    values = sample.values[sample.valid]
    return (float(values.max()) - float(values.min()) if values.size else 0.0) or 1.0
