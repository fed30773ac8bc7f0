"""Write hostile rasters that GDAL reads differently from how they look to a check.

As `tests.attacks.hostile`: spaces, letters, encodings, links, files that are two formats in one,
archives with two readings, coordinate reference systems that name files.
"""

import gzip
import html
import shutil
import sqlite3
import struct
import tarfile
import warnings
import zipfile
import zlib

import h5py
import numpy as np
import rasterio

from tests.attacks.hostile import (
    SIZE,
    document,
    external_data,
    good,
    hdf5,
    mrf,
    pam,
    raw_vrt,
    safe,
    tiff,
    vrt,
    vrt_maker,
    warped,
    with_sidecar,
    with_two_sidecars,
    wms,
)
from tests.sentinel2_safe import band_file

ENVI = (
    f"ENVI\nsamples = {SIZE}\nlines = {SIZE}\nbands = 1\nheader offset = 0\n"
    "file type = ENVI Standard\ndata type = 1\ninterleave = bsq\nbyte order = 0\n"
)


def write(path, driver, size=SIZE, **options):
    """Write one band without georeferencing."""
    profile = {"width": size, "height": size, "count": 1, "dtype": "uint8", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver=driver, **profile) as dataset:
            dataset.write(np.ones((1, size, size), "uint8"))
    return path


# ------------------------------------------------------------ names and letters of VRTs


def other_name(name):
    """Return a function that gives a VRT over ``name``, beside which good.tif lies."""

    def make(folder, canary):
        tiff(folder / "good.tif")
        (folder / name).write_text(raw_vrt(canary.secret))
        return vrt(name, 1)

    return make


def bytes_that_are_no_text(folder, canary):
    """Write a VRT whose name of a source is not UTF-8."""
    tiff(folder / "a\ufffd.tif")
    document = vrt("a@.tif", 1).encode().replace(b"@", b"\xff")
    (folder / "scene.vrt").write_bytes(document)
    return folder / "scene.vrt"


def named_twice(old, new):
    """Return a function that gives a good VRT in which an attribute is there in two spellings."""
    return lambda folder, canary: good(folder, a=(old, new))


def domain_twice(folder, canary):
    """Return a VRT over one with two domains of its metadata."""
    item = html.escape(vrt(canary.secret))
    inner = good(
        folder,
        a=(
            "<VRTRasterBand ",
            f'<Metadata domain="OVERVIEWS" DOMAIN="x"><MDI key="OVERVIEW_FILE">{item}</MDI>'
            "</Metadata><VRTRasterBand ",
        ),
    )
    (folder / "inner.vrt").write_text(inner)
    return vrt("inner.vrt", 1)


def linked(folder, canary):
    """Write a link to a VRT in another folder, where its source is another file."""
    (folder / "sub").mkdir()
    tiff(folder / "good.tif")
    (folder / "sub" / "good.tif").write_text(raw_vrt(canary.secret))
    (folder / "sub" / "real.vrt").write_text(vrt("good.tif", 1))
    (folder / "scene.vrt").symlink_to("sub/real.vrt")
    return folder / "scene.vrt"


def over_linked(folder, canary):
    """Write a VRT over such a link."""
    linked(folder, canary)
    (folder / "top.vrt").write_text(vrt("scene.vrt", 1))
    return folder / "top.vrt"


NAMES = {
    **{
        f"a name that ends with {end!r}": vrt_maker(other_name(f"good.tif{end}"))
        for end in (" ", "\n", "\u00a0", "\x85", "\u2003")
    },
    "a name that begins with a space": vrt_maker(other_name("\u00a0good.tif")),
    "a name like that of a subdataset": vrt_maker(other_name("GTIFF_DIR:1:good.tif")),
    "bytes that are no text": bytes_that_are_no_text,
    "relativeToVRT twice": vrt_maker(
        named_twice('relativeToVRT="1"', 'relativeToVRT="0" RELATIVETOVRT="1"')
    ),
    "subClass twice": vrt_maker(
        named_twice('band="1"', 'band="1" subClass="VRTRawRasterBand" SUBCLASS=""')
    ),
    "domain twice": vrt_maker(domain_twice),
    "an instruction first": vrt_maker(
        lambda f, c: f"<?a ?b></?a>{raw_vrt(c.secret)}<c ?>{good(f)}"
    ),
    "a link to a VRT": linked,
    "a VRT over a link to a VRT": over_linked,
}

