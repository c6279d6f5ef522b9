"""Notifications, batches and workers for the tests of this package."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.commit.committer import make_committer
from ingest.settings import Settings, load
from ingest.store import constants, keys, scripts
from ingest.store.jobs import job_template, rq_now
from ingest.store.pipelined import PipelinedConnection
from ingest.store.queues import LANES, queue_names
from tests.conftest import wait_for
from workers.engine import flow as flow_room
from workers.engine import take as take_room
from workers.engine.hand import Taken
from workers.handlers import Handlers

PARTITIONS = 8  # fewer than the default: less to take from


def message_body(id: str = "m1", sender: str = "15550001", **more: Any) -> bytes:
    return orjson.dumps(
        {
            "contacts": [{"profile": {"name": "Ada"}, "wa_id": sender}],
            "messages": [
                {"from": sender, "id": id, "timestamp": "1700000000", "type": "text", "text": {"body": "Hello"}, **more}
            ],
        }
    )


def status_body(id: str = "s1", status: str = "delivered") -> bytes:
    return orjson.dumps(
        {"statuses": [{"id": id, "recipient_id": "15550001", "status": status, "timestamp": "1700000000"}]}
    )


@pytest.fixture
def message() -> Callable[..., bytes]:
    """An On-Premises body with one text message."""
    return message_body


@pytest.fixture
def status() -> Callable[..., bytes]:
    """An On-Premises body with one status."""
    return status_body


@pytest.fixture
def commit(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Commit bodies as the receiver does, in order. They arrived long ago, and are tried again all the same."""
    monkeypatch.setenv("WA_MAX_AGE", "100000d")

    def run(*bodies: bytes, received_ms: int = 1_700_000_000_000, headers: bytes = b"", **settings: Any) -> None:
        async def go() -> None:
            current = load(**{"partitions": PARTITIONS} | settings)
            committer = make_committer(current)
            try:
                waiting = [committer.commit(b, received_ms, committer.route(b), headers) for b in bodies]
                await asyncio.gather(*waiting)
            finally:
                await committer.aclose()

        asyncio.run(go())

    return run


class Take:
    """Runs take.lua for a worker: (queue, batch, …) of one batch, or the milliseconds until one may be due.

    It asks for one batch of at most `room` records from the lanes that are named, or else all. `last` is the reply.
    """

    def __init__(self, redis: Redis) -> None:
        self._script = redis.register_script(scripts.lua(take_room.__file__, "take.lua"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "TAKE_BATCHES", 1)
            self._one = redis.register_script(scripts.lua(take_room.__file__, "take.lua"))
        self._numbers = itertools.count(1)
        self.last: Any = None

    def __call__(self, worker: str = "w1", *lanes: str, **options: Any) -> Any:
        waits = []
        for lane in lanes or LANES:
            given = self.many(worker, lane, script=self._one, **options)
            if given:
                return given[0]
            waits += [self.last[0]] if self.last[0] >= 0 else []
        return min(waits, default=-1)

    def many(
        self,
        worker: str = "w1",
        *lanes: str,
        room: int = 500,
        number: int | None = None,
        empty: bool = True,
        put_offs: int = 6,
        script: Any = None,
    ) -> list[Any]:
        """All batches that one call gives, with `room` records of each lane."""
        args: list[Any] = [
            keys.RQ,
            keys.WA,
            worker,
            job_template(),
            rq_now(),
            number or next(self._numbers),
            int(empty),
            put_offs,
        ]
        for lane in lanes or LANES:
            args += [lane, room, len(queue_names(lane, PARTITIONS)), *queue_names(lane, PARTITIONS)]
        self.last = (script or self._script)(keys=take_room.KEYS, args=args)
        return [(queue.decode(), batch.decode()) for queue, batch, *_ in self.last[4]]


@pytest.fixture
def take(redis: Redis) -> Take:
    """Takes batches as a worker does."""
    return Take(redis)


class Runner:
    """Runs batches for a worker as its flow does, each to its last settle. `stop.set()` tells it to stop."""

    def __init__(self, redis: Redis, registry: Handlers, worker: str, settings: Settings) -> None:
        self.stop = threading.Event()
        self._redis = redis
        names = [name for lane in settings.lanes for name in queue_names(lane, settings.partitions)]
        connection = PipelinedConnection(redis)
        self.flow = flow_room.Flow(connection, worker, registry, settings, names, self.stop.is_set)

    def run(self, *batches: Any) -> None:
        """Run what was taken: the queue and the id of a batch, or several such pairs."""
        pairs = [batches] if isinstance(batches[0], str) else batches
        for queue, batch in pairs:
            token: Any = self._redis.hget(keys.TAKEN, f"{queue}|{batch}")
            records: Any = self._redis.lrange(keys.batch_key(batch), 0, -1)
            self.flow.admit(Taken(queue, batch, token.decode(), records, -1))
        self.flow.finish()
        if self.stop.is_set():
            self.flow.leave()

    def close(self) -> None:
        self.flow.close()


@pytest.fixture
def runner(redis: Redis) -> Iterator[Callable[..., Runner]]:
    """A Runner for a worker, with a registry of handlers and settings."""
    made: list[Runner] = []

    def make(registry: Handlers, worker: str = "w1", **settings: Any) -> Runner:
        made.append(Runner(redis, registry, worker, load(**{"threads": 1, "partitions": PARTITIONS} | settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def dead(redis: Redis) -> Callable[[str], list[dict[str, str]]]:
    """The dead letters of a lane, oldest first."""

    def read(lane: str) -> list[dict[str, str]]:
        letters: Any = redis.xrange(keys.dead_key(lane))
        return [{k.decode(): v.decode("utf-8", "replace") for k, v in fields.items()} for _, fields in letters]

    return read


@pytest.fixture
def nothing_left(redis: Redis) -> Callable[[], None]:
    """Assert that Redis holds no trace of work: no batch, job, mark or lease."""

    def check() -> None:
        found = {key.decode() for key in redis.scan_iter(count=1000)}
        owed = [k for k in found if ":batch:" in k or ":job:" in k or ":queue:" in k or ":scheduled:" in k]
        assert owed == []
        assert found.isdisjoint({keys.LEDGER, keys.TAKEN, keys.LEASES})

    return check


@pytest.fixture
def two_workers(runner: Callable[..., Runner], redis: Redis) -> Callable[..., list[threading.Thread]]:
    """Runs two batches in two workers, the second once a handler of the first has `begun`, and returns their threads
    when the workers have asked Redis some more times.
    """

    def calls() -> int:
        return redis.info("commandstats")["cmdstat_evalsha"]["calls"]  # type: ignore[index,no-any-return]

    def start(handlers: Handlers, first: Any, second: Any, begun: threading.Event) -> list[threading.Thread]:
        threads = []
        for worker, taken in (("w1", first), ("w2", second)):
            threads.append(threading.Thread(target=runner(handlers, worker=worker).run, args=taken))
            threads[-1].start()
            assert begun.wait(30)
        asked = calls()
        wait_for(lambda: calls() > asked + 5, what="some more tries")
        return threads

    return start
