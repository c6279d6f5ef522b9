"""What workers have in hand, as they tell in Redis with each heartbeat: the calls of handlers that take long, since
when the oldest event waits there, where all of it stands, and which handlers they have.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from redis import Redis

from ingest.state import holds
from ingest.state.holds import Hold
from ingest.store import keys

ALIVE_MS = 10_000
"""A worker without a sign of life for this long counts as dead."""

TOLD_SECONDS = 2.0
"""A call, or a wait, that takes less is not told."""

# Behind the worker's name; versions that do not know such a field pass over it.
_CALLS, _WAITS, _TURNS, _READY, _LANES, _HANDLERS = "|calls", "|waits", "|turns", "|ready", "|lanes", "|handlers"
_LIMIT = "|limit"

UNLOADABLE = "|unfit"
"""The field with why the last worker that was started, or was to be, could not begin. It is of no worker, and the next
one that begins removes it.
"""

CANNOT_LOAD, STARTUP_FAILS = "handlers-cannot-be-loaded", "a-startup-function-fails"
"""Why a worker cannot begin: both are topics of docs/troubleshooting.md."""


class Begun(NamedTuple):
    """The calls of a handler that are under way in a lane of a worker: how many, and when the first of them began
    (epoch seconds). `full` says what they, with those of others, leave nothing of: `no thread is free`; empty: nothing.
    """

    lane: str
    handler: str
    calls: int
    since: float
    full: str = ""


class Turn(NamedTuple):
    """Events of a lane that wait in a worker for a handler: for a free slot or thread, or, when a `Hold` lets the
    handler get no more now, for its turn. When the oldest arrived (ms since the epoch), and the oldest of those that
    were never tried; None: all were.
    """

    lane: str
    handler: str
    events: int
    arrived_ms: float
    first_try_ms: float | None


class Standing(NamedTuple):
    """Where the notifications of a lane stand that a worker has in work: so many are `running`, which means that a
    handler is called for them; they are `ready` and wait for a free slot or thread; they wait for their `turns`, until
    a handler may be called; `in_line`, behind an earlier one of their contact; or for company in a list (`gathering`).
    """

    running: int = 0
    ready: int = 0
    turns: int = 0
    in_line: int = 0
    gathering: int = 0


@dataclass
class Inside:
    """What a worker has in hand. `waits`: by lane, since when the oldest event waits that has not begun (ms since the
    epoch); `turns`, and what is `ready`, by handler; `held_back` is what those wait for that have their turn to come.
    """

    calls: list[Begun] = field(default_factory=list)
    waits: Mapping[str, float] = field(default_factory=dict)
    turns: Iterable[Turn] = ()
    ready: Iterable[Turn] = ()
    lanes: Mapping[str, Standing] = field(default_factory=dict)
    held_back: Iterable[Hold] = ()


@dataclass
class Call:
    """Calls of a handler in a lane of a worker that are not over yet, and for how long the first of them has gone on.
    `limit` is the worker's WA_HANDLER_TIMEOUT (`30s`); earlier versions do not tell it. The other fields: see `Begun`.
    """

    worker: str
    lane: str
    handler: str
    seconds: float
    calls: int = 1
    full: str = ""
    limit: str = ""


class Unloadable(NamedTuple):
    """Why a worker could not begin with the handlers as they are now, and what to do about it. Neither quotes what an
    exception of the user's says. Since a time in epoch seconds none could for this `topic`.
    """

    text: str
    remedy: str
    topic: str = CANNOT_LOAD
    since: float = 0.0


def told(worker: str, inside: Inside) -> dict[str, bytes]:
    """The fields of a worker in the hash, as far as something is worth telling: where all stands only for lanes in
    which something takes long.
    """
    before = time.time() - TOLD_SECONDS
    long = [begun for begun in inside.calls if begun.since <= before]
    late = {lane: since for lane, since in inside.waits.items() if since <= before * 1000}
    behind, ready = ([turn for turn in of if turn.arrived_ms <= before * 1000] for of in (inside.turns, inside.ready))
    held = holds.told(inside.held_back, {turn.handler for turn in behind})
    slow = {*late, *(begun.lane for begun in long), *(turn.lane for turn in (*behind, *ready))}
    lanes = {lane: standing for lane, standing in inside.lanes.items() if lane in slow}
    fields = {_CALLS: long, _WAITS: late, _TURNS: behind, _READY: ready, _LANES: lanes, holds.SUFFIX: held}
    return {worker + suffix: orjson.dumps(it, default=tuple) for suffix, it in fields.items() if it}


def told_handlers(worker: str, handlers: Collection[str], limit: str) -> dict[str, bytes]:
    """The fields with the names of the handlers that a worker has, and with how long a call of one may take."""
    return {worker + _HANDLERS: orjson.dumps(sorted(handlers)), worker + _LIMIT: orjson.dumps(limit)}


def of_worker(field: bytes) -> bytes:
    """The worker that tells this field."""
    return field.partition(b"|")[0]


def _each(fields: dict[bytes, bytes], alive: Collection[bytes], suffix: str) -> dict[str, Any]:
    """What workers that are `alive` tell in the fields with this suffix, by worker."""
    end = suffix.encode()
    found = {of_worker(name): value for name, value in fields.items() if name.endswith(end)}
    return {worker.decode(): orjson.loads(value) for worker, value in found.items() if worker in alive}


def parse(fields: dict[bytes, bytes], alive: Collection[bytes], now: float) -> list[Call]:
    """The hash, of the workers that are `alive`, the longest call first. `now` is by Redis' clock, in epoch seconds."""
    found, limits = [], _each(fields, alive, _LIMIT)
    for worker, each in _each(fields, alive, _CALLS).items():
        for one in (Begun(*begun) for begun in each):
            seconds = max(0.0, now - one.since)
            found.append(Call(worker, one.lane, one.handler, seconds, one.calls, one.full, limits.get(worker, "")))
    return sorted(found, key=lambda call: -call.seconds)


