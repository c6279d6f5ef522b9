"""What is still to be done, read from Redis: for `wa-ingest status` and the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from ingest.state import controls
from ingest.store import keys
from ingest.store.constants import FLOW_SECONDS
from ingest.store.queues import LANES, Member, lane_of

ALIVE_MS = 10_000
"""A worker without a sign of life for this long is dead."""

EXPIRING_SECONDS = 2 * 86400.0
"""This long before a dead letter is removed, `wa-ingest status` and `check` warn."""

EXPIRING_COUNTED = 100
"""More of them are not counted in a lane: Redis can only count them by reading them."""

_RATE_BUCKETS = 6  # whole buckets that a rate is taken over: one minute


@dataclass
class Lane:
    """One lane. Counts are notifications (`retrying`: events), unless they say batches.

    `paused_since` is an ISO 8601 time; `limit` the most events per second that handlers get, or None.
    """

    waiting: int = 0
    batches: int = 0
    oldest_seconds: float = 0.0
    working: int = 0
    retrying: int = 0
    dead: int = 0
    dead_expiring: int = 0
    rate_in: float = 0.0
    rate_out: float = 0.0
    paused: bool = False
    paused_since: str | None = None
    limit: float | None = None

    @property
    def seconds_to_empty(self) -> float | None:
        """At the last minute's rates; None when paused or when the backlog does not shrink, 0 when there is none."""
        if self.paused:
            return None
        if not self.waiting:
            return 0.0
        shrinking = self.rate_out - self.rate_in
        return self.waiting / shrinking if shrinking > 0 else None


@dataclass
class Backlog:
    lanes: dict[str, Lane]
    workers: int
    suspended: bool
    counts: dict[str, int]
    away: tuple[str, ...] = ()
    """Of several Redis those that do not answer; the figures are of the others."""

    def as_json(self) -> dict[str, Any]:
        """The shape of `wa-ingest status --json`."""
        lanes = {n: asdict(lane) | {"seconds_to_empty": lane.seconds_to_empty} for n, lane in self.lanes.items()}
        return asdict(self) | {"lanes": lanes}


def expiring(redis: Redis, dead_age: float) -> dict[str, int]:
    """Per lane the dead letters that will be removed within `EXPIRING_SECONDS`, up to `EXPIRING_COUNTED`.

    `dead_age` is how long they are kept, in seconds (WA_DEAD_AGE).
    """
    seconds, _ = redis.time()
    last = max(0, int((seconds - dead_age + EXPIRING_SECONDS) * 1000))
    with redis.pipeline(transaction=False) as pipe:
        for lane in LANES:
            pipe.xrange(keys.dead_key(lane), max=last, count=EXPIRING_COUNTED)
        return {lane: len(letters) for lane, letters in zip(LANES, pipe.execute(), strict=True)}


def expiring_text(counts: dict[str, int]) -> str:
    """How many dead letters will soon be removed, in words: 7, or 100 or more."""
    more = " or more" if max(counts.values()) >= EXPIRING_COUNTED else ""
    return f"{sum(counts.values()):,}{more}"


def read_all(clients: dict[str, Redis], dead_age: float | None = None) -> Backlog:
    """The same of several Redis, by their names, together. Raises what went wrong when none answers."""
    found: list[Backlog] = []
    away: dict[str, RedisError | OSError] = {}
    for name, redis in clients.items():
        try:
            found.append(read(redis, dead_age))
        except (RedisError, OSError) as error:
            away[name] = error
    if not found:
        raise next(iter(away.values()))
    lanes = {name: _together([one.lanes[name] for one in found]) for name in LANES}
    counts = sum((Counter(one.counts) for one in found), Counter[str]())
    return Backlog(
        lanes, sum(one.workers for one in found), any(one.suspended for one in found), dict(counts), tuple(away)
    )


def _together(lanes: list[Lane]) -> Lane:
    total = Lane()
    for field in fields(Lane):
        values = [getattr(lane, field.name) for lane in lanes]
        setattr(total, field.name, _TOGETHER.get(field.name, sum)(values))
    return total


