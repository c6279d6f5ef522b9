"""Dead letters: select, read, requeue and drop them, and remove the old ones.

Each lane has a stream of them, which settle.lua writes. Everything here works in portions, so that Redis is never held
up for long. Each portion is atomic: after an interruption, simply start again.
"""

from __future__ import annotations

import heapq
import itertools
import re
import secrets
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, NamedTuple

from redis import Redis

from ingest.routing import Route, Router
from ingest.settings import Settings
from ingest.state import totals
from ingest.store import keys, scripts
from ingest.store.append import APPEND_KEYS, BATCH_BYTES, append_head
from ingest.store.headers import disclose
from ingest.store.headers import read as read_headers
from ingest.store.jobs import job_template
from ingest.store.queues import LANES, queue_names
from ingest.store.records import OWED_JOINT, digest, handler_digests, iso, notification_id, pack_into

PORTION = 100
"""Most dead letters in a portion; it holds fewer when they are large."""

_FIRST_PORTION = 10  # before anything is known of their size
_TRIM_LIMIT = 1000  # dead letters that one XTRIM removes at most
_TRIMS = 100  # XTRIMs of a lane in one call of `trim`: the rest waits for the next

_REQUEUE = scripts.lua(__file__, "requeue.lua")


class Id(NamedTuple):
    """When a dead letter was written, by Redis' clock (ms since the epoch), and its number in that millisecond."""

    ms: int
    number: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


class DeadLetter(NamedTuple):
    """One dead letter.

    `reason`: failed (out of attempts), rejected, unreadable, unknown_form, malformed, poison, expired, fault, or what a
    later version adds. `kind`: message, status, error or change; `notification` when the body could not be, or was not,
    taken apart. `queue` is where it came from; `received_ms` when the notification arrived. `body_digest` is that of
    the body as it was received, of which `body` may hold a part. `headers` are those of the request that were kept, as
    JSON. `handler` names the handlers or destinations that have not succeeded, with `OWED_JOINT` between them; `done`
    are the others (`handler_digest`).
    """

    lane: str
    id: Id
    reason: str
    kind: str
    detail: str
    attempt: int
    received_ms: int
    queue: str
    body: bytes
    body_digest: bytes
    headers: bytes = b""
    handler: str = ""
    done: frozenset[bytes] = frozenset()

    @property
    def name(self) -> str:
        """How a person refers to it: LANE/ID."""
        return f"{self.lane}/{self.id}"

    def as_json(self) -> dict[str, Any]:
        """All but what the sender wrote: body and headers."""
        return {
            "id": self.name,
            "lane": self.lane,
            "dead_at": iso(self.id.ms),
            "reason": self.reason,
            "kind": self.kind,
            "handler": self.handler,
            "detail": self.detail,
            "attempt": self.attempt,
            "received_at": iso(self.received_ms),
            "queue": self.queue,
            "notification": notification_id(self.received_ms, self.body_digest),
        }

    def content_as_json(self) -> dict[str, Any]:
        """`headers` if any were kept; `body` when it is UTF-8, else `body_base64`."""
        headers = {"headers": read_headers(self.headers)} if self.headers else {}
        try:
            return headers | {"body": self.body.decode()}
        except UnicodeDecodeError:
            return headers | {"body_base64": b64encode(self.body).decode()}


class Wanted(NamedTuple):
    """Which dead letters to select: those that match every field. Empty or None: any. Times in seconds before now."""

    lanes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    older_than: float | None = None
    newer_than: float | None = None
    ids: tuple[tuple[str, Id], ...] = ()
    handlers: tuple[str, ...] = ()


class Selection(NamedTuple):
    """`Wanted` as of `now_ms`: per lane the ranges of ids to look at. Dead letters written later are in none.

    `owed`: exactly what their `handler` says; None: any.
    """

    now_ms: int
    ranges: dict[str, list[tuple[Id, Id]]]
    kinds: tuple[str, ...]
    reasons: tuple[str, ...]
    handlers: tuple[str, ...] = ()
    owed: str | None = None


