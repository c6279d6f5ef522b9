"""Which findings were posted to WA_ALERT_URL: those that have begun, until they have ended.

What all receivers see alike is kept in Redis, so that whichever of them looks goes on where another one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from redis import Redis

from ingest.state.health import Finding
from ingest.store import keys

STEP_SECONDS = 10.0
"""How often a receiver looks."""

HOLD_SECONDS = 30.0
"""For so long a finding must have been there, or gone, before that is news: workers that are restarted are none."""

AGAIN_SECONDS = 3600.0
"""So long after a post about dead letters it is news that there are more."""

_TURN_SECONDS = 30  # longer than a turn can take; a receiver that is killed in its turn holds the others up no longer

_OF_ONE_RECEIVER = frozenset({"redis", "refused", "spool", "spooled", "corrupt"})
"""What findings are `about` that each receiver sees by itself."""


@dataclass
class Entry:
    """A finding that is watched: since when, when it was last seen (s since the epoch), and whether it was posted. The
    last post was `posted_at`; since then there were `count` of what it counts, at least.
    """

    text: str
    since: float
    seen: float
    posted: bool = False
    posted_at: float = 0.0
    count: int = 0

    def is_news(self, finding: Finding, now: float) -> bool:
        """True when the finding is to be posted."""
        if self.posted:
            return finding.count > self.count and now - self.posted_at >= AGAIN_SECONDS
        return now - self.since >= HOLD_SECONDS


class News(NamedTuple):
    """What is to be posted: findings that have begun, or of which there are more, and entries of those that have ended,
    by what they are about.
    """

    begun: list[Finding]
    ended: dict[str, Entry]


@dataclass
class Book:
    """The findings that are watched, by what they are about, as they were at `time`."""

    time: float = 0.0
    entries: dict[str, Entry] = field(default_factory=dict)

    def look(self, found: Iterable[Finding], now: float) -> News:
        """Note what is there now. What it returns is news until it was `posted`."""
        self.time = now
        there = {finding.about: finding for finding in found}
        for about, finding in there.items():
            entry = self.entries.setdefault(about, Entry(finding.text, now, now))
            entry.text, entry.seen, entry.count = finding.text, now, min(entry.count, finding.count)
        self.entries = {about: one for about, one in self.entries.items() if one.posted or about in there}
        begun = [finding for about, finding in there.items() if self.entries[about].is_news(finding, now)]
        ended = {about: one for about, one in self.entries.items() if now - one.seen >= HOLD_SECONDS}
        return News(begun, ended)

    def posted(self, news: News) -> None:
        """This was posted."""
        for finding in news.begun:
            entry = self.entries[finding.about]
            entry.posted, entry.posted_at, entry.count = True, self.time, finding.count
        for about in news.ended:
            del self.entries[about]


def worth_posting(found: Iterable[Finding]) -> list[Finding]:
    """What somebody should look at: warnings and worse, and that there are dead letters."""
    return [finding for finding in found if finding.level != "info" or finding.about == "dead"]


def is_of_one_receiver(finding: Finding) -> bool:
    """Does each receiver see it by itself, because it is about its spool or its way to Redis?"""
    return finding.about in _OF_ONE_RECEIVER


def take_turn(redis: Redis) -> float | None:
    """Redis' time (s) when no other receiver is at it, else None. To be followed by `end_turn`."""
    if not redis.set(keys.ALERTS_TURN, 1, nx=True, ex=_TURN_SECONDS):
        return None
    seconds, micros = redis.time()
    return int(seconds) + int(micros) / 1_000_000


def end_turn(redis: Redis) -> None:
    redis.delete(keys.ALERTS_TURN)


def read(clients: Iterable[Redis]) -> Book:
    """The newest book of these Redis: one that was away has an old one."""
    return max((_read(client.get(keys.ALERTS)) for client in clients), key=lambda book: book.time, default=Book())


def write(clients: Iterable[Redis], book: Book) -> None:
    """Keep it in each of them."""
    for client in clients:
        client.set(keys.ALERTS, orjson.dumps(book))


def _read(value: Any) -> Book:
    if value is None:
        return Book()
    kept = orjson.loads(value)
    return Book(kept["time"], {about: Entry(**entry) for about, entry in kept["entries"].items()})
