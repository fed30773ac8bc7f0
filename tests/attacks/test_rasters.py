"""Rasters from a stranger: nothing else is read, written or called because of them."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from georsr import super_resolve
from georsr.errors import GeoreferenceWarning, GeorsrError, InputError, UsageError
from georsr.geo.aoi import read_polygons
from georsr.io import open_sources
from georsr.io.gdal_env import is_plain_crs, suppress_rasterio_warnings
from georsr.io.reader import open_raster
from georsr.window import Window
from tests.attacks import disguised, hostile
from tests.attacks.server import recording_server
from tests.sentinel2_safe import make_safe


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server, for all tests, of a folder that each of them empties."""
    folder = tmp_path_factory.mktemp("served")
    log = folder.parent / "requests.txt"
    with recording_server(folder, log) as url:
        yield Server(folder, log, url)


@dataclass(frozen=True)
class Server:
    """A folder that is served, and the requests for its files."""

    folder: Path
    log: Path
    url: str

    def paths(self):
        """Paths that were asked for since it was last asked this."""
        text = self.log.read_text() if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        return text.split()


@pytest.fixture
def server(address):
    for path in address.folder.iterdir():
        path.unlink()
    address.paths()
    return address


@pytest.fixture
def canary(tmp_path, server):
    secret, victim = tmp_path / "secret.bin", tmp_path / "victim.txt"
    secret.write_bytes(bytes(range(1, 256)) * 32)
    victim.write_text("precious\n")
    return hostile.Canary(victim, secret, server.url)


@pytest.fixture
def gift(tmp_path):
    folder = tmp_path / "gift"
    folder.mkdir()
    return folder


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_all(path):
    """Open a raster, sample it and read it, as a run does."""
    with open_sources(path) as reader:
        reader.sample(100)
        reader.read(Window(0, 0, reader.info.height, reader.info.width))


MAKERS = {**hostile.ALL, **disguised.DISGUISED}


