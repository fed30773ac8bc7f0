"""Sentinel-2: a product of ESA (SAFE folder, its metadata or archive) as one raster of 10 m.

GDAL's driver reads the product, one raster for each resolution; its warper brings the bands of
20 m onto the grid of 10 m. Nothing is copied and no value of 10 m is altered.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from georsr.errors import InputError, UsageError
from georsr.io.drivers import (
    ReadPolicy,
    containing_archive,
    image_drivers,
    open_with_drivers,
    parent_folder,
    shorten,
)
from georsr.io.gdal_env import is_remote, root_cause, suppress_rasterio_warnings
from georsr.io.metadata import BandInfo
from georsr.io.sidecars import check_dataset, check_sidecars
from georsr.io.vrt import GDAL_TYPES, add_band, add_tags, add_vrt_source, vrt_root
from georsr.window import Window

DRIVER = "SENTINEL2"
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Bands of 10 and 20 m in ESA's order. Those of 60 m are for the atmosphere."""
METADATA_NAME = re.compile(r"^(MTD_MSIL(1C|2A)|S2\w_\w{4}_MTD_SAFL(1C|2A)\w*)\.xml$")
"""Name of a product's own metadata, since 2016 and before."""
SUBDATASET = re.compile(
    r"^SENTINEL2_L(1C|2A):(?P<metadata>.+):(?P<resolution>10|20|60)m:(?P<crs>EPSG_\d+)$"
)
"""GDAL's name of the bands of one resolution."""
_IMAGE_NAME = re.compile(
    r"<(?:IMAGE_FILE|IMAGE_ID)\b[^>]*>([^<]*)<|granuleIdentifier\s*=\s*\"([^\"]*)\"",
    re.IGNORECASE,
)
"""Names of images, and of their folders, in the metadata."""
_BAND_FILE = re.compile(r"_(B\d[0-9A])(_\d0m)?\.jp2$")


def find_safe_metadata(path: str) -> str | None:
    """Where the metadata of the product are that ``path`` stands for; None: it is none.

    Parameters
    ----------
    path
        A SAFE folder, the metadata in it, or a ``.zip`` of one.

    Raises
    ------
    InputError
        A SAFE folder without metadata, or an archive that is damaged.
    UsageError
        An archive that holds no product, or several.
    """
    place = Path(path)
    if METADATA_NAME.match(place.name) and (
        place.is_file() or path.startswith("/vsi") or "://" in path
    ):
        return path
    if place.suffix.lower() == ".zip" and place.is_file():
        return _find_in_archive(path)
    if not place.is_dir():
        return None
    found = sorted(child.name for child in place.iterdir() if METADATA_NAME.match(child.name))
    if found:
        return str(place / found[0])
    if place.suffix.upper() == ".SAFE":
        raise InputError(
            f"{path}: this SAFE folder has no MTD_MSIL1C.xml or MTD_MSIL2A.xml, expected in a "
            "product of Sentinel-2; download it again, or name one of the rasters in it"
        )
    return None


def _find_in_archive(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as an archive: {error}; it is damaged or incomplete, "
            "download it again"
        ) from error
    found = [name for name in names if METADATA_NAME.match(PurePosixPath(name).name)]
    if len(found) == 1:
        return f"/vsizip/{path}/{found[0]}"
    if found:
        raise UsageError(
            f"{path}: holds {len(found)} products of Sentinel-2, expected one; name one of them, "
            f"such as /vsizip/{path}/{found[0]}"
        )
    first = next((name for name in names if not name.endswith("/")), "NAME")
    raise UsageError(
        f"{path}: holds no product of Sentinel-2 (no MTD_MSIL1C.xml or MTD_MSIL2A.xml); name the "
        f"raster in it, such as /vsizip/{path}/{first}"
    )


class Sentinel2Dataset(DatasetReader):  # type: ignore[misc]
    """A product as a dataset of rasterio: the bands of 10 m, and those of 20 m on their grid."""

    parts: tuple[Any, ...] = ()
    driver = DRIVER

    @property
    def files(self) -> list[str]:
        """Every file that is read."""
        return list(dict.fromkeys(name for part in self.parts for name in part.files))


