"""What workers count beside `counts`: times of handlers, waits of events, dead letters by reason, reaped batches.

Workers have no listener. They add what they count to one hash when they settle (settle.lua) or reap (reap.lua), and the
receiver's `/metrics` shows it (`ingest/admin/collectors.py`). A field is `WHAT|LABEL|PART`:

| field | holds |
|---|---|
| `handler|NAME|BOUND` | calls of that handler that took up to BOUND seconds, and longer than the bound before it |
| `handler|NAME|sum`, `…|failed`, `…|seen` | microseconds of all; how many failed; epoch seconds of the last settle |
| `wait|LANE|BOUND`, `wait|LANE|sum` | the same of handled events, from arrival to end; the sum in milliseconds |
| `destination|NAME|ANSWER` | answers of a destination, by sort (`ANSWERS`) |
| `list|NAME|BOUND`, `list|NAME|sum` | lists that a bulk handler was called with, of up to BOUND events; events of all |
| `dead|LANE|REASON` | dead letters |
| `reaped|LANE|batches` | batches that were put back into their queue |
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping

from redis import Redis

from ingest.store import keys

HANDLER, WAIT, LIST, DEAD, REAPED, DESTINATION = "handler", "wait", "list", "dead", "reaped", "destination"

ERROR = "error"
"""How often each handler failed in which way. In the buckets of the moment alone: ways come and go with code."""

ANSWERS = ("2xx", "3xx", "4xx", "429", "5xx", "slow", "away")
"""Of destinations: by status, `slow` when none came in time, `away` when it was not reached."""

BOUNDS = {
    HANDLER: (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, math.inf),
    WAIT: (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, math.inf),
    LIST: (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, math.inf),
}
"""Seconds; of lists: events. Other bounds in Redis, written by another version, are not shown."""

LONGEST_CALL = BOUNDS[HANDLER][-2]
"""Of calls that take longer it is not known how long."""

PARTS = {HANDLER: 1_000_000, WAIT: 1000, LIST: 1}
"""How many units of a sum make a second, or an event. Sums of some 100 billion events still fit into Redis' 64 bits."""

_LONGEST = 86_400.0
"""Most seconds that one duration adds: after a clock was set, a duration can be anything."""

REASONS = ("unreadable", "unknown_form", "malformed", "rejected", "failed", "expired", "poison", "fault")

HANDLERS_KEPT = 200
"""Names of handlers that are kept: those called most recently."""

HANDLER_SECONDS = 7 * 86_400
"""A handler is forgotten this long after its last call: it was renamed or removed."""


def observed(what: str, label: str, seconds: list[float]) -> dict[str, int]:
    """The fields of these durations, each with what to add to it. Sorts `seconds`: faster than to place each."""
    prefix = f"{what}|{label}|"
    seconds.sort()
    plausible = bisect_right(seconds, _LONGEST)
    total = sum(seconds[:plausible]) + _LONGEST * (len(seconds) - plausible)
    fields = {f"{prefix}sum": max(0, round(total * PARTS[what]))}  # the clocks of two machines may differ
    before = 0
    for bound in BOUNDS[what]:
        upto = bisect_right(seconds, bound, before)
        if upto > before:
            fields[f"{prefix}{bound}"] = upto - before
        if upto == len(seconds):
            break
        before = upto
    return fields


def forget(redis: Redis) -> None:
    """Remove handlers that are no longer called."""
    found = read(redis)
    oldest = int(redis.time()[0]) - HANDLER_SECONDS
    handlers = sorted(found[HANDLER].items(), key=lambda one: -one[1].get("seen", 0))
    for place, (name, parts) in enumerate(handlers):
        if place >= HANDLERS_KEPT or parts.get("seen", 0) < oldest:
            redis.hdel(keys.COUNTERS, *(f"{HANDLER}|{name}|{part}" for part in parts))
            if sizes := found[LIST].get(name):
                redis.hdel(keys.COUNTERS, *(f"{LIST}|{name}|{part}" for part in sizes))
            if answers := found[DESTINATION].get(name):
                redis.hdel(keys.COUNTERS, *(f"{DESTINATION}|{name}|{part}" for part in answers))


def read(redis: Redis) -> dict[str, dict[str, dict[str, int]]]:
    """The hash, as what → label → part → value."""
    whats = (HANDLER, WAIT, LIST, DEAD, REAPED, DESTINATION)
    found: dict[str, dict[str, dict[str, int]]] = {what: {} for what in whats}
    fields: Mapping[bytes, bytes] = redis.hgetall(keys.COUNTERS)  # type: ignore[assignment]
    for field, value in fields.items():
        what, _, rest = field.decode().partition("|")
        label, _, part = rest.rpartition("|")
        found.setdefault(what, {}).setdefault(label, {})[part] = int(value)
    return found


def read_all(each: Iterable[Redis]) -> dict[str, dict[str, dict[str, int]]]:
    """`read` for several Redis, added up."""
    total: dict[str, dict[str, dict[str, int]]] = {}
    for what, labels in (item for redis in each for item in read(redis).items()):
        for label, parts in labels.items():
            so_far = total.setdefault(what, {}).setdefault(label, {})
            for part, value in parts.items():
                so_far[part] = so_far.get(part, 0) + value
        total.setdefault(what, {})
    return total
