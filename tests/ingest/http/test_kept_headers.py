"""WA_KEEP_HEADERS at the receiver: what is kept of a request's headers."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.store.headers import MOST_BYTES, read
from ingest.store.records import Record

BODY = b'{"statuses":[{"id":"s","status":"read"}]}'
Start = Callable[..., Any]
Kept = Callable[[Redis], dict[str, list[Record]]]


def dropped(receiver: Any) -> int:
    found = re.search(rb"wa_headers_dropped_total (\d+)", receiver.admin("/metrics").body)
    assert found
    return int(found[1])


def test_what_is_kept(redis_url: str, redis: Redis, start_receiver: Start, kept: Kept) -> None:
    """Headers that are named are kept, in whichever case; no other, neither a credential nor a signature."""
    receiver = start_receiver(redis_url, WA_KEEP_HEADERS="X-Turn-Event, x-whatsapp-id,X-Absent")
    receiver.post(BODY, X_TURN_EVENT="message", x_Whatsapp_Id="1555", Authorization="Bearer x", X_Hub_Signature="y")
    receiver.post(BODY, X_Other="z")
    first, second = kept(redis)["statuses"]
    assert read(first.headers) == {"x-turn-event": "message", "x-whatsapp-id": "1555"}
    assert (first.body, second) == (BODY, second._replace(body=BODY, headers=b""))
    assert "x-whatsapp-id" in receiver.log()
    assert "1555" not in receiver.log()


def test_several_and_odd_values(redis_url: str, redis: Redis, start_receiver: Start, kept: Kept) -> None:
    """Several headers of a name are joined; bytes that are no UTF-8 become U+FFFD; a credential is kept if named."""
    receiver = start_receiver(redis_url, WA_KEEP_HEADERS="x-a,authorization")
    lines = b"x-a: one", b"X-A: tw\xffo", "x-A: drei é".encode(), b"Authorization: Bearer x"
    head = b"\r\n".join((b"POST /webhook HTTP/1.1", b"Host: x", *lines, b"Content-Length: %d" % len(BODY), b"", b""))
    sender = receiver.sender()
    sender.send(head + BODY)
    assert sender.answer().status == 200
    (record,) = kept(redis)["statuses"]
    assert read(record.headers) == {"x-a": "one, tw\ufffdo, drei é", "authorization": "Bearer x"}


def test_too_large(redis_url: str, redis: Redis, start_receiver: Start, kept: Kept) -> None:
    """Beyond 8 KiB a header is left out and counted; the notification and the other headers are kept."""
    receiver = start_receiver(redis_url, WA_KEEP_HEADERS="x-large,x-larger,x-small")
    assert dropped(receiver) == 0
    assert receiver.post(BODY, X_Large="a" * 5000, X_Larger="b" * 5000, X_Small="c").status == 200
    (record,) = kept(redis)["statuses"]
    assert read(record.headers) == {"x-large": "a" * 5000, "x-small": "c"}
    assert len(record.headers) <= MOST_BYTES
    assert dropped(receiver) == 1


@pytest.mark.parametrize("form", ["small", "large"])
def test_each_partition_has_them(redis_url: str, redis: Redis, start_receiver: Start, kept: Kept, form: str) -> None:
    """A notification for several partitions has its headers in each, whether it is copied there or taken apart."""
    text = "x" * (1 if form == "small" else 8000)
    message = '{{"from":"{0}","id":"m{0}","type":"text","text":{{"body":"{1}"}}}}'
    body = f'{{"messages":[{",".join(message.format(n, text) for n in range(20))}]}}'.encode()
    receiver = start_receiver(redis_url, WA_KEEP_HEADERS="x-a")
    assert receiver.post(body, X_A="b").status == 200
    records = [record for some in kept(redis).values() for record in some]
    assert len(records) > 5
    assert {record.headers for record in records} == {b'{"x-a":"b"}'}
    assert (len({record.body for record in records}) == 1) == (form == "small")


def test_through_the_spool(own_valkey: Any, start_receiver: Start, kept: Kept, tmp_path: Path, wait_for: Any) -> None:
    """What waited on the disk, also over a restart of the receiver, comes to Redis with its headers."""
    server = own_valkey(running=False)
    settings = {"WA_KEEP_HEADERS": "x-a", "WA_SPOOL_DIR": tmp_path / "spool"}
    receiver = start_receiver(server.url, **settings)
    assert receiver.post(BODY, X_A="first").status == 200
    receiver.process.send_signal(signal.SIGKILL)
    receiver.process.wait()
    receiver = start_receiver(server.url, **settings)
    assert receiver.post(b"\xf5wah is no magic", X_A="second").status == 200
    assert receiver.post(b"\xf5wah is no magic").status == 200
    server.start()
    wait_for(lambda: sum(map(len, kept(server.client()).values())) == 3)
    found = {(record.body, record.headers) for some in kept(server.client()).values() for record in some}
    no_magic = b"\xf5wah is no magic"
    assert found == {(BODY, b'{"x-a":"first"}'), (no_magic, b'{"x-a":"second"}'), (no_magic, b"")}