def open_safe(path: str, metadata: str) -> Sentinel2Dataset:
    """Open all bands of 10 m and 20 m, in the order of `BANDS`, on the grid of 10 m.

    Bands of 20 m are enlarged by cubic convolution; where a neighbour is nodata it has no part.
    Scale and offset are those by which the product says that values become reflectance.

    Parameters
    ----------
    path
        As it was given, for messages.
    metadata
        By `find_safe_metadata`.

    Raises
    ------
    InputError
        Metadata or bands are damaged or missing.
    UsageError
        It lies in several zones.
    """
    names = _subdataset_names(path, metadata)
    check_image_files(metadata)
    parts = [_open(path, name) for name in names]
    check_band_files(path, parts)
    document = tostring(_document(parts), encoding="unicode")
    with suppress_rasterio_warnings():
        product = Sentinel2Dataset(document, driver="VRT")
    product.parts = tuple(parts)
    return product


def _open(path: str, name: str) -> Any:
    try:
        with suppress_rasterio_warnings():
            return rasterio.open(name, driver=DRIVER)
    except RasterioError as error:
        raise InputError(
            f"{path}: cannot be read as a product of Sentinel-2: {root_cause(error)}; "
            "it is damaged or "
            "incomplete, download it again"
        ) from error


def _subdataset_names(path: str, metadata: str) -> list[str]:
    """GDAL's names for the bands of 10 m and for those of 20 m."""
    with _open(path, metadata) as whole:
        matches = [match for name in whole.subdatasets if (match := SUBDATASET.match(name))]
        matches = [match for match in matches if match["metadata"] == metadata]
    zones = sorted({match["crs"] for match in matches})
    if len(zones) > 1:
        raise UsageError(
            f"{path}: lies in {len(zones)} zones ({', '.join(zones)}), expected one; name the "
            f"bands of one of them, such as {matches[0][0]}"
        )
    found = {match["resolution"]: match[0] for match in matches}
    if not {"10", "20"} <= {*found}:
        raise InputError(
            f"{path}: its metadata name no tile with bands of 10 m and 20 m, expected by a product "
            "of Sentinel-2; it is damaged or incomplete, download it again"
        )
    return [found["10"], found["20"]]


def check_band_files(path: str, parts: Sequence[Any]) -> None:
    """Refuse a product of which files are missing: GDAL would give zeros for them.

    Parameters
    ----------
    path
        As it was given, for messages.
    parts
        Datasets of GDAL's driver.

    Raises
    ------
    InputError
        Which bands are missing.
    """
    missing = []
    for part in parts:
        there = [match[1] for name in part.files if (match := _BAND_FILE.search(name))]
        expected = [name for i in part.indexes if (name := _band_name(part.tags(i)))]
        most = max((there.count(name) for name in expected), default=0)
        missing += [name for name in expected if there.count(name) < max(1, most)]
    if missing:
        wanted = [
            name for part in parts for i in part.indexes if (name := _band_name(part.tags(i)))
        ]
        raise InputError(
            f"{path}: files of the bands {_listed(missing)} are missing, expected "
            f"{_listed(wanted)}; download the product again, or put the bands that are "
            "there into one raster: gdalbuildvrt -separate bands.vrt B04.jp2 B03.jp2 B02.jp2"
        )


def check_image_files(metadata: str) -> None:
    """Refuse a product of which a file ``.jp2`` is no image, or whose metadata lead out of it.

    GDAL opens these files by any of its drivers, so this comes before it is given the product.

    Parameters
    ----------
    metadata
        By `find_safe_metadata`.

    Raises
    ------
    InputError
        The file, and what to do.
    UsageError
        A file refers to others.
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
                "the file is damaged or incomplete, "
                "download the product again"
            ) from error


def _images(metadata: str) -> list[str]:
    """Return the names of a product's images: those there are, or, on a network, those it names."""
    with _open(metadata, metadata) as whole:
        document = whole.tags(ns="xml:SENTINEL2").get("xml:SENTINEL2", "")
    named = [text.strip() for found in _IMAGE_NAME.findall(document) for text in found if text]
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
        for file in Path(metadata).parent.rglob("*"):
            if file.is_symlink() and file.is_dir():
                raise InputError(
                    f"{file}: is a link to a folder, expected a folder of the product; copy it"
                )
        return [str(file) for file in sorted(Path(metadata).parent.rglob("*")) if _is_image(file)]
    folder = parent_folder(metadata)
    archive = containing_archive(metadata) if metadata.startswith("/vsizip/") else None
    if archive is None:
        return [f"{folder}/{name}.jp2" for name in named if name.startswith("GRANULE/")]
    with zipfile.ZipFile(archive) as zipped:
        return [f"/vsizip/{archive}/{name}" for name in zipped.namelist() if _is_image(Path(name))]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() == ".jp2"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names, key=lambda name: name.replace("B8A", "B08A")))


