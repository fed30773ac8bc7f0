"""Areas from a stranger: no file is read and no address is called because of them."""

import json
import os

import pytest
from distributed import Security
from rasterio.crs import CRS

from georsr._files import read_list
from georsr.distributed.address import scheduler_address
from georsr.errors import GeorsrError, UsageError
from georsr.geo.aoi import read_polygons
from tests.attacks.server import recording_server

SQUARE = {
    "type": "Polygon",
    "coordinates": [[[10, 50], [11, 50], [11, 51], [10, 51], [10, 50]]],
}


def area(path, name):
    """Write a GeoJSON file whose member crs has a name."""
    path.write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "crs": {"type": "name", "properties": {"name": name}},
                "features": [{"type": "Feature", "geometry": SQUARE}],
            }
        )
    )
    return str(path)


@pytest.mark.parametrize(
    "name",
    [
        "{url}/a.wkt",
        "/vsicurl/{url}/a.prj",
        "{folder}/secret.prj",
        "../secret.prj",
        "ESRI::{folder}/secret.prj",
        "+init={folder}/secret.prj:1",
        "+proj=utm +zone=32 +nadgrids={folder}/grid.gsb",
        "+proj=utm +zone=32 +nadgrids={url}/grid.gsb",
        'GEOGCS["a",DATUM["b",SPHEROID["c",6378137,298],EXTENSION["PROJ4_GRIDS","/dev/zero"]]]',
        "urn:ogc:def:crs:EPSG::../../secret",
        '{{"type": "GeographicCRS", "name": "+nadgrids={folder}/grid.gsb"}}',
    ],
)
def test_read_polygons_crs_other_than_a_code_is_refused(tmp_path, name):
    served = tmp_path / "served"
    served.mkdir()
    (tmp_path / "secret.prj").write_text(CRS.from_epsg(4326).to_wkt())
    with recording_server(served, tmp_path / "log.txt") as url:
        path = area(tmp_path / "a.json", name.format(url=url, folder=tmp_path))
        with pytest.raises(GeorsrError, match="member crs") as caught:
            read_polygons(path, path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "log.txt").exists(), "the address was called"


@pytest.mark.parametrize(
    "name",
    [
        "EPSG:4326",
        "urn:ogc:def:crs:EPSG::4326",
        "urn:ogc:def:crs:OGC:1.3:CRS84",
        "http://www.opengis.net/def/crs/OGC/1.3/CRS84",
        "OGC:CRS84",
    ],
)
def test_read_polygons_crs_code_is_read(tmp_path, name):
    ((polygon, crs),) = read_polygons(area(tmp_path / "a.json", name), "a.json")
    assert polygon.bounds == (10, 50, 11, 51)
    assert crs.is_geographic


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_read_polygons_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.geojson")
    with pytest.raises(UsageError, match="is a pipe or a device, expected a file"):
        read_polygons(str(tmp_path / "a.geojson"), "area")
    with pytest.raises(UsageError, match="is a pipe or a device, expected a file"):
        read_list(tmp_path / "a.geojson")
    with pytest.raises(UsageError, match="is a pipe or a device, expected a file"):
        scheduler_address(
            "tls://h:1", Security(tls_ca_file=str(tmp_path / "a.geojson"), tls_client_cert="c.pem")
        )