_TOGETHER: dict[str, Callable[[list[Any]], Any]] = {
    "oldest_seconds": max,
    "paused": any,
    "paused_since": lambda since: min(filter(None, since), default=None),
    "limit": lambda limits: None if None in limits else sum(limits),  # each has its share
}
"""How figures of a lane in several Redis become one, where that is not the sum."""


def span(seconds: float) -> str:
    """A time span in six characters: 59s, 12m30s, 3h05m, 6d23h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def read(redis: Redis, dead_age: float | None = None) -> Backlog:
    """The state at this moment. Cost: one command per unfinished batch, in pipelines of a thousand.

    `dead_age`: see `expiring`; without it, `dead_expiring` is 0.
    """
    seconds, micros = redis.time()
    now_ms = seconds * 1000 + micros // 1000
    bucket = seconds // FLOW_SECONDS
    with redis.pipeline(transaction=False) as pipe:
        pipe.zrange(keys.LEDGER, 0, -1, withscores=True)
        pipe.hkeys(keys.TAKEN)
        pipe.zcount(keys.ALIVE, now_ms - ALIVE_MS, "+inf")
        pipe.exists(keys.RQ_SUSPENDED)
        pipe.hgetall(keys.COUNTS)
        pipe.hgetall(keys.CONTROLS)
        for lane in LANES:
            pipe.xlen(keys.dead_key(lane))
        for back in range(1, _RATE_BUCKETS + 1):
            pipe.hgetall(keys.flow_key(bucket - back))
        ledger, taken, workers, suspended, counts, said, *rest = pipe.execute()

    lanes = {name: Lane(dead=dead) for name, dead in zip(LANES, rest, strict=False)}
    if dead_age is not None:
        for name, count in expiring(redis, dead_age).items():
            lanes[name].dead_expiring = count
    said = controls.parse(said)
    for name, figures in lanes.items():
        figures.limit = said.limits.get(name)
        if name in said.paused:
            figures.paused, figures.paused_since = True, iso(said.paused[name])
    owed = {Member.parse(member): score for member, score in ledger}
    in_work = {Member.parse(member) for member in taken}
    scheduled = _scheduled(redis, {member.queue for member in owed})
    for member, length in _lengths(redis, list(owed)).items():
        figures = lanes[lane_of(member.queue)]
        if member in in_work:
            figures.working += length
        elif member in scheduled:
            figures.retrying += length
        else:
            figures.waiting += length
            figures.batches += 1
            figures.oldest_seconds = max(figures.oldest_seconds, round((now_ms - owed[member]) / 1000, 3))
    for flow in rest[len(LANES) :]:
        for field, count in flow.items():
            way, _, name = field.decode().partition(".")
            rate = int(count) / (_RATE_BUCKETS * FLOW_SECONDS)
            if way == "in":
                lanes[name].rate_in += rate
            else:
                lanes[name].rate_out += rate
    return Backlog(lanes, workers, bool(suspended), {k.decode(): int(v) for k, v in counts.items()})


def iso(ms: int) -> str:
    """A time (ms since the epoch) as ISO 8601, in UTC and to the millisecond."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def _scheduled(redis: Redis, queues: set[str]) -> set[Member]:
    """The members of the ledger that wait for their time, from RQ's registries of scheduled jobs."""
    with redis.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.zrange(keys.scheduled_key(queue), 0, -1)
        return {Member(queue, job.decode()) for queue, jobs in zip(queues, pipe.execute(), strict=True) for job in jobs}


def _lengths(redis: Redis, members: list[Member]) -> dict[Member, int]:
    lengths: dict[Member, int] = {}
    for start in range(0, len(members), 1000):
        some = members[start : start + 1000]
        with redis.pipeline(transaction=False) as pipe:
            for member in some:
                pipe.llen(keys.batch_key(member.batch))
            lengths |= zip(some, pipe.execute(), strict=True)
    return lengths