# ------------------------------------------------------------ two formats in one file


def envi_of(content):
    """Return a function that gives a VRT over an ENVI image whose pixels are a document."""

    def make(folder, canary):
        pixels = content(folder, canary)
        (folder / "inner.dat").write_text(pixels.ljust(SIZE * SIZE))
        (folder / "inner.hdr").write_text(ENVI)
        return vrt("inner.dat", 1)

    return make


def in_jpeg(folder, canary):
    """Return a VRT over a JPEG whose comment is a VRT."""
    data = tiff(folder / "a.jpg", "JPEG").read_bytes()
    comment = raw_vrt(canary.secret).encode().ljust(0x1010 - 3) + b"\0"
    (folder / "a.jpg").write_bytes(data[:2] + b"\xff\xfe\x10\x10" + comment + data[2:])
    return vrt("a.jpg", 1)


def envi_in_archive(folder, canary):
    """Return a VRT over such an ENVI image in an archive."""
    envi_of(lambda f, c: raw_vrt(c.secret))(folder, canary)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name in ("inner.dat", "inner.hdr"):
            archive.write(folder / name, name)
    return vrt(f"/vsizip/{folder}/a.zip/inner.dat")


def envi_band(root, folder, canary):
    """Let a band of Sentinel-2 be an ENVI image, and a VRT."""
    file = band_file(root, "B03")
    file.write_text(raw_vrt(canary.secret).ljust(SIZE * SIZE))
    file.with_suffix(".hdr").write_text(ENVI)


TWO_FORMATS = {
    "ENVI and VRT": vrt_maker(envi_of(lambda f, c: raw_vrt(c.secret))),
    "ENVI and VRT after other text": vrt_maker(envi_of(lambda f, c: f"a {raw_vrt(c.secret)}")),
    "ENVI and MRF": vrt_maker(envi_of(mrf)),
    "ENVI and WMS": vrt_maker(envi_of(wms)),
    "ENVI and ISIS": vrt_maker(
        envi_of(
            lambda f, c: (
                "Object = IsisCube\nObject = Core\n^Core = ../secret.bin\nStartByte = 1\n"
                "Format = BandSequential\nGroup = Dimensions\nSamples = 64\nLines = 64\nBands = 1\n"
                "End_Group\nGroup = Pixels\nType = UnsignedByte\nByteOrder = Lsb\nEnd_Group\n"
                "End_Object\nEnd_Object\nEnd\n"
            )
        )
    ),
    "JPEG and VRT": vrt_maker(in_jpeg),
    "ENVI and VRT in an archive": vrt_maker(envi_in_archive),
    "a band of Sentinel-2, ENVI and VRT": safe(envi_band),
}

# ------------------------------------------------------------ metadata in another form


def metadata_of_shorts(path, item):
    """Write a TIFF whose GDAL metadata are numbers of 16 bits, which libtiff takes for text."""
    tiff(path, OVERVIEW_FILE=item)
    data = bytearray(path.read_bytes())
    start = struct.unpack("<I", data[4:8])[0]
    for entry in range(start + 2, start + 2 + 12 * data[start], 12):
        tag, _, count, offset = struct.unpack("<HHII", data[entry : entry + 12])
        if tag == 42112:
            text = data[offset : offset + count]
            data[entry : entry + 12] = struct.pack("<HHII", tag, 3, count, len(data))
            data += struct.pack(f"<{count}H", *text)
    path.write_bytes(data)
    return path


def overviews_of_shorts(folder, canary):
    """Write a TIFF whose overviews have such metadata."""
    metadata_of_shorts(folder / "scene.tif.ovr", raw_vrt(canary.secret))
    return tiff(folder / "scene.tif")


def source_of_shorts(folder, canary):
    """Return a VRT over such a TIFF."""
    metadata_of_shorts(folder / "good.tif", raw_vrt(canary.secret))
    return vrt("good.tif", 1)


