"""Was everything that a simulated sender posted handled, by what the pipeline counts itself?

For workers that run with a user's handlers, which write nothing down for the sender. What others post meanwhile counts,
too, so it can hide what is missing. Order and repeats cannot be seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from ingest.state import backlog

ENDED = ("handled", "unhandled", "discarded", "superseded")
"""How an update ends well; `unhandled`: no handler wants it."""

_KINDS = ("message", "status")
_POLL_SECONDS = 0.25


class Account(NamedTuple):
    """What became of the updates of a run: how many ended, and how, or became dead letters; and what the pipeline owes
    more than before, in notifications that wait or are in work, and in events that wait for their next try.
    """

    expected: int = 0
    handled: int = 0
    unhandled: int = 0
    discarded: int = 0
    superseded: int = 0
    dead: int = 0
    waiting: int = 0
    retrying: int = 0

    @property
    def ended(self) -> int:
        return sum(getattr(self, outcome) for outcome in ENDED)

    @property
    def missing(self) -> int:
        """Of what was acknowledged, what has neither ended nor become a dead letter."""
        return max(0, self.expected - self.ended - self.dead)

    @property
    def is_over(self) -> bool:
        """True when nothing more can come."""
        return not (self.missing or self.waiting or self.retrying)

    @property
    def good(self) -> bool:
        return self.is_over and not self.dead


def begin(each: list[Redis]) -> Account:
    """What had ended before the run. Raises RedisError, OSError."""
    return _read(each, 0, Account())


def look(each: list[Redis], expected: int, before: Account, patience: float) -> Iterator[Account]:
    """What has ended since then, again and again, until all has or nothing changed for `patience` seconds.

    Raises RedisError, OSError when Redis is away for that long.
    """
    last: Account | None = None
    last_news = time.monotonic()
    while True:
        try:
            now = _read(each, expected, before)
        except (RedisError, OSError):
            if time.monotonic() - last_news > patience:
                raise
        else:
            if now != last:
                last, last_news = now, time.monotonic()
            yield now
            if (now.is_over and now.ended) or time.monotonic() - last_news > patience:
                return
        time.sleep(_POLL_SECONDS)


def _read(each: list[Redis], expected: int, before: Account) -> Account:
    found = backlog.read_all({str(number): redis for number, redis in enumerate(each)})
    if found.away:
        raise RedisError("one of several Redis does not answer")
    lanes = found.lanes.values()

    def since(outcome: str) -> int:
        return sum(found.counts.get(f"{outcome}.{kind}", 0) for kind in _KINDS) - int(getattr(before, outcome))

    return Account(
        expected,
        **{outcome: since(outcome) for outcome in (*ENDED, "dead")},
        waiting=max(0, sum(lane.waiting + lane.working for lane in lanes) - before.waiting),
        retrying=max(0, sum(lane.retrying + lane.behind for lane in lanes) - before.retrying),
    )
