"""Was everything that a simulated sender posted handled, once and in order?

Workers that run with WA_HANDLERS=workers.simulator.verifying:handlers write down each simulated event that they handle,
in a list of its run that expires after an hour. They ignore all other events. The sender reads the list.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from struct import Struct
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from ingest.settings import load, redis_url
from ingest.state import counters
from ingest.store import connection, keys
from workers.events import Message, Status
from workers.handlers import Handlers
from workers.simulator import bodies
from workers.simulator.bodies import MESSAGES, STAGES, STATUSES, Known, Notification

EXPIRE_SECONDS = 3600

MOST = 10_000_000
"""Updates that a verified run may have: about 100 MB in Redis until they are read."""

_RECORD = Struct(">BIQ")  # 0 or 1 + stage, contact, sequence
_READ_AT_ONCE = 10_000
_POLL_SECONDS = 0.1
_QUIET_SECONDS = 1.0  # once all were handled: wait this long for any that are handled a second time

handlers = Handlers()

# Threads that ask at the same time would have a client each. The one that is forgotten closes its connection, in which
# the other thread waits for an answer: it would write once more.
_first = threading.Lock()


@handlers.message()
def on_message(message: Message) -> None:
    if known := bodies.recognise(message.id):
        _write_down(known, 0)


@handlers.status(*STAGES)
def on_status(status: Status) -> None:
    if known := bodies.recognise(status.id):
        _write_down(known, 1 + STAGES.index(status.status or ""))


def _write_down(known: Known, what: int) -> None:
    key = keys.simulated_key(known.run)
    pipe = _redis().pipeline(transaction=False)
    pipe.rpush(key, _RECORD.pack(what, known.contact, known.sequence))
    pipe.expire(key, EXPIRE_SECONDS)
    pipe.execute()


def _redis() -> Redis:
    with _first:
        return _client()


@cache
def _client() -> Redis:
    return connection.for_worker(redis_url(load()))


class Findings(NamedTuple):
    """What the check found, in updates."""

    expected: int
    """Acknowledged messages and statuses; errors have no id and are not verified."""
    handled: int
    missing: int
    repeated: int
    """Handled more than once; this counts updates that were given up, too."""
    out_of_order: int
    """Messages handled after a later one of their contact."""
    set_back: int = 0
    """Batches of dead workers that were put back meanwhile, and calls of handlers that failed: what is handled at least
    once may be repeated then."""

    @property
    def may_repeat(self) -> bool:
        return self.set_back > 0

    @property
    def good(self) -> bool:
        return not (self.missing or self.out_of_order or (self.repeated and not self.may_repeat))


class Check:
    """Remembers what was posted, and compares it with what was handled: two bytes for each update.

    A message must be handled before another one of its contact if it was acknowledged before the other was first
    posted. While both were under way, or one waited for a retry, any order is right, as it is when a message was given
    up: the receiver may have it or not. Statuses have no order.
    """

    def __init__(self, content: bodies.Content) -> None:
        self._content = content
        self._acknowledged = {MESSAGES: bytearray(), STATUSES: bytearray()}
        self._times = {MESSAGES: bytearray(), STATUSES: bytearray()}
        self._expected = self._handled = self._repeated = self._out_of_order = 0
        self._under_way: defaultdict[int, set[int]] = defaultdict(set)
        self._loose: set[int] = set()
        self._last: dict[int, int] = {}

    def begun(self, notification: Notification) -> None:
        if notification.kind == MESSAGES:
            numbers = _numbers(notification)
            for n in numbers:
                self._loose.update(self._under_way.pop(n % self._content.contacts, ()))
            for n in numbers:
                self._under_way[n % self._content.contacts].add(n)

    def acknowledged(self, notification: Notification) -> None:
        if notification.kind not in self._acknowledged:
            return
        marks = self._acknowledged[notification.kind]
        for n in _numbers(notification):
            _room_for(marks, n)
            marks[n] = 1
            self._expected += 1
            if notification.kind == MESSAGES:
                contact = n % self._content.contacts
                self._under_way[contact].discard(n)
                if not self._under_way[contact]:
                    del self._under_way[contact]

    def handled(self, records: Iterable[bytes]) -> None:
        """Read what a worker wrote down, in its order; call it once the load is over."""
        for record in records:
            what, contact, sequence = _RECORD.unpack(record)
            n = sequence * self._content.contacts + contact
            if what:
                self._count(STATUSES, bodies.status_of(n, what - 1))
            elif self._count(MESSAGES, n) == 1:
                self._out_of_order += n < self._last.get(contact, n) and n not in self._loose
                self._last[contact] = max(n, self._last.get(contact, n))

    def _count(self, kind: str, n: int) -> int:
        times = self._times[kind]
        if n >= MOST:
            return 0  # not from this run
        _room_for(times, n)
        times[n] = min(times[n] + 1, 255)
        self._handled += times[n] == 1 and _marked(self._acknowledged[kind], n)
        self._repeated += times[n] == 2
        return times[n]

    def findings(self) -> Findings:
        missing = self._expected - self._handled
        return Findings(self._expected, self._handled, missing, self._repeated, self._out_of_order)


def _numbers(notification: Notification) -> range:
    return range(notification.first, notification.first + notification.updates)


def _room_for(marks: bytearray, n: int) -> None:
    if n >= len(marks):
        marks.extend(bytes(max(n + 1 - len(marks), 4096)))


def _marked(marks: bytearray, n: int) -> bool:
    return n < len(marks) and marks[n] != 0


def set_back(each: list[Redis]) -> int:
    """How many batches of dead workers were ever put back, and calls of handlers failed. Raises RedisError."""
    total = 0
    for counted in map(counters.read, each):
        total += sum(parts.get("batches", 0) for parts in counted[counters.REAPED].values())
        total += sum(parts.get("failed", 0) for parts in counted[counters.HANDLER].values())
    return total


def is_written_down(each: list[Redis], run: str) -> bool:
    """True when workers have written down something of this run. Raises RedisError."""
    return any(redis.lrange(keys.simulated_key(run), 0, 0) for redis in each)


def look(each: list[Redis], run: str, check: Check, patience: float) -> Iterator[Findings]:
    """Read what the workers wrote down, in each Redis, until all is there or nothing came for `patience` seconds.

    Yields the findings so far, again and again. Raises RedisError when Redis is away for that long.
    """
    key = keys.simulated_key(run)
    read = dict.fromkeys(each, 0)
    last_news = time.monotonic()
    while True:
        found = 0
        try:
            for redis in each:  # the list stays until all of it was read: an answer may be lost
                records: Any = redis.lrange(key, read[redis], read[redis] + _READ_AT_ONCE - 1)
                check.handled(records)
                read[redis] += len(records)
                found += len(records)
        except (RedisError, OSError):
            if time.monotonic() - last_news > patience:
                raise
        now = time.monotonic()
        if found:
            last_news = now
            continue
        findings = check.findings()
        yield findings
        if now - last_news > (patience if findings.missing else min(patience, _QUIET_SECONDS)):
            for redis in each:
                redis.unlink(key)
            return
        time.sleep(_POLL_SECONDS)