def second_subdataset(folder, canary):
    """Return a VRT over two data sets of a file, of which one has hostile metadata."""
    with h5py.File(folder / "scene.h5", "w") as file:
        file["a"] = file["b"] = np.ones((SIZE, SIZE), "u1")
    inner = pam(raw_vrt(canary.secret))
    (folder / "scene.h5.aux.xml").write_text(
        f'<PAMDataset><Subdataset name="//b">{inner}</Subdataset></PAMDataset>'
    )
    first, second = (vrt(f'HDF5:"{folder}/scene.h5"://{name}') for name in "ab")
    band = second[second.index("<VRTRasterBand") :].replace('band="1"', 'band="2"')
    return first.replace("</VRTDataset>", band)


def subdatasets_elsewhere(folder, canary):
    """Write a TIFF whose metadata name a document as a subdataset."""
    name = html.escape(raw_vrt(canary.secret))
    (folder / "scene.tif.aux.xml").write_text(
        '<PAMDataset><Metadata domain="SUBDATASETS"><MDI key="SUBDATASET_1_NAME">'
        f'{name}</MDI><MDI key="SUBDATASET_1_DESC">a</MDI></Metadata></PAMDataset>'
    )
    return f"vrt://{tiff(folder / 'scene.tif')}?sd=1"


def reduced(folder, canary):
    """Write a NITF beside which a VRT lies in place of one of reduced resolution."""
    (folder / "scene.ntf.r1").write_text(raw_vrt(canary.secret))
    return write(folder / "scene.ntf", "NITF")


def spilled(folder, canary):
    """Write an Erdas Imagine file whose pixels lie in another folder."""
    path = write(folder / "scene.img", "HFA", USE_SPILL="YES")
    shutil.move(folder / "scene.ige", folder.parent / "a.ige")
    path.write_bytes(path.read_bytes().replace(b"scene.ige", b"../a.ige\0"))
    return path


def reference_elsewhere(folder, canary):
    """Write an Idrisi raster whose reference system is a file of another folder."""
    path = write(folder / "scene.rst", "RST")
    (folder.parent / "secret.ref").write_text("ref. system : a\n")
    header = folder / "scene.rdc"
    lines = [
        "ref. system : ../secret" if line.startswith("ref. system") else line
        for line in header.read_text().splitlines()
    ]
    header.write_text("\n".join(lines))
    (folder / "scene.rst.aux.xml").unlink(missing_ok=True)
    return path


METADATA = {
    "overviews with metadata of 16 bits": overviews_of_shorts,
    "a source with metadata of 16 bits": vrt_maker(source_of_shorts),
    "the second subdataset": vrt_maker(second_subdataset),
    "a subdataset that is a document": subdatasets_elsewhere,
    "overviews of a NITF": reduced,
    "pixels of an Erdas image elsewhere": spilled,
    "a reference system elsewhere": reference_elsewhere,
    "mask of a directory of a TIFF": lambda f, c: (
        f"GTIFF_DIR:1:{with_sidecar('.msk', lambda f, c: raw_vrt(c.secret))(f, c)}"
    ),
    "overviews of overviews": with_two_sidecars(".ovr", ".ovr", lambda f, c: raw_vrt(c.secret)),
}

# ------------------------------------------------------------ databases and archives


def logged(folder, canary):
    """Write a GeoPackage in WAL mode: SQLite writes beside it when it is read."""
    path = tiff(folder / "scene.gpkg", "GPKG")
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
    database.close()
    return path


def with_log(folder, canary):
    """Write a GeoPackage with a log and a link in the place of SQLite's shared memory."""
    path = tiff(folder / "scene.gpkg", "GPKG")
    (folder / "scene.gpkg-wal").write_bytes(b"\x37\x7f\x06\x82".ljust(100, b"\0"))
    (folder / "scene.gpkg-shm").symlink_to(canary.victim)
    return path


def zipped_hdf5(form):
    """Return a maker of an archive with external data, as ``form`` names what is in it."""

    def make(folder, canary):
        hdf5("scene.h5", external_data)(folder, canary)
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            archive.write(folder / "scene.h5", "s.h5")
        return form.format(f"/vsizip/{folder}/a.zip/s.h5")

    return make


def packed_hdf5(folder, canary):
    """Write external data, compressed."""
    path = hdf5("scene.h5", external_data)(folder, canary)
    with gzip.open(folder / "a.h5.gz", "w") as packed:
        packed.write(path.read_bytes())
    return f'HDF5:"/vsigzip/{folder}/a.h5.gz"://z'


