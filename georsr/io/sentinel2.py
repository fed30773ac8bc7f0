"""Open a Sentinel-2 product (SAFE folder, its metadata or archive) as one raster of 10 m pixels.

GDAL's driver reads the product as one raster per resolution, and its warper resamples the 20 m
bands to the 10 m grid. Nothing is copied, and the values of the 10 m bands are not changed.
`georsr.io.gdal_env` tells from a path whether it is a product.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import rasterio
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from georsr.errors import GeorsrError, InputError, UsageError
from georsr.io.gdal_env import (
    SENTINEL2,
    SENTINEL2_SUBDATASET,
    ReadPolicy,
    containing_archive,
    image_drivers,
    is_remote,
    open_with_drivers,
    parent_folder,
    root_cause,
    shorten,
    suppress_rasterio_warnings,
)
from georsr.io.metadata import BandInfo
from georsr.io.sidecars import check_dataset, check_sidecars
from georsr.io.vrt import GDAL_TYPES, add_band, add_tags, add_vrt_source, vrt_root
from georsr.window import Window

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Bands of 10 m and 20 m in ESA's order. Those of 60 m serve atmospheric correction."""
_IMAGE_NAME = re.compile(
    r"<(?:IMAGE_FILE|IMAGE_ID)\b[^>]*>([^<]*)<|granuleIdentifier\s*=\s*\"([^\"]*)\"",
    re.IGNORECASE,
)
"""Name of an image or of its folder in the metadata."""
MAX_VALUE = 10.0**6
"""Largest number for the radiometry in the metadata: pixels have 16 bits."""
MAX_COORDINATE = 2 * 10.0**7
"""No coordinate of UTM is as large, in metres."""
_BAND_FILE = re.compile(r"_(B\d[0-9A])(_\d0m)?\.jp2$")


class Sentinel2Dataset(DatasetReader):  # type: ignore[misc]
    """Rasterio dataset of a Sentinel-2 product: 10 m bands, and 20 m bands on the 10 m grid."""

    parts: tuple[Any, ...] = ()
    driver = SENTINEL2

    @property
    def files(self) -> list[str]:
        """Return the files that are read."""
        return list(dict.fromkeys(name for part in self.parts for name in part.files))

    def close(self) -> None:
        """Close the dataset and its parts; an open part would keep GDAL's pool of files."""
        super().close()
        for part in self.parts:
            part.close()


def open_safe(path: str, metadata: str) -> Sentinel2Dataset:
    """Open the 10 m and 20 m bands of a product, in the order of `BANDS`, on the 10 m grid.

    Bands of 20 m are resampled by cubic convolution, which ignores nodata. Scale and offset convert
    values to reflectance, as the product's metadata say. ``path`` is what the user gave, for
    messages; ``metadata`` is what `find_safe_metadata` returned for it.

    Raises
    ------
    InputError
        Metadata or bands are damaged or missing.
    UsageError
        The product lies in several UTM zones.
    """
    try:
        names = _subdataset_names(path, metadata)
        check_image_files(metadata)
        parts = [_open(path, name) for name in names]
        check_band_files(path, parts)
        document = tostring(_vrt_document(parts), encoding="unicode")
        with suppress_rasterio_warnings():
            product = Sentinel2Dataset(document, driver="VRT")
    except GeorsrError:
        raise
    except Exception as error:  # metadata may hold anything: sizes of 0, text in place of numbers
        raise _damaged(path, error) from error
    product.parts = tuple(parts)
    if not all(abs(coordinate) < MAX_COORDINATE for coordinate in product.bounds):
        raise _damaged(
            path, ValueError(f"its corners are outside of any UTM zone: {product.bounds}")
        )
    return product


def _damaged(path: str, error: Exception) -> InputError:
    return InputError(
        f"{path}: cannot be read as a product of Sentinel-2: {root_cause(error)}; "
        "it is damaged or incomplete, download it again"
    )


def _open(path: str, name: str) -> Any:
    """Open metadata or a subdataset by GDAL's ``name`` for it; errors name ``path``."""
    try:
        with suppress_rasterio_warnings():
            return rasterio.open(name, driver=SENTINEL2)
    except RasterioError as error:
        raise _damaged(path, error) from error


