"""What is still to be done, as read from a real Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest
from redis import Redis

from ingest.state import backlog
from ingest.state.backlog import Backlog, Lane, idle_workers, read, read_all
from ingest.state.in_work import ALIVE_MS
from ingest.store import keys
from ingest.store.constants import FLOW_SECONDS, SLOTS_PER_SECOND

Owe = Callable[..., str]


def now_ms(redis: Redis) -> int:
    seconds, micros = redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


@pytest.fixture
def owe(redis: Redis) -> Owe:
    """A function that puts an unfinished batch of that many records into the ledger."""

    def add(queue: str, batch: str, records: int, age_ms: int = 0) -> str:
        redis.rpush(keys.batch_key(batch), *[b"r"] * records)
        redis.zadd(keys.LEDGER, {f"{queue}|{batch}": now_ms(redis) - age_ms})
        return f"{queue}|{batch}"

    return add


def test_nothing(redis: Redis) -> None:
    """An empty Redis: every lane is there with zeros, nobody works, nothing is suspended."""
    found = read(redis)
    assert list(found.lanes) == ["messages", "statuses", "other"]
    assert all(lane == Lane(without_workers=True) for lane in found.lanes.values())
    assert (found.workers, found.suspended, found.counts) == (0, False, {})


def test_idle_workers(redis: Redis) -> None:
    """More workers of the messages lane than partitions are told: those that are alive, and with several Redis each
    against its own partitions.
    """
    for n in range(5):
        redis.zadd(keys.ALIVE, {f"w{n}": now_ms(redis)})
        redis.hset(keys.rq_worker_key(f"w{n}"), "queues", "messages.0,messages.1,statuses")
    redis.zadd(keys.ALIVE, {"dead": now_ms(redis) - 2 * ALIVE_MS, "others": now_ms(redis)})
    redis.hset(keys.rq_worker_key("others"), "queues", "statuses,other")
    assert idle_workers({"one": redis}, 5) == ""
    line = "5 worker processes but 3 partitions: 2 of them never get messages; raise WA_PARTITIONS"
    assert idle_workers({"one": redis}, 3) == line
    away = Redis(port=1)
    assert idle_workers({"one": redis, "two": away}, 6) == line
    assert idle_workers({"one": redis, "two": redis}, 20) == ""


def test_waiting(redis: Redis, owe: Owe) -> None:
    """Waiting notifications and batches are counted per lane over its partitions, with the age of the oldest."""
    owe("messages.0", "a", 3, age_ms=5_000)
    owe("messages.7", "b", 4, age_ms=90_000)
    owe("statuses", "c", 500)
    found = read(redis).lanes
    assert (found["messages"].waiting, found["messages"].batches) == (7, 2)
    assert 90 <= found["messages"].oldest_seconds < 95
    assert (found["statuses"].waiting, found["statuses"].batches) == (500, 1)
    assert 0 <= found["statuses"].oldest_seconds < 5
    assert found["other"] == Lane(without_workers=True)


def test_a_batch_that_is_divided_meanwhile(redis: Redis, owe: Owe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the ledger and that at its batches one is divided, and a half is taken: all is counted."""
    owe("messages.0", "whole", 10)
    look = backlog._llen

    def divide_first(client: Redis, names: list[str]) -> list[int]:
        if redis.delete(keys.batch_key("whole")):
            redis.zrem(keys.LEDGER, "messages.0|whole")
            redis.hset(keys.TAKEN, owe("messages.0", "whole_s000000_1", 4), "w1#1")
            owe("messages.0", "whole_s000004_1", 6)
        return look(client, names)

    monkeypatch.setattr(backlog, "_llen", divide_first)
    found = read(redis).lanes["messages"]
    assert (found.working, found.waiting) == (4, 6)


def test_working_and_retrying(redis: Redis, owe: Owe) -> None:
    """What a worker has and what waits for its next try is counted as that, and not as waiting."""
    redis.hset(keys.TAKEN, owe("other", "taken", 2, age_ms=60_000), "worker")
    owe("other", "later", 3, age_ms=60_000)
    redis.zadd(keys.scheduled_key("other"), {"later": 2**40})
    owe("other", "waits", 5)
    lane = read(redis).lanes["other"]
    assert (lane.working, lane.retrying, lane.waiting, lane.batches) == (2, 3, 5, 1)
    assert lane.oldest_seconds < 5


