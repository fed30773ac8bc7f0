"""Other users of this machine cannot command the processes of ``--workers``, nor stop them."""

import asyncio
import itertools
import os
import signal
import socket
import ssl
import stat
import struct
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster, Security
from distributed.comm import connect

from georsr.api import super_resolve
from georsr.distributed import cluster as cluster_module
from georsr.distributed.cluster import start_local_cluster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SMALL = {"blocksize": 32, "tile_size": 32, "halo": 2, "overlap": 4}
PAGES = ("/", "/health", "/metrics", "/info/main/workers.html", "/json/counts.json")


def listening():
    """Ports that this process and its children listen on."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = set()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            found |= {c.laddr for c in process.net_connections("inet") if c.status == "LISTEN"}
    return found


def foreign_tls(security=None):
    """TLS of a client with keys of its own, or none; it accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if security is not None:
        context = security.get_connection_args("client")["ssl_context"]
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def answer(address, request=b"", context=None):
    """What comes back until the other side is done, or says no."""
    got = b""
    with suppress(OSError), ExitStack() as stack:
        talk = stack.enter_context(socket.create_connection(address, 20))
        if context is not None:
            talk = stack.enter_context(context.wrap_socket(talk))
        talk.sendall(request)
        while len(got) < 4096 and (more := talk.recv(4096)):
            got += more
            if is_handshake(got):
                break
    return got


def is_handshake(got):
    """Whether this is how Dask begins to talk: eight bytes of length, then a short message."""
    return len(got) >= 8 and 0 < struct.unpack("<Q", got[:8])[0] < 2**16


def page(address, path):
    return answer(address, f"GET {path} HTTP/1.0\r\n\r\n".encode())


def sorted_out(ports):
    """Ports of web servers, and of others."""
    web = {port for port in ports if page(port, "/").startswith(b"HTTP")}
    return web, ports - web


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A folder of temporary files that another user has prepared."""
    folder = tmp_path / "tmp"
    (folder / "dask-scratch-space").mkdir(parents=True)
    victim = tmp_path / "victim.txt"
    victim.write_text("dear")
    for name in ("global.lock", "purge.lock"):
        (folder / "dask-scratch-space" / name).symlink_to(victim)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_port_checks_detect_an_open_cluster():
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "silence_logs": 50}
    options["dashboard_address"] = "127.0.0.1:0"
    before = listening()
    with LocalCluster(protocol="tcp", **options):
        web, others = sorted_out(listening() - before)
        assert all(page(port, "/health").endswith(b"ok") for port in web)
        assert all(is_handshake(answer(port)) for port in others)
        assert (len(web), len(others)) == (2, 2), "of scheduler and worker"
    theirs, before = Security.temporary(), listening()
    with LocalCluster(protocol="tls", security=theirs, **options):
        _, others = sorted_out(listening() - before)
        assert all(is_handshake(answer(port, context=foreign_tls(theirs))) for port in others)
        assert len(others) == 2


def assert_closed(ports, ours, keys):
    """Check that no port, those of the addresses ``ours`` included, answers foreign clients."""
    web, others = sorted_out(ports)
    assert {port.port for port in others} == {int(a.rpartition(":")[2]) for a in ours}
    for port in others:
        assert not is_handshake(answer(port, b"\0" * 64))
        for context in (foreign_tls(), foreign_tls(keys)):
            assert answer(port, b"\0" * 64, context) == b""
    for port in web:
        assert all(b"404" in page(port, path).splitlines()[0] for path in PAGES)
        assert page(port, "/sitemap.json").endswith(b'{"paths": ["/sitemap.json"]}')


def test_local_cluster_refuses_foreign_connections(private, tmp_path, monkeypatch):
    folders = []
    load = ssl.SSLContext.load_cert_chain

    def watched(self, certfile, keyfile=None, password=None):
        folders.append(Path(certfile).parent.stat().st_mode)
        return load(self, certfile, keyfile, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    before = listening()
    with start_local_cluster(1, gpu=False) as client:
        ports = listening() - before
        assert {port.ip for port in ports} == {"127.0.0.1"}
        (worker,) = client.scheduler_info()["workers"].values()
        ours = {client.scheduler.address, worker["nanny"], *client.nthreads()}
        assert {address.partition("://")[0] for address in ours} == {"tls"}
        keys = Security.temporary()
        assert_closed(ports, ours, keys)
        for address in ours:
            with pytest.raises(OSError, match=r"(?i)certificate|TLS|SSL|Timed out|refus"):
                asyncio.run(connect(address, timeout=2, **keys.get_connection_args("client")))
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            visible = "".join([*process.cmdline(), *process.environ().values()])
            assert "PRIVATE KEY" not in visible
        for folder, _, names in os.walk(private):
            for name in names:
                assert b"PRIVATE KEY" not in (Path(folder) / name).read_bytes()
        (mine,) = private.glob("georsr-workers-*")
        assert stat.S_IMODE(mine.stat().st_mode) == 0o700
        assert worker["local_directory"].startswith(str(mine))
        paths = [sys.path, *client.run(lambda: sys.path).values()]
        assert str(private / "dask-scratch-space") not in itertools.chain(*paths)
        assert client.submit(lambda: 6 * 7).result() == 42
    assert folders
    assert all(stat.S_IMODE(mode) == 0o700 for mode in folders), "where keys lie for a moment"
    assert [path.name for path in private.iterdir()] == ["dask-scratch-space"]
    assert (tmp_path / "victim.txt").read_text() == "dear"


def test_local_cluster_restarted_worker_refuses_foreign_connections(private):
    before = listening()
    with start_local_cluster(1, gpu=False) as client:
        (first,) = client.nthreads()
        os.kill(client.run(os.getpid)[first], signal.SIGKILL)
        while first in client.nthreads():
            time.sleep(0.05)
        client.wait_for_workers(1, timeout=120)
        (worker,) = client.scheduler_info()["workers"].values()
        (second,) = client.nthreads()
        assert second != first
        ours = {client.scheduler.address, worker["nanny"], second}
        assert_closed(listening() - before, ours, Security.temporary())
        (mine,) = private.glob("georsr-workers-*")
        assert worker["local_directory"].startswith(str(mine))


@contextmanager
def disturbed(workers, *, gpu):
    """Workers of a run, to each of whose ports others stay connected, mute or after garbage."""
    before = listening()
    with start_local_cluster(workers, gpu=gpu) as client, ExitStack() as stack:
        for port in listening() - before:
            for garbage in (b"", b"\x16\x03\x01", b"\xff" * 4096, b"GET / HTTP/1.1\r\n", b"\0" * 8):
                talk = stack.enter_context(socket.create_connection(port, 20))
                talk.sendall(garbage)
        yield client


def test_workers_run_with_silent_connections_and_garbage_completes(
    tmp_path, make_raster, texture, monkeypatch, capfd
):
    source = make_raster(texture(3, 150, 130))
    alone = super_resolve(source, tmp_path / "one.tif", "bicubic-x2", **SMALL)
    monkeypatch.setattr(cluster_module, "start_local_cluster", disturbed)
    report = super_resolve(source, tmp_path / "many.tif", "bicubic-x2", workers=1, **SMALL)
    assert report.checksum == alone.checksum
    assert (tmp_path / "many.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()
    assert capfd.readouterr().err == ""
