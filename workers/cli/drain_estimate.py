"""How far a backlog is drained, how fast it goes, and when it will be empty."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis

from ingest.state import backlog
from ingest.store import keys
from ingest.store.constants import FLOW_SECONDS
from workers.dispatch.ready import FAIR_SHARE

_WINDOW = 60.0
"""Seconds that rates are taken over: short enough to show workers that were added, long enough for uneven seconds."""


_STANDSTILL = 5.0
"""After this many seconds without progress, work stands still; before, it may come in bursts."""


class Look(NamedTuple):
    """What there is at one moment (`at`, seconds by Redis' clock), by lane.

    `left`: notifications that wait or are in work; `retrying`: events that wait for their next try, or behind one that
    does. `arrived`, `done` (notifications) and `busy` (milliseconds of workers) are sums that only rise. `suspended`:
    by `rq suspend`. `takes_turns`: events in work wait for a handler's rate, its concurrency or a 429.
    """

    at: float
    left: dict[str, int]
    arrived: dict[str, int]
    done: dict[str, int]
    busy: dict[str, int]
    paused: frozenset[str]
    workers: int
    retrying: dict[str, int]
    suspended: bool = False
    takes_turns: bool = False


class Left(NamedTuple):
    """A lane: notifications left and done since the first look, done per second, seconds until it is empty.

    `seconds` is None while it cannot be told, and when more arrives than is done.
    """

    left: int
    done: int
    rate: float
    seconds: float | None
    paused: bool


class _Step(NamedTuple):
    """A look, and the earliest time at which what it found may have been settled: that of the look before it."""

    look: Look
    after: float


class Watch:
    """Looks at a backlog again and again."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._flows: dict[int, dict[str, int]] = {}  # the last buckets, which still rise
        self._flowed: Counter[str] = Counter()  # since the first look, without those
        self._spent: dict[str, int] | None = None
        self._busy: Counter[str] = Counter()

    def look(self) -> Look:
        """What there is now. Call it at least every ten seconds, or what happened between two calls is not counted."""
        now = backlog.read(self._redis)
        seconds, micros = self._redis.time()
        bucket = seconds // FLOW_SECONDS
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.flow_key(bucket - 1))
            pipe.hgetall(keys.flow_key(bucket))
            pipe.hgetall(keys.SPENT)
            before, current, spent = map(_numbers, pipe.execute())
        if not self._flows:
            self._flowed.subtract(before)
            self._flowed.subtract(current)
        self._flows |= {bucket - 1: before, bucket: current}
        for old in [one for one in self._flows if one < bucket - 1]:
            self._flowed.update(self._flows.pop(old))
        self._add_busy(spent)
        return Look(
            seconds + micros / 1e6,
            {name: lane.waiting + lane.working for name, lane in now.lanes.items()},
            {name: self._sum(f"in.{name}") for name in now.lanes},
            {name: self._sum(f"out.{name}") for name in now.lanes},
            dict(self._busy),
            frozenset(name for name, lane in now.lanes.items() if lane.paused),
            now.workers,
            {name: lane.retrying + lane.behind for name, lane in now.lanes.items()},
            now.suspended,
            any(lane.turns for lane in now.lanes.values()),
        )

    def _sum(self, name: str) -> int:
        return self._flowed[name] + sum(flow.get(name, 0) for flow in self._flows.values())

    def _add_busy(self, spent: dict[str, int]) -> None:
        """`spent` is halved now and then: what was added in that moment is not known."""
        known = spent if self._spent is None else self._spent
        added = {lane: milliseconds - known.get(lane, 0) for lane, milliseconds in spent.items()}
        if min(added.values(), default=0) >= 0:
            self._busy.update(added)
        self._spent = spent


