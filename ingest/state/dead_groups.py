"""Counts dead letters by lane, reason, kind and handler. Keeps nothing of their bodies or details.

To count a dead letter is to read all of it, so only the newest are counted, and only after a change.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError

from ingest.state import dead_letters
from ingest.store import keys
from ingest.store.queues import LANES

COUNTED = 5000
"""Most dead letters that are counted in a lane: the newest."""

COUNTED_BYTES = 32 << 20
"""Counting in a lane stops when the bodies so far exceed this."""

_REFUSED_SECONDS = 60.0  # until a Redis that refuses is asked again: each refusal is an entry in its ACL LOG


@dataclass(frozen=True)
class Group:
    """The dead letters of one lane, reason and kind, and of one `handler` (or of several, as `DeadLetter` names them).

    `first` and `last` are the ids of the oldest and the newest; `newest_ms` is when the newest was written (ms since
    the epoch).
    """

    lane: str
    reason: str
    kind: str
    count: int
    first: str
    last: str
    newest_ms: int
    handler: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What its letters have in common."""
        return self.lane, self.reason, self.kind, self.handler


@dataclass(frozen=True)
class Groups:
    """What is known of the dead letters: the groups, the largest first; `uncounted` older ones are in none.

    `refused`: the Redis user may not read dead letters, so there are no groups.
    """

    groups: tuple[Group, ...] = ()
    uncounted: int = 0
    refused: bool = False


class Counter:
    """Counts the dead letters of a Redis, again whenever they have changed."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._known = Groups()
        self._state: list[Any] = []
        self._not_before = 0.0

    def read(self) -> Groups:
        """What is known; counting takes at most a fifth of the time. Raises RedisError and OSError."""
        began = time.monotonic()
        if began < self._not_before:
            return self._known
        try:
            state = self._look()
            if state != self._state:
                self._known = self._count(state[: len(LANES)])
                self._state = state
            self._not_before = began + 5 * (time.monotonic() - began)
        except NoPermissionError:
            self._known, self._state = Groups(refused=True), []
            self._not_before = began + _REFUSED_SECONDS
        return self._known

    def _look(self) -> list[Any]:
        """What changes with every letter that comes or goes: per lane the number of letters, and the newest."""
        with self._redis.pipeline(transaction=False) as pipe:
            for lane in LANES:
                pipe.xlen(keys.dead_key(lane))
            for lane in LANES:
                pipe.xrevrange(keys.dead_key(lane), count=1)
            *lengths, first, second, third = pipe.execute()
        return [*lengths, *(newest and newest[0][0] for newest in (first, second, third))]

    def _count(self, lengths: list[int]) -> Groups:
        groups: list[Group] = []
        uncounted = 0
        for lane, length in zip(LANES, lengths, strict=True):
            found: dict[tuple[str, str, str], list[dead_letters.Id]] = {}
            counted = size = 0
            for letter in dead_letters.newest(self._redis, lane):
                found.setdefault((letter.reason, letter.kind, letter.handler), []).append(letter.id)
                counted += 1
                size += len(letter.body)
                if counted == COUNTED or size > COUNTED_BYTES:
                    break
            uncounted += max(0, length - counted)
            groups += (
                Group(lane, reason, kind, len(ids), str(ids[-1]), str(ids[0]), ids[0].ms, handler)
                for (reason, kind, handler), ids in found.items()
            )
        return Groups(tuple(sorted(groups, key=lambda group: -group.count)), uncounted)


def together(each: Iterable[Groups]) -> Groups:
    """The groups of several Redis, merged by what their letters have in common."""
    all_ = list(each)
    found: dict[tuple[str, ...], Group] = {}
    for group in (group for groups in all_ for group in groups.groups):
        key = group.key
        so_far = found.get(key, group)
        first, last = min(so_far, group, key=_first), max(so_far, group, key=lambda one: one.newest_ms)
        count = group.count + (so_far.count if key in found else 0)
        found[key] = replace(last, first=first.first, count=count)
    groups = tuple(sorted(found.values(), key=lambda group: -group.count))
    return Groups(groups, sum(one.uncounted for one in all_), any(one.refused for one in all_))


def _first(group: Group) -> tuple[int, ...]:
    return tuple(map(int, group.first.split("-")))
