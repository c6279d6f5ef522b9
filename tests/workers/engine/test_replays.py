"""`replay --again`: each event once in each replay, whatever was handled before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from ingest.settings import load
from ingest.store import keys
from ingest.store.pipelined import PipelinedConnection
from ingest.store.records import pack, unpack
from workers import Handlers
from workers.archive import replay
from workers.engine import claims, retries
from workers.events.parsing import parse

RECEIVED = 1_700_000_000_000
BODIES = {
    "error": b'{"errors":[{"code":1}]}',
    "change": b'{"object":"whatsapp_business_account","entry":[{"id":"9","changes":[{"field":"f","value":{}}]}]}',
}
Replay = Callable[..., Iterator[replay.Portion]]


@pytest.fixture
def again(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Replay:
    """`replay --again` of these bodies, which arrived one after the other: a portion and a batch each."""
    monkeypatch.setenv("WA_MAX_AGE", "100000d")
    monkeypatch.setattr(replay, "PORTION", 1)

    def feed(*bodies: bytes, batch: int = 1) -> Iterator[replay.Portion]:
        found = [replay.Notification(RECEIVED + n, [body]) for n, body in enumerate(bodies)]
        return replay.feed_back([redis], found, load(partitions=8, batch=batch), True, bool)

    return feed


@pytest.fixture
def drain(take: Any, runner: Any) -> Callable[..., None]:
    def run(handlers: Handlers, worker: str = "w1", **settings: Any) -> None:
        running = runner(handlers, worker, **settings)
        while isinstance(taken := take(worker), tuple):
            running.run(*taken)

    return run


@pytest.mark.parametrize("kind", ["message", "status", *BODIES])
def test_every_kind_once(
    kind: str, again: Replay, commit: Any, drain: Any, message: Any, status: Any, redis: Redis
) -> None:
    """Whatever the kind, each replay has an event handled once more, and leaves no claim behind."""
    body = BODIES.get(kind) or (message("a") if kind == "message" else status("a"))
    handlers, seen = Handlers(), []
    for decorator in (handlers.message(), handlers.status(), handlers.error(), handlers.change()):
        decorator(lambda event: seen.append(event.attempt))
    commit(body, body, batch=1)
    drain(handlers)
    assert seen == [1]
    for count in (2, 3):
        list(again(body, body, body))
        drain(handlers)
        assert seen == [1] * count
    commit(body)
    drain(handlers)
    assert seen == [1] * 3
    assert redis.hkeys(keys.CLAIMS) == [b""]


def test_what_a_replay_remembers_is_forgotten(again: Replay, drain: Any, message: Any, redis: Redis) -> None:
    """It lies in the same sets as all else, an integer for each event, and goes with them."""
    handlers = Handlers()
    handlers.message()(lambda event: None)
    for _ in range(2):
        list(again(message("a"), message("a"), message("b")))
        drain(handlers)
    assert redis.hget(keys.GENERATIONS, "1.count") == b"4"
    redis.hset(keys.GENERATIONS, mapping={"1.born": 1, "2": 3, "2.born": 2})
    claims.forget(redis, 100)
    assert not redis.keys(f"{keys.WA}seen:1:*")


@pytest.mark.parametrize("batch", [1, 10], ids=["batch each", "one batch"])
@pytest.mark.parametrize("order", [["sent", "delivered", "read"], ["read", "delivered", "sent"]])
def test_statuses(
    order: list[str],
    batch: int,
    again: Replay,
    commit: Any,
    drain: Any,
    status: Any,
) -> None:
    """A status is `superseded` by what this replay handled of its message, not by what was handled before. A late one
    that comes later is superseded by what was replayed.
    """
    handlers, seen = Handlers(), []
    handlers.status()(lambda event: seen.append((event.status, event.superseded)))
    commit(*[status("m", name) for name in order], batch=batch)
    drain(handlers)
    first = seen.copy()
    for _ in range(2):
        seen.clear()
        list(again(*[status("m", name) for name in order], *[status("m", name) for name in order], batch=batch))
        drain(handlers)
        assert seen == first
    list(again(status("n", "read")))
    commit(status("n", "sent"))
    drain(handlers)
    assert seen[3:] == [("read", False), ("sent", True)]


def test_a_status_that_failed_at_first(again: Replay, drain: Any, status: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its retry, too, goes by the stages of its replay, and leaves its own."""
    monkeypatch.setattr(retries, "delay", lambda attempt: 0.0)
    handlers, seen = Handlers(), []

    @handlers.status()
    def handle(event: Any) -> None:
        if event.attempt == 1 and event.status != "delivered":
            raise ValueError
        seen.append((event.status, event.superseded))

    for _ in range(2):
        seen.clear()
        portions = again(*(status("m", name) for name in ("sent", "delivered", "read", "delivered", "sent")))
        for _ in portions:
            drain(handlers)
        assert seen == [("sent", False), ("delivered", False), ("read", False)]
    seen.clear()
    portions = again(*(status("m", name) for name in ("read", "delivered", "sent")))
    for _ in portions:
        drain(handlers)
    assert seen == [("read", False), ("delivered", True), ("sent", True)]