def parse_name(name: str) -> tuple[str, Id]:
    """The lane and id of LANE/ID. Raises ValueError."""
    found = re.fullmatch(f"({'|'.join(LANES)})/([0-9]{{1,19}})-([0-9]{{1,19}})", name)
    if not found:
        raise ValueError("give LANE/ID as `wa-ingest dead list` shows it, such as messages/1700000000000-0")
    return found[1], Id(int(found[2]), int(found[3]))


def select(redis: Redis, wanted: Wanted) -> Selection:
    """The selection of what is wanted, as of now."""
    now_ms = _now_ms(redis)
    first = Id(0 if wanted.newer_than is None else _before(now_ms, wanted.newer_than), 0)
    ranges: dict[str, list[tuple[Id, Id]]] = {}
    for lane in wanted.lanes or LANES:
        newest: Any = redis.xrevrange(keys.dead_key(lane), count=1)
        if not newest:
            continue
        last = _id(newest[0][0])
        if wanted.older_than is not None:
            last = min(last, Id(_before(now_ms, wanted.older_than), 0))
        if wanted.ids:
            ranges[lane] = [(id, id) for its, id in sorted(set(wanted.ids)) if its == lane and first <= id <= last]
        else:
            ranges[lane] = [(first, last)]
    return Selection(now_ms, ranges, wanted.kinds, wanted.reasons, wanted.handlers)


def read(redis: Redis, selection: Selection) -> Iterator[DeadLetter]:
    """The selected dead letters of all lanes, the oldest first."""
    ranges = [_portions(redis, selection, *range) for range in _ranges(selection)]
    return heapq.merge(*map(itertools.chain.from_iterable, ranges), key=lambda letter: letter.id)


def newest(redis: Redis, lane: str) -> Iterator[DeadLetter]:
    """The dead letters of a lane, the newest first."""
    end, count = "+", _FIRST_PORTION
    while True:
        entries: Any = redis.xrevrange(keys.dead_key(lane), end, "-", count)
        if not entries:
            return
        letters = [_letter(lane, id, fields) for id, fields in entries]
        yield from letters
        end, count = f"({letters[-1].id}", _next_count(letters)


def last(redis: Redis) -> DeadLetter | None:
    """The newest of all."""
    found: list[tuple[str, Any]] = [(lane, redis.xrevrange(keys.dead_key(lane), count=1)) for lane in LANES]
    letters = [_letter(lane, id, fields) for lane, entries in found for id, fields in entries]
    return max(letters, key=lambda letter: letter.id, default=None)


def requeue(redis: Redis, selection: Selection, settings: Settings) -> Iterator[int]:
    """Have the dead letters handled again, from attempt 1 on. Yields the number of dead letters in each portion.

    A single event goes back to its queue, for the handlers that have not succeeded. A whole notification goes where
    the receiver would put it now, and workers skip those of its events that were handled before.
    """
    script = redis.register_script(_REQUEUE)
    template = job_template()
    flush_ids = map("d{}-{:08x}".format, itertools.repeat(secrets.token_hex(5)), itertools.count())
    router = Router(settings.partitions, settings.business_partitions)
    for lane, first, last in _ranges(selection):
        for letters in _portions(redis, selection, lane, first, last):
            fixed = append_head(next(flush_ids), template, settings.batch)
            records = [part for letter in letters for part in _records(letter, router)]
            yield script(keys=[*APPEND_KEYS, keys.dead_key(lane), keys.COUNTS], args=fixed + records)


def drop(redis: Redis, selection: Selection) -> Iterator[int]:
    """Delete the dead letters. Yields the number of dead letters in each portion."""
    for lane, first, last in _ranges(selection):
        for letters in _portions(redis, selection, lane, first, last):
            dropped = redis.xdel(keys.dead_key(lane), *(str(letter.id) for letter in letters))
            redis.hincrby(keys.COUNTS, totals.REMOVED, dropped)
            yield dropped


