"""A small product of Sentinel-2 as ESA lays it out: metadata, and bands as JPEG 2000."""

from pathlib import Path

import numpy as np
import rasterio.shutil
from affine import Affine
from rasterio.io import MemoryFile

NAME = "S2A_MSI{level}_20230601T100031_N0509_R122_T32TQM_20230601T160000.SAFE"
TILE = "T32TQM_20230601T100031"
TEN = ("B02", "B03", "B04", "B08")
TWENTY = ("B05", "B06", "B07", "B8A", "B11", "B12")
ORDER = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
WEST, NORTH = 600000, 5000000

PRODUCT = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-{level}_User_Product
 xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{level}.xsd">
<n1:General_Info><Product_Info><PRODUCT_START_TIME>2023-06-01T10:00:31.024Z</PRODUCT_START_TIME>
<PRODUCT_URI>{name}</PRODUCT_URI><PROCESSING_LEVEL>Level-{level}</PROCESSING_LEVEL>
<PROCESSING_BASELINE>05.09</PROCESSING_BASELINE>
<Query_Options><PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT></Query_Options>
<Product_Organisation><Granule_List><Granule granuleIdentifier="G" imageFormat="JPEG2000">{files}
</Granule></Granule_List></Product_Organisation></Product_Info><Product_Image_Characteristics>
<Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>
<SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
<Special_Values><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT>
<SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX></Special_Values>
{values}</Product_Image_Characteristics></n1:General_Info></n1:Level-{level}_User_Product>"""
VALUES = {
    "L2A": (
        "<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit='none'>10000"
        "</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>",
        "<BOA_ADD_OFFSET_VALUES_LIST>{}</BOA_ADD_OFFSET_VALUES_LIST>",
        "<BOA_ADD_OFFSET band_id='{}'>-1000</BOA_ADD_OFFSET>",
    ),
    "L1C": (
        "<QUANTIFICATION_VALUE unit='none'>10000</QUANTIFICATION_VALUE>",
        "<Radiometric_Offset_List>{}</Radiometric_Offset_List>",
        "<RADIO_ADD_OFFSET band_id='{}'>-1000</RADIO_ADD_OFFSET>",
    ),
}
GRANULE = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-{level}_Tile_ID
 xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-{level}_Tile_Metadata.xsd">
<n1:Geometric_Info><Tile_Geocoding metadataLevel="Brief">
<HORIZONTAL_CS_NAME>WGS84 / UTM zone 32N</HORIZONTAL_CS_NAME>
<HORIZONTAL_CS_CODE>EPSG:32632</HORIZONTAL_CS_CODE>{sizes}
</Tile_Geocoding></n1:Geometric_Info></n1:Level-{level}_Tile_ID>"""
SIZE = """<Size resolution="{0}"><NROWS>{1}</NROWS><NCOLS>{1}</NCOLS></Size>
<Geoposition resolution="{0}"><ULX>600000</ULX><ULY>5000000</ULY><XDIM>{0}</XDIM><YDIM>-{0}</YDIM>
</Geoposition>"""


def band_file(root, band):
    """Path of a band in its own resolution."""
    return next(Path(root).glob(f"GRANULE/*/IMG_DATA/**/*_{band}*.jp2"))


def make_safe(folder, side=96, level="L2A", offset=True, nodata_from=None):
    """Write a product of ``side`` pixels of 10 m; gives its path and {band: values}.

    From column ``nodata_from`` (of 20 m) on, pixels are nodata.
    """
    rng = np.random.default_rng(0)
    root = Path(folder) / NAME.format(level=level)
    granule = f"GRANULE/{level}_T32TQM_A041000_20230601T100559"
    made, files = {}, []
    for resolution, bands in ((10, TEN), (20, TWENTY), (60, ("B01", "B09"))):
        size, step = side * 10 // resolution, resolution // 10
        sub = f"R{resolution}m/" if level == "L2A" else ""
        end = f"_{resolution}m" if level == "L2A" else ""
        for band in bands:
            values = rng.integers(1200, 5000, (size, size)).astype(np.uint16)
            if nodata_from is not None:
                values[:, nodata_from * 2 // step :] = 0
            name = f"{granule}/IMG_DATA/{sub}{TILE}_{band}{end}"
            _write(root / f"{name}.jp2", values, resolution)
            made[band] = values
            files.append(f"<IMAGE_FILE>{name}</IMAGE_FILE>")
    quantity, offsets, one = VALUES[level]
    if offset:
        quantity += offsets.format("".join(map(one.format, range(13))))
    (root / f"MTD_MSI{level}.xml").write_text(
        PRODUCT.format(level=level[1:], name=root.name, files="\n".join(files), values=quantity)
    )
    sizes = "".join(SIZE.format(r, side * 10 // r) for r in (10, 20, 60))
    (root / granule / "MTD_TL.xml").write_text(GRANULE.format(level=level[1:], sizes=sizes))
    return root, made


def _write(path, values, resolution):
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(resolution, 0, WEST, 0, -resolution, NORTH)
    height, width = values.shape
    profile = {"count": 1, "height": height, "width": width, "dtype": "uint16"}
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", crs="EPSG:32632", transform=transform, **profile
        ) as dataset:
            dataset.write(values, 1)
        with memory.open() as dataset:
            rasterio.shutil.copy(
                dataset, str(path), driver="JP2OpenJPEG", REVERSIBLE="YES", QUALITY="100"
            )
