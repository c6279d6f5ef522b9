"""settle.lua against a real Valkey: what makes a batch end early."""

from __future__ import annotations

import time
from typing import Any

import pytest
from redis import Redis

from ingest.state import controls
from ingest.store import keys
from ingest.store.records import pack
from workers import Handlers, RetryIn


@pytest.fixture(autouse=True)
def settle_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settle after every event."""
    monkeypatch.setattr("workers.engine.hooks.SETTLE_SECONDS", 0.0)


def _ago(seconds: float) -> int:
    return round((time.time() - seconds) * 1000)


def test_makes_way_for_what_is_urgent(
    commit: Any, take: Any, runner: Any, status: Any, message: Any, redis: Redis
) -> None:
    """A batch of statuses settles and goes back to the front when a message has waited half a second."""
    handlers, seen = Handlers(), []

    @handlers.status()
    def handle(event: Any) -> None:
        seen.append(event.id)
        if event.id == "1":
            commit(message(), received_ms=_ago(1))

    commit(*[status(str(n)) for n in range(5)], status("later"))
    queue, batch = take()
    redis.hset(keys.SPENT, "statuses", 1000)
    runner(handlers).run(queue, batch)
    assert seen == ["0", "1"]
    assert take("w2")[0].startswith("messages")
    assert take("w3") == (queue, batch)
    runner(handlers, worker="w3").run(queue, batch)
    assert seen == ["0", "1", "2", "3", "4", "later"]


def test_what_is_sent_twice_counts_once(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """A settle that redis-py sends again, or that a Redis that hung carries out late, takes nothing more away."""
    handlers, seen = Handlers(), []
    made = runner(handlers)
    settle, sent = made._script, []

    def twice(**call: Any) -> Any:
        answer = settle(**call)
        sent.append(call)
        for again in reversed(sent):
            assert settle(**again) != b"lost"
        return answer

    made._script = twice

    @handlers.status()
    def handle(event: Any) -> None:
        seen.append(event.id)

    commit(*[status(str(n)) for n in range(5)])
    queue, batch = take()
    lengths = []
    handlers.status()(lambda event: lengths.append(redis.llen(keys.batch_key(batch))))
    made.run(queue, batch)
    assert seen == ["0", "1", "2", "3", "4"]
    assert lengths == [5, 4, 3, 2, 1]
    assert len(sent) == 6
    assert redis.zcard(keys.LEDGER) == 0


def test_does_not_make_way_at_once_or_for_ever(
    commit: Any, take: Any, runner: Any, status: Any, message: Any, redis: Redis
) -> None:
    """A message that has just come, or a lane that had less than its tenth, does not interrupt a batch of statuses."""
    handlers, seen = Handlers(), []
    handlers.status()(lambda event: seen.append(event.id))
    commit(*[status(f"a{n}") for n in range(3)])
    found = take()
    commit(message(), received_ms=_ago(-10))
    redis.hset(keys.SPENT, "statuses", 1000)
    runner(handlers).run(*found)
    assert len(seen) == 3
    redis.delete(keys.SPENT)
    redis.hset(keys.SPENT, "messages", 10_000)
    commit(*[status(f"b{n}") for n in range(3)])
    commit(message("old"), received_ms=_ago(5))
    found = take()
    assert found[0] == "statuses"
    runner(handlers).run(*found)
    assert len(seen) == 6


def test_a_worker_of_statuses_makes_way_for_nobody(
    commit: Any, take: Any, runner: Any, status: Any, message: Any, redis: Redis
) -> None:
    """A worker that does not take messages is not interrupted for them."""
    handlers, seen = Handlers(), []
    handlers.status()(lambda event: seen.append(event.id))
    commit(*[status(str(n)) for n in range(3)])
    commit(message(), received_ms=_ago(5))
    redis.hset(keys.SPENT, "statuses", 1000)
    runner(handlers, lanes="statuses").run(*take("w1", "statuses"))
    assert len(seen) == 3


def _fail_until(event_ids: set[str], seen: list[str]) -> Handlers:
    handlers = Handlers()

    @handlers.status()
    def handle(event: Any) -> None:
        seen.append(event.id)
        if event.id not in event_ids:
            raise ConnectionError

    return handlers


def test_the_lane_waits_when_everything_fails(
    commit: Any, take: Any, runner: Any, status: Any, message: Any, redis: Redis
) -> None:
    """After three settles without a success the lane waits and the batch goes back, with the attempts it had."""
    seen: list[str] = []
    good: set[str] = set()
    handlers = _fail_until(good, seen)
    commit(*[status(str(n)) for n in range(10)], message())
    queue, batch = take("w1", "statuses")
    runner(handlers, lanes="statuses").run(queue, batch)
    assert seen == ["0", "1", "2"]
    assert redis.llen(keys.batch_key(batch)) == 7
    assert 0 < take("w1", "statuses") <= 1000
    assert take("w2")[0].startswith("messages")  # other lanes go on

    redis.hset(keys.WAITS, "statuses", 1)  # its time is over: one event is tried
    assert take("w1", "statuses") == (queue, batch)
    runner(handlers, lanes="statuses").run(queue, batch)
    assert seen[3:] == ["3"]
    assert 1000 < take("w1", "statuses") <= 2000  # and it waits twice as long

    good.update(map(str, range(20)))
    redis.hset(keys.WAITS, "statuses", 1)
    assert take("w1", "statuses") == (queue, batch)
    runner(handlers, lanes="statuses").run(queue, batch)
    assert seen[4:] == ["4", "5", "6", "7", "8", "9"]
    assert not redis.exists(keys.WAITS, keys.FAILING)
    retried: Any = redis.zrange(keys.scheduled_key("statuses"), 0, -1)
    assert sum(redis.llen(keys.batch_key(r.decode())) for r in retried) == 4  # type: ignore[misc]


def _now(redis: Redis) -> float:
    seconds, micros = redis.time()  # type: ignore[misc]
    return float(seconds) + micros / 1e6


def test_the_wait_grows_to_a_minute(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """The lane waits 1, 2, 4 … seconds, a minute at most."""
    handlers = _fail_until(set(), [])
    waits = []
    for n in range(12):
        redis.hset(keys.WAITS, "statuses", 1)
        commit(status(str(n)))
        found = take("w1", "statuses")
        before = _now(redis)
        runner(handlers).run(*found)
        until = int(redis.hget(keys.WAITS, "statuses") or 0) / 1000  # type: ignore[arg-type]
        waits.append((until - _now(redis), until - before))
    for (least, most), wait in zip(waits[2:], [1, 2, 4, 8, 16, 32, 60, 60, 60, 60], strict=True):
        assert least <= wait <= most + 0.001  # it is kept in whole milliseconds


@pytest.mark.parametrize("kind", ["asked", "retried", "one success"])
def test_what_is_no_breakdown(kind: str, commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """RetryIn, events that failed before, and failures among successes do not make the lane wait."""
    handlers = Handlers()

    @handlers.status()
    def handle(event: Any) -> None:
        if kind == "asked":
            raise RetryIn(100)
        if kind == "retried" or int(event.id) % 3:
            raise ConnectionError

    if kind == "retried":
        commit(status("x"))
        queue, batch = take()
        redis.delete(keys.batch_key(batch))
        redis.rpush(keys.batch_key(batch), *[pack(status(str(n)), 1, attempt=2) for n in range(10)])
        runner(handlers).run(queue, batch)
    else:
        commit(*[status(str(n)) for n in range(10)])
        runner(handlers).run(*take())
    assert not redis.exists(keys.WAITS)
    assert redis.zcard(keys.LEDGER) == redis.zcard(keys.scheduled_key("statuses"))


def test_a_try_that_decides_nothing(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """When the one try of a waiting lane holds only duplicates, the next one is tried at once."""
    seen: list[str] = []
    handlers = _fail_until({"a", "b"}, seen)
    commit(status("a"))
    runner(handlers).run(*take())
    redis.hset(keys.WAITS, "statuses", 1)
    commit(status("a"), status("b"), batch=1)
    runner(handlers).run(*take())
    runner(handlers).run(*take())
    assert seen == ["a", "b"]
    assert not redis.exists(keys.WAITS)


def test_a_pause_ends_the_batch(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """A batch of a lane that is paused goes back to the front with its next settle; so does one that gets a cap."""
    handlers, seen = Handlers(), []
    levers = {
        "1": lambda: controls.pause(redis, ["statuses"]),
        "3": lambda: controls.limit(redis, "statuses", 1000),
    }

    @handlers.status()
    def handle(event: Any) -> None:
        seen.append(event.id)
        levers.get(event.id, lambda: None)()

    commit(*[status(str(n)) for n in range(6)], status("later"))
    found = take()
    runner(handlers).run(*found)
    assert seen == ["0", "1"]
    assert take("w2") == -1
    controls.resume(redis, ["statuses"])
    assert take("w3") == found
    runner(handlers, worker="w3").run(*found)
    assert seen == ["0", "1", "2", "3"]
    assert take("w4") == found


def test_makes_no_way_for_what_is_not_given_out(
    commit: Any, take: Any, runner: Any, status: Any, message: Any, redis: Redis
) -> None:
    """A batch of statuses is not interrupted for messages that are paused, or have no tokens."""
    for lever in (lambda: controls.pause(redis, ["messages"]), lambda: controls.limit(redis, "messages", 0.001)):
        redis.flushdb()
        lever()
        redis.hset(keys.CONTROLS, mapping={"tokens.messages": 0, "at.messages": time.time()})
        handlers, seen = Handlers(), []
        handlers.status()(lambda event, seen=seen: seen.append(event.id))
        commit(*[status(str(n)) for n in range(3)], message(), received_ms=_ago(5))
        redis.hset(keys.SPENT, "statuses", 1000)
        runner(handlers).run(*take("w1", "statuses"))
        assert seen == ["0", "1", "2"]
