"""Notifications, batches and workers for the tests of this package."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.commit.committer import make_committer
from ingest.settings import load
from ingest.store import keys, scripts
from ingest.store.jobs import job_template
from ingest.store.pipelined import PipelinedConnection
from ingest.store.queues import LANES, queue_names
from workers.engine import batch as batch_room
from workers.engine import queue as queue_room
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
def commit(redis_url: str) -> Callable[..., None]:
    """Commit bodies as the receiver does, in order."""

    def run(*bodies: bytes, received_ms: int = 1_700_000_000_000, **settings: Any) -> None:
        async def go() -> None:
            current = load(**{"partitions": PARTITIONS} | settings)
            committer = make_committer(current)
            try:
                waiting = [committer.commit(b, received_ms, committer.route(b)) for b in bodies]
                await asyncio.gather(*waiting)
            finally:
                await committer.aclose()

        asyncio.run(go())

    return run


@pytest.fixture
def take(redis: Redis) -> Callable[..., Any]:
    """Run take.lua for a worker: (queue, batch), or the milliseconds until one may be due. `.last` is all of it."""
    script = redis.register_script(scripts.lua(queue_room.__file__, "take.lua"))
    script_keys = [keys.LEDGER, keys.TAKEN, keys.LEASES, keys.TAILS]
    script_keys += [keys.TURN, keys.SPENT, keys.WAITS, keys.CONTROLS]

    def run(worker: str = "w1", *lanes: str, settling: str = "") -> Any:
        queues = [name for lane in lanes or LANES for name in queue_names(lane, PARTITIONS)]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        reply: Any = script(
            keys=script_keys, args=[keys.RQ, keys.WA, worker, job_template(), now, settling, 1, *queues]
        )
        run.last = reply  # type: ignore[attr-defined]
        return tuple(part.decode() for part in reply[:2]) if isinstance(reply, list) else reply

    return run


@pytest.fixture
def runner(redis: Redis) -> Callable[..., batch_room.Runner]:
    """A Runner for a worker, with a registry of handlers and settings; `.stop` asks it to stop."""

    def make(registry: Handlers, worker: str = "w1", **settings: Any) -> batch_room.Runner:
        stop = threading.Event()
        current = load(**{"partitions": PARTITIONS} | settings)
        names = [name for lane in current.lanes for name in queue_names(lane, current.partitions)]
        consumer = queue_room.Consumer(worker, PipelinedConnection(redis))
        made = batch_room.Runner(consumer, registry, current, stop.is_set, names)
        made.stop = stop  # type: ignore[attr-defined]
        return made

    return make


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
