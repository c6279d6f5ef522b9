"""The public listener over real sockets, against a real `python -m ingest.server`."""

from __future__ import annotations

import gzip
import hmac
import json
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.routing import route
from ingest.settings import load
from ingest.store import keys

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
BODY = b'{"statuses":[{"id":"s","status":"read"}]}'
MAX_BODY = 4 << 20
SECRET = "test_app_secret"


@pytest.fixture(scope="module")
def open_receiver(valkey: Any, start_module_receiver: Callable[..., Any]) -> Any:
    """One that takes from everybody."""
    url = f"unix://{valkey.unix_socket_path}"
    return start_module_receiver(url, WA_VERIFY_TOKEN="t0ken", WA_BODY_TIMEOUT="1s")


@pytest.fixture(scope="module")
def signed_receiver(valkey: Any, start_module_receiver: Callable[..., Any]) -> Any:
    """One that demands a signature with one of two secrets."""
    url = f"unix://{valkey.unix_socket_path}"
    return start_module_receiver(url, WA_VERIFY_TOKEN="t0ken", WA_APP_SECRET=f"old,{SECRET}")


@pytest.fixture
def receiver(open_receiver: Any, redis: Redis) -> Any:
    """The open one, its Redis empty."""
    return open_receiver


@pytest.fixture
def signed(signed_receiver: Any, redis: Redis) -> Any:
    """The one with secrets, its Redis empty."""
    return signed_receiver


@pytest.fixture
def bodies(redis: Redis, kept: Callable[..., Any]) -> Callable[[], list[bytes]]:
    """A function that gives the bodies that were kept, in their order."""
    return lambda: [record.body for records in kept(redis).values() for record in records]


def sign(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, sha256).hexdigest()


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def test_200(receiver: Any, redis: Redis, kept: Callable[..., Any]) -> None:
    """A notification is answered 200 with nothing in it once it is in its queue, byte for byte, with its arrival."""
    before = time.time_ns() // 1_000_000
    answer = receiver.post(BODY, Content_Type="application/json")
    after = time.time_ns() // 1_000_000
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")
    ((record,),) = kept(redis).values()
    assert before <= record.received_ms <= after
    assert (record.body, record.attempt, record.shares) == (BODY, 1, b"")
    assert list(kept(redis)) == ["statuses"]


def test_messages_of_several_contacts(receiver: Any, redis: Redis, kept: Callable[..., Any]) -> None:
    """A body with messages of contacts in two partitions lies in both queues, marked as shared."""
    body = json.dumps({"messages": [{"from": "16315551234"}, {"from": "491701234567"}]}).encode()
    assert receiver.post(body).status == 200
    found = {queue: [(r.body, r.shares) for r in records] for queue, records in kept(redis).items()}
    assert found == {place.queue: [(body, place.shares)] for place in route(body, load().partitions)}
    assert len(found) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\x00\xff",
        b"no JSON",
        b'{"wadebug_webhook_test":"test"}',
        b'{"object":"whatsapp_business_account","entry":[]}',
        b'{"messages":[{"from":"1","timestamp":17,"type":"never seen","x":{}}]}',
        '{"messages":[{"from":"1","text":{"body":"äöå 😀"}}]}'.encode(),
        rb'{"messages":[{"from":"1","text":{"body":"\u00e4 \ud83d\ude00 \/"}}]}',
        b"[" * 10_000,
    ],
    ids=range(10),
)
def test_any_body_is_taken(receiver: Any, bodies: Callable[[], list[bytes]], body: bytes) -> None:
    """Whatever a body holds, also nothing, it is answered 200 and kept as it came."""
    assert receiver.post(body).status == 200
    assert bodies() == [body]


