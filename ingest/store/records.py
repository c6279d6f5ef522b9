"""A notification as it lies in a batch: its record."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from ingest.store.constants import DIGEST_BYTES, HAS_DIGEST, HEADER_BYTES

_HEADER = Struct(">Q")
_LENGTH = Struct(">I")
_NO_DIGEST = bytes(DIGEST_BYTES)


class Record(NamedTuple):
    """One notification in a batch.

    `attempt` counts from 1, to 127; 0 is the first try of a replayed notification, which the archive holds already.
    With `force` it is handled even if it was handled before. `body_digest` is empty, or the `digest` of the body as it
    was received, when `body` holds only one event of it. `shares` says which contacts of the notification count here,
    empty for all (see `ingest.routing`). `split` says the same in records of format 1, which had no shares: the number
    of partitions, or 0.
    """

    received_ms: int
    attempt: int
    split: int
    force: bool
    body: bytes
    body_digest: bytes = b""
    shares: bytes = b""


def pack(
    body: bytes, received_ms: int, attempt: int = 1, force: bool = False, body_digest: bytes = b"", shares: bytes = b""
) -> bytes:
    """A record as it lies in Redis: 6 bytes arrival time, 1 bit force, 7 attempt, 8 what follows, the body as it is.

    Before the body stand the digest or the shares, if there are any (`HAS_DIGEST`). records.lua reads it, too.
    """
    more = body_digest
    if shares:
        more = b"".join((_NO_DIGEST, body_digest or _NO_DIGEST, _LENGTH.pack(len(shares)), shares))
    return _HEADER.pack(received_ms << 16 | force << 15 | attempt << 8 | (HAS_DIGEST if more else 0)) + more + body


def pack_into(
    by_queue: dict[str, list[bytes]],
    routes: Iterable[tuple[str, bytes, Iterable[bytes]]],
    body: bytes,
    received_ms: int,
    attempt: int = 1,
    force: bool = False,
    body_digest: bytes = b"",
) -> int:
    """Add a notification's records, one for each of its routes, to those of each queue. Returns their bytes."""
    size = 0
    for queue, shares, _ in routes:
        record = pack(body, received_ms, attempt, force, body_digest, shares)
        by_queue.setdefault(queue, []).append(record)
        size += len(record)
    return size


def unpack(record: bytes) -> Record:
    """The reverse of `pack`; also of what format 1 packed."""
    (header,) = _HEADER.unpack_from(record)
    split, body_digest, shares, body = header & 255, b"", b"", record[HEADER_BYTES:]
    if split == HAS_DIGEST:
        split, body_digest, body = 0, body[:DIGEST_BYTES], body[DIGEST_BYTES:]
        if body_digest == _NO_DIGEST:
            begin = DIGEST_BYTES + _LENGTH.size
            end = begin + _LENGTH.unpack_from(body, DIGEST_BYTES)[0]
            body_digest, shares, body = body[:DIGEST_BYTES], body[begin:end], body[end:]
            body_digest = b"" if body_digest == _NO_DIGEST else body_digest
    return Record(header >> 16, header >> 8 & 127, split, bool(header >> 15 & 1), body, body_digest, shares)


def digest(body: bytes) -> bytes:
    """Eight bytes that tell a body from others that arrived in the same millisecond."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


def notification_id(received_ms: int, body_digest: bytes) -> str:
    """The id of a notification, 32 hex digits: its arrival, then the digest of its body.

    It is stored nowhere: receiver and worker compute the same. It is in log lines and dead letters, and it is the id
    of the trace.
    """
    return f"{received_ms:016x}{body_digest.hex()}"
