"""Passwords and signatures of addresses open sources, and are found nowhere afterwards."""

import functools
import http.server
import json
import logging
import threading
import warnings

import numpy as np
import pytest
from georsr.cli.main import invoke

import georsr
from georsr.errors import GeorsrError, InterruptedRunError, redact_url

SECRET = "sEcReT123"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(make_raster, texture, tmp_path):
    """Two rasters side by side on a server of this machine; gives its host and port."""
    (tmp_path / "site").mkdir()
    (tmp_path / "out").mkdir()
    for i in range(2):
        place = georsr_transform(i)
        make_raster(texture(3, 96, 64, seed=i), f"site/{i}.tif", transform=place)
    make_raster(texture(3, 96, 64), "site/nowhere.tif", crs=None)
    handler = functools.partial(Quiet, directory=tmp_path / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


def georsr_transform(i):
    from affine import Affine

    return Affine(0.5, 0, 400000 + 32 * i, 0, -0.5, 5000000)


ADDRESSES = {
    "SAS": "http://{host}/{name}?se=2030-01-01&sig=" + SECRET,
    "AWS": "/vsicurl/http://{host}/{name}?X-Amz-Credential=me&X-Amz-Signature=" + SECRET,
    "token": "http://{host}/{name}?token=" + SECRET,
    "any parameter": "/vsicurl/http://{host}/{name}?k=" + SECRET,
    "password": "http://me:" + SECRET + "@{host}/{name}",
    "user": "/vsicurl/http://" + SECRET + "@{host}/{name}",
    "header": "/vsicurl?header.Authorization=Bearer " + SECRET + "&url=http://{host}/{name}",
    "header last": "/vsicurl?url=http%3A%2F%2F{host}%2F{name}&header.X-Key=" + SECRET,
    "vrt": "vrt:///vsicurl/http://me:" + SECRET + "@{host}/{name}?bands=1,2,3",
}


@pytest.fixture
def address(server):
    def make(kind, name="0.tif"):
        return ADDRESSES[kind].format(host=server, name=name)

    return make


@pytest.fixture
def nothing_told(tmp_path, capfd, caplog):
    """Look through every file that was made, and everything that was said."""

    def look(*texts):
        said = capfd.readouterr()
        for text in (said.out, said.err, *texts):
            assert SECRET not in text, text
        files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
        for path in files:
            assert SECRET.encode() not in path.read_bytes(), path
            assert SECRET not in path.name
        return files, said

    return look


@pytest.mark.parametrize("kind", ADDRESSES)
def test_super_resolve_signed_url_is_redacted_everywhere(kind, address, tmp_path, nothing_told):
    source, out = address(kind), tmp_path / "out"
    run = ["sr", source, str(out / "o.tif"), "-m", "bicubic-x2", "-vv", "--progress", "json"]
    assert invoke([*run, "--dry-run", "--json"]) == 0
    assert invoke([*run, "--stac", str(out / "o.json"), "--json"]) == 0
    assert invoke(["info", source, "--json"]) == 0
    report = ["quality", "report", source, str(out / "o.tif"), "--json", "-vv"]
    assert invoke([*report, "--html", str(out / "o.html")]) == 0
    assert invoke(["quality", "seams", source, "-m", "bicubic-x2", "--tile", "32", "--json"]) == 0
    assert invoke(["eval", str(out / "o.tif"), "--lr", source, "--json"]) == 0
    files, said = nothing_told()
    assert {"o.tif", "o.json", "o.html"} <= {path.name for path in files}
    item = json.loads((out / "o.json").read_text())
    (link,) = [each["href"] for each in item["links"] if each["rel"] == "derived_from"]
    assert "0.tif" in link
    assert "0.tif" in said.out


@pytest.mark.parametrize("kind", ["SAS", "password", "header"])
def test_parts_of_a_mosaic_signed_urls_are_redacted(kind, address, tmp_path, nothing_told):
    sources = [address(kind, f"{i}.tif") for i in range(2)]
    (tmp_path / "list.txt").write_text("\n".join(sources))
    out = str(tmp_path / "out" / "o.vrt")
    parts = str(tmp_path / "out" / "parts")
    run = ["sr", f"@{tmp_path / 'list.txt'}", out, "-m", "bicubic-x2", "--parts", parts, "-vv"]
    assert invoke(run) == 0
    files, _ = nothing_told()
    assert {"o.vrt", "index.json"} <= {path.name for path in files}


@pytest.mark.parametrize("kind", ADDRESSES)
def test_errors_and_warnings_signed_urls_are_redacted(kind, address, tmp_path, nothing_told):
    out = str(tmp_path / "out" / "o.tif")
    missing = address(kind, "none.tif")
    for arguments in (
        ["sr", missing, out, "-m", "bicubic-x2", "-vv"],
        ["sr", address(kind), out, "-m", "bicubic-x2", "-b", "9", "-vv"],
        ["sr", address(kind), out, "-m", "bicubic-x2", "--aoi", missing, "-vv"],
        ["sr", address(kind), out, "-m", missing, "-vv"],
        ["sr", address(kind), address(kind), "-m", "bicubic-x2", "-vv"],
        ["sr", address(kind), address(kind), missing, "--no-such-option"],
        ["info", "--scale", missing],
        ["train", missing],
    ):
        assert invoke(arguments) in (1, 2), arguments
    _, said = nothing_told()
    assert "none.tif" in said.err


@pytest.mark.parametrize("kind", ADDRESSES)
def test_library_use_signed_url_is_not_logged(kind, address, tmp_path, nothing_told, caplog):
    caplog.set_level(logging.INFO, logger="georsr")
    with pytest.raises(GeorsrError) as refused:
        georsr.super_resolve(address(kind, "none.tif"), tmp_path / "out" / "o.tif", "bicubic-x2")
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        report = georsr.super_resolve(
            address(kind, "nowhere.tif"), tmp_path / "out" / "o.tif", "bicubic-x2"
        )
    assert any("nowhere.tif" in str(each.message) for each in issued)
    texts = [str(each.message) for each in issued]
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("georsr")]
    nothing_told(str(refused.value), report.to_json(), *texts, *lines)