def parse_waits(fields: dict[bytes, bytes], alive: Collection[bytes]) -> dict[str, float]:
    """By lane, since when the oldest event waits in a worker that is `alive` (ms since the epoch)."""
    found: dict[str, float] = {}
    for known in _each(fields, alive, _WAITS).values():
        found |= {lane: min(since, found.get(lane, since)) for lane, since in known.items()}
    return found


def parse_turns(fields: dict[bytes, bytes], alive: Collection[bytes]) -> list[Turn]:
    """What waits for its turn in workers that are `alive`."""
    return [Turn(*turn) for each in _each(fields, alive, _TURNS).values() for turn in each]


def parse_ready(fields: dict[bytes, bytes], alive: Collection[bytes]) -> list[Turn]:
    """What waits for a free slot or thread in workers that are `alive`."""
    return [Turn(*turn) for each in _each(fields, alive, _READY).values() for turn in each]


def parse_lanes(fields: dict[bytes, bytes], alive: Collection[bytes]) -> dict[str, Standing]:
    """By lane, where what is in work stands in all workers that are `alive`."""
    found: dict[str, Standing] = {}
    for known in _each(fields, alive, _LANES).values():
        for lane, standing in known.items():
            found[lane] = Standing(*map(sum, zip(standing, found.get(lane, Standing()), strict=True)))
    return found


def parse_handlers(fields: dict[bytes, bytes], alive: Collection[bytes]) -> frozenset[str] | None:
    """The handlers that workers have; None while not every one that is `alive` has told, and when there is none."""
    found = _each(fields, alive, _HANDLERS)
    return frozenset(name for names in found.values() for name in names) if len(found) == len(alive) > 0 else None


def tell_unloadable(redis: Redis, told: Unloadable) -> None:
    """Have operators know it until a worker begins. Raises RedisError, OSError."""
    said: Any = redis.hget(keys.IN_WORK, UNLOADABLE)
    before = parse_unloadable({UNLOADABLE.encode(): said} if said else {})
    since = before.since if before is not None and before.topic == told.topic else round(time.time(), 3)
    redis.hset(keys.IN_WORK, UNLOADABLE, orjson.dumps(tuple(told._replace(since=since))))


def parse_unloadable(fields: dict[bytes, bytes]) -> Unloadable | None:
    """What the last worker said that could not begin, if none has begun since."""
    value = fields.get(UNLOADABLE.encode())
    return None if value is None else Unloadable(*orjson.loads(value))
