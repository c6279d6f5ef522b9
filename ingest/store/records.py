"""A notification as it lies in a batch: its record."""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

_HEADER = Struct(">Q")

_ORIGIN = 1
"""In place of a share, which would mean nothing: the digest of the original body stands between header and body."""
_ORIGIN_BYTES = 8


class Record(NamedTuple):
    """One notification in a batch.

    `attempt` counts from 1, to 127; 0 is the first try of what was fed back from the archive, and is there already.
    `share` is 0, or the number of partitions when only the contacts of this queue's partition count (see
    `ingest.routing.Place`). `again` is set when somebody asked for it to be handled once more, whether it was handled
    before or not. `origin` is empty, or the `digest` of the body as it was received, when this one holds a part of it:
    one event.
    """

    received_ms: int
    attempt: int
    share: int
    again: bool
    body: bytes
    origin: bytes = b""


def pack(
    body: bytes, received_ms: int, attempt: int = 1, share: int = 0, again: bool = False, origin: bytes = b""
) -> bytes:
    """A record as it lies in Redis: 6 bytes arrival time, 1 bit again, 7 attempt, 8 share, the body byte for byte.

    With an origin, which only a record without a share may have, the share is 1 and its 8 bytes stand before the body.
    """
    if origin:
        share = _ORIGIN
    return _HEADER.pack(received_ms << 16 | again << 15 | attempt << 8 | share) + origin + body


def unpack(record: bytes) -> Record:
    """The reverse of `pack`."""
    (header,) = _HEADER.unpack_from(record)
    share, origin, body = header & 255, b"", record[_HEADER.size :]
    if share == _ORIGIN:
        share, origin, body = 0, body[:_ORIGIN_BYTES], body[_ORIGIN_BYTES:]
    return Record(header >> 16, header >> 8 & 127, share, bool(header >> 15 & 1), body, origin)


def digest(body: bytes) -> bytes:
    """Eight bytes that tell a body from others that arrived in the same millisecond."""
    return blake2b(body, digest_size=_ORIGIN_BYTES).digest()


def notification_id(received_ms: int, origin: bytes) -> str:
    """The id of a notification, 32 hex digits: its arrival, then the digest of its body.

    Nobody has to carry it along: receiver and worker compute the same. It is in log lines and dead letters, and it is
    the id of the trace.
    """
    return f"{received_ms:016x}{origin.hex()}"
