"""A notification as it lies in a batch: its record."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from ingest.store.constants import DIGEST_BYTES, HANDLER_BYTES, HAS_DIGEST, HEADER_BYTES, MOST_DONE

_HEADER = Struct(">Q")


class Record(NamedTuple):
    """One notification in a batch.

    `attempt` counts from 1, to 127; 0 is the first try of a replayed notification, which the archive holds already.
    `split` is 0, or the number of partitions when only the contacts of this queue's partition count (see
    `ingest.routing.Route`). With `force` it is handled even if it was handled before. `body_digest` is empty, or the
    `digest` of the body as it was received, when `body` holds only one event of it. Such an event may have been put off
    `waits` times, because a handler of it failed every time; `done` are the handlers that need not be called again
    (`handler_digest`).
    """

    received_ms: int
    attempt: int
    split: int
    force: bool
    body: bytes
    body_digest: bytes = b""
    waits: int = 0
    done: frozenset[bytes] = frozenset()


def pack(
    body: bytes,
    received_ms: int,
    attempt: int = 1,
    split: int = 0,
    force: bool = False,
    body_digest: bytes = b"",
    waits: int = 0,
    done: Iterable[bytes] = (),
) -> bytes:
    """A record as it lies in Redis: 6 bytes arrival time, 1 bit force, 7 attempt, 8 split, the body byte for byte.

    With a body digest, which only a record without a split may have, the split is 1 and the digest's 8 bytes stand
    before the body. If there is something to say of `waits` and `done`, it comes in between: a byte with the number of
    handlers that are done, a byte for `waits`, and 4 bytes for each handler. No JSON text begins with such a byte.
    """
    if body_digest:
        split = HAS_DIGEST
        if waits or done:
            ended = sorted(done)[:MOST_DONE]
            body_digest += bytes((len(ended), waits & 255)) + b"".join(ended)
    return _HEADER.pack(received_ms << 16 | force << 15 | attempt << 8 | split) + body_digest + body


def pack_into(
    by_queue: dict[str, list[bytes]],
    routes: Iterable[tuple[str, int]],
    body: bytes,
    received_ms: int,
    attempt: int = 1,
    force: bool = False,
    body_digest: bytes = b"",
) -> int:
    """Add a notification's records, one for each route (queue, split), to those of each queue. Returns their bytes."""
    size = 0
    for queue, split in routes:
        record = pack(body, received_ms, attempt, split, force, body_digest)
        by_queue.setdefault(queue, []).append(record)
        size += len(record)
    return size


def unpack(record: bytes) -> Record:
    """The reverse of `pack`."""
    (header,) = _HEADER.unpack_from(record)
    received_ms, attempt, force, split = header >> 16, header >> 8 & 127, bool(header >> 15 & 1), header & 255
    if split != HAS_DIGEST:
        return Record(received_ms, attempt, split, force, record[HEADER_BYTES:])
    body = HEADER_BYTES + DIGEST_BYTES
    body_digest, waits, ended = record[HEADER_BYTES:body], 0, b""
    if len(record) > body and record[body] <= MOST_DONE:
        count, waits = record[body : body + 2]
        ended = record[body + 2 : body + 2 + count * HANDLER_BYTES]
        body += 2 + len(ended)
    done = frozenset(ended[n : n + HANDLER_BYTES] for n in range(0, len(ended), HANDLER_BYTES))
    return Record(received_ms, attempt, 0, force, record[body:], body_digest, waits, done)


def handler_digest(name: str) -> bytes:
    """Four bytes that tell a handler from others of its event."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=HANDLER_BYTES).digest()


def digest(body: bytes) -> bytes:
    """Eight bytes that tell a body from others that arrived in the same millisecond."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


def notification_id(received_ms: int, body_digest: bytes) -> str:
    """The id of a notification, 32 hex digits: its arrival, then the digest of its body.

    It is stored nowhere: receiver and worker compute the same. It is in log lines and dead letters, and it is the id
    of the trace.
    """
    return f"{received_ms:016x}{body_digest.hex()}"
