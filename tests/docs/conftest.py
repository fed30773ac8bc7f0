"""A desk with the files that the manual's commands name."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.windows import Window

from georsr.models.registry import bundled_weights
from tests.sentinel2_safe import make_safe

from .manual import REPOSITORY

SAMPLES = REPOSITORY / "sample_data"
CLASSES = ("agricultural", "buildings")


@pytest.fixture(scope="session")
def furniture(tmp_path_factory):
    """Everything a desk holds, made once."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(SAMPLES, desk / "sample_data", ignore=shutil.ignore_patterns("*.py", "__*"))
    town = SAMPLES / "town_rgb_2m.tif"
    for name in ("scene.tif", "ortho.tif", "drone.tif", "a.tif"):
        shutil.copy(town, desk / name)
    shutil.copy(SAMPLES / "town_rgb_0.5m.tif", desk / "truth.tif")
    shutil.copy(SAMPLES / "fields_4band_10m.tif", desk / "sentinel2.tif")
    shutil.copy(SAMPLES / "fields_4band_10m.tif", desk / "planet.tif")
    (desk / "dist").mkdir()
    with zipfile.ZipFile(desk / "dist" / "georsr-0.1.0-py3-none-any.whl", "w"):
        pass
    four_of_thirteen(SAMPLES / "fields_4band_10m.tif", desk)
    mosaic(town, desk / "mosaic.tif")
    naip(desk / "naip.tif")
    one_band(desk / "dem.tif")
    product, _ = make_safe(desk, side=48)
    product.rename(desk / "S2A.SAFE")
    shutil.make_archive(str(desk / "S2A"), "zip", desk, "S2A.SAFE")
    tiles(town, desk / "tiles")
    bands(town, desk, {"B04": 1, "B03": 2, "B02": 3})
    fields = SAMPLES / "fields_4band_10m.tif"
    bands(fields, desk, {"LC09_SR_B2": 1, "LC09_SR_B3": 2, "LC09_SR_B4": 3, "LC09_SR_B5": 4}, "TIF")
    bands(fields, desk, {"LC09_B8": 2, "LC09_QA_PIXEL": 1}, "TIF")
    bands(fields, desk, {"udm2": 1})
    (desk / "tiles.txt").write_text("".join(f"tiles/{i}.tif\n" for i in range(4)))
    (desk / "pictures").mkdir()
    with rasterio.open(town) as picture:
        pixels = np.moveaxis(picture.read(), 0, -1)
    Image.fromarray(pixels).save(desk / "pictures" / "DJI_0001.JPG")
    district(town, desk / "district.geojson")
    (desk / "my_scenes").mkdir()
    mosaic(SAMPLES / "town_rgb_0.5m.tif", desk / "my_scenes" / "town.tif", 640)
    real_esrgan(desk / "RealESRGAN_x2.pth")
    shutil.copy(bundled_weights()["segsr-lite-x4"], desk / "mine.safetensors")
    photographs(desk / "ucmerced")
    shutil.copytree(desk / "ucmerced", desk / "UCMerced")
    real_pairs(desk / "pairs")
    return desk


@pytest.fixture
def desk(furniture, tmp_path, monkeypatch):
    """A working folder of one's own with everything on it."""
    folder = tmp_path / "desk"
    shutil.copytree(furniture, folder)
    monkeypatch.chdir(folder)
    return folder