def two_of_a_name(kind, first, second):
    """Return a maker of an archive with a hostile file and a good one of the same name."""

    def make(folder, canary):
        hdf5("hostile.h5", external_data)(folder, canary)
        with h5py.File(folder / "good.h5", "w") as file:
            file["z"] = np.ones((SIZE, SIZE), "u1")
        pairs = (("hostile.h5", first), ("good.h5", second))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "zip":
                with zipfile.ZipFile(folder / "a.zip", "w") as archive:
                    for file, name in pairs:
                        archive.write(folder / file, name)
            else:
                with tarfile.open(folder / "a.tar", "w") as archive:
                    for file, name in pairs:
                        archive.add(folder / file, name)
        return f'HDF5:"/vsi{kind}/{folder}/a.{kind}/s.h5"://z'

    return make


def unicode_name(folder, canary):
    """Write an archive of a TIFF and a file whose second name makes it the overviews."""
    tiff(folder / "scene.tif")
    content = struct.pack("<BI", 1, zlib.crc32(b"readme.txt")) + b"scene.tif.ovr"
    member = zipfile.ZipInfo("readme.txt")
    member.extra = struct.pack("<HH", 0x7075, len(content)) + content
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "scene.tif", "scene.tif")
        archive.writestr(member, raw_vrt(canary.secret))
    return vrt(f"/vsizip/{folder}/a.zip/scene.tif")


CONTAINERS = {
    "a GeoPackage in WAL mode": logged,
    "a GeoPackage with a log": with_log,
    "external data in an archive": zipped_hdf5("{}"),
    "a subdataset in an archive": zipped_hdf5('HDF5:"{}"://z'),
    "a variable in an archive": zipped_hdf5('NETCDF:"{}":z'),
    "a prefix in small letters": lambda f, c: f"netcdf:{hdf5('s.nc', external_data)(f, c)}:z",
    "a VRT over an archive": vrt_maker(
        lambda f, c: vrt(zipped_hdf5('HDF5:"{}"://z')(f, c)),
    ),
    "external data, compressed": packed_hdf5,
    "a part of a file": lambda f, c: (
        f'HDF5:"/vsisubfile/0,{hdf5("s.h5", external_data)(f, c)}"://z'
    ),
    "two files of a name in a zip": two_of_a_name("zip", "s.h5", "s.h5"),
    "two files of nearly a name in a zip": two_of_a_name("zip", "./s.h5", "s.h5"),
    "two files of a name in a tar": two_of_a_name("tar", "s.h5", "s.h5"),
}

# ------------------------------------------------------------ coordinate reference systems

SYSTEMS = {
    "grid": "+proj=longlat +nadgr&#105;ds&#61;{0.secret} +no_defs",
    "init": "+init={0.secret}:x",
    "triangles": "+proj=pipeline +step +proj=tinshift +file={0.secret}",
    "deformation": "+proj=defmodel +model={0.secret}",
}
FILES = {"file": "{0.secret}", "address": "{0.url}/a.prj", "ESRI file": "ESRI::{0.secret}"}


def warped_from(system):
    """Return a function that gives a VRT of the warper with a CRS of its source."""
    zero = "0,1,0,5000000,0,-1"

    def make(folder, canary):
        places = "".join(
            f"<{name}>{zero}</{name}>"
            for name in ("SrcGeoTransform", "SrcInvGeoTransform", "DstGeoTransform")
        )
        return warped(
            tiff(folder / "good.tif"),
            f"<Transformer><GenImgProjTransformer>{places}<DstInvGeoTransform>{zero}"
            "</DstInvGeoTransform><ReprojectTransformer><ReprojectionTransformer><SourceSRS>"
            f"{system.format(canary)}</SourceSRS><TargetSRS>EPSG:4326</TargetSRS>"
            "</ReprojectionTransformer></ReprojectTransformer></GenImgProjTransformer>"
            "</Transformer>",
        )

    return make