def _band_name(tags: dict[str, str]) -> str | None:
    """B02 for GDAL's B2; None for what is no band of the instrument."""
    match = re.match(r"^B(\d+)(A?)$", tags.get("BANDNAME", ""))
    return None if match is None else f"B{match[1]:>0{1 if match[2] else 2}}{match[2]}"


@dataclass(frozen=True)
class _Band:
    """Where a band comes from."""

    part: Any
    number: int
    info: BandInfo


def _document(parts: Sequence[Any]) -> Element:
    fine = parts[0]
    bands = {band.info.description: band for part in parts for band in _bands(part)}
    root = vrt_root(fine.width, fine.height, fine.crs, fine.transform)
    add_tags(root, {"AREA_OR_POINT": "Area"} | fine.tags())
    whole = Window(0, 0, fine.height, fine.width)
    for number, name in enumerate((name for name in BANDS if name in bands), 1):
        band = bands[name]
        element = add_band(root, number, band.info.dtype, band.info, band.info.nodata)
        source, index, blocks = band.part.name, band.number, band.part.block_shapes[0]
        if band.part.transform != fine.transform:
            warped = _warped(band, fine)
            source, index, blocks = tostring(warped, encoding="unicode"), 1, (512, 512)
        add_vrt_source(
            element, "SimpleSource", (source, False), str(index), band.info.dtype, blocks, whole
        )
    return root


def _bands(part: Any) -> Iterator[_Band]:
    """The instrument's bands of one resolution, with what the product says about their values."""
    tags = part.tags()
    scale = 1 / float(tags.get("BOA_QUANTIFICATION_VALUE", tags.get("QUANTIFICATION_VALUE", 1)))
    nodata = float(tags["SPECIAL_VALUE_NODATA"]) if "SPECIAL_VALUE_NODATA" in tags else None
    for i in part.indexes:
        own = part.tags(i)
        name = _band_name(own)
        if name is None:
            continue
        added = float(own.get("BOA_ADD_OFFSET", own.get("RADIO_ADD_OFFSET", 0)))
        yield _Band(
            part,
            i,
            BandInfo(
                number=i,
                dtype=part.dtypes[i - 1],
                description=name,
                colorinterp=part.colorinterp[i - 1].name,
                scale=scale,
                offset=added * scale,
                nodata=nodata,
                tags=own,
            ),
        )


def _warped(band: _Band, fine: Any) -> Element:
    """A band on another grid, by GDAL's warper: it leaves nodata out, which plain sources do not.

    Its answers do not depend on the window that is read, unlike those of other resampling that
    knows nodata.
    """
    part, info = band.part, band.info
    root = vrt_root(fine.width, fine.height, fine.crs, fine.transform)
    root.set("subClass", "VRTWarpedDataset")
    element = add_band(root, 1, info.dtype, BandInfo(1, info.dtype), info.nodata)
    element.set("subClass", "VRTWarpedRasterBand")
    for name in ("BlockXSize", "BlockYSize"):
        SubElement(root, name).text = "512"
    options = SubElement(root, "GDALWarpOptions")
    SubElement(options, "ResampleAlg").text = "Cubic"
    SubElement(options, "WorkingDataType").text = GDAL_TYPES[info.dtype]
    SubElement(options, "Option", name="INIT_DEST").text = "NO_DATA"
    SubElement(options, "SourceDataset", relativeToVRT="0").text = part.name
    transformer = SubElement(SubElement(options, "Transformer"), "GenImgProjTransformer")
    for name, transform in (
        ("SrcGeoTransform", part.transform),
        ("DstGeoTransform", fine.transform),
    ):
        SubElement(transformer, name).text = _numbers(transform)
    mapping = SubElement(
        SubElement(options, "BandList"), "BandMapping", src=str(band.number), dst="1"
    )
    if info.nodata is not None:
        for name in ("SrcNoDataReal", "DstNoDataReal"):
            SubElement(mapping, name).text = repr(info.nodata)
    return root


def _numbers(transform: Affine) -> str:
    return ",".join(map(repr, transform.to_gdal()))
