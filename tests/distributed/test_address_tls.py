"""Schedulers that speak TLS: with certificates that fit the bytes are the same, else one line."""

import datetime
import itertools
import logging
import re
import socket
import threading
from contextlib import contextmanager
from ipaddress import IPv4Address

import dask
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import LocalCluster, Security
from georsr.cli.main import invoke
from georsr.cli.options import flag

from georsr.api import estimate, super_resolve
from georsr.distributed import address as cluster_address
from georsr.distributed import cluster as cluster_members
from georsr.distributed.address import scheduler_address
from georsr.errors import InterruptedRunError, ResourceError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SMALL = {"blocksize": 32, "tile_size": 32, "halo": 2, "overlap": 4}
PLAIN = {"encoding": serialization.Encoding.PEM, "format": serialization.PrivateFormat.PKCS8}
DAY = datetime.timedelta(days=1)


def make_key(path, password=None):
    key = ec.generate_private_key(ec.SECP256R1())
    how = serialization.NoEncryption()
    if password:
        how = serialization.BestAvailableEncryption(password)
    path.write_bytes(key.private_bytes(**PLAIN, encryption_algorithm=how))
    return key


def make_cert(path, name, key, issuer, signer, days=2):
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signed_by = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    made = (
        x509.CertificateBuilder(signed_by, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - 9 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.BasicConstraints(name == issuer, None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two authorities, ``ours`` and ``other``, each with a certificate; and odd ones of ours."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("ours", "other"):
        signer = make_key(folder / f"{name}-ca.key")
        make_cert(folder / f"{name}-ca.pem", name, signer, name, signer)
        key = make_key(folder / f"{name}.key")
        make_cert(folder / f"{name}.pem", "node", key, name, signer)
        if name == "ours":
            make_cert(folder / "expired.pem", "node", key, name, signer, days=-1)
    make_key(folder / "locked.key", b"secret")
    made = x509.load_pem_x509_certificate((folder / "ours-ca.pem").read_bytes())
    (folder / "ours-ca.der").write_bytes(made.public_bytes(serialization.Encoding.DER))
    (folder / "rubbish.pem").write_text("no certificate\n")
    both = (folder / "ours.pem").read_bytes() + (folder / "ours.key").read_bytes()
    (folder / "both.pem").write_bytes(both)
    return folder


def security(files, ca="ours-ca.pem", cert="ours.pem", key="ours.key"):
    names = [None if name is None else str(files / name) for name in (ca, cert, key)]
    return cluster_address.security_of(*names)


def config(files):
    """What a user writes into Dask's own configuration."""
    ca, cert, key = (str(files / name) for name in ("ours-ca.pem", "ours.pem", "ours.key"))
    of = {"cert": cert, "key": key}
    tls = {"ca-file": ca, "client": of, "worker": of, "scheduler": of}
    return dask.config.set(
        {"distributed.comm.tls": {**dask.config.get("distributed.comm.tls")} | tls}
    )


@contextmanager
def cluster(protocol, given=None):
    options = {"processes": False, "dashboard_address": "127.0.0.1:0", "n_workers": 2}
    with LocalCluster(
        protocol=protocol, security=given, threads_per_worker=1, silence_logs=50, **options
    ) as local:
        yield local.scheduler_address


@pytest.fixture(scope="module")
def tls(files):
    """Address of a scheduler with two workers that accept what ``ours`` has signed."""
    of = {"ca": str(files / "ours-ca.pem"), "cert": str(files / "ours.pem")}
    key = str(files / "ours.key")
    roles = {f"tls_{role}_cert": of["cert"] for role in ("client", "scheduler", "worker")}
    roles |= {f"tls_{role}_key": key for role in ("client", "scheduler", "worker")}
    with cluster("tls", Security(tls_ca_file=of["ca"], require_encryption=True, **roles)) as made:
        yield made


@pytest.fixture(scope="module")
def tcp():
    with cluster("tcp") as made:
        yield made


@pytest.fixture
def source(make_raster, texture):
    return make_raster(texture(3, 90, 80))


def options_of(files, ca="ours-ca.pem", cert="ours.pem", key="ours.key"):
    named = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
    return [w for name, file in named.items() if file for w in (name, str(files / file))]


def test_run_over_tls_equals_a_serial_run(tmp_path, source, tls, files, capsys):
    one, many, by_command = (tmp_path / name for name in ("one.tif", "many.tif", "told.tif"))
    super_resolve(source, one, "bicubic-x2", **SMALL)
    super_resolve(source, many, "bicubic-x2", scheduler=tls, security=security(files), **SMALL)
    small = [w for name, n in SMALL.items() for w in (f"--{flag(name)}", str(n))]
    command = ["sr", source, str(by_command), "-m", "bicubic-x2", "--scheduler", tls, "-q", *small]
    assert invoke([*command, *options_of(files)]) == 0
    plan = ["info", source, "-m", "bicubic-x2", "--scheduler", tls]
    assert invoke([*plan, *options_of(files)]) == 0
    assert "workers 2" in capsys.readouterr().out
    assert many.read_bytes() == by_command.read_bytes() == one.read_bytes()


def test_security_with_key_and_certificate_in_one_file_connects(source, tls, files):
    given = security(files, cert="both.pem", key=None)
    assert estimate(source, "bicubic-x2", scheduler=tls, security=given).workers == 2


def test_security_of_text_connects(source, tls, files):
    text = [(files / name).read_text() for name in ("ours-ca.pem", "ours.pem", "ours.key")]
    given = cluster_address.security_of(*text)
    assert estimate(source, "bicubic-x2", scheduler=tls, security=given).workers == 2


def test_security_of_malformed_text_raises_usage_error(files):
    text = [(files / name).read_text() for name in ("ours-ca.pem", "ours.pem", "ours.key")]
    given = cluster_address.security_of("no\n", *text[1:])
    with pytest.raises(UsageError, match=r"^tls_ca_file \(PEM text\): holds no certificate"):
        scheduler_address("tls://h:1", given)
    given = cluster_address.security_of(*text[:2], "no\n")
    with pytest.raises(
        UsageError, match=r"tls_client_key \(PEM text\): expected a certificate and"
    ):
        scheduler_address("tls://h:1", given)


def test_security_of_dask_configuration_connects(source, tls, files, tmp_path):
    with config(files):
        assert estimate(source, "bicubic-x2", scheduler=tls).workers == 2
        # what is not given comes from there
        given = security(files, ca=None, cert="both.pem", key=None)
        assert estimate(source, "bicubic-x2", scheduler=tls, security=given).workers == 2


@pytest.mark.parametrize(
    ("ca", "cert", "key", "code", "words"),
    [
        ("none.pem", "ours.pem", "ours.key", 2, "--tls-ca .*none.pem: No such file or directory"),
        ("ours-ca.pem", "none.pem", "ours.key", 2, "--tls-cert .*none.pem: No such file"),
        ("ours-ca.pem", "ours.pem", "none.key", 2, "--tls-key .*none.key: No such file"),
        (".", "ours.pem", "ours.key", 2, "--tls-ca .*: Is a directory; expected a PEM file"),
        ("rubbish.pem", "ours.pem", "ours.key", 2, "--tls-ca .*rubbish.pem: holds no certificate"),
        ("ours-ca.der", "ours.pem", "ours.key", 2, "--tls-ca .*ours-ca.der: holds no certificate"),
        ("ours.key", "ours.pem", "ours.key", 2, "--tls-ca .*ours.key: holds no certificate"),
        ("ours-ca.pem", "rubbish.pem", "ours.key", 2, "--tls-cert .*rubbish.pem, --tls-key"),
        ("ours-ca.pem", "ours.pem", "rubbish.pem", 2, "expected a certificate and its key"),
        ("ours-ca.pem", "ours.pem", None, 2, "expected a certificate and its key"),
        ("ours-ca.pem", "ours.pem", "other.key", 2, "--tls-key .*other.key: is not the key of"),
        ("ours-ca.pem", "ours.pem", "locked.key", 2, "--tls-key .*locked.key: has a password"),
        ("ours-ca.pem", None, None, 2, "needs certificates; give --tls-cert, or distributed.comm"),
        (None, "ours.pem", "ours.key", 2, "needs certificates; give --tls-ca, or distributed.comm"),
        (None, None, None, 2, "needs certificates; give --tls-ca and --tls-cert, or distributed"),
        (
            "other-ca.pem",
            "ours.pem",
            "ours.key",
            1,
            "not accepted: .*; expected one signed by the CA of",
        ),
        ("ours-ca.pem", "other.pem", "other.key", 1, "refuses --tls-cert .*other.pem: .*unknown"),
        ("ours-ca.pem", "expired.pem", "ours.key", 1, "refuses --tls-cert .*: .*expired"),
    ],
)
def test_sr_bad_certificates_are_one_line(
    tmp_path, source, tls, files, capfd, ca, cert, key, code, words
):
    there = sorted(tmp_path.iterdir())
    command = ["sr", source, str(tmp_path / "o.tif"), "-m", "bicubic-x2", "--scheduler", tls]
    assert invoke([*command, *options_of(files, ca, cert, key)]) == code
    said = capfd.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("Error: --")
    assert re.search(words, said), said
    assert sorted(tmp_path.iterdir()) == there


def test_tcp_address_of_a_tls_scheduler_is_refused(source, tls, monkeypatch):
    monkeypatch.setattr(cluster_address, "HANDSHAKE_TIMEOUT", 0.5)
    address = tls.replace("tls:", "tcp:")
    with pytest.raises(ResourceError, match=f'^scheduler="{address}": it speaks TLS: use .*{tls}'):
        estimate(source, "bicubic-x2", scheduler=address)


def test_tls_address_of_a_tcp_scheduler_is_refused(source, tcp, files):
    address = tcp.replace("tcp:", "tls:")
    with pytest.raises(ResourceError, match=r"does not speak TLS .*; is it a tcp:// "):
        estimate(source, "bicubic-x2", scheduler=address, security=security(files))


def test_security_without_a_tls_address_is_refused(source, tcp, files):
    with pytest.raises(UsageError, match="certificates are given, but tcp:// has none; use tls"):
        estimate(source, "bicubic-x2", scheduler=tcp, security=security(files))
    with pytest.raises(
        UsageError, match='tls_client_key need a scheduler: add scheduler="tls://HOST:PORT"'
    ):
        estimate(source, "bicubic-x2", workers=2, security=security(files))
    with (
        dask.config.set({"distributed.comm.require-encryption": True}),
        pytest.raises(UsageError, match="Dask's configuration requires encryption, but tcp://"),
    ):
        estimate(source, "bicubic-x2", scheduler=tcp)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "tcp://host",
        "tcp://:8786",
        "tcp://h:0",
        "tcp://h:65536",
        "tcp://h:port",
        "tcp://a b:1",
        "tcp://h:1\n",
        "tcp://::1:8786",
        "http://h:1",
        "a://b://c:1",
        "tls://h",
    ],
)
def test_scheduler_address_malformed_is_refused(address):
    with pytest.raises(UsageError, match=r"expected an address such as tcp://10\.0\.0\.1:8786"):
        scheduler_address(address)


def test_security_with_unknown_tls_version_is_refused(source, tls):
    with (
        dask.config.set({"distributed.comm.tls.min-version": 1.7}),
        pytest.raises(UsageError, match=r"^Dask's configuration: .*min-version=1\.7 is not supp"),
    ):
        estimate(source, "bicubic-x2", scheduler=tls)


def test_scheduler_unknown_host_raises_resource_error(source):
    with pytest.raises(ResourceError, match=r"no such host: nobody\.invalid"):
        estimate(source, "bicubic-x2", scheduler="tcp://nobody.invalid:8786")


@contextmanager
def listener(first):
    """Address of a server that sends ``first`` to each that connects, and then no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve():
            for _ in itertools.count():
                try:
                    talk = server.accept()[0]
                except OSError:
                    return
                held.append(talk)
                talk.sendall(first)

        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for talk in held:
            talk.close()


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is not that of a Dask scheduler"),
        (b"\0" * 8, "the answer is not that of a Dask scheduler"),
        (b"", r"(does not answer .*|no answer )within 0 s.*"),
        (b"\x10" + b"\0" * 7, "it may be none, or .*: no answer within 0 s"),
        (b"\x10" + b"\0" * 7 + b"garbage!" * 2, r"does not answer as a scheduler does \(.*\); is"),
    ],
)
def test_scheduler_address_of_another_service_raises_resource_error(
    source, monkeypatch, first, words
):
    monkeypatch.setattr(cluster_address, "HANDSHAKE_TIMEOUT", 0.2)
    monkeypatch.setattr(cluster_members, "CONNECT_TIMEOUT", 0.1)
    with listener(first) as address, pytest.raises(ResourceError, match=words) as caught:
        estimate(source, "bicubic-x2", scheduler=address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", [b"", b"\x10" + b"\0" * 7], ids=["mute", "mute later"])
def test_connecting_to_a_scheduler_can_be_cancelled(tmp_path, source, first):
    asked = itertools.count()
    with listener(first) as address, pytest.raises(InterruptedRunError):
        super_resolve(
            source,
            tmp_path / "o.tif",
            "bicubic-x2",
            scheduler=address,
            should_stop=lambda: next(asked) > 2,
        )
    assert not (tmp_path / "o.tif").exists()


def test_waiting_for_workers_can_be_cancelled(tmp_path, source):
    options = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    asked = itertools.count()
    with (
        LocalCluster(n_workers=0, silence_logs=logging.CRITICAL, **options) as empty,
        pytest.raises(InterruptedRunError),
    ):
        super_resolve(
            source,
            tmp_path / "o.tif",
            "bicubic-x2",
            scheduler=empty.scheduler_address,
            should_stop=lambda: next(asked) > 20,
        )


def test_tcp_address_beyond_this_machine_warns(source, tcp, tls, files, caplog, monkeypatch):
    estimate(source, "bicubic-x2", scheduler=tcp)
    assert "encrypted" not in caplog.text
    monkeypatch.setattr(cluster_address, "ip_address", lambda text: IPv4Address("192.0.2.1"))
    estimate(source, "bicubic-x2", scheduler=tls, security=security(files))
    assert "encrypted" not in caplog.text
    estimate(source, "bicubic-x2", scheduler=tcp)
    (line,) = [r.getMessage() for r in caplog.records if "encrypted" in r.getMessage()]
    assert line.startswith(f"WARNING: {tcp} is not encrypted: whoever reaches it")
    assert "\n" not in line