CRSS = {
    **{
        f"of a VRT, {name}": vrt_maker(
            lambda f, c, system=system: good(f, a=("EPSG:32632", system.format(c)))
        )
        for name, system in {**SYSTEMS, **FILES}.items()
    },
    **{
        f"of the warper, {name}": vrt_maker(warped_from(system))
        for name, system in {**SYSTEMS, **FILES}.items()
    },
    **{
        f"beside a PNG, {name}": with_sidecar(
            ".aux.xml",
            lambda f, c, system=system: f"<PAMDataset><SRS>{system.format(c)}</SRS></PAMDataset>",
            "a.png",
            "PNG",
        )
        for name, system in SYSTEMS.items()
    },
}

# ------------------------------------------------------------ products of Sentinel-2


def linked_folder(root, folder, canary):
    """Let the folder of the bands be a link, behind which a band is a VRT."""
    bands, hidden = band_file(root, "B03").parent, folder / "hidden"
    shutil.move(bands, hidden)
    bands.symlink_to(hidden)
    next(hidden.rglob("*B03*.jp2")).write_text(raw_vrt(canary.secret))


def other_letters(root, folder, canary):
    """Let the metadata name images outside the product, in elements of other letters."""
    shutil.copytree(root / "GRANULE", folder / "elsewhere")
    next((folder / "elsewhere").rglob("*B03*.jp2")).write_text(raw_vrt(canary.secret))
    metadata = root / "MTD_MSIL2A.xml"
    text = metadata.read_text().replace(">GRANULE/", ">../elsewhere/")
    metadata.write_text(text.replace("IMAGE_FILE", "Image_File"))


SAFES = {
    "a folder that is a link": safe(linked_folder),
    "elements in other letters": safe(other_letters),
}

DISGUISED = {
    **{f"name: {name}": make for name, make in NAMES.items()},
    **{f"two formats: {name}": make for name, make in TWO_FORMATS.items()},
    **{f"metadata: {name}": make for name, make in METADATA.items()},
    **{f"container: {name}": make for name, make in CONTAINERS.items()},
    **{f"CRS: {name}": make for name, make in CRSS.items()},
    **{f"Sentinel-2: {name}": make for name, make in SAFES.items()},
}
"""Maker of each disguised raster: (folder, canary) -> what the victim opens."""


def zipped_tiff(folder, canary):
    """Write an archive of a TIFF."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(tiff(folder / "a.tif"), "a.tif")
    return f"/vsizip/{folder}/a.zip/a.tif"


def zipped_good_hdf5(folder, canary):
    """Write an archive of an HDF5 file."""
    with h5py.File(folder / "a.h5", "w") as file:
        file["z"] = np.arange(SIZE * SIZE, dtype="u1").reshape(SIZE, SIZE)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "a.h5", "a.h5")
    return f'HDF5:"/vsizip/{folder}/a.zip/a.h5"://z'


def envi_source(folder, canary):
    """Return a VRT over an ENVI image of bytes that are letters."""
    pixels = np.random.default_rng(0).integers(32, 120, SIZE * SIZE).astype("uint8")
    pixels.tofile(folder / "inner.dat")
    (folder / "inner.hdr").write_text(ENVI)
    return vrt("inner.dat", 1)


HONEST = {
    **{
        driver: lambda f, c, driver=driver, end=end: tiff(f / f"scene.{end}", driver)
        for driver, end in (
            *(("GTiff", "tif"), ("PNG", "png"), ("JPEG", "jpg"), ("JP2OpenJPEG", "jp2")),
            *(("HFA", "img"), ("GPKG", "gpkg"), ("ENVI", "dat")),
        )
    },
    "NITF": lambda f, c: write(f / "scene.ntf", "NITF"),
    "Idrisi": lambda f, c: write(f / "scene.rst", "RST"),
    "a VRT": vrt_maker(lambda f, c: good(f)),
    "a VRT over ENVI": vrt_maker(envi_source),
    "a VRT over a data set": vrt_maker(lambda f, c: vrt(zipped_good_hdf5(f, c))),
    "an archive": zipped_tiff,
    "HDF5 in an archive": zipped_good_hdf5,
    "a link to a VRT": lambda f, c: (
        (f / "sub").mkdir()
        or (
            document("sub/a.vrt", lambda f, c: good(f / "sub"))(f, c)
            and (f / "scene.vrt").symlink_to("sub/a.vrt")
        )
        or f / "scene.vrt"
    ),
    "Sentinel-2": safe(lambda root, folder, canary: None),
}
"""Maker of rasters of ordinary users, which are read."""
