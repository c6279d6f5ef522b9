"""A body with the headers of its request that WA_KEEP_HEADERS names.

Wherever a notification is kept - in a record, in the spool, in the archive, as a dead letter - they stand in front of
its body, as a JSON object of names in lower case. A notification without any is its body alone.
"""

from __future__ import annotations

from struct import Struct

import orjson

MOST_BYTES = 8192
"""Of the headers of a notification, as JSON."""

PART_BYTES = 512
"""Of those that each part has when a notification is kept in many, unless the parts themselves are long."""

MAGIC = b"\xf5wah"
"""Begins what is kept of a notification with headers: 0xF5 is in no UTF-8 text."""

_LENGTH = Struct(">I")
_BEGIN = len(MAGIC) + _LENGTH.size


def enclose(body: bytes, headers: bytes = b"") -> bytes:
    """The body as it is kept. One that looks as if it had headers in front gets none, and says so."""
    if headers or body.startswith(MAGIC):
        return b"".join((MAGIC, _LENGTH.pack(len(headers)), headers, body))
    return body


def disclose(kept: bytes) -> tuple[bytes, bytes]:
    """The reverse: body and headers."""
    if not kept.startswith(MAGIC):
        return kept, b""
    (length,) = _LENGTH.unpack_from(kept, len(MAGIC))
    end = _BEGIN + length
    return kept[end:], kept[_BEGIN:end]


def write(headers: dict[str, str], room: int = MOST_BYTES) -> bytes:
    """The JSON of these, in their order, without those that are too large for what is left of so many bytes."""
    fitting, room = {}, room - len("{}") + len(",")
    for name, value in headers.items():
        size = len(orjson.dumps({name: value})) - len("{}") + len(",")
        if size <= room:
            fitting[name] = value
            room -= size
    return orjson.dumps(fitting) if fitting else b""


def within(headers: bytes, room: int) -> bytes:
    """Those of them that fit into so many bytes."""
    return headers if len(headers) <= room else write(read(headers), room)


def read(headers: bytes) -> dict[str, str]:
    """The reverse of `write`."""
    found: dict[str, str] = orjson.loads(headers) if headers else {}
    return found
