"""How long handlers have been at one event, as workers tell and operators see."""

from __future__ import annotations

import time
from typing import Any

from redis import Redis

from ingest.state import backlog, health, in_work
from ingest.state.in_work import Begun
from ingest.state.snapshot import Snapshot, workers
from ingest.store import keys


def tell(redis: Redis, worker: str, alive: bool = True, **seconds: float) -> None:
    """A worker tells how long its calls have taken, by lane."""
    calls = {lane: Begun(f"bot.{lane}", time.time() - each) for lane, each in seconds.items()}
    if told := in_work.told(calls):
        redis.hset(keys.IN_WORK, worker, told)
    redis.zadd(keys.ALIVE, {worker: time.time() * 1000 - (0 if alive else 60_000)})


def test_quick_calls_are_not_told() -> None:
    """What takes less than two seconds is no news: a busy worker writes nothing."""
    assert in_work.told({"messages": Begun("bot.answer", time.time())}) == b""


def test_the_longest_call_of_each_lane(redis: Redis) -> None:
    """It is the lane's figure; of several workers the longest counts, and those that are dead do not."""
    tell(redis, "a", messages=100, statuses=5)
    tell(redis, "b", messages=300)
    tell(redis, "dead", alive=False, messages=9000)
    now = backlog.read(redis)
    assert round(now.lanes["messages"].working_oldest_seconds, -1) == 300
    assert now.lanes["other"].working_oldest_seconds == 0
    assert 5 <= now.lanes["statuses"].working_oldest_seconds < 60
    calls = [(call.worker, call.lane) for call in now.in_work]
    assert calls == [("b", "messages"), ("a", "messages"), ("a", "statuses")]
    together = backlog.read_all({"one": redis, "two": redis})
    assert round(together.lanes["messages"].working_oldest_seconds, -1) == 300
    assert len(together.in_work) == 6


def test_a_finding_names_the_handler(redis: Redis) -> None:
    """All is not well while a handler hangs, though nothing waits: the page says which, once, and for how long."""
    tell(redis, "a", messages=100, statuses=30)
    tell(redis, "b", messages=7000)
    found = health.findings(Snapshot("r", time.time(), backlog=backlog.read(redis)))
    (one,) = [finding for finding in found if finding.about.startswith("long.")]
    assert (one.level, one.about) == ("warning", "long.bot.messages")
    assert one.text == "Handler bot.messages has been at one event for 1h56m"
    assert health.ALL_WELL not in found


def test_a_worker_of_the_page(redis: Redis) -> None:
    """Its row has the call that takes longest."""
    tell(redis, "a", messages=100, statuses=200)
    tell(redis, "b")
    rows: dict[str, Any] = {row.name: row for row in workers(redis)}
    assert (rows["a"].handler, round(rows["a"].seconds, -1)) == ("bot.statuses", 200)
    assert (rows["b"].handler, rows["b"].seconds) == (None, None)
