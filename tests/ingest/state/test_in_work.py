"""What workers have in hand, as they tell and operators see: how long handlers have been at one event, what waits."""

from __future__ import annotations

import time
from typing import Any

from redis import Redis

from ingest.state import backlog, causes, health, in_work
from ingest.state.holds import Hold
from ingest.state.in_work import Begun, Turn
from ingest.state.snapshot import Snapshot, workers
from ingest.store import keys


def tell(redis: Redis, worker: str, alive: bool = True, **seconds: float) -> None:
    """A worker tells how long its calls have taken, by lane."""
    calls = {lane: Begun(f"bot.{lane}", time.time() - each) for lane, each in seconds.items()}
    if told := in_work.told(worker, calls, {}, []):
        redis.hset(keys.IN_WORK, mapping=told)
    redis.zadd(keys.ALIVE, {worker: time.time() * 1000 - (0 if alive else 60_000)})


def test_quick_calls_are_not_told() -> None:
    """What takes less than two seconds, or waits for less, is no news: a busy worker writes nothing."""
    now = time.time()
    assert in_work.told("a", {"messages": Begun("bot.answer", now)}, {"messages": now * 1000}, []) == {}


def test_what_waits_in_a_hand_has_an_age(redis: Redis) -> None:
    """It is the lane's age though nothing waits in a queue: the oldest of all workers, without those that are dead."""
    now = time.time()
    for worker, alive, seconds in (("a", True, 40), ("b", True, 100), ("c", True, 20), ("dead", False, 9000)):
        waits = {"messages": (now - seconds) * 1000, "statuses": (now - 10) * 1000}
        redis.hset(keys.IN_WORK, mapping=in_work.told(worker, {"other": Begun("bot.f", now - 30)}, waits, []))
        redis.zadd(keys.ALIVE, {worker: now * 1000 - (0 if alive else 60_000)})
    assert not any(lane.oldest_seconds for lane in backlog.read(redis).lanes.values())  # by now all has ended
    for member in ("messages.0|b", "statuses|b"):
        redis.zadd(keys.LEDGER, {member: now * 1000})
        redis.hset(keys.TAKEN, member, "a#1")
    redis.rpush(keys.batch_key("b"), "record")
    lanes = backlog.read_all({"one": redis, "two": redis}).lanes
    assert {name: round(lane.oldest_seconds, -1) for name, lane in lanes.items()} == {
        "messages": 100,
        "statuses": 10,
        "other": 0,
    }
    assert len(backlog.read(redis).in_work) == 3


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


def test_what_waits_for_its_turn(redis: Redis) -> None:
    """Told by the workers that are alive, added up: of the lane's work so much waits, and for which handlers."""
    now = time.time()
    for worker, alive, events in (("a", True, 30), ("b", True, 12), ("dead", False, 500)):
        arrived = (now - events) * 1000
        turns = [
            Turn("messages", "crm", events, arrived, arrived + 10_000),
            Turn("messages", "log", 1, now * 1000, None),
        ]
        holds = [Hold("crm", "rate", 50.0), Hold("log", "rate", 7.0), Hold("posts", "pace", 24.5, now - 9)]
        redis.hset(keys.IN_WORK, mapping=in_work.told(worker, {}, {}, turns, holds))
        redis.zadd(keys.ALIVE, {worker: now * 1000 - (0 if alive else 60_000)})
    assert not backlog.read(redis).owed  # what has ended since they told it is owed no more
    redis.zadd(keys.LEDGER, {"messages.0|b": now * 1000})
    redis.hset(keys.TAKEN, "messages.0|b", "a#1")
    redis.rpush(keys.batch_key("b"), *["record"] * 50)
    for read in (backlog.read(redis), backlog.read_all({"one": redis})):
        lane = read.lanes["messages"]
        assert (lane.working, lane.turns, round(lane.oldest_seconds, -1)) == (50, 42, 20)  # it was never tried
        crm, posts = read.handlers  # what waits for a moment is no news
        assert (crm.name, crm.turns, crm.retrying, round(crm.oldest_seconds, -1)) == ("crm", 42, 0, 30)
        assert causes.of_lane(read, "messages") == "held up by handler crm"
        assert causes.of_lane(read, "statuses") == ""
        cause, other = causes.told(read, now)
        assert (cause.level, cause.about) == ("info", "lags.crm")
        assert cause.text.startswith(
            "Handler crm is behind: 42 events wait for its turn (its rate of 50/s), the oldest"
        )
        assert (posts.owed, other.about) == (0, "lags.posts")
        assert other.text.startswith("Handler posts is held back: held to 49/s since a 429 at ")
