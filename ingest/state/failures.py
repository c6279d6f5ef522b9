"""How each handler failed last, as settle.lua notes it. A successful call notes nothing, so it costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from redis import Redis

from ingest.store import keys
from ingest.store.constants import SPELL_SECONDS
from ingest.store.queues import Member

MOST_CHARACTERS = 300
"""Of an error, which names an exception and its place, or what a destination answered, and nothing personal."""

_OLD_SECONDS = 86_400  # retries are an hour apart at most, if nobody asks for more
_SETS_KEPT = 200  # of handlers that events were owed to together


class Failure(NamedTuple):
    """The last failure of a handler, its time, and since when some of its calls fail (both in seconds since the epoch).

    Failures belong together that are no further apart than `SPELL_SECONDS`.
    """

    error: str
    at: float
    since: float


def packed(failure: Failure) -> str:
    """As settle.lua writes it."""
    return f"{failure.at:.0f} {failure.since:.0f} {failure.error[:MOST_CHARACTERS]}"


def parse(fields: dict[bytes, bytes]) -> dict[str, Failure]:
    """The hash, by handler."""
    found = {}
    for name, value in fields.items():
        at, since, error = value.decode().split(" ", 2)
        found[name.decode()] = Failure(error, float(at), float(since))
    return found


def together(each: Iterable[dict[str, Failure]]) -> dict[str, Failure]:
    """The last failure of each handler, and the begin of its spell, wherever that was."""
    total: dict[str, Failure] = {}
    for name, failure in (item for one in each for item in one.items()):
        earlier, last = sorted((failure, total.get(name, failure)), key=lambda one: one.at)
        is_one_spell = last.since - earlier.at <= SPELL_SECONDS
        total[name] = last._replace(since=min(earlier.since, last.since)) if is_one_spell else last
    return total


def forget(redis: Redis) -> None:
    """Remove failures that are long over, and names of handlers to which nothing is owed any more."""
    known: Any = redis.hgetall(keys.FAILURES)
    now = int(redis.time()[0])
    if old := [name for name, failure in parse(known).items() if now - failure.at > _OLD_SECONDS]:
        redis.hdel(keys.FAILURES, *old)
    digests: Any = redis.hkeys(keys.OWED)
    if len(digests) > _SETS_KEPT:
        ledger: Any = redis.zrange(keys.LEDGER, 0, -1)
        needed = {Member.parse(member).owed for member in ledger}
        if unused := [one for one in digests if one.decode() not in needed]:
            redis.hdel(keys.OWED, *unused)