class Estimate:
    """Tells from a series of looks when each lane will be empty.

    The lanes of a backlog are not drained side by side, but the most urgent first, so the rate of a lane says little
    about its end. The estimate uses how long workers take for one of its notifications, how long they are busy in each
    second, and the order that take.lua keeps.
    """

    def __init__(self) -> None:
        self._first: Look | None = None
        self._steps: deque[_Step] = deque()  # looks that found something settled, which comes in bursts
        self._looked_at = 0.0
        self._cost: dict[str, float] = {}  # worker-milliseconds for a notification of a lane

    def add(self, look: Look) -> dict[str, Left]:
        """How far each lane is at this look."""
        first = self._first = self._first or look
        last = self._steps[-1].look if self._steps else first
        if look.done != last.done:
            self._steps.append(_Step(look, self._looked_at))
        elif self._steps and look.at - last.at > _STANDSTILL:
            self._steps.append(_Step(look, look.at))
        self._looked_at = look.at
        while self._steps and look.at - self._steps[0].look.at > _WINDOW:
            self._steps.popleft()
        then, now, seconds = self._stretch(first, look)
        found = self._ends(then, now, look, seconds)
        return {
            lane: Left(
                left,
                look.done[lane] - first.done[lane],
                (now.done[lane] - then.done[lane]) / seconds if seconds > 0 else 0.0,
                0.0 if left == 0 else found.get(lane),
                lane in look.paused,
            )
            for lane, left in look.left.items()
        }

    def _stretch(self, first: Look, look: Look) -> tuple[Look, Look, float]:
        """Two looks, and the seconds between the settles that they found.

        Where these are unknown (when the workers began, when between two looks something was settled), all workers are
        assumed to have been busy; they are not while events wait for a handler's turn.
        """
        if not self._steps or (len(self._steps) == 1 and look.takes_turns):
            return look, look, 0.0
        then, now = self._steps[0], self._steps[-1]
        alone = len(self._steps) == 1
        begin = first if alone else then.look
        seconds = sum(_less(now.look.busy, begin.busy).values()) / 1000 / max(1, now.look.workers)
        if not alone:
            seconds = min(max(seconds, now.after - then.look.at), now.look.at - then.after)
        return begin, now.look, seconds

    def _ends(self, then: Look, now: Look, look: Look, seconds: float) -> dict[str, float]:
        """Seconds until each lane is empty, if it can be told from what was done between two looks, in that time."""
        busy, done = _less(now.busy, then.busy), _less(now.done, then.done)
        self._cost |= {lane: busy[lane] / count for lane, count in done.items() if count and busy.get(lane)}
        if not self._cost or seconds <= 0:
            return {}
        unknown = sum(self._cost.values()) / len(self._cost)  # for a lane that no worker has begun with
        cost = {lane: self._cost.get(lane, unknown) for lane in now.done}
        arrived = sum((now.arrived[lane] - then.arrived[lane]) * cost[lane] for lane in cost)
        capacity = (sum(busy.values()) - arrived) / seconds
        if capacity <= 0:
            return {}
        work = {lane: look.left[lane] * cost[lane] for lane in look.left if lane not in look.paused}
        return {lane: end / capacity for lane, end in ends(work).items()}


def _less(now: dict[str, int], then: dict[str, int]) -> dict[str, int]:
    return {name: count - then.get(name, 0) for name, count in now.items()}


def together(each: Sequence[Left]) -> Left:
    """A lane in several Redis, whose workers do not help one another: it is empty when the last is."""
    seconds = [one.seconds for one in each]
    return Left(
        sum(one.left for one in each),
        sum(one.done for one in each),
        sum(one.rate for one in each),
        None if None in seconds else max(filter(None, seconds), default=0.0),
        all(one.paused for one in each),
    )


def ends(work: Mapping[str, float]) -> dict[str, float]:
    """When the work of each lane (the most urgent first) is done, if every lower lane gets its fair share."""
    left = {lane: amount for lane, amount in work.items() if amount > 0}
    found = dict.fromkeys(work, 0.0)
    now = 0.0
    while left:
        shares = dict.fromkeys(left, FAIR_SHARE)
        shares[next(iter(left))] = 1.0 - FAIR_SHARE * (len(left) - 1)
        step = min(amount / shares[lane] for lane, amount in left.items())
        now += step
        left = {lane: amount - step * shares[lane] for lane, amount in left.items()}
        for lane in [lane for lane, amount in left.items() if amount <= 1e-9 * now]:
            found[lane] = now
            del left[lane]
    return found


def _numbers(found: Any) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in found.items()}