def test_resume_with_another_signature_continues(address, lite_file, tmp_path, nothing_told):
    asked = iter([False] * 5)
    out = tmp_path / "out" / "o.tif"
    options = {"tile_size": 32, "halo": 8, "overlap": 0, "blocksize": 16, "consistency": "off"}
    with pytest.raises(InterruptedRunError):
        georsr.super_resolve(
            address("SAS"), out, lite_file, should_stop=lambda: next(asked, True), **options
        )
    files, _ = nothing_told()
    assert len(files) >= 2, "the part and its journal"
    renewed = address("SAS").replace(SECRET, "renewed")
    report = georsr.super_resolve(renewed, out, lite_file, resume=True, **options)
    assert report.blocks_resumed > 0


def test_train_signed_urls_are_redacted(address, tmp_path, nothing_told):
    recipe = {
        "name": "tiny-x2",
        "scale": 2,
        "data": {"kind": "scenes", "holdout": 0.3, "root": [address("SAS"), address("password")]},
        "network": {"embed_dim": 8, "num_groups": 1, "depth": 1, "token_dim": 0},
        "patch": 8,
        "batch": 1,
        "steps": 2,
        "validate_every": 1,
        "precision": "fp32",
        "schedule": {"warmup": 1},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    run = ["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out" / "run"), "-vv"]
    assert invoke([*run, "--device", "cpu"]) == 0
    recipe["data"]["root"][0] = address("SAS").replace(SECRET, "renewed")
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    assert invoke([*run, "--device", "cpu", "--resume"]) == 0
    files, _ = nothing_told()
    assert {"recipe.yaml", "last.ckpt", "best.ckpt", "tiny-x2.safetensors"} <= {
        path.name for path in files
    }


REDACTED = {
    "https://me:word@host/a.tif?sig=abc#x": "https://host/a.tif",
    "https:/me:word@host/a.tif?sig=abc": "https:/host/a.tif",
    "HTTPS://me@host:8080/a.tif": "HTTPS://host:8080/a.tif",
    "s3://KEY:SECRET@bucket/a.tif": "s3://bucket/a.tif",
    'NETCDF:"/vsicurl/http://h/a.nc?token=x":band': 'NETCDF:"/vsicurl/http://h/a.nc":band',
    "/vsizip/{/vsicurl/https://h/a.zip?sig=x}/in.tif": "/vsizip/{/vsicurl/https://h/a.zip}/in.tif",
    "vrt://http://h/a.tif?sig=x?bands=3,2,1": "vrt://http://h/a.tif?bands=3,2,1",
    "PG:host=h user=me password='a b' dbname=d": "PG:host=h user=me password=*** dbname=d",
    "http://h/x?sig=a: 403": "http://h/x: 403",
    'see "http://h/x?sig=a", or <https://me:a@h/>': 'see "http://h/x", or <https://h/>',
    "AWS_SECRET_ACCESS_KEY=abc": "AWS_SECRET_ACCESS_KEY=***",
    "Authorization: Bearer abc, then": "Authorization: ***, then",
}
KEPT = [
    "scene.tif",
    "data/a?b=c.tif",
    "C:\\data\\a.tif",
    "/vsis3/bucket/a.tif",
    "/vsizip/a.zip/b.tif",
    "https://host/a.tif",
    "vrt://scene.tif?bands=3,2,1",
    "hf://OWNER/REPO@main/a.safetensors#sha256=" + "0" * 64,
    'HDF5:"a.h5"://group@x/band',
    "tokens: 8",
    "sr in.tif me@host: no such file",
]


@pytest.mark.parametrize("text", REDACTED)
def test_redact_url_hides_credentials_and_queries(text):
    assert redact_url(text) == REDACTED[text]
    assert redact_url(REDACTED[text]) == REDACTED[text]


@pytest.mark.parametrize("text", KEPT)
def test_redact_text_without_secrets_is_unchanged(text):
    assert redact_url(text) == text


def test_redact_random_text_is_fast_and_not_longer():
    rng = np.random.default_rng(0)
    for signs in ("a:/?@&= ", "/vsicurl?=&:", "password=x "):
        text = "".join(rng.choice(list(signs), 20_000))
        assert len(redact_url(text)) <= len(text) + 3 * text.count("=")
