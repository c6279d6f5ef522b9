"""Each handler or destination lately: how fast, how slow, how often it failed, and since when it is held up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ingest.state.counters import BOUNDS, HANDLER, LIST

_EVENTS = "events"
_P99 = 0.99
_SOME = 5  # failed calls that are worth a look, if they are a tenth of a handler's
_SHARE = 10

Lately = dict[str, Counter[str]]
"""By name: calls by the bound of their time, those that `failed`, and `events` of lists."""


@dataclass
class Handler:
    """Of the last minute: `rate`, the events per second that it got, and `failures`, those of its `calls` that ended
    with an exception. 99 of 100 calls took at most `p99_seconds`, one of `BOUNDS`; None without any, or above the
    longest of these. `held`: `failing` or `paused`, since `held_since` (ISO 8601).
    """

    name: str
    rate: float = 0.0
    p99_seconds: float | None = None
    failures: int = 0
    held: str | None = None
    held_since: str | None = None
    calls: int = 0

    @property
    def often_fails(self) -> bool:
        """True when a tenth of its calls fail, and not only some, though it is not held up for it."""
        return self.held is None and self.failures >= _SOME and self.failures * _SHARE >= self.calls


def lately(flows: Iterable[Mapping[bytes, bytes]]) -> Lately:
    """What settle.lua has counted in these buckets."""
    found: Lately = {}
    for field, value in (item for flow in flows for item in flow.items()):
        what, _, rest = field.decode().partition("|")
        name, _, part = rest.rpartition("|")
        if what == HANDLER:
            found.setdefault(name, Counter())[part] += int(value)
        elif what == LIST:
            found.setdefault(name, Counter())[_EVENTS] += int(value)
    return found


def figures(counted: Lately, seconds: float, held: Mapping[str, tuple[str, str | None]]) -> list[Handler]:
    """What was counted in so many seconds, and which are `held` up: by name, why and since when. The busiest first."""
    found = []
    for name in {*counted, *held}:
        parts = counted.get(name, Counter())
        calls = sum(parts[str(bound)] for bound in BOUNDS[HANDLER])
        rate = (parts[_EVENTS] or calls) / seconds
        why, since = held.get(name, (None, None))
        found.append(Handler(name, round(rate, 3), _p99(parts, calls), parts["failed"], why, since, calls))
    return sorted(found, key=lambda one: (one.held is None, -one.rate, one.name))


def _p99(parts: Counter[str], calls: int) -> float | None:
    """The bound of its bucket. A share of the bucket would be a guess: calls of 1.01 s would seem to take 2.5 s."""
    left = calls * _P99
    for bound in BOUNDS[HANDLER] if calls else ():
        left -= parts[str(bound)]
        if left <= 0:
            return None if bound == math.inf else bound
    return None
