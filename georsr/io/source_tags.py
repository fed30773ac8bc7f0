"""Select the tags of a raster that also hold for its output, and name those that do not.

Drivers copy the header of their format into tags: numbers of rows and columns, pixel sizes,
corners, the order of the bands. In an output, which has its own grid and perhaps other bands, they
would be wrong, and programs such as EnMAP-Box read them. The tags that georsr adds are made by
`georsr.reports.output_tags`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Tags = Mapping[str, Mapping[str, str]]
"""Namespace -> name -> value; the default namespace is empty."""

_ENCODING_NAMESPACES = (
    "IMAGE_STRUCTURE",
    "OVERVIEWS",
    "DERIVED_SUBDATASETS",
    "SUBDATASETS",
    "rio_creation_kwds",  # of rasterio 0.x
)
"""Namespaces that describe how a file is stored; nothing is lost without them."""
_DESCRIBED_NAMESPACES = {
    "RPC": "",  # copied separately
    "TILING_SCHEME": "",  # of a COG
    "xml:VRT": "",  # the document of a VRT
    "xml:gml.root-instance": "",  # the georeferencing of a JPEG 2000
    "GEOLOCATION": "geolocation arrays",
    "NITF_METADATA": "NITF header",
    "TRE": "NITF extensions",
    "CGM": "NITF graphics",
    "xml:XMP": "XMP",
}
"""Namespaces that are not copied, and what they hold, for messages."""
_GML = re.compile(r"<\w+:(metadata|annotation|style|extension|feature|GMLJP2Features)\b")
"""Matches what the GML of a JPEG 2000 holds besides the georeferencing."""
_ENCODING_TAGS = ("AREA_OR_POINT", "NODATA_VALUES", "OVR_RESAMPLING_ALG", "SOURCE_ICC_PROFILE_NAME")
"""Tags that the output has in another way, or does not need."""
_RESOLUTION_TAGS = ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION", "TIFFTAG_RESOLUTIONUNIT")
"""Pixels per inch or centimetre of a scan, and which of both."""
_GRID = re.compile(
    r"(n|num|number|numof|numberof|noof)(rows?|lines?|cols?|columns?|samples?|bands?|pixels?)"
    r"|rows|lines|cols|columns|samples|bands|nl|nb|(reflective|thermal|panchromatic)(lines|samples)"
    r"|(image|raster|related|exif|relatedimage|exifimage)(width|height|length)|pixel[xy]dimension"
    r"|(raster)?[xy](size|dim)|[xy]start|frame(row|col)\w*|headeroffset|filetype|datatype"
    r"|interleave|byteorder|defaultbands|dataignorevalue|(major|minor)frameoffsets|rpcinfo|geopoints"
    r"|mapinfo|projectioninfo|coordinatesystemstring|(geo)?transform|affine|i2m\w*"
    r"|\w*gsd|\w*(pixel|cell|line|row|col|column|sample|range|azimuth)(size|spacing)|[xy]?spacing"
    r"|gridcellsize\w*|(\w*spatial|[xyz]|focalplane[xy]|ground|pixel|lat|lon)?res(olution)?"
    r"|focalplaneresolutionunit|resolutionunit|geospatial\w+|(proj)?(shape|bbox|bounds|extent)"
    r"|(corner)?(u|upper|l|lower)(l|left|r|right)(corner)?(x|y|map|lat|lon|hae|projection)\w*"
    r"|corner\w+|(origin|start)(x|y|lat|lon|latitude|longitude|easting|northing)"
    r"|nitf(igeolo|icords|iloc\w*|imode|ic|abpp|pvtype|comrat|fhdr|ilocrow|iloccolumn|blocka\w*)"
    r"|structmetadata0?"
)
"""Matches the last part of a tag's name, in lower case without punctuation, if its value describes
the grid or the storage of the source."""
_AXIS = re.compile(r"(x|y|lat|lon|latitude|longitude|easting|northing)#\w*(range|min|max)", re.I)
"""Matches a tag of netCDF that gives the range of a coordinate, which is that of pixel centres."""
_STATISTICS = re.compile(r"STATISTICS_\w+|TIFFTAG_M(IN|AX)SAMPLEVALUE", re.IGNORECASE)
_BAND_LIST = re.compile(r"Band_\d+|NETCDF_DIM_\w+|(\w+\.)*band_?ids?", re.IGNORECASE)
"""Matches a tag that describes all bands of the source in their order."""
_LIST = re.compile(r"\s*\{(.*)\}\s*", re.DOTALL)
_PAM = {
    "<GDALRasterAttributeTable": "raster attribute table",
    "<Histograms": "histograms",
    "<CategoryNames": "names of categories",
    "<GeodataXform": "geodata transform",
}
"""Elements of an ``.aux.xml`` or VRT document that rasterio cannot read, and their names."""
_SHOWN = 3
"""Number of tags that a message names."""


def describes_grid(name: str, value: str, size: tuple[int, int]) -> bool:
    """Return whether a tag describes the grid or storage of its raster."""
    last = re.sub(r"[^a-z0-9]", "", re.split(r"[.:#/]", name.lower().removeprefix("exif_"))[-1])
    if _GRID.fullmatch(last) or _AXIS.fullmatch(name):
        return True
    return last in ("width", "height") and value.strip() in map(str, size)


class TagSelection:
    """Selects tags of a raster for its output.

    Parameters
    ----------
    dataset
        Open rasterio dataset.
    numbers : sequence of int
        Bands of the output, from 1.
    alpha : int or None
        Number of the alpha band.
    """

    def __init__(self, dataset: Any, numbers: Sequence[int], alpha: int | None) -> None:
        self.dataset, self.numbers = dataset, tuple(numbers)
        self.size = (int(dataset.height), int(dataset.width))
        self.complete = self.numbers == tuple(n for n in dataset.indexes if n != alpha)
        self._left_out: dict[str, list[str]] = {}

    def of_dataset(self) -> dict[str, dict[str, str]]:
        """Return the tags of the dataset that are copied."""
        return self._select(None)

    def of_band(self, number: int) -> dict[str, dict[str, str]]:
        """Return the tags of a band that are copied."""
        return self._select(number)

    def left_out(self) -> tuple[str, ...]:
        """Return what is not copied, in words."""
        texts = []
        for kind, names in self._left_out.items():
            unique = list(dict.fromkeys(names))
            rest = f" and {len(unique) - _SHOWN} more" if len(unique) > _SHOWN else ""
            texts.append(" ".join([kind, ", ".join(unique[:_SHOWN])]).strip() + rest)
        return (*texts, *_in_documents(self.dataset), *_other_pages(self.dataset))

    def _select(self, band: int | None) -> dict[str, dict[str, str]]:
        tags = {}
        for space in ("", *self._namespaces(band)):
            kept = {}
            for name, value in self._tags(band, space).items():
                text = self._kept(space, name, value)
                if text is not None:
                    kept[name] = text
            if kept:
                tags[space] = kept
        return tags

    def _tags(self, band: int | None, space: str) -> Mapping[str, str]:
        tags: Mapping[str, str] = self.dataset.tags(band or 0, ns=space or None)
        return tags

    def _namespaces(self, band: int | None) -> Iterable[str]:
        for space in self.dataset.tag_namespaces(band or 0):
            if not space or space in _ENCODING_NAMESPACES:
                continue
            if space == "COLOR_PROFILE" and not self.complete:
                self._left_out["colour profile"] = []  # of red, green and blue together
            elif space in _DESCRIBED_NAMESPACES or ":" in space:
                tags = self._tags(band, space)
                text = _DESCRIBED_NAMESPACES.get(space, f"metadata {space}")
                if space.startswith("xml:gml") and _GML.search("".join(tags.values())):
                    text = "GML metadata, features and annotations"
                if text and tags.get("SEGMENT_COUNT") != "0":
                    self._left_out[text] = []
            else:
                yield space

    def _kept(self, space: str, name: str, value: str) -> str | None:
        """Return the value of a tag in the output; None if it is left out."""
        if _STATISTICS.fullmatch(name):
            self._left_out["statistics"] = []
            return None
        if name in _ENCODING_TAGS:
            return None
        if not space and name in _RESOLUTION_TAGS:
            return value
        if describes_grid(name, value, self.size) or (
            _BAND_LIST.fullmatch(name) and not self.complete
        ):
            self._left_out.setdefault(space or "tags", []).append(name)
            return None
        return self._of_bands(value)

    def _of_bands(self, value: str) -> str:
        """Return the items of the selected bands, if a value such as ``{a, b}`` lists all bands."""
        listed = None if self.complete else _LIST.fullmatch(value)
        items = listed[1].split(",") if listed else []
        if len(items) < 2 or len(items) != self.dataset.count:
            return value
        return "{" + ", ".join(items[n - 1].strip() for n in self.numbers) + "}"


def scale_tags(tags: Tags, scale: int) -> dict[str, dict[str, str]]:
    """Return the tags on a grid with ``scale`` times finer pixels: more pixels per inch."""
    scaled = {space: dict(items) for space, items in tags.items()}
    default = scaled.get("", {})
    for name in _RESOLUTION_TAGS[:2]:
        with suppress(KeyError, ValueError):
            default[name] = f"{float(default[name]) * scale:.9g}"
    return scaled


def _in_documents(dataset: Any) -> list[str]:
    """Return the names of what an ``.aux.xml`` or VRT document holds and rasterio cannot read."""
    documents = [
        Path(file).read_text(encoding="utf-8", errors="replace")
        for file in dataset.files
        if file.endswith(".aux.xml") and not file.startswith("/vsi") and Path(file).is_file()
    ]
    if dataset.driver == "VRT":
        documents.append(dataset.tags(ns="xml:VRT").get("xml:VRT", ""))
    return [name for mark, name in _PAM.items() if any(mark in text for text in documents)]


def _other_pages(dataset: Any) -> list[str]:
    """Return one line on the other rasters in the same file."""
    others = len(dataset.subdatasets) - (dataset.driver == "GTiff")
    if others < 1:
        return []
    return [f"{others} other rasters in the file, such as {dataset.subdatasets[-1]}"]
