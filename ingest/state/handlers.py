"""Each handler or destination lately: how fast, how slow, how often and why it failed, since when it is held up, and
what waits for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from ingest.state.counters import BOUNDS, ERROR, HANDLER, LIST
from ingest.state.failures import Failure

_EVENTS = "events"
_P99 = 0.99
_SOME = 5  # failed calls that are worth a look, if they are a tenth of a handler's
_SHARE = 10

Lately = dict[str, Counter[str]]
"""By name: calls by the bound of their time, those that `failed`, `events` of lists, and each error behind a `!`."""


class Owed(NamedTuple):
    """What waits for a handler in a lane: events for their next try; those in workers for its `turns`, since it may get
    no more now (`Hold`); those in workers that are `ready`, for a free slot or thread; those that are `due` to be tried
    again, for a worker; and the age of the oldest.

    What no worker has looked at yet does not count, nor what waits behind an earlier event of its contact: only workers
    know which handlers an event goes to, and these only when it is its turn.
    """

    handler: str
    lane: str
    retrying: int
    turns: int
    oldest_seconds: float
    due: int = 0
    ready: int = 0


@dataclass
class Handler:
    """Of the last minute: `rate`, the events per second that it got, and `failures`, those of its `calls` that ended
    with an exception. 99 of 100 calls took at most `p99_seconds`, one of `BOUNDS`; None without any, or above the
    longest of these. `held`: `failing` or `paused`, since `held_since` (ISO 8601). `gone`: no worker has it any more.

    `held_back` says what lets it get no more events now, in words (`ingest.state.holds`).

    `retrying`, `turns`, `ready`, `due` and `oldest_seconds`: see `Owed`. `errors`: how often it failed in which way,
    the most frequent first. `error` is how it failed last, at `error_at` (ISO 8601), if it did so in the last minute or
    events wait for their next try. Until then some of its calls had failed since `failing_since` (ISO 8601), failures
    being no further apart than `SPELL_SECONDS`.
    """

    name: str
    rate: float = 0.0
    p99_seconds: float | None = None
    failures: int = 0
    held: str | None = None
    held_since: str | None = None
    held_back: str | None = None
    calls: int = 0
    retrying: int = 0
    turns: int = 0
    ready: int = 0
    due: int = 0
    oldest_seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    error_at: str | None = None
    failing_since: str | None = None
    gone: bool = False

    @property
    def owed(self) -> int:
        """How many events wait for it, at least."""
        return self.retrying + self.turns + self.ready + self.due

    @property
    def often_fails(self) -> bool:
        """True when a tenth of its calls fail, and not only some, though it is not held up for it."""
        return self.held is None and self.failures >= _SOME and self.failures * _SHARE >= self.calls


def lately(flows: Iterable[Mapping[bytes, bytes]]) -> Lately:
    """What settle.lua has counted in these buckets."""
    found: Lately = {}
    for counted, value in (item for flow in flows for item in flow.items()):
        what, _, rest = counted.decode().partition("|")
        name, _, part = rest.rpartition("|")
        if what == HANDLER:
            found.setdefault(name, Counter())[part] += int(value)
        elif what == ERROR:
            found.setdefault(name, Counter())["!" + part] += int(value)
        elif what == LIST:
            found.setdefault(name, Counter())[_EVENTS] += int(value)
    return found


def calls_together(each: Iterable[Lately]) -> Lately:
    """What was counted in several Redis."""
    total: Lately = {}
    for name, parts in (item for one in each for item in one.items()):
        total.setdefault(name, Counter()).update(parts)
    return total


def owed_together(each: Iterable[Owed]) -> list[Owed]:
    """One for each handler and lane."""
    total: dict[tuple[str, str], Owed] = {}
    for one in each:
        so_far = total.get((one.handler, one.lane), Owed(one.handler, one.lane, 0, 0, 0.0))
        total[one.handler, one.lane] = so_far._replace(
            retrying=so_far.retrying + one.retrying,
            turns=so_far.turns + one.turns,
            ready=so_far.ready + one.ready,
            due=so_far.due + one.due,
            oldest_seconds=max(so_far.oldest_seconds, one.oldest_seconds),
        )
    return list(total.values())


def figures(
    counted: Lately,
    seconds: float,
    held: Mapping[str, tuple[str, str | None]],
    owed: Iterable[Owed] = (),
    failed: Mapping[str, Failure] | None = None,
    held_back: Mapping[str, str] | None = None,
    there: Collection[str] | None = None,
) -> list[Handler]:
    """What was counted in so many seconds, which are `held` up (by name, why and since when), what is `owed` to them,
    how they have `failed` and what holds them back. Those that are held up come first, then those that are owed
    something, then the busiest.

    Those that no worker has are left out, unless they are held up or owed something. `there`: those that workers have;
    None: that is not known.
    """
    found = {name: Handler(name) for name in {*counted, *held, *(held_back or {}), *(one.handler for one in owed)}}
    for name, one in found.items():
        parts = counted.get(name, Counter())
        one.calls = sum(parts[str(bound)] for bound in BOUNDS[HANDLER])
        one.rate = round((parts[_EVENTS] or one.calls) / seconds, 3)
        one.p99_seconds, one.failures = _p99(parts, one.calls), parts["failed"]
        one.errors = {part[1:]: count for part, count in parts.most_common() if part.startswith("!")}
        one.held, one.held_since = held.get(name, (None, None))
        one.held_back = (held_back or {}).get(name)
    for lane in owed:
        one = found[lane.handler]
        one.retrying, one.turns = one.retrying + lane.retrying, one.turns + lane.turns
        one.ready, one.due = one.ready + lane.ready, one.due + lane.due
        one.oldest_seconds = max(one.oldest_seconds, lane.oldest_seconds)
    for name, failure in (failed or {}).items():
        if name in found and (found[name].failures or found[name].retrying or found[name].due):
            found[name].error = failure.error
            found[name].error_at, found[name].failing_since = _iso(failure.at), _iso(failure.since)
    if there is not None:
        for one in found.values():
            one.gone = one.name not in there
    shown = [one for one in found.values() if not one.gone or one.held or one.owed]
    return sorted(shown, key=lambda one: (one.held is None, not one.owed, -one.rate, one.name))


def usual_seconds(parts: Counter[str]) -> float:
    """Half of the calls of a handler took at most this; 0 without any."""
    return _within(parts, sum(parts[str(bound)] for bound in BOUNDS[HANDLER]), 0.5) or 0.0


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _p99(parts: Counter[str], calls: int) -> float | None:
    """None without calls, and above the longest bound but infinity."""
    found = _within(parts, calls, _P99)
    return None if found == math.inf else found


def _within(parts: Counter[str], calls: int, share: float) -> float | None:
    """The bound within which this share of so many calls ended: that of its bucket. A share of the bucket would be a
    guess: calls of 1.01 s would seem to take 2.5 s. None without calls.
    """
    left = calls * share
    for bound in BOUNDS[HANDLER] if calls else ():
        left -= parts[str(bound)]
        if left <= 0:
            return bound
    return None
