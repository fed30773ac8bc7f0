"""Write the VRT that combines the parts of an output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from rasterio.errors import RasterioError

from georsr._files import atomic_write, remove_temp_files
from georsr.errors import OutputError
from georsr.io.gdal_env import suppress_rasterio_warnings
from georsr.io.metadata import BandInfo
from georsr.io.vrt import add_band, add_tags, add_vrt_source, vrt_root
from georsr.window import Window
from georsr.writer.layout import OutputLayout
from georsr.writer.paths import is_enospc, local_path, replace_sidecars, sync_path
from georsr.writer.verify_and_publish import verify_output

Parts = Sequence[tuple[Path, Window]]
"""Files of the parts, and their windows in the output."""


def assembly_document(layout: OutputLayout, parts: Parts, folder: Path) -> str:
    """Return the XML text of a VRT over the parts of an output.

    Parameters
    ----------
    layout : OutputLayout
        Layout of the full output.
    parts : sequence of (path, Window)
        Files and windows of the parts, which do not overlap. Pixels outside all parts are invalid.
    folder : Path
        Folder of the VRT: paths of parts are relative to it.
    """
    crs = layout.crs if layout.transform is not None else None
    root = vrt_root(layout.width, layout.height, crs, layout.transform)
    _add_points(root, layout)
    for space, tags in layout.tags.items():
        registered = {} if space else {"AREA_OR_POINT": layout.area_or_point}
        add_tags(root, {**tags, **registered}, space)
    if "" not in layout.tags:
        add_tags(root, {"AREA_OR_POINT": layout.area_or_point})
    if layout.rpcs is not None:
        add_tags(root, layout.rpcs.to_gdal(), "RPC")
    bands = [*layout.bands, *([BandInfo(0, layout.dtype, colorinterp="alpha")] * layout.alpha)]
    blocks = (layout.blocksize, layout.blocksize)
    names = [(Path(os.path.relpath(path, folder)).as_posix(), window) for path, window in parts]
    for number, band in enumerate(bands, 1):
        element = add_band(root, number, layout.dtype, band, layout.nodata)
        for name, window in names:
            source = (element, "SimpleSource", (name, True), str(number))
            add_vrt_source(*source, layout.dtype, blocks, window)
    if layout.mask:
        mask = SubElement(SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        for name, window in names:
            add_vrt_source(mask, "SimpleSource", (name, True), "mask,1", "uint8", blocks, window)
    return tostring(root, encoding="unicode")


def _add_points(root: Element, layout: OutputLayout) -> None:
    """Add ground control points if the output has no other georeferencing."""
    if not layout.gcps or layout.transform is not None:
        return
    projection = layout.gcps_crs.to_wkt() if layout.gcps_crs else ""
    points = SubElement(root, "GCPList", Projection=projection)
    for number, gcp in enumerate(layout.gcps, 1):
        SubElement(
            points,
            "GCP",
            Id=str(gcp.id or number),
            Pixel=repr(float(gcp.col)),
            Line=repr(float(gcp.row)),
            X=repr(float(gcp.x)),
            Y=repr(float(gcp.y)),
            Z=repr(float(gcp.z or 0)),
        )


def publish_assembly(dst: str, layout: OutputLayout, parts: Parts) -> int:
    """Write the VRT, read its header back, and rename it into place.

    Returns
    -------
    int
        Size of the file in bytes.

    Raises
    ------
    OutputError
        The VRT cannot be written or does not read back as intended; ``dst`` is unchanged.
    """
    path = local_path(dst)
    try:
        remove_temp_files(path)  # no other run writes here: the folder of the parts is locked
        with atomic_write(path) as fresh:
            fresh.write_text(assembly_document(layout, parts, path.parent), encoding="utf-8")
            with suppress_rasterio_warnings():
                verify_output(fresh, dst, layout, None, driver="VRT")
            sync_path(fresh)
        replace_sidecars(path)
    except (OSError, RasterioError) as error:
        if isinstance(error, OutputError):
            raise
        reason = "no space left" if is_enospc(error) else str(error)
        raise OutputError(f"{dst}: cannot be written: {reason}") from error
    return path.stat().st_size
