import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import rasterio
from rasterio.env import get_gdal_config, getenv, hasenv

from georsr.io.gdal_env import CACHE_BYTES, gdal_env, is_remote, suppress_rasterio_warnings


def test_gdal_env_restores_the_options():
    before = get_gdal_config("GDAL_CACHEMAX")
    with gdal_env(writing=True):
        assert get_gdal_config("GDAL_CACHEMAX") == CACHE_BYTES
        assert get_gdal_config("GDAL_PAM_ENABLED") == "NO"
        assert get_gdal_config("GDAL_VRT_ENABLE_PYTHON") == "NO"
    assert not hasenv()
    assert get_gdal_config("GDAL_CACHEMAX") == before
    assert get_gdal_config("GDAL_PAM_ENABLED") is None


def test_gdal_env_in_overlapping_threads_restores_the_cache_size():
    before = get_gdal_config("GDAL_CACHEMAX")
    with ThreadPoolExecutor(1) as other:
        first, second = gdal_env(), gdal_env(cache=2**20)
        first.__enter__()
        other.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        other.submit(second.__exit__, None, None, None).result()
    assert get_gdal_config("GDAL_CACHEMAX") == before


def test_gdal_env_remote_does_not_list_folders():
    with gdal_env():
        assert get_gdal_config("GDAL_PAM_ENABLED") is None
        assert get_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN") is None
    with gdal_env(remote=True):
        assert get_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN") == "EMPTY_DIR"


def test_gdal_env_inside_another_keeps_its_preferences():
    with rasterio.Env(GDAL_HTTP_MAX_RETRY="9", GDAL_VRT_ENABLE_PYTHON="YES"):
        with gdal_env(remote=True):
            assert int(get_gdal_config("GDAL_HTTP_MAX_RETRY")) == 9
            assert get_gdal_config("GDAL_VRT_ENABLE_PYTHON") == "NO"
        assert getenv()["GDAL_VRT_ENABLE_PYTHON"] == "YES"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.tif", False),
        ("/data/a.tif", False),
        ("C:/a.tif", False),
        ("file:///a.tif", False),
        ("/vsizip/a.zip/a.tif", False),
        ("vrt:///data/a.tif?bands=1", False),
        ("https://example.org/a.tif", True),
        ("s3://bucket/a.tif", True),
        ("/vsis3/bucket/a.tif", True),
        ("/vsizip//vsicurl/https://example.org/a.zip/a.tif", True),
    ],
)
def test_is_remote_recognises_addresses(path, expected):
    assert is_remote(path) is expected


def test_suppress_rasterio_warnings_in_threads_restores_filters():
    before = list(warnings.filters)
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        for _ in range(200):
            with suppress_rasterio_warnings():
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
