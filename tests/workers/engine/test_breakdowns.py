"""Handlers that always fail, in a flow on a real Valkey: their events wait, all others go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.state import backlog, breakdowns, controls, failures
from ingest.store import keys
from ingest.store.records import unpack
from workers import Discard, Handlers, RetryIn
from workers.dispatch.breakdowns import FAILURES
from workers.dispatch.outcomes import Ended
from workers.raised import Unreachable


def _images(message: Callable[..., bytes], count: int) -> list[bytes]:
    return [message(f"i{n}", sender=f"i{n}", type="image") for n in range(count)]


def _scheduled(redis: Redis) -> list[Any]:
    found = []
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        for id in redis.zrange(key, 0, -1):  # type: ignore[union-attr]
            found += [unpack(record) for record in redis.lrange(keys.batch_key(id.decode()), 0, -1)]  # type: ignore[union-attr]
    return found


@pytest.fixture
def failing() -> tuple[Handlers, list[str], list[bool]]:
    """Handlers of images, which fail while the list says so, and of texts; what they were called with."""
    handlers, seen, fails = Handlers(), [], [True]

    @handlers.message("image")
    def image(event: Any) -> None:
        seen.append(event.id)
        time.sleep(0.01)  # quick calls are given to the threads many at a time
        if fails[0]:
            raise ConnectionError("4915550001")

    @handlers.message("text")
    def text(event: Any) -> None:
        seen.append(event.id)

    return handlers, seen, fails


def test_what_a_broken_handler_gets_waits(
    failing: Any, commit: Any, take: Any, runner: Any, message: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some first tries in a row have failed, the other events wait with the attempt they had; texts go on."""
    handlers, seen, fails = failing
    commit(*_images(message, 40), *[message(f"t{n}", sender=f"t{n}") for n in range(20)], partitions=1)
    made = runner(handlers, partitions=1)
    made.run(*take.many("w1", "messages"))
    assert sorted(id for id in seen if id[0] == "t") == sorted(f"t{n}" for n in range(20))
    tried = [id for id in seen if id[0] == "i"]
    assert len(tried) == FAILURES
    attempts = sorted(record.attempt for record in _scheduled(redis))
    assert attempts == [1] * (40 - FAILURES + 1) + [2] * (FAILURES - 1)
    told: Any = redis.hgetall(keys.BREAKDOWNS)
    assert breakdowns.parse(told, ()) == []  # once its worker has ended
    alive = [orjson.loads(value)["worker"] for value in told.values()]
    redis.zadd(keys.ALIVE, dict.fromkeys(alive, time.time() * 1000))
    (broken,) = backlog.read(redis).broken
    assert broken.handler.endswith("image")
    assert "ConnectionError at" in broken.error
    assert "4915550001" not in broken.error
    assert 0 < broken.next_seconds <= 1.0

    fails[0] = False
    seen.clear()
    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 0.0)
    for state in made.flow.dispatcher.breakdowns.failing.values():
        state.until = 1e-9
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        redis.zadd(key, {id: 1 for id in redis.zrange(key, 0, -1) if id[:1] == b"w"})  # type: ignore[union-attr]
    while given := take.many("w1", "messages"):
        made.run(*given)
    assert len(seen) == 40 - FAILURES + 1
    made.flow._connection.flush()
    assert not redis.exists(keys.BREAKDOWNS)


def test_what_the_log_says(
    failing: Any, commit: Any, take: Any, runner: Any, message: Any, redis: Redis, logged: list[Any]
) -> None:
    """A line when a handler begins to fail always, one for each further try that fails, and one when it works again,
    which is no warning; each names the process. One that was told by the process before, and works in the next, is a
    line, too."""
    handlers, _, fails = failing

    def told() -> list[tuple[str, str, int]]:
        lines = [line for line in logged if line["event"].startswith("handler ")]
        found = [(line["event"], line["log_level"], line["pid"]) for line in lines]
        logged.clear()
        return found

    def one_more(made: Any, name: str) -> None:
        for state in made.flow.dispatcher.breakdowns.failing.values():
            state.until = 1e-9
        commit(message(name, sender=name, type="image"), partitions=1)
        made.run(*take.many("w1", "messages"))

    made = runner(handlers, partitions=1)
    commit(*_images(message, FAILURES), partitions=1)
    made.run(*take.many("w1", "messages"))
    assert told() == [("handler always fails, its events wait", "warning", os.getpid())]
    one_more(made, "a")
    one_more(made, "b")
    assert told() == 2 * [("handler still fails", "warning", os.getpid())]
    made.flow._connection.flush()
    fields: Any = redis.hgetall(keys.BREAKDOWNS)
    assert breakdowns.told_by("w2", fields) == {}
    fails[0] = False
    one_more(made, "c")
    assert told() == [("handler works again", "info", os.getpid())]
    new = runner(handlers, partitions=1)
    new.flow.dispatcher.breakdowns.inherited.update(breakdowns.told_by("w1", fields))
    one_more(new, "d")
    one_more(new, "e")
    assert told() == [("handler works again", "info", os.getpid())]