def trim(redis: Redis, age: float) -> dict[str, int]:
    """Remove dead letters older than `age` seconds, up to 100,000 a lane. Returns how many, by lane that had any."""
    oldest = _before(_now_ms(redis), age)
    trimmed: dict[str, int] = {}
    for lane in LANES:
        for _ in range(_TRIMS):
            portion: Any = redis.xtrim(keys.dead_key(lane), minid=oldest, approximate=True, limit=_TRIM_LIMIT)
            if not portion:  # no whole node of the stream is that old: what is left is part of one
                portion = redis.xtrim(keys.dead_key(lane), minid=oldest, approximate=False)
            if not portion:
                break
            redis.hincrby(keys.COUNTS, totals.REMOVED, portion)
            trimmed[lane] = trimmed.get(lane, 0) + portion
    return trimmed


def _ranges(selection: Selection) -> Iterator[tuple[str, Id, Id]]:
    for lane, ranges in selection.ranges.items():
        for first, last in ranges:
            yield lane, first, last


def _portions(redis: Redis, selection: Selection, lane: str, first: Id, last: Id) -> Iterator[list[DeadLetter]]:
    """The matching letters of a range, in portions; the caller may delete each portion before it asks for the next."""
    start, count = str(first), _FIRST_PORTION
    while True:
        entries: Any = redis.xrange(keys.dead_key(lane), start, str(last), count)
        if not entries:
            return
        letters = [_letter(lane, id, fields) for id, fields in entries]
        start = f"({letters[-1].id}"
        count = _next_count(letters)
        fitting = [letter for letter in letters if _fits(letter, selection)]
        if fitting:
            yield fitting


def _next_count(letters: list[DeadLetter]) -> int:
    """How many letters to read next, if they are as large as these."""
    size = sum(len(letter.body) for letter in letters) // len(letters) + 1
    return max(1, min(PORTION, BATCH_BYTES // size))


def _fits(letter: DeadLetter, selection: Selection) -> bool:
    return (
        (not selection.kinds or letter.kind in selection.kinds)
        and (not selection.reasons or letter.reason in selection.reasons)
        and (selection.owed is None or letter.handler == selection.owed)
        and (not selection.handlers or any(name in selection.handlers for name in letter.handler.split(OWED_JOINT)))
    )


def _letter(lane: str, id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    def text(name: bytes) -> str:
        return fields.get(name, b"").decode("utf-8", "backslashreplace")

    body, headers = disclose(fields.get(b"body", b""))
    return DeadLetter(
        lane,
        _id(id),
        text(b"reason"),
        text(b"kind"),
        text(b"detail"),
        int(fields.get(b"attempt", 1)),
        int(fields.get(b"received", 0)),
        text(b"queue"),
        body,
        bytes.fromhex(text(b"origin")) or digest(body),
        headers,
        text(b"handler"),
        handler_digests(bytes.fromhex(text(b"done"))),
    )


def _routes(letter: DeadLetter, router: Router) -> tuple[Route, ...]:
    if letter.kind != "notification" and letter.queue in queue_names(letter.lane, router.partitions):
        return (Route(letter.queue),)
    return router(letter.body)


def _records(letter: DeadLetter, router: Router) -> Iterator[Any]:
    """A letter's records as requeue.lua takes them, each with the letter's id and its queue."""
    # A letter that had been tried holds one event, also when its worker died of it (`poison`, of kind notification).
    force = letter.kind != "notification" or letter.attempt > 1
    body_digest = b"" if letter.body_digest == digest(letter.body) else letter.body_digest
    by_queue: dict[str, list[bytes]] = {}
    routes = _routes(letter, router)
    pack_into(by_queue, routes, letter.body, letter.received_ms, 1, force, body_digest, letter.headers, letter.done)
    for queue, (record,) in by_queue.items():
        yield from (str(letter.id), queue, record)


def _id(text: bytes) -> Id:
    ms, _, number = text.partition(b"-")
    return Id(int(ms), int(number))


def _now_ms(redis: Redis) -> int:
    seconds, micros = redis.time()
    return int(seconds * 1000 + micros // 1000)


def _before(now_ms: int, seconds: float) -> int:
    return int(max(0.0, now_ms - seconds * 1000))
