"""Everything that knows GDAL: reading sources, radiometry, georeferencing, writing products."""

from georsr.raster.destination import check_destination
from georsr.raster.fill import fill_invalid
from georsr.raster.info import BandInfo, RasterInfo
from georsr.raster.layout import ProductLayout, product_layout
from georsr.raster.mask import dataset_mask
from georsr.raster.mosaic import open_sources
from georsr.raster.quantise import quantise, quantise_alpha, replicate
from georsr.raster.reader import Patch, RasterReader, Sample, open_raster
from georsr.raster.records import Written
from georsr.raster.stretch import Stretch, choose_stretch, stretch_of_sample
from georsr.raster.writer import RasterWriter

__all__ = [
    "BandInfo",
    "Patch",
    "ProductLayout",
    "RasterInfo",
    "RasterReader",
    "RasterWriter",
    "Sample",
    "Stretch",
    "Written",
    "check_destination",
    "choose_stretch",
    "dataset_mask",
    "fill_invalid",
    "open_raster",
    "open_sources",
    "product_layout",
    "quantise",
    "quantise_alpha",
    "replicate",
    "stretch_of_sample",
]