def _subdataset_names(path: str, metadata: str) -> list[str]:
    """Return GDAL's names of the subdatasets of 10 m and of 20 m."""
    with _open(path, metadata) as product:
        parsed = [SENTINEL2_SUBDATASET.match(name) for name in product.subdatasets]
    matches = [match for match in parsed if match and match["metadata"] == metadata]
    zones = sorted({match["crs"] for match in matches})
    if len(zones) > 1:
        raise UsageError(
            f"{path}: lies in {len(zones)} zones ({', '.join(zones)}), expected one; name the "
            f"bands of one of them, such as {matches[0][0]}"
        )
    by_resolution = {match["resolution"]: match[0] for match in matches}
    if not {"10", "20"} <= {*by_resolution}:
        raise InputError(
            f"{path}: its metadata name no tile with bands of 10 m and 20 m, expected by a product "
            "of Sentinel-2; it is damaged or incomplete, download it again"
        )
    return [by_resolution["10"], by_resolution["20"]]


def check_band_files(path: str, parts: Sequence[Any]) -> None:
    """Raise InputError if files of a product are missing, which GDAL would read as zeros.

    ``parts`` are datasets of GDAL's SENTINEL2 driver; ``path`` is for messages.
    """
    missing, wanted = [], []
    for part in parts:
        existing = [match[1] for name in part.files if (match := _BAND_FILE.search(name))]
        expected = [name for i in part.indexes if (name := _band_name(part.tags(i)))]
        most_files = max((existing.count(name) for name in expected), default=0)
        missing += [name for name in expected if existing.count(name) < max(1, most_files)]
        wanted += expected
    if missing:
        raise InputError(
            f"{path}: files of the bands {_join_bands(missing)} are missing, expected "
            f"{_join_bands(wanted)}; download the product again, or combine the existing bands in "
            "one raster: gdalbuildvrt -separate bands.vrt B04.jp2 B03.jp2 B02.jp2"
        )


def check_image_files(metadata: str) -> None:
    """Raise if a ``.jp2`` file of a product is not an image, or the metadata name other files.

    GDAL opens these files with any of its drivers, so this must be called before the product is
    opened. ``metadata`` is what `find_safe_metadata` returned.

    Raises
    ------
    InputError
        A file is not an image, or the metadata name a file outside the product.
    UsageError
        A file refers to other files.
    """
    policy = ReadPolicy()
    drivers = [driver for driver in image_drivers() if driver.startswith("JP2")]
    for name in _images(metadata):
        check_sidecars(name, policy)
        try:
            with suppress_rasterio_warnings(), open_with_drivers(name, drivers) as dataset:
                check_dataset(dataset, name, policy)
        except RasterioError as error:
            raise InputError(
                f"{name}: cannot be opened: {root_cause(error)}; "
                "the file is damaged or incomplete, download the product again"
            ) from error


def _images(metadata: str) -> list[str]:
    """List the images of a product in its folder, or on a network those in its metadata."""
    with _open(metadata, metadata) as product:
        document = product.tags(ns="xml:SENTINEL2").get("xml:SENTINEL2", "")
    named = [text.strip() for match in _IMAGE_NAME.findall(document) for text in match if text]
    for name in named:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) or ".." in name.split("/"):
            raise InputError(
                f"{metadata}: names {shorten(name)} as an image, expected a file of the product; "
                "download it again"
            )
    if re.search(r"(^|[^\w.])\.\.([/\\<\"]|$)", document):
        raise InputError(
            f"{metadata}: names a file outside its folder, expected a product of Sentinel-2; "
            "download it again"
        )
    if not metadata.startswith("/vsi") and not is_remote(metadata):
        files = sorted(Path(metadata).parent.rglob("*"))
        for file in files:
            if file.is_symlink() and file.is_dir():
                raise InputError(
                    f"{file}: is a link to a folder, expected a folder of the product; copy it"
                )
        return [str(file) for file in files if _is_image(file)]
    folder = parent_folder(metadata)
    archive = containing_archive(metadata) if metadata.startswith("/vsizip/") else None
    if archive is None:
        return [f"{folder}/{name}.jp2" for name in named if name.startswith("GRANULE/")]
    with zipfile.ZipFile(archive) as zipped:
        return [f"/vsizip/{archive}/{name}" for name in zipped.namelist() if _is_image(Path(name))]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() == ".jp2"


def _join_bands(names: Sequence[str]) -> str:
    return ", ".join(sorted(names, key=lambda name: name.replace("B8A", "B08A")))