def test_an_operator_has_it_tried_now(
    failing: Any, commit: Any, take: Any, runner: Any, message: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wa-ingest retry` does not wait for the next try of a handler that works again: all that waits for it follows."""
    handlers, seen, fails = failing
    monkeypatch.setattr("workers.engine.settle.SETTLE_SECONDS", 0.0)
    commit(*_images(message, 2 * FAILURES), partitions=1)
    made = runner(handlers, partitions=1)
    made.run(*take.many("w1", "messages"))
    ((handler, state),) = made.flow.dispatcher.breakdowns.failing.items()
    state.until += 1000
    fails[0] = False
    seen.clear()
    controls.try_now(redis, handler.name)
    made.flow._steer_at = 0.0
    made.flow.dispatcher.loop.run_until_complete(made.flow._turn(takes=False))
    while given := take.many("w1", "messages"):
        made.run(*given)
        made.flow.dispatcher.loop.run_until_complete(made.flow._turn(takes=False))
    assert len(seen) == FAILURES + 1  # the others wait for their second try
    assert not made.flow.dispatcher.breakdowns.failing


def test_an_outage_is_the_last_failure(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """What is away breaks down without a try that fails; it replaces an older error, which it was not."""
    handlers = Handlers()

    @handlers.status()
    def crm(event: Any) -> None:
        raise Unreachable("ClientConnectorError", "refused", 1.0)

    name = handlers.registered[0].name
    redis.hset(keys.FAILURES, name, f"{int(time.time()) - 30} {int(time.time()) - 240} answered 500")
    commit(status("s1"))
    runner(handlers).run(*take.many("w1", "statuses"))
    found = failures.parse(redis.hgetall(keys.FAILURES))[name]  # type: ignore[arg-type]
    assert (found.error, found.at - found.since < 2) == ("ClientConnectorError", True)


def test_who_asks_for_a_try_makes_the_next_one_no_later(
    failing: Any, commit: Any, take: Any, runner: Any, message: Any
) -> None:
    """A try that an operator asks for, and that fails, does not double the time until the next one."""
    handlers, _, _ = failing
    commit(*_images(message, FAILURES), partitions=1)
    made = runner(handlers, partitions=1)
    made.run(*take.many("w1", "messages"))
    found = made.flow.dispatcher.breakdowns
    ((handler, state),) = found.failing.items()
    tries = state.tries
    for asked in (True, True, False):
        if asked:
            found.try_now([handler.name])
        state.until = time.monotonic() if state.until else 0.0
        assert found.wait(handler) == 0.0
        found.note(Ended(handler, error=ConnectionError()), SimpleNamespace(attempt=1, notification="n"))
        assert state.tries == tries + (not asked)


def test_it_has_failed_since_its_first_failure(
    failing: Any, commit: Any, take: Any, runner: Any, message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A breakdown is told as old as the first failure after the last success, not as its own finding."""
    handlers, _, _ = failing
    made = runner(handlers, partitions=1)
    commit(*_images(message, 2), partitions=1)
    began = time.time()
    made.run(*take.many("w1", "messages"))
    (state,) = made.flow.dispatcher.breakdowns.failing.values()
    assert not state.until
    assert began - 1 < state.since <= time.time()
    state.since -= 50
    commit(*[message(f"j{n}", sender=f"j{n}", type="image") for n in range(FAILURES)], partitions=1)
    made.run(*take.many("w1", "messages"))
    assert state.until
    assert state.since < began - 40


def test_a_new_worker_tries_at_once(
    failing: Any, commit: Any, take: Any, runner: Any, message: Any, redis: Redis
) -> None:
    """A worker that starts makes all that was put off due: it may have a better version of the handler."""
    handlers, seen, fails = failing
    commit(*_images(message, 20), partitions=1)
    runner(handlers, partitions=1).run(*take.many("w1", "messages"))
    seen.clear()
    fails[0] = False
    new = runner(handlers, worker="w2", partitions=1)
    assert take.many("w2", "messages") == []
    new.flow.revive()
    new.flow._loop.run_until_complete(new.flow._turn(takes=False))
    while given := take.many("w2", "messages"):
        new.run(*given)
    assert len(seen) == 20 - FAILURES + 1
    assert {record.attempt for record in _scheduled(redis)} == {2}


def test_a_retry_calls_only_what_failed(commit: Any, take: Any, runner: Any, message: Any, redis: Redis) -> None:
    """The record of a retry says which handlers are done."""
    handlers, called = Handlers(), []
    handlers.message()(lambda event: called.append(("first", event.attempt)))

    @handlers.message()
    def second(event: Any) -> None:
        called.append(("second", event.attempt))
        if event.attempt == 1:
            raise RetryIn(0)

    @handlers.message()
    def third(event: Any) -> None:
        called.append(("third", event.attempt))
        raise Discard("why")

    commit(message())
    made = runner(handlers)
    while given := take.many("w1", "messages"):
        made.run(*given)
    assert called == [("first", 1), ("second", 1), ("third", 1), ("second", 2)]
    assert redis.zcard(keys.LEDGER) == 0


@pytest.mark.parametrize("kind", ["asked", "retried", "one success"])
def test_what_is_no_breakdown(kind: str, commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """RetryIn, events that failed before, and failures among successes do not break a handler."""
    handlers = Handlers()

    @handlers.status()
    def handle(event: Any) -> None:
        if kind == "asked":
            raise RetryIn(100)
        if kind == "retried" or int(event.id) % 2:  # never ten in a row, whichever thread is late
            raise ConnectionError

    commit(*[status(str(n)) for n in range(30)])
    if kind == "retried":
        from ingest.store.records import pack

        queue, batch = take()
        redis.delete(keys.batch_key(batch))
        redis.rpush(keys.batch_key(batch), *[pack(status(str(n)), 1, attempt=2) for n in range(30)])
        runner(handlers).run(queue, batch)
    else:
        runner(handlers).run(*take())
    assert not redis.exists(keys.BREAKDOWNS)
    assert {orjson.loads(record.body)["statuses"][0]["id"] for record in _scheduled(redis)} == {
        str(n) for n in range(30) if kind != "one success" or n % 2
    }