def test_what_waits_for_its_next_try(redis: Redis, owe: Owe) -> None:
    """It is told when the first of it is due, and how old the oldest is since it arrived, over lanes and Redis."""
    assert read(redis).retrying is None
    for queue, batch, age, due in (("other", "a", 600, 50), ("messages.1", "b", 60, 20), ("messages.2", "c", 6, 90)):
        owe(queue, batch, 2, age_ms=age * 1000)
        redis.zadd(keys.scheduled_key(queue), {batch: now_ms(redis) / 1000 + due})
    found = read_all({"one": redis, "two": redis})
    messages = found.lanes["messages"]
    assert 60 <= messages.retrying_oldest_seconds < 120
    assert messages.next_try_seconds is not None
    assert found.retrying is not None
    assert found.retrying.events == 12
    assert 0 < found.retrying.next_seconds == messages.next_try_seconds <= 20
    assert 600 <= found.retrying.oldest_seconds < 700
    assert found.lanes["statuses"].next_try_seconds is None


def test_what_was_made_due_early(redis: Redis, owe: Owe) -> None:
    """What was to wait for longer by its name, and is due all the same, has waited since it arrived."""
    name = f"w{(now_ms(redis) + 300_000) * SLOTS_PER_SECOND // 1000}-1"
    owe("messages.0", name, 3, age_ms=90_000)
    assert 90 <= read(redis).lanes["messages"].oldest_seconds < 150


def test_what_waits_behind_others(redis: Redis, owe: Owe) -> None:
    """What waits in strict orders is counted apart, by lane, whatever their heads do."""
    for n, order in enumerate(("a1", "b2")):
        redis.hset(keys.HEADS, order, owe(f"messages.{n}", f"r1-{n}-o{order}", 1))
        redis.rpush(keys.behind_key(order), *[f"messages.{n}|record"] * (n + 2))
    lanes = read(redis).lanes
    assert {name: lane.behind for name, lane in lanes.items()} == {"messages": 5, "statuses": 0, "other": 0}
    assert lanes["messages"].waiting == 2


def test_what_is_due_waits(redis: Redis, owe: Owe) -> None:
    """What is due for its next try counts as waiting, since it was due, although no worker lives to take it."""
    name = f"r{(now_ms(redis) - 30_000) * SLOTS_PER_SECOND // 1000}-1"
    owe("messages.0", name, 3, age_ms=3_600_000)
    redis.zadd(keys.scheduled_key("messages.0"), {name: now_ms(redis) / 1000 - 30})
    lane = read(redis).lanes["messages"]
    assert (lane.waiting, lane.batches, lane.retrying) == (3, 1, 0)
    assert 30 <= lane.oldest_seconds < 60


def test_same_batch_in_another_queue(redis: Redis, owe: Owe) -> None:
    """A batch that is scheduled in one queue does not count as retrying in another."""
    owe("other", "x", 1)
    redis.zadd(keys.scheduled_key("statuses"), {"x": 2**40})
    assert read(redis).lanes["other"].waiting == 1


