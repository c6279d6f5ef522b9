"""What workers have in hand, as they tell in Redis with each heartbeat: how long handlers have been at one event, since
when the oldest event waits there, and how many wait until a handler may be called.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ingest.state import holds
from ingest.state.holds import Hold

ALIVE_MS = 10_000
"""A worker without a sign of life for this long counts as dead."""

TOLD_SECONDS = 2.0
"""A call, or a wait, that takes less is not told."""

_WAITS, _TURNS = "|waits", "|turns"  # behind the worker's name; versions that know no such field pass over it

LONG_SECONDS = 60.0
"""A call that takes longer is worth a look."""


class Begun(NamedTuple):
    """The call that has taken longest in one lane of a worker: its handler, and when it began (epoch seconds)."""

    handler: str
    since: float


class Turn(NamedTuple):
    """Events of a lane that wait in a worker until a handler may be called: a `Hold` lets it get no more now. When the
    oldest arrived (ms since the epoch), and the oldest of those that were never tried; None: all were.
    """

    lane: str
    handler: str
    events: int
    arrived_ms: float
    first_try_ms: float | None


@dataclass
class Call:
    """A call of a handler that is not over yet, and what it has taken."""

    worker: str
    lane: str
    handler: str
    seconds: float

    @property
    def is_long(self) -> bool:
        """True when it is worth a look."""
        return self.seconds > LONG_SECONDS

    def __str__(self) -> str:
        return f"handler {self.handler} has been at one event for {self.seconds:.0f} s"


def told(
    worker: str,
    calls: Mapping[str, Begun],
    waits: Mapping[str, float],
    turns: Iterable[Turn],
    held_back: Iterable[Hold] = (),
) -> dict[str, bytes]:
    """The fields of a worker in the hash, as far as something is worth telling. By lane, `calls` are those that have
    taken longest; `waits` says since when the oldest event that has not begun waits (ms since the epoch); `turns` are
    what waits until a handler may be called, `held_back` is what each waits for.
    """
    before = time.time() - TOLD_SECONDS
    long = {lane: tuple(begun) for lane, begun in calls.items() if begun.since <= before}
    late = {lane: since for lane, since in waits.items() if since <= before * 1000}
    behind = [turn for turn in turns if turn.arrived_ms <= before * 1000]
    held = holds.told(held_back, {turn.handler for turn in behind})
    fields = ((worker, long), (worker + _WAITS, late), (worker + _TURNS, behind), (worker + holds.SUFFIX, held))
    return {field: orjson.dumps(it, default=tuple) for field, it in fields if it}


def of_worker(field: bytes) -> bytes:
    """The worker that tells this field."""
    for suffix in (_WAITS, _TURNS, holds.SUFFIX):
        field = field.removesuffix(suffix.encode())
    return field


def parse(fields: dict[bytes, bytes], alive: Collection[bytes], now: float) -> list[Call]:
    """The hash, of the workers that are `alive`, the longest call first. `now` is by Redis' clock, in epoch seconds."""
    found = []
    for worker, value in fields.items():
        if worker in alive:
            known: Any = orjson.loads(value)
            found += [Call(worker.decode(), lane, name, max(0.0, now - since)) for lane, (name, since) in known.items()]
    return sorted(found, key=lambda call: -call.seconds)


def parse_waits(fields: dict[bytes, bytes], alive: Collection[bytes]) -> dict[str, float]:
    """By lane, since when the oldest event waits in a worker that is `alive` (ms since the epoch)."""
    found: dict[str, float] = {}
    for field, value in fields.items():
        if field.endswith(_WAITS.encode()) and of_worker(field) in alive:
            known: dict[str, float] = orjson.loads(value)
            found |= {lane: min(since, found.get(lane, since)) for lane, since in known.items()}
    return found


def parse_turns(fields: dict[bytes, bytes], alive: Collection[bytes]) -> list[Turn]:
    """What waits for its turn in workers that are `alive`."""
    found: list[Turn] = []
    for field, value in fields.items():
        if field.endswith(_TURNS.encode()) and of_worker(field) in alive:
            found += [Turn(*turn) for turn in orjson.loads(value)]
    return found
