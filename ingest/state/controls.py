"""An operator's controls of a running pipeline: pause lanes, cap how fast they are dispatched. take.lua obeys them.

The receiver never looks here: it goes on accepting. The controls lie in a hash: `paused.LANE` → since when (ms since
the epoch); `limit.LANE` → events per second; the rest are the buckets of bucket.lua.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from redis import Redis

from ingest.store import keys


class Controls(NamedTuple):
    """What is in force.

    `paused`: lanes whose batches stay where they are, and since when (ms since the epoch). `limits`: lanes whose
    dispatch is capped, in events per second over all workers.
    """

    paused: dict[str, int]
    limits: dict[str, float]


def read(redis: Redis) -> Controls:
    """What is in force at this moment."""
    found: Any = redis.hgetall(keys.CONTROLS)
    return parse(found)


def parse(found: dict[bytes, bytes]) -> Controls:
    """The controls in the hash."""
    paused: dict[str, int] = {}
    limits: dict[str, float] = {}
    for field, value in found.items():
        what, _, lane = field.decode().partition(".")
        if what == "paused":
            paused[lane] = int(value)
        elif what == "limit":
            limits[lane] = float(value)
    return Controls(paused, limits)


def pause(redis: Redis, lanes: Iterable[str]) -> None:
    """Give out no more batches of these lanes; one in work goes back with its next settle, in half a second or so.

    A lane that is already paused keeps its `paused` time.
    """
    seconds, micros = redis.time()
    for lane in lanes:
        redis.hsetnx(keys.CONTROLS, f"paused.{lane}", str(seconds * 1000 + micros // 1000))


def resume(redis: Redis, lanes: Iterable[str]) -> None:
    """Let these lanes go on."""
    for lane in lanes:
        with redis.pipeline() as pipe:
            pipe.hdel(keys.CONTROLS, f"paused.{lane}")
            _ring(pipe, lane)
            pipe.execute()


def limit(redis: Redis, lane: str, rate: float | None) -> None:
    """Cap a lane at `rate` events per second over all workers; None takes the cap away."""
    with redis.pipeline() as pipe:
        if rate is None:
            pipe.hdel(keys.CONTROLS, f"limit.{lane}")
        else:
            pipe.hset(keys.CONTROLS, f"limit.{lane}", f"{rate:g}")
        _ring(pipe, lane)
        pipe.execute()


def _ring(pipe: Any, lane: str) -> None:
    """Wake one idle worker: there may be something to take now. A doorbell holds at most one token."""
    pipe.delete(keys.doorbell_key(lane))
    pipe.rpush(keys.doorbell_key(lane), 1)