def _band_name(tags: dict[str, str]) -> str | None:
    """Return ESA's name of a band, such as B02 for GDAL's B2; None for other layers."""
    match = re.match(r"^B(\d+)(A?)$", tags.get("BANDNAME", ""))
    return None if match is None else f"B{match[1]:>0{1 if match[2] else 2}}{match[2]}"


def _vrt_document(parts: Sequence[Any]) -> Element:
    fine = parts[0]
    bands = {band.description: (part, band) for part in parts for band in _bands(part)}
    root = vrt_root(fine.width, fine.height, fine.crs, fine.transform)
    add_tags(root, {"AREA_OR_POINT": "Area"} | fine.tags())
    extent = Window(0, 0, fine.height, fine.width)
    for number, name in enumerate((name for name in BANDS if name in bands), 1):
        part, band = bands[name]
        element = add_band(root, number, band.dtype, band, band.nodata)
        source, index, blocks = part.name, band.number, part.block_shapes[0]
        if part.transform != fine.transform:
            warped = _warped_vrt(part, band, fine)
            source, index, blocks = tostring(warped, encoding="unicode"), 1, (512, 512)
        add_vrt_source(
            element, "SimpleSource", (source, False), str(index), band.dtype, blocks, extent
        )
    return root


def _bands(part: Any) -> Iterator[BandInfo]:
    """Yield the bands of one resolution, with scale, offset and nodata from the metadata."""
    tags = part.tags()
    scale = 1 / _number(tags, ("BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE"), 1)
    nodata = None
    if "SPECIAL_VALUE_NODATA" in tags:
        nodata = _number(tags, ("SPECIAL_VALUE_NODATA",), 0, 65535)
    for i in part.indexes:
        band_tags = part.tags(i)
        name = _band_name(band_tags)
        if name is None:
            continue
        added = _number(band_tags, ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"), -MAX_VALUE, default="0")
        yield BandInfo(
            number=i,
            dtype=part.dtypes[i - 1],
            description=name,
            colorinterp=part.colorinterp[i - 1].name,
            scale=scale,
            offset=added * scale,
            nodata=nodata,
            tags={"": band_tags},
        )


def _number(
    tags: dict[str, str],
    names: Sequence[str],
    lowest: float,
    highest: float = MAX_VALUE,
    default: str = "",
) -> float:
    """Return the number in the first of some tags; raise ValueError if it makes no sense."""
    name = next((name for name in names if name in tags), names[0])
    text = tags.get(name, default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not lowest <= value <= highest:
        raise ValueError(
            f"{name} is {text!r:.80}, expected a number from {lowest:g} to {highest:g}"
        )
    return value


def _warped_vrt(part: Any, band: BandInfo, fine: Any) -> Element:
    """Build a VRT that resamples a band to the grid of another dataset with GDAL's warper.

    The warper ignores nodata, and its result does not depend on the window that is read. Other
    resampling in a VRT lacks one or the other.
    """
    root = vrt_root(fine.width, fine.height, fine.crs, fine.transform)
    root.set("subClass", "VRTWarpedDataset")
    element = add_band(root, 1, band.dtype, BandInfo(1, band.dtype), band.nodata)
    element.set("subClass", "VRTWarpedRasterBand")
    for name in ("BlockXSize", "BlockYSize"):
        SubElement(root, name).text = "512"
    options = SubElement(root, "GDALWarpOptions")
    SubElement(options, "ResampleAlg").text = "Cubic"
    SubElement(options, "WorkingDataType").text = GDAL_TYPES[band.dtype]
    SubElement(options, "Option", name="INIT_DEST").text = "NO_DATA"
    SubElement(options, "SourceDataset", relativeToVRT="0").text = part.name
    transformer = SubElement(SubElement(options, "Transformer"), "GenImgProjTransformer")
    for name, dataset in (("SrcGeoTransform", part), ("DstGeoTransform", fine)):
        numbers = map(repr, dataset.transform.to_gdal())
        SubElement(transformer, name).text = ",".join(numbers)
    mapping = SubElement(
        SubElement(options, "BandList"), "BandMapping", src=str(band.number), dst="1"
    )
    if band.nodata is not None:
        for name in ("SrcNoDataReal", "DstNoDataReal"):
            SubElement(mapping, name).text = repr(band.nodata)
    return root
