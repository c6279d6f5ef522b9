"""Each handler or destination lately: how fast, how slow, how often it failed, and since when it is held up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ingest.state.counters import BOUNDS, HANDLER, LIST

_EVENTS = "events"
_P99 = 0.99

Lately = dict[str, Counter[str]]
"""By name: calls by the bound of their time, those that `failed`, and `events` of lists."""


@dataclass
class Handler:
    """Of the last minute: `rate`, the events per second that it got, `p99_seconds` of its `calls`, None without any,
    and `failures`, those that ended with an exception. `held`: `failing` or `paused`, since `held_since` (ISO 8601).
    """

    name: str
    rate: float = 0.0
    p99_seconds: float | None = None
    failures: int = 0
    held: str | None = None
    held_since: str | None = None
    calls: int = 0


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
    """Within its bucket by proportion, as Prometheus does."""
    left, lower = calls * _P99, 0.0
    for bound in BOUNDS[HANDLER] if calls else ():
        here = parts[str(bound)]
        if here >= left:
            return lower if bound == math.inf else round(lower + (bound - lower) * left / here, 6)
        left, lower = left - here, bound
    return None
