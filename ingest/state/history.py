"""The backlog over the last hour: a sample every ten seconds, taken by whichever receiver is first.

It lies in Redis, so that every receiver shows the same, even of the time before it started.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any, NamedTuple

import orjson
from redis import Redis
from redis.exceptions import RedisError

from ingest.state import backlog
from ingest.store import keys

STEP_SECONDS = 10
KEPT = 360
"""Samples: an hour."""


class Point(NamedTuple):
    """One lane at one moment: notifications waiting, age of the oldest (s), notifications in and out per second,
    dead letters.
    """

    waiting: int
    oldest_seconds: float
    rate_in: float
    rate_out: float
    dead: int


class Sample(NamedTuple):
    """All lanes at one moment (`time`, seconds since the epoch, by Redis' clock) and the workers alive."""

    time: float
    workers: int
    lanes: dict[str, Point]


def take(redis: Redis) -> bool:
    """Take the sample of this step unless another receiver has; True when taken. Call it every `STEP_SECONDS`."""
    # Expires a little before the step ends, so that a call in time for the next step is not taken for this one.
    if not redis.set(keys.HISTORY_TURN, secrets.token_hex(4), nx=True, px=STEP_SECONDS * 900):
        return False
    now = backlog.read(redis)
    lanes = {
        name: (lane.waiting, lane.oldest_seconds, round(lane.rate_in, 2), round(lane.rate_out, 2), lane.dead)
        for name, lane in now.lanes.items()
    }
    redis.xadd(keys.HISTORY, {"workers": now.workers, "lanes": orjson.dumps(lanes)}, maxlen=KEPT, approximate=True)
    return True


def read(redis: Redis) -> list[Sample]:
    """The samples of the last hour, the oldest first."""
    entries: Any = redis.xrange(keys.HISTORY)
    return [
        Sample(
            int(id.partition(b"-")[0]) / 1000,
            int(fields[b"workers"]),
            {name: Point(*point) for name, point in orjson.loads(fields[b"lanes"]).items()},
        )
        for id, fields in entries[-KEPT:]
    ]


def read_all(clients: dict[str, Redis]) -> list[Sample]:
    """`read` for several Redis, by name, added up step by step. Those that do not answer are left out."""
    steps: dict[int, list[Sample]] = {}
    for redis in clients.values():
        with suppress(RedisError, OSError):
            for sample in read(redis):
                steps.setdefault(int(sample.time / STEP_SECONDS), []).append(sample)
    return [_together(steps[step]) for step in sorted(steps)]


def _together(samples: list[Sample]) -> Sample:
    lanes: dict[str, Point] = {}
    for name in samples[0].lanes:
        waiting, oldest, rate_in, rate_out, dead = zip(*(sample.lanes[name] for sample in samples), strict=True)
        lanes[name] = Point(sum(waiting), max(oldest), sum(rate_in), sum(rate_out), sum(dead))
    return Sample(samples[0].time, sum(sample.workers for sample in samples), lanes)
