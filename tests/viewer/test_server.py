"""The server of the viewer: what it answers, and to whom."""

import http.client
import io
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from georsr.errors import InputError, UsageError
from georsr.viewer.server import ViewServer
from georsr.viewer.tiles import View

from .conftest import BLUE, RED, serving


@pytest.fixture
def server(pair):
    with serving(*pair) as server:
        yield server


@pytest.fixture
def ask(server):
    """ask(path behind the token, method="GET", **headers) -> (status, headers, body)."""

    def ask(path, method="GET", prefix=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        prefix = server.prefix if prefix is None else prefix
        connection.request(method, prefix + path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.headers, body

    return ask


def test_server_sends_the_pixels_of_a_tile(ask):
    for name, colour in (("output", RED), ("source", BLUE)):
        status, headers, body = ask(f"tiles/{name}/0/0/0.png")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        shown = np.asarray(Image.open(io.BytesIO(body)))
        assert shown[7, 5].tolist() == [0, 0, 0, 255]
        assert shown[8, 5].tolist() == [*colour, 255]


def test_server_sends_values_and_metadata(ask):
    assert json.loads(ask("values/3/200")[2]) == {"output": [255, 0, 0], "source": [0, 0, 255]}
    assert json.loads(ask("values/-1/99999")[2]) == {"output": [None] * 3, "source": [None] * 3}
    view = json.loads(ask("view.json")[2])
    assert (view["width"], view["height"], view["unit"]) == (400, 320, "metre")
    assert view["rasters"]["source"]["file"] == "source.tif"
    assert view["rasters"]["source"]["bounds"] == pytest.approx([0, 0, 400, 320])


def test_server_sends_its_page_and_no_address_of_others(ask):
    for path in ("", "view.js", "view.css"):
        status, headers, body = ask(path)
        assert status == 200
        assert b"http:" not in body
        assert b"https:" not in body
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"Leaflet 1.9.4" in ask("leaflet.js")[2][:200]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_request_under_another_host_is_refused(ask, host):
    """A page whose name was made to point to this computer cannot read the pixels."""
    status, _, body = ask("tiles/output/0/0/0.png", Host=host)
    assert (status, body[:4]) == (403, b"this")
    assert ask("tiles/output/0/0/0.png", Host="localhost:1234")[0] == 200


def test_request_without_the_token_is_refused(ask, server):
    for prefix in ("/", "", f"{server.prefix[:-2]}x/", "/%2e/", server.prefix.swapcase()):
        assert ask("view.json", prefix=prefix or "/")[0] == 404
    assert len(server.prefix) > 20


def test_servers_have_tokens_of_their_own(pair):
    with serving(*pair) as one, serving(*pair) as other:
        assert one.prefix != other.prefix


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "/etc/passwd",
        "static/view.js",
        "view.js/",
        "leaflet-LICENSE.txt",
        "tiles/output/0/0/0.tif",
        "tiles/other/0/0/0.png",
        "tiles/output/99/0/0.png",
        "tiles/output/-99/0/0.png",
        "tiles/output/1/0/0.png",
        "tiles/output/0/0/99999999999.png",
        "tiles/output/0/0/0.png/",
        "tiles/output/0/0/0.png%00",
        "values/1",
        "values/1e9/2",
        "values/nan/2",
        "maximum/output",
        "maximum/layer1",
    ],
)
def test_odd_path_is_not_found(ask, path):
    status, headers, body = ask(path)
    assert (status, headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
    assert body == b"no such page\n"


def test_query_is_ignored(ask):
    assert ask("view.json?x=../../etc&callback=alert(1)")[2] == ask("view.json")[2]


def test_tile_out_of_the_raster_is_transparent(ask):
    for place in ("-1/0", "0/-5", "9999999/9999999"):
        status, _, body = ask(f"tiles/source/0/{place}.png")
        assert status == 200
        assert not np.asarray(Image.open(io.BytesIO(body)))[..., 3].any()


def test_head_sends_the_headers_of_get(ask):
    get, head = (ask("tiles/output/0/0/0.png", method) for method in ("GET", "HEAD"))
    assert head[0] == 200
    assert head[1]["Content-Length"] == get[1]["Content-Length"] == str(len(get[2]))
    assert head[2] == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_method_that_could_write_is_refused(ask, method):
    assert ask("view.json", method)[0] == 501


def test_server_listens_on_the_loopback_address_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}{server.prefix}"


def test_port_in_use_is_refused(pair, server):
    with View(*pair) as view, pytest.raises(UsageError, match="cannot be used: Address already"):
        ViewServer(view, server.server_port)


def test_server_goes_on_after_a_broken_connection(ask, server, capsys):
    for begun in (b"GET", b"\0\xff\n\n", f"GET {server.prefix}view.json HTTP/1.1\r\n".encode()):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.sendall(begun)
    assert ask("view.json")[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_raster_that_cannot_be_read_any_more_is_reported(ask, server, caplog, monkeypatch):
    def fail(*place):
        raise InputError("output.tif: rows 0:9 cannot be read")

    monkeypatch.setattr(server.view.rasters["output"], "tile", fail)
    status, _, body = ask("tiles/output/0/0/1.png")
    assert (status, body) == (500, b"a raster cannot be read; the reason is in the terminal\n")
    assert caplog.messages == ["output.tif: rows 0:9 cannot be read"]


def test_path_that_is_not_ascii_is_refused(server):
    for prefix, path in (("/\u00e9/", "view.json"), (server.prefix, "values/\u0661/2")):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            request = f"GET {prefix}{path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            connection.sendall(request.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 404 ")


def test_shipped_leaflet_has_its_licence():
    folder = Path(__import__("georsr.viewer").viewer.__file__).parent / "static"
    licence = (folder / "leaflet-LICENSE.txt").read_text(encoding="utf-8")
    assert licence.startswith("BSD 2-Clause License")
    assert "Volodymyr Agafonkin" in licence