def mosaic(source, path, side=400):
    """A square raster of several tiles: another one mirrored at its borders."""
    with rasterio.open(source) as small:
        missing = ((0, 0), (0, side - small.height), (0, side - small.width))
        values = np.pad(small.read(), missing, mode="symmetric")
        profile = small.profile | {"height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)


def naip(path):
    """Red, green, blue, near infrared of the sample fields in bytes."""
    with rasterio.open(SAMPLES / "fields_4band_5m.tif") as source:
        profile = source.profile | {"dtype": "uint8", "nodata": None, "height": 96, "width": 96}
        values = source.read((3, 2, 1, 4), window=Window(20, 20, 96, 96))
    profile.update(photometric="RGB", alpha="NO")
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.clip(values // 24, 1, 255).astype("uint8"))


def one_band(path):
    """A smooth surface in metres."""
    with rasterio.open(SAMPLES / "town_rgb_2m.tif") as source:
        profile = source.profile | {"count": 1, "dtype": "float32"}
    profile.pop("photometric", None)
    y, x = np.mgrid[: profile["height"], : profile["width"]]
    with rasterio.open(path, "w", **profile) as target:
        target.write((300 + 10 * np.sin(x / 9) + y / 7).astype("float32"), 1)


def tiles(source, folder):
    """A raster in four pieces."""
    folder.mkdir()
    with rasterio.open(source) as whole:
        height, width = whole.height // 2, whole.width // 2
        for i in range(4):
            window = Window(i % 2 * width, i // 2 * height, width, height)
            profile = whole.profile | {
                "height": height,
                "width": width,
                "transform": whole.transform @ Affine.translation(window.col_off, window.row_off),
            }
            with rasterio.open(folder / f"{i}.tif", "w", **profile) as piece:
                piece.write(whole.read(window=window))


def bands(source, folder, numbers, suffix="tif"):
    """Write bands of a raster, name -> number, to a file each."""
    with rasterio.open(source) as dataset:
        profile = dataset.profile | {"count": 1, "photometric": "minisblack"}
        for name, number in numbers.items():
            with rasterio.open(folder / f"{name}.{suffix}", "w", **profile) as band:
                band.write(dataset.read(number), 1)


def four_of_thirteen(source, folder):
    """Write s2.tif, of 13 bands, and four.vrt, as gdal_translate -b 4 -b 3 -b 2 -b 8 does."""
    with rasterio.open(source) as dataset:
        profile = dataset.profile | {"count": 13, "photometric": "minisblack"}
        values = dataset.read()[np.arange(13) % 4]
    with rasterio.open(folder / "s2.tif", "w", **profile) as stack:
        stack.write(values)
    chosen = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{band}"><NoDataValue>0</NoDataValue><SimpleSource>'
        '<SourceFilename relativeToVRT="1">s2.tif</SourceFilename>'
        f"<SourceBand>{number}</SourceBand></SimpleSource></VRTRasterBand>"
        for band, number in enumerate((4, 3, 2, 8), start=1)
    )
    size = f'rasterXSize="{profile["width"]}" rasterYSize="{profile["height"]}"'
    place = ",".join(map(str, profile["transform"].to_gdal()))
    (folder / "four.vrt").write_text(
        f"<VRTDataset {size}><SRS>EPSG:32633</SRS><GeoTransform>{place}</GeoTransform>"
        f"{chosen}</VRTDataset>"
    )


def district(source, path):
    """A triangle inside a raster, in longitude and latitude."""
    from rasterio.warp import transform

    with rasterio.open(source) as raster:
        rows, columns = np.array([0.2, 0.8, 0.5]), np.array([0.2, 0.3, 0.9])
        x, y = raster.transform @ (columns * raster.width, rows * raster.height)
        longitude, latitude = transform(raster.crs, "EPSG:4326", list(x), list(y))
    ring = [list(point) for point in zip(longitude, latitude, strict=True)]
    polygon = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    path.write_text(json.dumps(polygon))


def real_esrgan(path):
    """An untrained Real-ESRGAN of the compact kind."""
    import torch
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.manual_seed(0)
    network = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=1, upscale=2)
    torch.save({"params": network.state_dict()}, path)


def real_pairs(folder):
    """The samples as pairs of a coarse and a fine raster."""
    folder.mkdir()
    lines = ["name\tscale\trgb"]
    for scale, fine in ((2, "town_rgb_1m"), (4, "town_rgb_0.5m")):
        shutil.copy(SAMPLES / "town_rgb_2m.tif", folder / f"town{scale}_lr.tif")
        shutil.copy(SAMPLES / f"{fine}.tif", folder / f"town{scale}_hr.tif")
        lines.append(f"town{scale}\t{scale}\t1,2,3")
    (folder / "pairs.tsv").write_text("\n".join(lines))


def photographs(folder):
    """A data set of a few images in the layout {train,val}/<class>/<name>."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in CLASSES:
            place = folder / part / label
            place.mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (224, 224, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{label}{i:02}.png")
