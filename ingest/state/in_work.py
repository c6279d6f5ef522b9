"""How long handlers have been at one event, as workers tell in Redis with each heartbeat."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

TOLD_SECONDS = 2.0
"""A call that takes less is not told."""

LONG_SECONDS = 60.0
"""A call that takes longer is worth a look."""


class Begun(NamedTuple):
    """The call that has taken longest in one lane of a worker: its handler, and when it began (epoch seconds)."""

    handler: str
    since: float


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


def told(by_lane: Mapping[str, Begun]) -> bytes:
    """The field of a worker in the hash; empty when nothing is worth telling."""
    now = time.time()
    worth = {lane: tuple(begun) for lane, begun in by_lane.items() if now - begun.since >= TOLD_SECONDS}
    return orjson.dumps(worth) if worth else b""


def parse(fields: dict[bytes, bytes], alive: Collection[bytes], now: float) -> list[Call]:
    """The hash, of the workers that are `alive`, the longest call first. `now` is by Redis' clock, in epoch seconds."""
    found = []
    for worker, value in fields.items():
        if worker in alive:
            known: Any = orjson.loads(value)
            found += [Call(worker.decode(), lane, name, max(0.0, now - since)) for lane, (name, since) in known.items()]
    return sorted(found, key=lambda call: -call.seconds)