def test_one_status_of_a_message_at_a_time(
    again: Replay, commit: Any, take: Any, two_workers: Any, status: Any, redis: Redis
) -> None:
    """A status that is replayed and one that just came are not in work at the same time."""
    handlers, running, seen = Handlers(), threading.Lock(), []
    begun, go = threading.Event(), threading.Event()

    @handlers.status()
    def handle(event: Any) -> None:
        assert running.acquire(blocking=False)
        seen.append((event.status, event.superseded))
        begun.set()
        assert go.wait(30)
        running.release()

    list(again(status("m", "sent")))
    first = take("w1")
    commit(status("m", "read"))
    second = take("w2")
    threads = two_workers(handlers, first, second, begun)
    assert len(seen) == 1
    go.set()
    for thread in threads:
        thread.join(30)
    assert seen == [("sent", False), ("read", False)]
    assert redis.zcard(keys.LEDGER) == 0


def test_a_worker_that_died(
    again: Replay, take: Any, runner: Any, drain: Any, status: Any, redis: Redis, nothing_left: Callable[[], None]
) -> None:
    """What it had claimed is handled by the one that gets its batch; and copies elsewhere are copies."""
    handlers, seen = Handlers(), []
    handlers.change()(lambda event: seen.append(event.kind))
    handlers.error()(lambda event: seen.append(event.kind))
    list(again(BODIES["error"], BODIES["error"], BODIES["change"]))
    queue, batch = take("w1")
    (record,) = map(unpack, redis.lrange(keys.batch_key(batch), 0, -1))  # type: ignore[arg-type]
    (event,) = parse(record.body, record.received_ms)
    connection = PipelinedConnection(redis)
    asked = [claims.of_replayed(event, 0, record.replay)]  # type: ignore[arg-type]
    (call,) = claims.Claims(connection).ask(f"{queue}|{batch}", asked)
    assert connection.answer(call) == b"0"
    drain(handlers, "w2")
    assert seen == ["change"]
    redis.hset(keys.TAKEN, f"{queue}|{batch}", "w2")
    runner(handlers, worker="w2").run(queue, batch)
    assert seen == ["change", "error"]
    nothing_left()


def test_an_event_that_fails(
    again: Replay, drain: Any, message: Any, monkeypatch: pytest.MonkeyPatch, nothing_left: Callable[[], None]
) -> None:
    """It is tried again for the handler that failed, and its copies are copies; in another replay it is new."""
    monkeypatch.setattr(retries, "delay", lambda attempt: 0.0)
    handlers, calls = Handlers(), []

    @handlers.message()
    def fails(event: Any) -> None:
        calls.append(f"fails {event.attempt}")
        if event.attempt == 1:
            raise ValueError

    handlers.message()(lambda event: calls.append("works"))
    for _ in range(2):
        calls.clear()
        for _ in again(message("a"), message("a"), message("a")):
            drain(handlers)
        assert sorted(calls) == ["fails 1", "fails 2", "works"]
    nothing_left()


def test_what_an_older_worker_gave_back(
    again: Replay, take: Any, runner: Any, drain: Any, message: Any, redis: Redis, nothing_left: Callable[[], None]
) -> None:
    """An older worker takes the name of a replay for a handler that is done. What it writes of it is handled."""
    handlers, seen = Handlers(), []
    handlers.message()(lambda event: seen.append(event.id))
    portions = again(message("a"), message("a"))
    next(portions)
    drain(handlers)
    next(portions)
    queue, batch = take()
    (record,) = map(unpack, redis.lrange(keys.batch_key(batch), 0, -1))  # type: ignore[arg-type]
    redis.lset(keys.batch_key(batch), 0, pack(record.body, RECEIVED, 0, True, done=[record.replay]))
    runner(handlers).run(queue, batch)
    assert seen == ["a", "a"]
    nothing_left()
