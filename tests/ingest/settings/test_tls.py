"""TLS in the receiver: versions, client certificates, and new certificates without a failed request."""

from __future__ import annotations

import datetime
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis import Redis

from ingest.settings import SettingsError, load, tls
from ingest.store import keys
from tests.old_ca import OldCA

BODY = b'{"statuses":[{"id":"s","status":"read"}]}'
META = "client.webhooks.fbclientcerts.com"
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class Files:
    """A certificate and its key in a folder, as the settings name them; `put` replaces them."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.folder = folder
        self.authority = authority
        self.settings = {"WA_TLS_CERT": folder / "cert.pem", "WA_TLS_KEY": folder / "key.pem"}
        self.put()

    def issue(self, **more: Any) -> trustme.LeafCert:
        return self.authority.issue_cert("127.0.0.1", "localhost", **more)

    def put(self, issued: trustme.LeafCert | None = None, **more: Any) -> None:
        issued = issued or self.issue(**more)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        # The way certbot and Kubernetes do it: both files are new at once as far as anybody can see, or nearly so.
        for name, content in (("cert", chain), ("key", issued.private_key_pem.bytes())):
            fresh = self.folder / f"{name}.new"
            fresh.write_bytes(content)
            fresh.replace(self.folder / f"{name}.pem")


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    """A certificate for 127.0.0.1 and its key."""
    return Files(tmp_path, authority)


def trusting(authority: trustme.CA, client: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """What a sender uses."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client is not None:
        client.configure_cert(context)
    return context


def over_tls(receiver: Any, context: ssl.SSLContext) -> Any:
    """A sender whose connection is encrypted."""
    sender = receiver.sender()
    sender.socket = context.wrap_socket(sender.socket, server_hostname="127.0.0.1")
    sender._stream = sender.socket.makefile("rb")
    return sender


def serial(sender: Any) -> str:
    return str(sender.socket.getpeercert()["serialNumber"])


def test_https(redis_url: str, redis: Redis, start_receiver: Start, files: Files, authority: trustme.CA) -> None:
    """With a certificate the public listener speaks HTTPS, with all that it answers over HTTP."""
    receiver = start_receiver(redis_url, **files.settings, WA_VERIFY_TOKEN="t")
    sender = over_tls(receiver, trusting(authority))
    for body in (BODY, b"", b"x" * 3_000_000):
        assert sender.post(body).status == 200
    assert sender.ask("GET /webhook?hub.mode=subscribe&hub.challenge=1&hub.verify_token=t").body == b"1"
    assert sender.ask("GET /other").status == 404
    assert sender.socket.selected_alpn_protocol() is None
    assert receiver.admin("/healthz").status == 200
    assert receiver.stop() == 0
    assert sender.ended()