@pytest.mark.skipif(not CORPUS.exists(), reason="the sample notifications are not here")
def test_samples(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """Every sample notification is answered 200 and kept as it came."""
    samples = [path.read_bytes() for path in sorted(CORPUS.glob("*__*.json"))]
    sender = receiver.sender()
    assert [sender.post(body).status for body in samples] == [200] * len(samples)
    assert len(samples) > 100
    assert set(bodies()) == set(samples)


def test_no_length(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """A POST without any length has an empty body, by the rules of HTTP."""
    assert receiver.sender().ask("POST /webhook").status == 200
    assert bodies() == [b""]


def test_body_of_3_mb(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """The largest body that Meta sends is taken."""
    body = b'{"x":"' + os.urandom(1_500_000).hex().encode() + b'"}'
    assert receiver.post(body).status == 200
    assert bodies() == [body]


def test_chunked_body(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """A body that comes in chunks, without a length, is put together."""
    sender = receiver.sender()
    sender.head("POST /webhook", Transfer_Encoding="chunked")
    sender.send(chunked(b'{"a"', b":", b"1}"))
    assert sender.answer().status == 200
    assert sender.post(BODY).status == 200
    assert bodies()[0] == b'{"a":1}'


def test_large_chunked_bodies_on_one_connection(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """Bodies in chunks are bounded each for itself, not all that a connection ever carried."""
    body = b"." * 3_000_000
    sender = receiver.sender()
    for _ in range(5):
        sender.head("POST /webhook", Transfer_Encoding="chunked", Expect="100-continue")
        assert sender.answer().status == 100
        sender.send(chunked(body))
        assert sender.answer().status == 200
    assert bodies() == [body] * 5


@pytest.mark.parametrize("form", ["length", "chunks"])
def test_a_proxy_that_offers_http_2(receiver: Any, bodies: Callable[[], list[bytes]], form: str) -> None:
    """`Upgrade: h2c`, which some proxies send along, costs neither the answer nor the body."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAMAAABkAAQAAP__"}
    sender = receiver.sender()
    if form == "length":
        sender.head("POST /webhook", body=BODY, Content_Length=len(BODY), **offer)
    else:
        sender.head("POST /webhook", body=chunked(BODY[:3], BODY[3:]), Transfer_Encoding="chunked", **offer)
    assert sender.answer().status == 200
    assert bodies() == [BODY]


def test_compressed_body(signed: Any, bodies: Callable[[], list[bytes]]) -> None:
    """What is signed is what came; what is kept is what was compressed, unless that is too large."""
    body = gzip.compress(BODY)
    assert signed.post(body, Content_Encoding="gzip", X_Hub_Signature_256=sign(body)).status == 200
    assert signed.post(body, Content_Encoding="gzip", X_Hub_Signature_256=sign(BODY)).status == 401
    bomb = gzip.compress(bytes(100 * MAX_BODY), 1)
    assert signed.post(bomb, Content_Encoding="gzip", X_Hub_Signature_256=sign(bomb)).status == 413
    assert bodies() == [BODY]


def test_query_is_no_path(receiver: Any) -> None:
    """A query after the path does not matter: some senders carry a key there."""
    assert receiver.sender().ask("POST /webhook?key=1", BODY).status == 200


@pytest.mark.parametrize("path", ["/webhook/", "//webhook", "//webhook//?x=1"])
def test_slashes(receiver: Any, bodies: Callable[[], list[bytes]], path: str) -> None:
    """A slash too many in the URL that a sender was given makes no other path of it."""
    assert receiver.sender().ask(f"POST {path}", BODY).status == 200
    assert bodies() == [BODY]


@pytest.mark.parametrize(
    "path", ["/", "/webhook/x", "/web/hook", "/Webhook", "/healthz", "/readyz", "/metrics", "/x?/webhook"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_404(receiver: Any, redis: Redis, path: str, method: str) -> None:
    """Any other path is answered 404, those of the admin listener too, and keeps nothing."""
    answer = receiver.sender().ask(f"{method} {path}", BODY if method == "POST" else None)
    assert (answer.status, answer.body) == (404, b"")
    assert not redis.exists(keys.LEDGER)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"])
def test_405(receiver: Any, redis: Redis, method: str) -> None:
    """Any other method is answered 405, with those that are allowed, and keeps nothing."""
    answer = receiver.sender().ask(f"{method} /webhook", None if method == "HEAD" else BODY)
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "GET, POST", b"")
    assert not redis.exists(keys.LEDGER)


def test_largest_body(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """A body of exactly WA_MAX_BODY is taken, with a length and in chunks."""
    body = os.urandom(MAX_BODY)
    assert receiver.post(body).status == 200
    sender = receiver.sender()
    sender.head("POST /webhook", Transfer_Encoding="chunked")
    sender.send(chunked(body[: MAX_BODY // 2], body[MAX_BODY // 2 :]))
    assert sender.answer().status == 200
    assert bodies() == [body, body]


def test_413_by_length(receiver: Any, redis: Redis) -> None:
    """A length above WA_MAX_BODY is answered 413 before the body comes, and the connection ends."""
    sender = receiver.sender()
    sender.head("POST /webhook", Content_Length=MAX_BODY + 1)
    assert sender.answer().status == 413
    assert sender.ended()
    assert not redis.exists(keys.LEDGER)


def test_413_for_a_sender_that_sends_all(receiver: Any, redis: Redis) -> None:
    """A sender that reads the answer only after it sent all of a large body also gets its 413, not a reset."""
    sender = receiver.sender()
    sender.head("POST /webhook", Content_Length=2 * MAX_BODY)
    sender.send(b"." * (2 * MAX_BODY))
    assert sender.answer().status == 413
    assert not redis.exists(keys.LEDGER)


def test_413_in_chunks(receiver: Any, redis: Redis) -> None:
    """A body in chunks that becomes larger than WA_MAX_BODY is answered 413."""
    sender = receiver.sender()
    sender.head("POST /webhook", Transfer_Encoding="chunked")
    sender.send(chunked(*[b"." * (1 << 20)] * 4, b"."))
    assert sender.answer().status == 413
    assert not redis.exists(keys.LEDGER)


def test_408(receiver: Any, redis: Redis) -> None:
    """A body that is not complete in time is answered 408, also when a byte comes now and then; the connection ends."""
    silent, slow = receiver.sender(), receiver.sender()
    silent.head("POST /webhook", Content_Length=100)
    silent.send(b"{")
    slow.head("POST /webhook", Transfer_Encoding="chunked")
    slow.socket.settimeout(0.1)
    for _ in range(300):
        slow.send(b"1\r\n.\r\n")
        try:
            slow.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            continue
        break
    slow.socket.settimeout(30)
    for sender in (silent, slow):
        assert sender.answer().status == 408
        assert sender.ended()
    assert not redis.exists(keys.LEDGER)


@pytest.mark.parametrize(
    ("body", "digest"),
    [  # whatsapp-spec B2
        (
            b'{"object":"whatsapp_business_account","entry":[]}',
            "dec6a680679a968e7e0319355b23599cbfc54502c0784668e9618baa0c633756",
        ),
        (
            b'{"object": "whatsapp_business_account", "entry": []}',
            "56cbbaf4961c6cfdae48b7f116c047e5eb513d2c931baae63a2bc1afd26f803a",
        ),
        (
            rb'{"text":{"body":"\u00e4\u00f6\u00e5 \ud83d\ude00 a\u0040b.c https:\/\/x"}}',
            "36c7ab0d3e96394f2bf103196a2f872af369908854424340e3d2ec745a14262a",
        ),
    ],
)
def test_signature(signed: Any, bodies: Callable[[], list[bytes]], body: bytes, digest: str) -> None:
    """Meta's signature over the bytes as they came is accepted, and the bytes are kept so."""
    assert signed.post(body, X_Hub_Signature_256=f"sha256={digest}").status == 200
    assert bodies() == [body]


def test_older_secret(signed: Any) -> None:
    """Each of several secrets is accepted, and the header's name in any case."""
    assert signed.post(BODY, X_Hub_Signature_256=sign(BODY, "old")).status == 200
    assert signed.post(BODY, x_hub_signature_256=sign(BODY)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_Hub_Signature": "sha1=" + hmac.new(SECRET.encode(), BODY, "sha1").hexdigest()},
        {"X_Hub_Signature_256": ""},
        {"X_Hub_Signature_256": "sha256="},
        {"X_Hub_Signature_256": sign(BODY).removeprefix("sha256=")},
        {"X_Hub_Signature_256": sign(BODY)[:-1]},
        {"X_Hub_Signature_256": sign(BODY, "wrong")},
        {"X_Hub_Signature_256": sign(BODY + b" ")},
        {"X_Hub_Signature_256": "ä" * 100},
    ],
    ids=range(9),
)
def test_401(signed: Any, redis: Redis, headers: dict[str, str]) -> None:
    """A missing, malformed or wrong signature is answered 401 and keeps nothing."""
    answer = signed.post(BODY, **headers)
    assert (answer.status, answer.body) == (401, b"")
    assert not redis.exists(keys.LEDGER)


HANDSHAKE = "GET /webhook?hub.mode=subscribe&hub.challenge=11582&hub.verify_token="


def test_handshake(receiver: Any, signed: Any, redis: Redis) -> None:
    """The right token gets the challenge back as plain text, and needs no signature."""
    for each in (receiver, signed):
        answer = each.sender().ask(HANDSHAKE + "t0ken")
        assert (answer.status, answer.body) == (200, b"11582")
        assert answer.headers["content-type"].startswith("text/plain")
    assert not redis.exists(keys.LEDGER)


def test_challenge_is_no_page(receiver: Any) -> None:
    """A challenge made of HTML comes back as text that no browser runs."""
    answer = receiver.sender().ask("GET /webhook?hub.mode=subscribe&hub.verify_token=t0ken&hub.challenge=%3Cb%3E%C3%A4")
    assert (answer.status, answer.body) == (200, "<b>ä".encode())
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "start",
    [
        HANDSHAKE + "wrong",
        HANDSHAKE,
        "GET /webhook?hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=t0ken",
        "GET /webhook?hub_mode=subscribe&hub_challenge=1&hub_verify_token=t0ken",
        "GET /webhook",
    ],
)
def test_handshake_403(receiver: Any, start: str) -> None:
    """A wrong token, none, or anything else by GET is answered 403."""
    answer = receiver.sender().ask(start)
    assert (answer.status, answer.body) == (403, b"")


def test_connection_is_used_again(receiver: Any, signed: Any, redis: Redis) -> None:
    """After every answer to a request that was read in full, the same connection takes the next one."""
    for each, start, body, status in (
        (receiver, "POST /webhook", BODY, 200),
        (receiver, "POST /webhook", b"", 200),
        (receiver, "POST /other", BODY, 404),
        (receiver, "GET /other", None, 404),
        (receiver, "PUT /webhook", BODY, 405),
        (receiver, "HEAD /webhook", None, 405),
        (receiver, "GET /webhook", None, 403),
        (receiver, HANDSHAKE + "t0ken", None, 200),
        (receiver, "POST /webhook", b"x" * 1_000_000, 200),
        (signed, "POST /webhook", BODY, 401),
        (signed, "POST /webhook", b"x" * 1_000_000, 401),
    ):
        sender = each.sender()
        for _ in range(3):
            answer = sender.ask(start, body)
            assert answer.status == status
            assert answer.headers.get("connection", "keep-alive") == "keep-alive"
        assert sender.post(BODY, X_Hub_Signature_256=sign(BODY)).status == 200


def test_unread_body_is_no_request(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """The body of a request that is refused before it is read is never taken for the next request."""
    inner = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nsmuggled"
    for start, length in (("POST /other", len(inner)), ("PUT /webhook", len(inner)), ("POST /webhook", MAX_BODY + 1)):
        sender = receiver.sender()
        sender.head(start, Content_Length=length)
        assert sender.answer().status in (404, 405, 413)
        try:
            sender.send(inner)
        except ConnectionError:
            continue
        assert sender.ended()
    assert bodies() == []


def test_expect_continue(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """A sender that asks first is told to go on, and gets one answer after its body; the connection stays usable."""
    sender = receiver.sender()
    for _ in range(2):
        sender.head("POST /webhook", Content_Length=len(BODY), Expect="100-continue")
        assert sender.answer().status == 100
        sender.send(BODY)
        assert sender.answer().status == 200
    assert bodies() == [BODY, BODY]


def test_expect_continue_is_refused(receiver: Any, redis: Redis) -> None:
    """A sender that asks first is spared a body that is too large or goes to the wrong place."""
    for start, length, status in (("POST /webhook", MAX_BODY + 1, 413), ("POST /other", 5, 404)):
        sender = receiver.sender()
        sender.head(start, Content_Length=length, Expect="100-continue")
        assert sender.answer().status == status
    assert not redis.exists(keys.LEDGER)


def test_expect_continue_then_408(receiver: Any) -> None:
    """A sender that was told to go on and does not is answered 408."""
    sender = receiver.sender()
    sender.head("POST /webhook", Content_Length=5, Expect="100-continue")
    assert [sender.answer().status, sender.answer().status] == [100, 408]


def test_pipelined_requests(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """Requests that come in one piece are answered one by one and kept in their order."""
    sent = [b'{"n":%d}' % n for n in range(50)]
    sender = receiver.sender()
    request = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
    pieces = [request % (len(body), body) for body in sent]
    pieces.insert(10, b"GET /webhook HTTP/1.1\r\nHost: x\r\n\r\n")
    pieces.insert(20, b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
    sender.send(b"".join(pieces))
    answers = [sender.answer() for _ in pieces]
    assert [n for n, a in enumerate(answers) if a.status != 200] == [10, 20]
    assert (answers[10].status, answers[20].status) == (403, 404)
    assert bodies() == sent


def test_pipelined_with_broken_end(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """When garbage follows a good request, the last answer is 400, and what was answered 200 is kept."""
    sender = receiver.sender()
    sender.send(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}\x16\x03\x01garbage\r\n\r\n")
    statuses = [sender.answer().status]
    if statuses[0] != 400:
        statuses.append(sender.answer().status)
    assert statuses in ([400], [200, 400])
    assert sender.ended()
    assert bodies() == [b"{}"] * statuses.count(200)


def test_byte_by_byte(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """A request in the smallest pieces is the same request."""
    sender = receiver.sender()
    for byte in b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}':
        sender.send(bytes([byte]))
    assert sender.answer().status == 200
    assert bodies() == [b'{"a":1}']


def test_old_http(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """HTTP/1.0, which nginx speaks to what is behind it, is answered, and the connection ends."""
    sender = receiver.sender()
    sender.send(b"POST /webhook HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    assert sender.answer().status == 200
    assert sender.ended()
    assert bodies() == [b"{}"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 5, Kerry\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}Kerry Fisher\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nKerry Fisher\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nKerry\r\n",
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}Kerry\r\n",
        b"\x16\x03\x01\x02\x00Kerry Fisher\r\n\r\n",
    ],
    ids=range(6),
)
def test_broken_request(
    receiver: Any, bodies: Callable[[], list[bytes]], wait_for: Callable[..., None], request_bytes: bytes
) -> None:
    """Broken HTTP is answered 400, keeps nothing of it, and the log quotes none of it, nor the sender's address."""
    log_before = receiver.log()
    sender = receiver.sender()
    sender.send(request_bytes)
    statuses = [sender.answer().status]
    if statuses == [200]:
        statuses.append(sender.answer().status)
    assert statuses[-1] == 400
    assert not any(b"Kerry" in body for body in bodies())
    new = receiver.log().removeprefix(log_before)
    assert "Kerry" not in new
    assert "127.0.0.1" not in new


@pytest.mark.parametrize("parser", ["", "1"], ids=["c", "python"])
def test_broken_in_the_middle(redis_url: str, redis: Redis, start_receiver: Callable[..., Any], parser: str) -> None:
    """A body whose later chunks are broken is the sender's fault (not 500), is not kept in part, and is not logged."""
    receiver = start_receiver(redis_url, WA_BODY_TIMEOUT="1s", AIOHTTP_NO_EXTENSIONS=parser)
    log_before = receiver.log()
    sender = receiver.sender()
    sender.head("POST /webhook", Transfer_Encoding="chunked", Expect="100-continue")
    assert sender.answer().status == 100  # the body is being read from here on
    sender.send(b"5\r\n12345\r\nKerry\r\n")
    assert sender.answer().status in (400, 408)  # aiohttp's parser in C does not tell, so the time runs out
    assert sender.ended()
    assert not redis.exists(keys.LEDGER)
    assert "12345" not in receiver.log().removeprefix(log_before)
    assert "Traceback" not in receiver.log()


def test_sender_that_goes_away(receiver: Any, redis: Redis, wait_for: Callable[..., None]) -> None:
    """A sender that ends the connection in the middle of its body leaves nothing behind, nor its claim on memory."""
    log_before = receiver.log()
    for _ in range(40):  # together they claim more than WA_MAX_PENDING
        sender = receiver.sender()
        sender.head("POST /webhook", Content_Length=MAX_BODY)
        sender.send(b"x" * 1000)
        sender.close()
    wait_for(lambda: receiver.post(b"x" * MAX_BODY).status == 200)
    assert receiver.log() == log_before


def test_nothing_personal_is_logged(receiver: Any, signed: Any) -> None:
    """Nothing of a request reaches the log: not its body, its query or its headers."""
    for each in (receiver, signed):
        sender = each.sender()
        for start in ("POST /webhook?q=Kerry", "POST /Kerry", HANDSHAKE + "Kerry", "Kerry /webhook"):
            sender.ask(start, b"Kerry" if start[0] == "P" else None, User_Agent="Kerry", X_Hub_Signature_256="Kerry")
        assert "Kerry" not in each.log()


def test_many_at_once(receiver: Any, bodies: Callable[[], list[bytes]]) -> None:
    """Concurrent senders each get their answer, and each body is kept as often as it was sent."""

    def send(n: int) -> int:
        sender = receiver.sender()
        return sum(sender.post(b'{"n":%d}' % (n % 10)).status == 200 for _ in range(20))

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(send, range(50))) == 1000
    assert sorted(bodies()) == sorted(b'{"n":%d}' % (n % 10) for n in range(50) for _ in range(20))


def test_503_while_redis_is_away(own_valkey: Callable[..., Any], start_receiver: Callable[..., Any]) -> None:
    """Without Redis the answer is 503 with Retry-After, on a connection that stays; with Redis again it is 200."""
    server = own_valkey()
    receiver = start_receiver(server.url)
    sender = receiver.sender()
    assert sender.post(BODY).status == 200
    server.stop()
    for body in (BODY, b'{"Kerry":1}'):
        answer = sender.post(body)
        assert (answer.status, answer.body) == (503, b"")
        assert int(answer.headers["retry-after"]) > 0
    server.start()
    assert sender.post(BODY).status == 200
    assert "Kerry" not in receiver.log()


def test_503_when_redis_is_full(receiver: Any, redis: Redis, bodies: Callable[[], list[bytes]]) -> None:
    """A full Redis is 503 too, keeps nothing, and is 200 again when there is room; GET is answered all the time."""
    redis.config_set("maxmemory", 1)
    sender = receiver.sender()
    answer = sender.post(BODY)
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    assert sender.ask(HANDSHAKE + "t0ken").status == 200
    assert bodies() == []
    redis.config_set("maxmemory", 0)
    assert sender.post(BODY).status == 200


def test_an_outage_is_two_lines(own_valkey: Callable[..., Any], start_receiver: Callable[..., Any]) -> None:
    """One line says why senders get 503, however many do, and one that Redis is back and how long it was away."""
    server = own_valkey()
    receiver = start_receiver(server.url)
    began = time.monotonic()
    server.stop()
    sender = receiver.sender()
    assert {sender.post(BODY).status for _ in range(200)} == {503}
    server.start()
    assert sender.post(BODY).status == 200
    away, back = map(json.loads, receiver.log().splitlines()[2:])
    assert (away["event"], away["reason"]) == ("Redis is not used, senders get 503", "Redis is away: ConnectionError")
    assert back["event"] == "Redis is used again"
    assert 0 < back["away_seconds"] <= time.monotonic() - began + 0.1


def test_503_when_too_much_is_pending(own_valkey: Callable[..., Any], start_receiver: Callable[..., Any]) -> None:
    """Bodies that are not durable yet count against WA_MAX_PENDING: what passes it is 503, until there is room."""
    server = own_valkey()
    receiver = start_receiver(server.url, WA_MAX_PENDING="100KiB", WA_MAX_BODY="100KiB")
    assert receiver.post(b"{}").status == 200
    server.freeze()
    waiting = [receiver.sender() for _ in range(2)]
    for sender in waiting:
        sender.head("POST /webhook", Content_Length=45_000, body=b"x" * 45_000)
    answers = [receiver.post(b"z" * 20_000) for _ in range(2)]
    assert {(answer.status, "retry-after" in answer.headers) for answer in answers} == {(503, True)}
    server.thaw()
    assert [sender.answer().status for sender in waiting] == [200, 200]
    assert receiver.post(b"z" * 20_000).status == 200
