"""Everything that the page shows, at one moment."""

from __future__ import annotations

import itertools
import socket
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from ingest.settings import Settings, host_port
from ingest.state import backlog, in_work, totals
from ingest.state.dead_groups import Counter, Groups, together
from ingest.state.spooled import SpoolFigures, spool_figures
from ingest.store import connection, keys
from ingest.store.queues import Member

WORKERS = 100
"""Workers that are shown at most."""


@dataclass
class Worker:
    """A worker process. Its last sign of life was `seen_seconds` ago; None when Redis no longer lists it.

    `queue` is that of a batch it holds, None while it waits. `handler` is the one that has been at one event for
    longest, and `seconds` for how long; None when no call takes long.
    """

    name: str
    seen_seconds: float | None
    queue: str | None = None
    handler: str | None = None
    seconds: float | None = None

    @property
    def alive(self) -> bool:
        return self.seen_seconds is not None and self.seen_seconds <= in_work.ALIVE_MS / 1000


@dataclass
class Snapshot:
    """What is known at `time` (seconds since the epoch).

    `diagnosis` says why Redis cannot be read; `backlog` is then None. `refused` says why notifications do not go into
    Redis. While Redis is away, its last answer was `away_seconds` ago. `spool` is None when there is no folder, or
    when it cannot be read: `spool_problem` says why.
    """

    receiver: str
    time: float
    diagnosis: connection.Diagnosis | None = None
    away_seconds: float = 0.0
    refused: str | None = None
    backlog: backlog.Backlog | None = None
    workers: list[Worker] = field(default_factory=list)
    dead: Groups = field(default_factory=Groups)
    spool_dir: str | None = None
    spool: SpoolFigures | None = None
    spool_problem: str | None = None


class Reader:
    """Takes snapshots, one at a time. Call it in a thread: it blocks while it waits for Redis and the disk."""

    def __init__(self, settings: Settings, clients: dict[str, Redis]) -> None:
        self._clients = clients
        self._spool = settings.spool_dir
        self._counters = {name: Counter(redis) for name, redis in clients.items()}
        self._receiver = f"{socket.gethostname()} {host_port(*settings.admin_listen)}"
        self._answered = time.monotonic()

    def answered(self) -> None:
        """Redis answered just now."""
        self._answered = time.monotonic()

    def read(self, refused: str | None, details: bool = True) -> Snapshot:
        """Take a snapshot. `refused`: see `Snapshot`. Findings need no `details`: workers, groups of dead letters."""
        now = Snapshot(self._receiver, time.time(), refused=refused)
        try:
            now.backlog = backlog.read_all(self._clients)
            there = [name for name in self._clients if details and name not in now.backlog.away]
            now.workers = [worker for name in there for worker in workers(self._clients[name])][:WORKERS]
            now.dead = together(self._counters[name].read() for name in there)
            self.answered()
        except (RedisError, OSError) as error:
            now.diagnosis = connection.diagnose(error)
            if connection.config_error(error) is None:
                now.away_seconds = time.monotonic() - self._answered
            now.backlog = None
        if self._spool is not None:
            now.spool_dir = str(self._spool)
            try:
                now.spool = spool_figures(self._spool)
            except OSError as error:
                now.spool_problem = error.strerror or str(error)
        return now


def workers(redis: Redis) -> list[Worker]:
    """Workers that are alive or hold a batch, up to `WORKERS` of each; those that hold one for longest come first."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.zrange(keys.ALIVE, 0, WORKERS - 1, desc=True, withscores=True)
        pipe.hgetall(keys.TAKEN)
        pipe.hgetall(keys.IN_WORK)
        (seconds, micros), alive, taken, calls = pipe.execute()
    now = seconds + micros / 1_000_000
    found = {name.decode(): Worker(name.decode(), max(0.0, now - score / 1000)) for name, score in alive}
    for member, holder in itertools.islice(taken.items(), WORKERS):
        name = holder.decode().partition("#")[0]
        found.setdefault(name, Worker(name, None)).queue = Member.parse(member).queue
    for call in reversed(in_work.parse(calls, {name for name, _ in alive}, now)):
        found[call.worker].handler, found[call.worker].seconds = call.handler, call.seconds
    return sorted(found.values(), key=lambda worker: (worker.queue is None, -(worker.seconds or 0.0), worker.name))


def paused_seconds(now: Snapshot, one: backlog.Lane | backlog.Steered) -> float | None:
    """How long a lane or handler has been paused; None when it is not."""
    if one.paused_since is None:
        return None
    return max(0.0, now.time - datetime.fromisoformat(one.paused_since).timestamp())


def as_json(now: Snapshot) -> dict[str, Any]:
    """The snapshot for the page: see `ingest/admin/page/page.js`."""
    lanes: dict[str, Any] = now.backlog.as_json()["lanes"] if now.backlog else {}
    for name, lane in now.backlog.lanes.items() if now.backlog else ():
        lanes[name]["paused_seconds"] = paused_seconds(now, lane)
    return {
        "receiver": now.receiver,
        "time": now.time,
        "lanes": lanes,
        "totals": totals.lines(now.backlog) if now.backlog else [],
        "handlers": now.backlog.handlers if now.backlog else None,
        "workers": [{**vars(worker), "alive": worker.alive} for worker in now.workers],
        "alive": now.backlog.workers if now.backlog else None,
        "dead": now.dead if now.backlog else None,
        "spool": {"folder": now.spool_dir, "problem": now.spool_problem, "figures": now.spool},
    }
