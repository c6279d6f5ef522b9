"""An operator's controls of a running pipeline: pause lanes or handlers, cap how fast they get events.

take.lua obeys those of lanes, a worker's flow those of handlers. The receiver never looks here: it goes on accepting.
The controls lie in a hash: `paused.LANE` → since when (ms since the epoch); `limit.LANE` → events per second; the same
of `handler.NAME`; `try.handler.NAME` → when a try was asked for (ms since the epoch); the rest are the buckets of
bucket.lua.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from redis import Redis

from ingest.store import keys

_HANDLER = "handler."


class Controls(NamedTuple):
    """What is in force, of lanes or of handlers.

    `paused`: those that get nothing, and since when (ms since the epoch). `limits`: those that are capped, in events
    per second over all workers. `asked`: handlers that are to be tried now though they always failed, and since when.
    """

    paused: dict[str, int]
    limits: dict[str, float]
    asked: dict[str, int] = {}  # noqa: RUF012 - nobody writes to it


def read(redis: Redis) -> Controls:
    """What is in force at this moment."""
    found: Any = redis.hgetall(keys.CONTROLS)
    return parse(found)


def parse(found: Mapping[bytes, bytes]) -> Controls:
    """The controls of lanes in the hash."""
    paused, limits, _ = _parse(found)
    return Controls(
        {lane: since for lane, since in paused.items() if not lane.startswith(_HANDLER)},
        {lane: rate for lane, rate in limits.items() if not lane.startswith(_HANDLER)},
    )


def of_handlers(found: Mapping[bytes, bytes]) -> Controls:
    """The controls of handlers in the hash, by name."""
    paused, limits, asked = _parse(found)
    return Controls(
        {name.removeprefix(_HANDLER): since for name, since in paused.items() if name.startswith(_HANDLER)},
        {name.removeprefix(_HANDLER): rate for name, rate in limits.items() if name.startswith(_HANDLER)},
        {name.removeprefix(_HANDLER): since for name, since in asked.items()},
    )


def handler(name: str) -> str:
    """What stands for a handler or a destination where a lane may stand: in `pause`, `resume` and `limit`."""
    return f"{_HANDLER}{name}"


def _parse(found: Mapping[bytes, bytes]) -> Controls:
    paused: dict[str, int] = {}
    limits: dict[str, float] = {}
    asked: dict[str, int] = {}
    for field, value in found.items():
        what, _, of = field.decode().partition(".")
        if what == "paused":
            paused[of] = int(value)
        elif what == "limit":
            limits[of] = float(value)
        elif what == "try":
            asked[of] = int(value)
    return Controls(paused, limits, asked)


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


def try_now(redis: Redis, name: str) -> None:
    """Have a handler tried as soon as an event for it is there, though it has always failed."""
    seconds, micros = redis.time()
    redis.hset(keys.CONTROLS, f"try.{handler(name)}", str(seconds * 1000 + micros // 1000))


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
    """Wake one idle worker: there may be something to take now. A doorbell holds at most one token.

    Handlers have none: each worker looks by itself.
    """
    if lane.startswith(_HANDLER):
        return
    pipe.delete(keys.doorbell_key(lane))
    pipe.rpush(keys.doorbell_key(lane), 1)
