"""Who may post where nothing is signed: networks, Basic auth and a secret path, alone and together."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys

BODY = b'{"statuses":[{"id":"s","status":"read"}]}'
SEGMENT = "d41d8cd98f00b204e980"
Start = Callable[..., Any]


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def from_address(receiver: Any, address: str, **headers: object) -> int:
    """The status for a POST from that address of this machine."""
    sender = receiver.sender()
    sender.socket.close()
    sender.socket = socket.create_connection(("127.0.0.1", receiver.port), 30, source_address=(address, 0))
    sender._stream = sender.socket.makefile("rb")
    return int(sender.post(BODY, **headers).status)


def test_basic_auth(redis_url: str, redis: Redis, start_receiver: Start) -> None:
    """Each of the credentials is accepted; anything else is 401 with the challenge, before the body is read."""
    receiver = start_receiver(redis_url, WA_BASIC_AUTH="old:geheim, relay:pä:ss", WA_VERIFY_TOKEN="t")
    for right in ("old:geheim", "relay:pä:ss"):
        assert receiver.post(BODY, Authorization=basic(right)).status == 200
    kept = len(redis.keys(f"{keys.WA}flush:*"))
    for wrong in ("", basic("old:"), basic("relay:geheim"), basic(" old:geheim"), basic("old:geheim")[:-1], "Bearer x"):
        answer = receiver.post(BODY, Authorization=wrong)
        assert (answer.status, answer.body) == (401, b"")
        assert answer.headers["www-authenticate"].startswith("Basic ")
    early = receiver.sender()
    early.head("POST /webhook", Content_Length=1000, Expect="100-continue")
    assert early.answer().status == 401
    assert len(redis.keys(f"{keys.WA}flush:*")) == kept
    handshake = "GET /webhook?hub.mode=subscribe&hub.challenge=1&hub.verify_token=t"
    assert receiver.sender().ask(handshake).status == 200


def test_path_secret(redis_url: str, redis: Redis, start_receiver: Start) -> None:
    """Only WA_PATH with the secret segment is served; it does not show in settings, log or metrics."""
    receiver = start_receiver(redis_url, WA_PATH_SECRET=f"{SEGMENT},{SEGMENT[::-1]}", WA_VERIFY_TOKEN="t")
    for path, status in (
        (f"/webhook/{SEGMENT}", 200),
        (f"/webhook/{SEGMENT[::-1]}?x=1", 200),
        ("/webhook", 404),
        ("/webhook/", 404),
        (f"/webhook/{SEGMENT}/", 200),
        (f"//webhook//{SEGMENT}", 200),
        (f"/webhook/{SEGMENT[:-1]}", 404),
        (f"/{SEGMENT}", 404),
        (f"/webhook/{SEGMENT},{SEGMENT[::-1]}", 404),
    ):
        answer = receiver.sender().ask(f"POST {path}", BODY)
        assert (answer.status, answer.body) == (status, b""), path
    query = "?hub.mode=subscribe&hub.challenge=1&hub.verify_token=t"
    assert receiver.sender().ask(f"GET /webhook/{SEGMENT}{query}").status == 200
    assert receiver.sender().ask(f"GET /webhook{query}").status == 404
    assert SEGMENT not in receiver.log() + receiver.admin("/metrics").body.decode()


def test_networks(redis_url: str, redis: Redis, start_receiver: Start) -> None:
    """Who comes from another network is answered 403, whatever it says of itself."""
    receiver = start_receiver(redis_url, WA_ALLOW_NETWORKS="127.0.0.8/29,2001:db8::/32")
    assert from_address(receiver, "127.0.0.9") == 200
    assert from_address(receiver, "127.0.0.7") == 403
    assert from_address(receiver, "127.0.0.7", X_Forwarded_For="127.0.0.9") == 403
    assert receiver.sender().ask("GET /webhook").status == 403
    assert receiver.sender().ask("POST /other", BODY).status == 403


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        (None, 403),  # the proxy itself is not let in
        ("192.0.2.7", 200),
        ("192.0.2.7:4711", 200),
        (" 192.0.2.7 ", 200),
        ("[2001:db8::1]:4711", 200),
        ("::ffff:192.0.2.7", 200),
        ("198.51.100.1", 403),
        ("192.0.2.7, 198.51.100.1", 403),  # the first one anybody may have written
        ("198.51.100.1, 192.0.2.7", 200),
        ("192.0.2.7, 127.0.0.3", 200),  # two proxies
        ("127.0.0.3", 403),
        ("192.0.2.7, unknown", 403),
        ("", 403),
        (",,,", 403),
        ("192.0.2.7, " + "x" * 5000, 403),
        ("192.0.2.7, 1.2.3", 403),
    ],
)
def test_behind_proxies(proxied: Any, forwarded: str | None, status: int) -> None:
    """Behind trusted proxies the sender is the last address in X-Forwarded-For that is none of them."""
    headers = {} if forwarded is None else {"X_Forwarded_For": forwarded}
    assert from_address(proxied, "127.0.0.2", **headers) == status


def test_proxy_that_is_not_trusted(proxied: Any) -> None:
    """X-Forwarded-For of anybody else counts for nothing."""
    assert from_address(proxied, "127.0.1.1", X_Forwarded_For="192.0.2.7") == 403


def test_two_forwarded_headers(proxied: Any) -> None:
    """Of several X-Forwarded-For headers the last one is the nearest, as proxies append."""
    for order, status in ((("192.0.2.7", "198.51.100.1"), 403), (("198.51.100.1", "192.0.2.7"), 200)):
        sender = proxied.sender()
        lines = "".join(f"X-Forwarded-For: {value}\r\n" for value in order)
        sender.send(f"POST /webhook HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: 2\r\n\r\n{{}}".encode())
        assert sender.answer().status == status


@pytest.fixture(scope="module")
def proxied(valkey: Any, start_module_receiver: Start) -> Any:
    """A receiver behind proxies of 127.0.0.0/24."""
    return start_module_receiver(
        f"unix://{valkey.unix_socket_path}",
        WA_ALLOW_NETWORKS="192.0.2.0/24,2001:db8::/32",
        WA_TRUSTED_PROXIES="127.0.0.0/24",
    )


def test_they_combine(redis_url: str, redis: Redis, start_receiver: Start) -> None:
    """Whatever is set is demanded: each guard alone refuses what the others let through."""
    receiver = start_receiver(
        redis_url,
        WA_BASIC_AUTH="u:p",
        WA_PATH_SECRET=SEGMENT,
        WA_APP_SECRET="secret",
        WA_ALLOW_NETWORKS="127.0.0.1",
    )
    right = {"Authorization": basic("u:p"), "X_Turn_Hook_Signature": "uC/LeRrOxXhZuYm0MKgmSIzi5Hn9+SMmvQoug3WkK6Q="}
    post = f"POST /webhook/{SEGMENT}"
    assert receiver.sender().ask(post, b"payload", **right).status == 200
    assert receiver.sender().ask("POST /webhook", b"payload", **right).status == 404
    for name in right:
        assert receiver.sender().ask(post, b"payload", **(right | {name: "x"})).status == 401
    before = len(redis.keys(f"{keys.WA}flush:*"))
    assert from_address(receiver, "127.0.0.2") == 403
    assert len(redis.keys(f"{keys.WA}flush:*")) == before


def test_server_header(proxied: Any) -> None:
    """No answer names software or versions, nor do those that are written piece by piece."""
    for answer in (proxied.sender().ask("GET /"), proxied.admin("/healthz"), proxied.admin("/other")):
        assert answer.headers["server"] == "wa-ingest"
    watching = proxied.sender(proxied.admin_port)
    watching.send(b"GET /events HTTP/1.0\r\n\r\n")
    assert watching.answer().headers["server"] == "wa-ingest"
    broken = proxied.sender()
    broken.send(b"no HTTP\r\n\r\n")
    assert broken.answer().headers["server"] == "wa-ingest"
