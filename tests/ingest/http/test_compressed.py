"""Compressed bodies: unpacked whoever says so, bounded, and left alone when they are no such thing."""

from __future__ import annotations

import gzip
import zlib

import pytest

from ingest.http.answers import Refused
from ingest.http.bodies import Bodies
from ingest.http.compressed import unpacked
from ingest.settings import load

BODY = b'{"statuses":[{"id":"s","status":"read"}]}'
MOST = 1_000_000


def raw_deflate(body: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-15)
    return packing.compress(body) + packing.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(BODY, mtime=0), "gzip"),
        (gzip.compress(BODY, mtime=0), " X-GZIP "),
        (gzip.compress(BODY, mtime=0), ""),
        (gzip.compress(BODY, mtime=0), "identity"),
        (zlib.compress(BODY), "deflate"),
        (raw_deflate(BODY), "deflate"),
    ],
)
def test_unpacked(body: bytes, encoding: str) -> None:
    """Each form that relays send gives what was compressed, gzip also when the header is missing."""
    assert unpacked(body, encoding, MOST) == BODY


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", ""])
@pytest.mark.parametrize("body", [b"", b"[]", b"\x1f\x8b", gzip.compress(BODY, mtime=0)[:-9], b"\x1f\x8b" + bytes(100)])
def test_left_alone(body: bytes, encoding: str) -> None:
    """What is damaged or not compressed stays as it came, for the workers to say what it is."""
    assert unpacked(body, encoding, MOST) is body


NUMBERS = b"".join(b"%d" % n for n in range(300_000))[:MOST]


def test_largest() -> None:
    """As many bytes may come out as WA_MAX_BODY says."""
    assert unpacked(gzip.compress(NUMBERS, mtime=0), "gzip", MOST) == NUMBERS


@pytest.mark.parametrize("body", [NUMBERS + b"1", bytes(MOST // 2), bytes(500 * MOST)])
def test_bombs(body: bytes) -> None:
    """What grows beyond the largest body, or far more than notifications do, is refused like a body of that size."""
    with pytest.raises(Refused) as refused:
        unpacked(gzip.compress(body, 1, mtime=0), "gzip", MOST)
    assert (refused.value.status, refused.value.reason) == (413, "size")


def test_unpacked_counts_as_large_as_it_is() -> None:
    """A body takes from WA_MAX_PENDING what it takes without compression, and gives it back."""
    bodies = Bodies(load(max_pending=10_000, max_body=6_000))
    small = gzip.compress(NUMBERS[:6_000], mtime=0)
    assert bodies._pending.reserve(2 * len(small))
    first = bodies.unpack(small, "gzip")
    assert bodies._pending.held == 6_000 + len(small)
    with pytest.raises(Refused) as refused:
        bodies.unpack(small, "gzip")
    assert (refused.value.status, refused.value.reason) == (503, "pending")
    bodies.release(first)
    assert bodies._pending.held == len(small)