def test_dead_workers_and_letters(redis: Redis) -> None:
    """Workers count while they gave a sign of life lately; dead letters count per lane; `rq suspend` shows."""
    redis.zadd(keys.ALIVE, {"a": now_ms(redis), "b": now_ms(redis) - ALIVE_MS // 2, "c": now_ms(redis) - 2 * ALIVE_MS})
    for lane, letters in {"messages": 2, "other": 1}.items():
        for _ in range(letters):
            redis.xadd(keys.dead_key(lane), {"x": "y"})
    redis.set("rq:suspended", 1)
    redis.hset(keys.COUNTS, mapping={"handled.message": 12})
    found = read(redis)
    assert (found.workers, found.suspended, found.counts) == (2, True, {"handled.message": 12})
    assert [found.lanes[lane].dead for lane in ("messages", "statuses", "other")] == [2, 0, 1]


def test_rates(redis: Redis) -> None:
    """Rates are notifications a second over the last minute, or since something was counted; what is older does not
    count, but says that it did not begin within the minute: a burst that ends seems no faster for it.
    """
    for oldest, before, whole in ((5, 6, 50), (2, 7, 20), (2, 6, 50)):
        while True:
            redis.flushall()
            seconds, micros = redis.time()
            bucket, here = divmod(seconds + micros / 1e6, FLOW_SECONDS)
            for back in range(1, oldest + 1):
                mapping = {"in.messages": 50, "out.messages": 100, "in.other": 5}
                redis.hset(keys.flow_key(int(bucket) - back), mapping=mapping)
            redis.hset(keys.flow_key(int(bucket) - before), mapping={"in.statuses": 1000})
            lanes = read(redis).lanes
            if redis.time()[0] // FLOW_SECONDS == bucket:
                break  # else the ten seconds changed meanwhile
        share = oldest * FLOW_SECONDS / (whole + max(1, here))
        assert lanes["messages"].rate_in == pytest.approx(5 * share, rel=0.05)
        assert lanes["messages"].rate_out == pytest.approx(10 * share, rel=0.05)
        assert lanes["other"].rate_in == pytest.approx(0.5 * share, rel=0.05)
        assert lanes["statuses"].rate_in == 0


def test_thousands_of_batches(redis: Redis) -> None:
    """More batches than fit in one pipeline are all counted."""
    with redis.pipeline(transaction=False) as pipe:
        for n in range(2500):
            pipe.rpush(keys.batch_key(f"b{n}"), b"r", b"r")
            pipe.zadd(keys.LEDGER, {f"statuses|b{n}": n + 1})
        pipe.execute()
    lane = read(redis).lanes["statuses"]
    assert (lane.waiting, lane.batches) == (5000, 2500)


@pytest.mark.parametrize(
    ("lane", "seconds"),
    [
        (Lane(), 0.0),
        (Lane(rate_in=5), 0.0),
        (Lane(waiting=100, rate_in=1, rate_out=11), 10.0),
        (Lane(waiting=100), None),
        (Lane(waiting=100, rate_out=10, without_workers=True), None),
        (Lane(rate_out=10, without_workers=True), 0.0),
        (Lane(waiting=100, rate_in=5, rate_out=5), None),
        (Lane(waiting=100, rate_in=6, rate_out=5), None),
        (Lane(waiting=5, working=5, oldest_seconds=0.3, rate_in=45, rate_out=45.1), 0.0),
        (Lane(waiting=1, working=1, oldest_seconds=0.1, rate_in=15.1, rate_out=15), 0.0),
        (Lane(waiting=5, working=5, oldest_seconds=3, rate_in=44, rate_out=45), 10.0),
        (Lane(waiting=5, working=5, oldest_seconds=0.3, rate_in=44, rate_out=45, put_off=1), None),
    ],
)
def test_seconds_to_empty(lane: Lane, seconds: float | None) -> None:
    """The time to empty is what waits over the net rate: none when nothing waits, or no more than leaves in a second of
    steady traffic; unknown when it does not shrink."""
    assert lane.seconds_to_empty == seconds


def test_as_json() -> None:
    """The JSON form has every figure of a lane, the time to empty among them, and can be written."""
    lane = Lane(waiting=2, rate_out=1.0)
    found = json.loads(json.dumps(Backlog({"other": lane}, 1, False, {"handled.message": 1}).as_json()))
    assert found == {
        "lanes": {"other": asdict(lane) | {"seconds_to_empty": 2.0}},
        "workers": 1,
        "suspended": False,
        "counts": {"handled.message": 1},
        "away": [],
        "idle_workers": "",
        "newly_dead": "",
        "broken": [],
        "steered": [],
        "handlers": [],
        "in_work": [],
        "unhandled": {},
        "ended": {"handled": 1},
        "again": 0,
        "requests": {},
        "unloadable": None,
    }