def test_plain_http_is_no_tls(redis_url: str, redis: Redis, start_receiver: Start, files: Files) -> None:
    """A sender that speaks HTTP to it gets nothing, leaves nothing, and no line in the log."""
    receiver = start_receiver(redis_url, **files.settings)
    before = receiver.log()
    sender = receiver.sender()
    sender.head("POST /webhook", Content_Length=2, body=b"{}")
    with pytest.raises((ConnectionError, AssertionError)):
        sender.answer()
    assert not redis.exists(keys.LEDGER)
    assert receiver.log() == before


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(("version", "works"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
def test_versions(
    redis_url: str, start_receiver: Start, files: Files, authority: trustme.CA, version: str, works: bool
) -> None:
    """TLS 1.2 and 1.3 are spoken, nothing older."""
    receiver = start_receiver(redis_url, **files.settings)
    context = trusting(authority)
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # so that this side would speak the old one
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    if works:
        assert over_tls(receiver, context).post(BODY).status == 200
    else:
        with pytest.raises(ssl.SSLError):
            over_tls(receiver, context)


def test_client_certificate(
    redis_url: str, redis: Redis, start_receiver: Start, files: Files, authority: trustme.CA
) -> None:
    """Only who shows a certificate of the CA, made out to the name, may post: by common name or DNS name."""
    clients, strangers = trustme.CA(), trustme.CA()
    clients.cert_pem.write_to_path(str(files.folder / "clients.pem"))
    receiver = start_receiver(
        redis_url, **files.settings, WA_TLS_CLIENT_CA=files.folder / "clients.pem", WA_TLS_CLIENT_NAME=META
    )
    for right in (clients.issue_cert(common_name=META), clients.issue_cert("other.example", META.upper())):
        assert over_tls(receiver, trusting(authority, right)).post(BODY).status == 200
    for wrong in (
        clients.issue_cert("client.example"),
        clients.issue_cert(common_name=f"{META}.example"),
        clients.issue_cert(common_name=f"*.{META.partition('.')[2]}"),
    ):
        assert over_tls(receiver, trusting(authority, wrong)).post(BODY).status == 401
    kept = len(redis.keys(f"{keys.WA}flush:*"))
    for stranger in (None, strangers.issue_cert(common_name=META)):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            over_tls(receiver, trusting(authority, stranger)).post(BODY)
    expired = clients.issue_cert(common_name=META, not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        over_tls(receiver, trusting(authority, expired)).post(BODY)
    assert len(redis.keys(f"{keys.WA}flush:*")) == kept


def test_client_certificate_through_an_intermediate(
    redis_url: str, start_receiver: Start, files: Files, authority: trustme.CA
) -> None:
    """A chain of several CAs is followed, as Meta's client certificate has one."""
    root = trustme.CA()
    below = root.create_child_ca().create_child_ca()
    root.cert_pem.write_to_path(str(files.folder / "root.pem"))
    receiver = start_receiver(
        redis_url, **files.settings, WA_TLS_CLIENT_CA=files.folder / "root.pem", WA_TLS_CLIENT_NAME=META
    )
    assert over_tls(receiver, trusting(authority, below.issue_cert(META))).post(BODY).status == 200


def test_client_certificate_of_an_old_ca(
    redis_url: str, start_receiver: Start, files: Files, authority: trustme.CA, tmp_path: Path
) -> None:
    """A certificate of a private CA that knows only the old forms is taken on every Python; one of another is not."""
    ours, other = OldCA(tmp_path / "ours"), OldCA(tmp_path / "other")
    receiver = start_receiver(redis_url, **files.settings, WA_TLS_CLIENT_CA=ours.file, WA_TLS_CLIENT_NAME=META)
    context = trusting(authority)
    context.load_cert_chain(ours.issue(META))
    assert over_tls(receiver, context).post(BODY).status == 200
    context.load_cert_chain(other.issue(META))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        over_tls(receiver, context).post(BODY)


def test_new_certificate_under_load(
    redis_url: str, start_receiver: Start, files: Files, authority: trustme.CA, wait_for: Callable[..., None]
) -> None:
    """While senders post on old and new connections, a new certificate comes into use without one failed request."""
    receiver = start_receiver(redis_url, **files.settings)
    over, failed, posted = threading.Event(), [], [0] * 4

    def post(number: int, again: bool) -> None:
        try:
            sender = over_tls(receiver, trusting(authority))
            while not over.is_set():
                if again:
                    sender.close()
                    sender = over_tls(receiver, trusting(authority))
                if sender.post(BODY).status != 200:
                    failed.append(number)
                posted[number] += 1
        except Exception as error:
            failed.append(error)

    senders = [threading.Thread(target=post, args=(n, n % 2 == 0)) for n in range(4)]
    kept_open = over_tls(receiver, trusting(authority))
    for sender in senders:
        sender.start()
    try:
        for _ in range(2):
            issued = files.issue()
            files.put(issued)
            wanted = int(trustme_serial(issued))
            wait_for(lambda w=wanted: int(serial(over_tls(receiver, trusting(authority))), 16) == w)  # type: ignore[misc]
            before = list(posted)
            wait_for(lambda b=before: all(now > then for now, then in zip(posted, b, strict=True)))  # type: ignore[misc]
        assert kept_open.post(BODY).status == 200
    finally:
        over.set()
        for sender in senders:
            sender.join(30)
    assert failed == []
    assert receiver.log().count("new certificate in use") == 2


def trustme_serial(issued: trustme.LeafCert) -> int:
    from cryptography import x509

    return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number


def test_half_a_change(
    redis_url: str, start_receiver: Start, files: Files, authority: trustme.CA, wait_for: Callable[..., None]
) -> None:
    """A new certificate without its key, or garbage, changes nothing and is one line; the right pair is then used."""
    receiver = start_receiver(redis_url, **files.settings)
    first = serial(over_tls(receiver, trusting(authority)))
    issued = files.issue()
    for content in (b"garbage", b"".join(blob.bytes() for blob in issued.cert_chain_pems)):
        lines = receiver.log().count("the old one stays")
        (files.folder / "cert.pem").write_bytes(content)
        wait_for(lambda n=lines: receiver.log().count("the old one stays") == n + 1)  # type: ignore[misc]
        assert serial(over_tls(receiver, trusting(authority))) == first
    assert "is not the key of the certificate in WA_TLS_CERT" in receiver.log()
    files.put(issued)
    wait_for(lambda: serial(over_tls(receiver, trusting(authority))) != first)
    assert "Traceback" not in receiver.log()


def test_end_of_certificate_is_a_metric(
    redis_url: str, start_receiver: Start, files: Files, wait_for: Callable[..., None]
) -> None:
    """The end of the certificate that is in use, and of the client CA, are in the metrics, also after a change."""
    files.authority.cert_pem.write_to_path(str(files.folder / "ca.pem"))
    ends = [datetime.datetime(2037, 1, day, tzinfo=datetime.UTC) for day in (1, 2)]
    files.put(not_after=ends[0])
    receiver = start_receiver(redis_url, **files.settings, WA_TLS_CLIENT_CA=files.folder / "ca.pem")

    def shown() -> dict[str, float]:
        lines = receiver.admin("/metrics").body.decode().splitlines()
        found = [line.split() for line in lines if line.startswith("wa_tls_certificate_end_seconds{")]
        return {name.partition('use="')[2].partition('"')[0]: float(value) for name, value in found}

    assert shown()["server"] == ends[0].timestamp()
    assert shown()["client_ca"] > time.time()
    files.put(not_after=ends[1])
    wait_for(lambda: shown()["server"] == ends[1].timestamp())


def start_fails(start_receiver: Start, url: str, **settings: object) -> str:
    """The one line of a receiver that does not start."""
    receiver = start_receiver(url, ready=False, **settings)
    assert receiver.process.wait(30) == 78
    assert receiver.log().count("\n") == 1
    return str(receiver.log())


@pytest.mark.parametrize("broken", ["missing", "garbage", "swapped", "foreign", "encrypted", "no CA"])
def test_start_with_wrong_files(
    redis_url: str, start_receiver: Start, files: Files, broken: str, tmp_path: Path
) -> None:
    """Files that are missing, of another kind, encrypted or no pair stop the start with one line naming variable."""
    settings: dict[str, object] = dict(files.settings)
    expected = "WA_TLS_KEY: "
    if broken == "missing":
        settings["WA_TLS_KEY"] = tmp_path / "none.pem"
    elif broken == "garbage":
        (tmp_path / "key.pem").write_text("garbage")
    elif broken == "swapped":
        settings = {"WA_TLS_CERT": files.settings["WA_TLS_KEY"], "WA_TLS_KEY": files.settings["WA_TLS_CERT"]}
        expected = "WA_TLS_CERT: "
    elif broken == "foreign":
        (tmp_path / "key.pem").write_bytes(files.issue().private_key_pem.bytes())
    elif broken == "encrypted":
        (tmp_path / "key.pem").write_bytes(encrypted(files.issue()))
    else:
        settings["WA_TLS_CLIENT_CA"] = tmp_path / "key.pem"
        expected = "WA_TLS_CLIENT_CA: "
    assert start_fails(start_receiver, redis_url, **settings).startswith(f"wa-ingest: {expected}")


def encrypted(issued: trustme.LeafCert) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(issued.private_key_pem.bytes(), None)
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"password"))


def test_no_certificate() -> None:
    """Without a certificate there is no TLS, and a file that is gone for a moment counts as no change."""
    assert tls.context(load()) is None
    assert tls.version(load(tls_cert="/none", tls_key="/none")) == ()
    with pytest.raises(SettingsError, match=r"^WA_TLS_CERT: cannot read /none: No such file"):
        tls.context(load(tls_cert="/none", tls_key="/none"))