@pytest.mark.parametrize("name", MAKERS)
def test_open_raster_hostile_file_is_refused_in_one_line(gift, canary, server, tmp_path, name):
    path = MAKERS[name](gift, canary)
    before = snapshot(tmp_path)
    with pytest.raises(GeorsrError) as caught:
        read_all(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert snapshot(tmp_path) == before, "a file was made or has grown"
    assert server.paths() == []


@pytest.mark.parametrize(
    "name",
    [
        "picture: overview item, VRT over MRF",
        "picture: mask, address",
        "document: MRF called png",
        "VRT: MRF called tif",
        "HDF5: external data",
        "Sentinel-2: a band is MRF",
    ],
)
@pytest.mark.parametrize("command", ["info", "sr", "dry-run"])
def test_sr_hostile_file_writes_nothing(gift, canary, server, tmp_path, name, command):
    path = hostile.ALL[name](gift, canary)
    before = snapshot(tmp_path)
    arguments = {
        "info": ["info", path],
        "sr": ["sr", path, tmp_path / "out.tif", "-m", "nearest-x2"],
        "dry-run": ["sr", path, tmp_path / "out.tif", "-m", "nearest-x2", "--dry-run"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-m", "georsr.cli", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert snapshot(tmp_path) == before
    assert server.paths() == []


def test_command_line_deregisters_unsafe_drivers():
    script = (
        "import georsr.cli.main as m, rasterio\n"
        "m.prepare_process()\n"
        "with rasterio.Env() as env: print(*sorted(env.drivers()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    there = done.stdout.split()
    assert "GTiff" in there
    assert "VRT" in there
    assert not {"MRF", "WMS", "WCS", "WMTS", "GTI", "DERIVED", "HTTP", "STACIT"} & set(there)


def test_allow_driver_registers_the_driver_again(tmp_path):
    hostile.tiff(tmp_path / "a.tif")
    with suppress_rasterio_warnings(), rasterio.open(tmp_path / "a.tif") as source:
        rasterio.shutil.copy(source, tmp_path / "a.mrf", driver="MRF")
    command = [sys.executable, "-m", "georsr.cli", "info", str(tmp_path / "a.mrf")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--allow-driver MRF" in refused.stderr
    allowed = subprocess.run(
        [*command, "--allow-driver", "MRF"], capture_output=True, text=True, check=True
    )
    assert "MRF" in allowed.stdout


def test_open_raster_named_pipe_is_refused_at_once(gift):
    os.mkfifo(gift / "a.tif")
    with pytest.raises(InputError, match="is a pipe or a device"):
        open_raster(gift / "a.tif")
    os.mkfifo(gift / "b.vrt")
    with pytest.raises(InputError, match="not a regular file"):
        open_raster(gift / "b.vrt")
    hostile.tiff(gift / "c.tif")
    os.mkfifo(gift / "c.tif.ovr")
    with pytest.raises(GeorsrError, match="not a TIFF"):
        open_raster(gift / "c.tif")
    hostile.tiff(gift / "d.tif")
    hostile.tiff(gift / "d.tif.ovr")
    os.mkfifo(gift / "d.tif.ovr.aux.xml")
    with pytest.raises(UsageError, match="not a regular file"):
        open_raster(gift / "d.tif")
    hostile.tiff(gift / "e.tif")
    os.mkfifo(gift / "e.tif.aux.xml")
    (gift / "e.vrt").write_text(hostile.vrt("e.tif", 1))
    with pytest.raises(UsageError, match="not a regular file"):
        open_raster(gift / "e.vrt")


@pytest.mark.parametrize("content", [hostile.mrf, lambda f, c: hostile.raw_vrt(c.secret)])
@pytest.mark.parametrize("name", ["switched.tif", "switched.jp2"])
def test_remote_vrt_source_is_read_as_an_image_only(gift, canary, server, tmp_path, content, name):
    name = f"{tmp_path.name}-{name}"  # a file that failed once is not read again in a process
    (server.folder / name).write_text(content(gift, canary))
    (server.folder / f"{name}.vrt").write_text(hostile.vrt(name, 1))
    before = snapshot(tmp_path)
    with pytest.raises(GeorsrError, match="not recognized"):
        read_all(f"{server.url}/{name}.vrt")
    assert snapshot(tmp_path) == before
    (server.folder / "b.vrt").write_text(hostile.vrt(f"{name}.vrt", 1))
    with pytest.raises(GeorsrError, match="not of another VRT"):
        read_all(f"{server.url}/b.vrt")


@pytest.mark.parametrize("form", [*disguised.SYSTEMS.values(), *disguised.FILES.values()])
def test_aoi_crs_with_a_path_or_address_is_refused(canary, server, form):
    system = form.format(canary).replace("&#105;", "i").replace("&#61;", "=")
    square = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    with pytest.raises(UsageError, match="is not a coordinate reference system"):
        read_polygons({**square, "crs": {"properties": {"name": system}}}, "the area")
    assert server.paths() == []


def test_rpc_malformed_coefficients_are_one_line(gift):
    hostile.tiff(gift / "b.tif")
    (gift / "b.tif.aux.xml").write_text(
        '<PAMDataset><Metadata domain="RPC"><MDI key="ERR_BIAS">x</MDI></Metadata></PAMDataset>'
    )
    with pytest.raises(InputError, match="could not convert"):
        open_raster(gift / "b.tif")


# ---------------------------------------------------------------- what ordinary users do


@pytest.mark.parametrize("name", disguised.HONEST)
@pytest.mark.filterwarnings("ignore::georsr.errors.GeoreferenceWarning")
def test_open_raster_ordinary_formats_are_read(gift, canary, server, tmp_path, name):
    path = disguised.HONEST[name](gift, canary)
    before = snapshot(tmp_path)
    read_all(path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        *("EPSG:32632", "EPSG:4326+5773", "ESRI:102001", "OGC:CRS84", "WGS84"),
        "urn:ogc:def:crs:OGC:1.3:CRS84",
        "http://www.opengis.net/def/crs/EPSG/0/4326",
        "+proj=utm +zone=32 +datum=WGS84 +nadgrids=@null",
        "+title=WGS 84 / UTM +proj=utm +zone=32",
        CRS.from_epsg(32632).to_wkt(),
    ],
)
def test_open_raster_ordinary_crs_is_accepted(text):
    assert is_plain_crs(text)


def test_open_raster_sidecar_mask_overviews_and_metadata_are_read(gift):
    path = hostile.tiff(gift / "scene.tif")
    env = rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO", TIFF_USE_OVR="YES")
    with env, suppress_rasterio_warnings(), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.tri(64, dtype="uint8") * 255)
        dataset.build_overviews([2], rasterio.enums.Resampling.nearest)
    (gift / "scene.tif.aux.xml").write_text(
        '<PAMDataset><Metadata><MDI key="NOTE">kept</MDI></Metadata></PAMDataset>'
    )
    assert (gift / "scene.tif.msk").exists()
    assert (gift / "scene.tif.ovr").exists()
    with open_raster(path) as reader:
        assert reader.info.mask_kind == "mask"
        assert reader.info.overviews == (2,)
        assert reader.info.tags[""]["NOTE"] == "kept"


@pytest.mark.parametrize("kind", ["beside", "below", "absolute", "by a link to the folder"])
def test_vrt_over_files_of_its_folder_is_read(gift, kind):
    (gift / "tiles").mkdir()
    hostile.tiff(gift / "a.tif")
    hostile.tiff(gift / "tiles" / "b.tif")
    (gift / "scene.vrt").write_text(
        {
            "beside": hostile.vrt("a.tif", 1),
            "below": hostile.vrt("tiles/b.tif", 1),
            "absolute": hostile.vrt(gift / "a.tif"),
            "by a link to the folder": hostile.vrt("a.tif", 1),
        }[kind]
    )
    path = gift / "scene.vrt"
    if kind == "by a link to the folder":
        link = gift.parent / "link"
        link.symlink_to(gift)
        path = link / "scene.vrt"
    with open_raster(path) as reader:
        assert reader.read(Window(0, 0, 64, 64)).valid.all()


def test_vrt_over_files_elsewhere_is_read_if_allowed(gift):
    (gift / "vrt").mkdir()
    hostile.tiff(gift / "a.tif")
    path = gift / "vrt" / "scene.vrt"
    path.write_text(hostile.vrt(gift / "a.tif"))
    with pytest.raises(GeorsrError, match="allow_drivers"):
        open_raster(path)
    with open_raster(path, allow_drivers=["VRT"]) as reader:
        assert reader.info.driver == "VRT"


def test_vrt_of_gdalwarp_gdalbuildvrt_and_pansharpening_is_read(gift):
    """Documents with every element that these write."""
    hostile.tiff(gift / "a.tif")
    with suppress_rasterio_warnings(), rasterio.open(gift / "a.tif") as source:
        from rasterio.vrt import WarpedVRT

        with WarpedVRT(source, crs="EPSG:4326") as warped:
            rasterio.shutil.copy(warped, gift / "warped.vrt", driver="VRT")
        rasterio.shutil.copy(source, gift / "copy.vrt", driver="VRT")
    (gift / "sharp.vrt").write_text(
        '<VRTDataset subClass="VRTPansharpenedDataset"><PansharpeningOptions><Algorithm>'
        "WeightedBrovey</Algorithm><PanchroBand><SourceFilename relativeToVRT='1'>a.tif"
        "</SourceFilename><SourceBand>1</SourceBand></PanchroBand>"
        + "".join(
            f'<SpectralBand dstBand="{n}"><SourceFilename relativeToVRT="1">a.tif</SourceFilename>'
            f"<SourceBand>{n}</SourceBand></SpectralBand>"
            for n in (1, 2, 3)
        )
        + "</PansharpeningOptions></VRTDataset>"
    )
    for name in ("warped.vrt", "copy.vrt", "sharp.vrt"):
        with open_raster(gift / name) as reader:
            assert reader.info.count == 3, name


def test_open_raster_netcdf_hdf5_and_geopackage_are_read(gift):
    with hostile.h5py.File(gift / "a.h5", "w") as file:
        file["z"] = np.full((64, 64), 7, "u1")
        file["again"] = hostile.h5py.SoftLink("/z")
        file.create_group("g")["same"] = file["z"]
    hostile.tiff(gift / "a.gpkg", "GPKG")
    for path, value in ((f'HDF5:"{gift}/a.h5"://z', 7), (f"NETCDF:{gift}/a.h5:z", 7)):
        with pytest.warns(GeoreferenceWarning), open_raster(path) as reader:
            assert (reader.read(Window(0, 0, 64, 64)).values == value).all()
    with open_raster(gift / "a.gpkg") as reader:
        assert reader.info.driver == "GPKG"


def test_open_raster_archive_is_read_with_its_sidecars(gift):
    hostile.tiff(gift / "scene.tif")
    (gift / "scene.tif.aux.xml").write_text(
        '<PAMDataset><Metadata><MDI key="NOTE">kept</MDI></Metadata></PAMDataset>'
    )
    for kind, end in (("zip", "zip"), ("tar", "tar")):
        archive = shutil.make_archive(str(gift.parent / "a"), kind, gift)
        with open_raster(f"/vsi{kind}/{archive}/scene.tif") as reader:
            assert reader.info.tags[""]["NOTE"] == "kept", end


def test_open_raster_safe_folder_and_archive_are_read(gift):
    root, _ = make_safe(gift, side=24)
    archive = shutil.make_archive(str(gift / "product"), "zip", gift, root.name)
    for path in (root, archive, root / "MTD_MSIL2A.xml"):
        with open_raster(path) as reader:
            assert reader.info.count == 10


def test_open_raster_remote_requests_no_sidecars(server):
    for name, driver in (("a.tif", "GTiff"), ("a.jp2", "JP2OpenJPEG")):
        hostile.tiff(server.folder / name, driver)
        with open_raster(f"{server.url}/{name}") as reader:
            reader.sample(100)
            reader.read(Window(0, 0, 64, 64))
        assert set(server.paths()) == {f"/{name}"}


def test_open_raster_remote_format_with_sidecars_needs_allow_driver(server):
    hostile.tiff(server.folder / "a.img", "HFA")
    with pytest.raises(InputError, match="allow_drivers"):
        open_raster(f"{server.url}/a.img")
    assert set(server.paths()) == {"/a.img"}
    with open_raster(f"{server.url}/a.img", allow_drivers=["HFA"]) as reader:
        assert reader.info.driver == "HFA"


def test_remote_vrt_reads_its_own_server_only(server, canary):
    hostile.tiff(server.folder / "a.tif")
    (server.folder / "good.vrt").write_text(hostile.vrt("a.tif", 1))
    with open_raster(f"{server.url}/good.vrt") as reader:
        assert reader.read(Window(0, 0, 64, 64)).valid.all()
    for number, source in enumerate(
        [canary.secret, "http://localhost:1/a.tif", "/vsicurl/http://localhost:1/a.tif"]
    ):
        (server.folder / f"{number}.vrt").write_text(hostile.vrt(source))
        with pytest.raises(GeorsrError, match="not in or under the folder"):
            open_raster(f"{server.url}/{number}.vrt")


def test_output_does_not_copy_the_tag_that_names_overviews(gift, tmp_path):
    overviews = gift / "scene.ovr.tif"
    hostile.tiff(overviews)
    hostile.tiff(gift / "scene.tif", OVERVIEW_FILE=":::BASE:::scene.ovr.tif")
    super_resolve(gift / "scene.tif", tmp_path / "out.tif", "nearest-x2")
    with suppress_rasterio_warnings(), rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.get_tag_item("OVERVIEW_FILE", "OVERVIEWS") is None
