"""Bodies that a relay compressed on their way: gzip and deflate, with a bound on what comes out."""

from __future__ import annotations

import zlib

from ingest.http.answers import Refused

_GZIP = b"\x1f\x8b"
_DEFLATE = "deflate"
_ENCODINGS = frozenset({"gzip", "x-gzip", _DEFLATE})
_RATIO = 50
"""Notifications are a tenth of their size at best when they are compressed. What grows more than this is an attack."""

_HEADED, _RAW = zlib.MAX_WBITS | 32, -zlib.MAX_WBITS  # with a header of gzip or zlib, and without any


def unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """What was compressed; the body itself if that is not compressed, or damaged: then the workers say so.

    `encoding` is the request's Content-Encoding. Some relays forget it, and some proxies unpack and leave it. Raises
    Refused when more than `most` bytes come out, or so many times more than came that it is no notification.
    """
    encoding = encoding.strip().lower()
    if encoding not in _ENCODINGS and not body.startswith(_GZIP):
        return body
    most = min(most, _RATIO * len(body))
    plain = _inflated(body, _HEADED, most)
    if plain is None and encoding == _DEFLATE:
        plain = _inflated(body, _RAW, most)
    if plain is None:
        return body
    if len(plain) > most:
        raise Refused(413, "size")
    return plain


def _inflated(body: bytes, wbits: int, most: int) -> bytes | None:
    """At most one byte more than `most`; None when it is no such format, or its end is missing."""
    inflating = zlib.decompressobj(wbits)
    try:
        plain = inflating.decompress(body, most + 1)
    except zlib.error:
        return None
    return plain if inflating.eof or len(plain) > most else None
