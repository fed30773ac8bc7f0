"""Models at hf:// addresses, served by a local HTTP server."""

import hashlib
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from georsr.errors import ModelError, UsageError
from georsr.models import io
from georsr.models.io import open_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The two requests of the hub's protocol that a download makes."""

    files: dict = {}  # noqa: RUF012 set by the fixture

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/lab/sr/"):
            names = [{"rfilename": name} for name in self.files]
            listing = {"id": "lab/sr", "sha": COMMIT, "siblings": names}
            if "/tree/" in path:
                listing = [
                    {"type": "file", "path": n, "size": len(c), "oid": "0" * 40}
                    for n, c in self.files.items()
                ]
            return self.send(200, json.dumps(listing).encode(), body, "application/json")
        name = path.split("/", 5)[-1]
        if path.startswith("/lab/sr/resolve/") and name in self.files:
            return self.send(200, self.files[name], body, "application/octet-stream")
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def send(self, status, content, body, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *words):
        pass


@pytest.fixture
def served(lite_file, tmp_path, monkeypatch):
    """(endpoint, bytes of the weights): a hub with one model, and an empty cache."""
    import huggingface_hub.constants as constants
    from huggingface_hub import file_download

    for module in (constants, file_download):
        if hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "cache"))
    Hub.files = {
        "README.md": b"a model",
        "weights/tiny.safetensors": Path(lite_file).read_bytes(),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Hub.files["weights/tiny.safetensors"]
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore")  # of the hub's client
def test_download_is_cached_for_use_without_the_hub(served, monkeypatch, caplog):
    endpoint, weights = served
    digest = hashlib.sha256(weights).hexdigest()
    path = io.download("hf://lab/sr/weights/tiny.safetensors", endpoint)
    assert path.read_bytes() == weights
    assert f"hf://lab/sr@{COMMIT}/weights/tiny.safetensors#sha256={digest}" in caplog.text
    caplog.clear()
    pinned = f"hf://lab/sr@{COMMIT}/weights/tiny.safetensors#sha256={digest}"
    assert io.download(pinned, endpoint).read_bytes() == weights
    assert caplog.text == ""
    nowhere = "http://127.0.0.1:9"
    assert io.download(pinned, nowhere).read_bytes() == weights
    monkeypatch.setattr(io, "download", partial(io.download, endpoint=nowhere))
    model = open_model(pinned)
    assert model.source == pinned
    assert model.sha256 == digest


@pytest.mark.filterwarnings("ignore")
def test_download_without_file_takes_the_only_weights(served):
    endpoint, weights = served
    assert io.download("hf://lab/sr", endpoint).read_bytes() == weights
    # without the hub it is found in the cache, in its folder
    assert io.download("hf://lab/sr", "http://127.0.0.1:9").read_bytes() == weights
    Hub.files["other.safetensors"] = b"x"
    with pytest.raises(ModelError, match=r"holds 2 safetensors files.*name the file"):
        io.download("hf://lab/sr", endpoint)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://lab/none/w.safetensors", "the hub answers 40[14]"),
        ("hf://lab/sr/none.safetensors", "the hub answers 40[14]"),
        ("hf://lab/sr/weights/tiny.safetensors#sha256=" + "0" * 64, "its sha256 is .* expected 00"),
    ],
)
def test_download_missing_or_changed_file_is_an_error(address, message, served):
    with pytest.raises(ModelError, match=message) as caught:
        io.download(address, served[0])
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("address", ["hf://lab/sr", "hf://lab/sr@v1/weights/tiny.safetensors"])
def test_download_offline_and_not_cached_is_an_error(address, served, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries again and again
    with pytest.raises(ModelError, match=r"cannot be reached.*hf download lab/sr") as caught:
        io.download(address, "http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["hf://lab", "hf://lab/sr#sha256=12", "hf://lab/sr@/x.y#md5=1"])
def test_open_model_malformed_hub_address_is_an_error(address):
    with pytest.raises(UsageError, match="expected hf://OWNER/REPO"):
        open_model(address)
