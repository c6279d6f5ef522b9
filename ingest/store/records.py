"""A notification as it lies in a batch: its record."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from ingest.store.constants import DIGEST_BYTES, HANDLER_BYTES, HAS_DIGEST, HEADER_BYTES, SHARES_BITS
from ingest.store.headers import MAGIC, disclose, enclose

_HEADER = Struct(">Q")
_LENGTH = Struct(">I")
_NO_DIGEST = bytes(DIGEST_BYTES)
_MOST_DONE = 255  # handlers of an event that are remembered as done

REPLAY_BYTES = HANDLER_BYTES
"""Length of what names a replay."""

OWED_JOINT = ", "
"""Between the names of handlers that an event is owed to."""

MOST_WAITS = (1 << 32 - SHARES_BITS + 8) - 1
"""What a record's `waits` can count to."""


class Record(NamedTuple):
    """One notification in a batch.

    `attempt` counts from 1, to 127; 0 is the first try of a replayed notification, which the archive holds already.
    With `force` it is handled even if it was handled before. `body_digest` is empty, or the `digest` of the body as it
    was received, when `body` holds only one event of it. `shares` says which contacts of the notification count here,
    empty for all (see `ingest.routing`). `split` says the same in records of format 1, which had no shares: the number
    of partitions, or 0. An event may have been snoozed, or put off because a handler of it always failed, `waits`
    times; `done` are the handlers that need not be called again (`handler_digest`). `headers` are those of its request
    that were kept, as JSON (`ingest.store.headers`). `replay` names the replay that it is part of, in which each event
    is handled once; it has `force`, too.
    """

    received_ms: int
    attempt: int
    split: int
    force: bool
    body: bytes
    body_digest: bytes = b""
    shares: bytes = b""
    waits: int = 0
    done: frozenset[bytes] = frozenset()
    headers: bytes = b""
    replay: bytes = b""


def pack(
    body: bytes,
    received_ms: int,
    attempt: int = 1,
    force: bool = False,
    body_digest: bytes = b"",
    shares: bytes = b"",
    waits: int = 0,
    done: Iterable[bytes] = (),
    headers: bytes = b"",
    replay: bytes = b"",
) -> bytes:
    """A record as it lies in Redis: 6 bytes arrival time, 1 bit force, 7 attempt, 8 what follows, the body as it is,
    with the headers that were kept in front (`ingest.store.headers`).

    Before the body stands what there is to say beside (`HAS_DIGEST`): the digest alone; or a digest of zeros, the
    digest or zeros, the upper bits of `waits` and the length of the shares (`SHARES_BITS`; 4 bytes together), the
    shares, the number of handlers that are done (1 byte), the lower 8 bits of `waits`, and 4 bytes for each of those
    handlers. `replay` stands among these twice, as the first and the last, which no handler does; earlier versions see
    there a handler that they do not know. records.lua reads it, too.
    """
    more, kept = body_digest, enclose(body, headers)
    if shares or waits or done or replay:
        ended = sorted(set(done))[:_MOST_DONE]
        if replay:
            ended = [replay, *ended[: _MOST_DONE - 2], replay]
        said = (_NO_DIGEST, body_digest or _NO_DIGEST, _LENGTH.pack(waits >> 8 << SHARES_BITS | len(shares)), shares)
        more = b"".join((*said, bytes((len(ended), waits & 255)), *ended))
    return _HEADER.pack(received_ms << 16 | force << 15 | attempt << 8 | (HAS_DIGEST if more else 0)) + more + kept


def pack_into(
    by_queue: dict[str, list[bytes]],
    routes: Iterable[tuple[str, bytes, Iterable[bytes], bytes]],
    body: bytes,
    received_ms: int,
    attempt: int = 1,
    force: bool = False,
    body_digest: bytes = b"",
    headers: bytes = b"",
    done: Iterable[bytes] = (),
    replay: bytes = b"",
) -> int:
    """Add a notification's records, one for each of its routes, to those of each queue. Returns their bytes."""
    size, whole_digest = 0, body_digest
    for queue, shares, _, part in routes:
        if part:
            body_digest = body_digest or digest(body)
            record = pack(part, received_ms, attempt, force, body_digest, shares, 0, done, headers, replay)
        else:
            record = pack(body, received_ms, attempt, force, whole_digest, shares, 0, done, headers, replay)
        by_queue.setdefault(queue, []).append(record)
        size += len(record)
    return size


def unpack(record: bytes) -> Record:
    """The reverse of `pack`; also of what format 1 packed."""
    (header,) = _HEADER.unpack_from(record)
    received_ms, attempt, force, split = header >> 16, header >> 8 & 127, bool(header >> 15 & 1), header & 255
    if split != HAS_DIGEST:
        kept = record[HEADER_BYTES:]
        if not kept.startswith(MAGIC):  # nearly always
            return Record(received_ms, attempt, split, force, kept)
        body, headers = disclose(kept)
        return Record(received_ms, attempt, split, force, body, headers=headers)
    at = HEADER_BYTES + DIGEST_BYTES
    body_digest = record[HEADER_BYTES:at]
    if body_digest != _NO_DIGEST:
        body, headers = disclose(record[at:])
        return Record(received_ms, attempt, 0, force, body, body_digest, headers=headers)
    body_digest = record[at : at + DIGEST_BYTES]
    begin = at + DIGEST_BYTES + _LENGTH.size
    (said,) = _LENGTH.unpack_from(record, at + DIGEST_BYTES)
    end = begin + (said & (1 << SHARES_BITS) - 1)
    count, waits = record[end], record[end + 1] | said >> SHARES_BITS << 8
    behind = end + 2 + count * HANDLER_BYTES
    ended, replay = record[end + 2 : behind], b""
    if count > 1 and ended[:REPLAY_BYTES] == ended[-REPLAY_BYTES:]:
        ended, replay = ended[REPLAY_BYTES:-REPLAY_BYTES], ended[:REPLAY_BYTES]
    done = handler_digests(ended)
    known = b"" if body_digest == _NO_DIGEST else body_digest
    body, headers = disclose(record[behind:])
    return Record(received_ms, attempt, 0, force, body, known, record[begin:end], waits, done, headers, replay)


def handler_digest(name: str) -> bytes:
    """Four bytes that tell a handler from others of its event."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=HANDLER_BYTES).digest()


def handler_digests(joined: bytes) -> frozenset[bytes]:
    """The single ones of several `handler_digest`."""
    return frozenset(joined[n : n + HANDLER_BYTES] for n in range(0, len(joined), HANDLER_BYTES))


def digest(body: bytes) -> bytes:
    """Eight bytes that tell a body from others that arrived in the same millisecond."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


def notification_id(received_ms: int, body_digest: bytes) -> str:
    """The id of a notification, 32 hex digits: its arrival, then the digest of its body.

    It is stored nowhere: receiver and worker compute the same. It is in log lines and dead letters, and it is the id
    of the trace.
    """
    return f"{received_ms:016x}{body_digest.hex()}"


def iso(ms: int) -> str:
    """A time (ms since the epoch) as ISO 8601, in UTC and to the millisecond."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
