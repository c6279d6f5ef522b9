"""What waits for its next try: few batches, whatever time was asked for, and no try spent by a snooze."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.store import constants, keys
from ingest.store.records import MOST_WAITS, Record, pack, unpack
from workers import Handlers, RetryIn, Snooze
from workers.dispatch.breakdowns import FAILURES
from workers.engine import retries
from workers.raised import Unreachable


def _parked(redis: Redis) -> dict[str, list[Record]]:
    """The records of what waits, by batch."""
    found: dict[str, list[Record]] = {}
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        for id in redis.zrange(key, 0, -1):  # type: ignore[union-attr]
            found[id.decode()] = [unpack(one) for one in redis.lrange(keys.batch_key(id.decode()), 0, -1)]  # type: ignore[union-attr]
    return found


def _make_due(redis: Redis) -> None:
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        redis.zadd(key, dict.fromkeys(redis.zrange(key, 0, -1), 1))  # type: ignore[union-attr,arg-type]


def _counts(redis: Redis) -> dict[str, int]:
    return {name.decode(): int(count) for name, count in redis.hgetall(keys.COUNTS).items()}  # type: ignore[union-attr]


@pytest.fixture
def asking() -> Handlers:
    """A handler of statuses that asks for some time after an hour, as a 429 with jitter does."""
    handlers = Handlers()

    @handlers.status()
    def handle(event: Any) -> None:
        raise RetryIn(3600 + random.random())

    return handlers


def test_delays_share_batches(asking: Any, commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """Events of several batches, settles and workers that ask for nearly the same time wait in one batch, in order."""
    for worker in ("w1", "w2", "w3"):
        commit(*[status(f"{worker}-{n}") for n in range(60)], batch=10, received_ms=9000 - int(worker[1]))
        runner(asking, worker).run(*take.many(worker, "statuses"))
    found = _parked(redis)
    assert len(found) <= 2  # an hour ends in one step of half a minute, or in two
    assert sum(map(len, found.values())) == 180
    assert redis.zcard(keys.LEDGER) == len(found)
    for member, arrived in redis.zrange(keys.LEDGER, 0, -1, withscores=True):  # type: ignore[union-attr,misc]
        records = found[member.decode().split("|")[1]]
        assert arrived == min(record.received_ms for record in records)


def test_a_parked_event_is_cheap(asking: Any, commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """It costs its body and 60 bytes at most, and what Redis remembers of it is among these."""

    def park(label: str) -> None:
        commit(*[status(f"{label}-{n}") for n in range(8000)])
        made = runner(asking)
        while given := take.many("w1", "statuses"):
            made.run(*given)

    def used() -> int:
        memory: Any = redis.info("memory")
        return int(memory["used_memory"] - memory["mem_clients_normal"])

    park("first")  # Redis keeps something of each command and set of digests that it has never seen before
    before = used()
    park("second")
    (record, *_), *_ = _parked(redis).values()
    assert (used() - before) / 8000 <= len(record.body) + 60


def test_a_parked_batch_is_bounded(
    commit: Any, take: Any, runner: Any, status: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By records and by bytes, so that a worker can take it; a record of more bytes than that waits alone."""
    monkeypatch.setattr(constants, "PARKED_RECORDS", 4)
    monkeypatch.setattr(constants, "PARKED_BYTES", 500)
    handlers, long = Handlers(), "x" * 1000

    @handlers.status()
    def handle(event: Any) -> None:
        raise RetryIn(100_000)

    commit(*[status(str(n)) for n in range(10)], *[status(long + str(n)) for n in range(2)], batch=5)
    runner(handlers).run(*take.many("w1", "statuses"))
    found = _parked(redis)
    assert sum(map(len, found.values())) == 12
    for records in found.values():
        assert len(records) == 1 or (len(records) <= 4 and sum(len(one.body) for one in records) < 500)
    assert len(found) <= 7


@pytest.mark.parametrize("seconds", [0, 0.001, 0.3, 1, 5, 59, 64, 100, 3600, 86_400, 604_800])
def test_due_times_are_few_and_never_early(seconds: float) -> None:
    """A delay is rounded up, by a thirty-second at most, and there are no more than some dozens of due times ahead."""
    step = retries.step(seconds)
    assert seconds <= retries.rounded(seconds) < seconds + step
    assert step <= max(1 / constants.SLOTS_PER_SECOND, seconds / 64)
    assert seconds / step <= 128


def test_a_snooze_costs_no_try(commit: Any, take: Any, runner: Any, message: Any, redis: Redis) -> None:
    """However often an event is snoozed, its attempt stays, that handler alone is called, and it is no breakdown."""
    handlers, called = Handlers(), []
    handlers.message()(lambda event: called.append("other"))

    @handlers.message()
    def limited(event: Any) -> None:
        called.append(event.attempt)
        if len(called) < 2 * FAILURES:
            raise Snooze(1000)

    commit(message())
    made = runner(handlers, max_attempts=2)
    for _ in range(2 * FAILURES):
        if given := take.many("w1", "messages"):
            made.run(*given)
        _make_due(redis)
    assert called == ["other", *[1] * (2 * FAILURES - 1)]
    assert _counts(redis) == {"snoozed.message": 2 * FAILURES - 2, "handled.message": 1}
    assert not redis.exists(keys.LEDGER, keys.BREAKDOWNS, keys.PARKED)


def test_a_failure_beside_a_snooze(commit: Any, take: Any, runner: Any, message: Any, redis: Redis) -> None:
    """One handler fails, which counts as a try, but the other one is not called before its time."""
    handlers = Handlers()

    @handlers.message()
    def limited(event: Any) -> None:
        raise Snooze(1000)

    @handlers.message()
    def fails(event: Any) -> None:
        raise ValueError

    commit(message())
    runner(handlers).run(*take())
    assert take() >= 1000 * 1000
    ((record,),) = _parked(redis).values()
    assert (record.attempt, record.waits) == (2, 0)


def test_a_handler_whose_tries_are_used_up_takes_nothing_from_others(
    commit: Any, take: Any, runner: Any, message: Any, redis: Redis, dead: Any
) -> None:
    """The dead letter is of that handler alone. The event goes on for the others, and ends once."""
    handlers, called = Handlers(), []

    @handlers.message()
    def fails(event: Any) -> None:
        called.append("fails")
        raise RuntimeError

    @handlers.message()
    def asks(event: Any) -> None:
        called.append("asks")
        if called.count("asks") == 1:
            raise Snooze(1000)

    commit(message())
    made = runner(handlers, max_attempts=1)
    made.run(*take.many("w1", "messages"))
    (letter,) = dead("messages")
    assert letter["handler"].endswith(".fails")
    _make_due(redis)
    made.run(*take.many("w1", "messages"))
    assert called == ["fails", "asks", "asks"]
    assert _counts(redis) == {"snoozed.message": 1, "handled.message": 1}
    assert len(dead("messages")) == 1


@pytest.mark.parametrize("what", ["fails", "asks", "snoozes", "long"])
def test_an_old_event_is_given_up(
    what: str, commit: Any, take: Any, runner: Any, status: Any, redis: Redis, dead: Callable[[str], Any]
) -> None:
    """An event that would be older than WA_MAX_AGE at its next try is a dead letter, and the reason says so."""
    handlers = Handlers()
    errors = {"fails": ValueError("no"), "asks": RetryIn(60), "snoozes": Snooze(60), "long": Snooze(8 * 86_400)}

    @handlers.status()
    def handle(event: Any) -> None:
        raise errors[what]

    now_ms = int(redis.time()[0]) * 1000  # type: ignore[index]
    commit(status(), received_ms=now_ms - (0 if what == "long" else 7 * 86_400_000))
    runner(handlers, max_age="7d").run(*take())
    (letter,) = dead("statuses")
    assert letter["reason"] == "expired"
    assert "WA_MAX_AGE" in letter["detail"]
    assert _counts(redis) == {"dead.status": 1}
    assert redis.zcard(keys.LEDGER) == 0


def test_a_young_event_is_not_given_up(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """Up to WA_MAX_AGE it waits as long as it is asked to."""
    handlers = Handlers()

    @handlers.status()
    def handle(event: Any) -> None:
        raise Snooze(6 * 86_400)

    commit(status(), received_ms=int(redis.time()[0]) * 1000)  # type: ignore[index]
    runner(handlers, max_age="7d").run(*take())
    assert _counts(redis) == {"snoozed.status": 1}


def test_waits_beyond_a_byte(commit: Any, take: Any, runner: Any, status: Any, redis: Redis, dead: Any) -> None:
    """The 257th snooze of an event is no copy of the first; and what can no longer be counted is given up."""
    handlers, called = Handlers(), []

    @handlers.status()
    def handle(event: Any) -> None:
        called.append(event.id)
        raise Snooze(1000)

    def put(waits: int) -> None:
        commit(status(str(waits)))
        queue, batch = take()
        redis.delete(keys.batch_key(batch))
        redis.rpush(keys.batch_key(batch), pack(status("a"), 1_700_000_000_000, waits=waits))
        runner(handlers).run(queue, batch)

    put(0)
    put(256)
    assert called == ["a", "a"]
    assert sorted(record.waits for records in _parked(redis).values() for record in records) == [1, 257]
    put(MOST_WAITS)
    assert [letter["reason"] for letter in dead("statuses")] == ["expired"]


def test_nothing_joins_a_batch_in_work(
    asking: Any, commit: Any, take: Any, runner: Any, status: Any, redis: Redis
) -> None:
    """A parked batch that RQ gave out before its time (`rq requeue`) is not appended to while a worker has it."""
    handlers = Handlers()

    @handlers.status()
    def handle(event: Any) -> None:
        raise RetryIn(100_000)

    commit(status("a"))
    runner(handlers).run(*take())
    ((id, _),) = _parked(redis).items()
    redis.rpush(keys.queue_key("statuses"), id)
    assert take("w2") == ("statuses", id)
    commit(status("b"))
    runner(handlers).run(*take())
    assert redis.llen(keys.batch_key(id)) == 1
    assert len(_parked(redis)) == 2


def test_nothing_joins_a_batch_that_is_due(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """Once it is in its queue it may be taken at any time, even if RQ's registry was lost with what waited in it."""
    handlers = Handlers()

    @handlers.status()
    def handle(event: Any) -> None:
        raise RetryIn(100_000)

    commit(status("a"))
    runner(handlers).run(*take())
    ((id, _),) = _parked(redis).items()
    redis.delete(keys.scheduled_key("statuses"))
    redis.rpush(keys.queue_key("statuses"), id)
    commit(status("b"))
    runner(handlers).run(*take.many("w1", "statuses"))
    assert id not in _parked(redis)
    assert sum(map(len, _parked(redis).values())) == 2


def test_take_promotes_some_at_a_time(
    take: Any, commit: Any, status: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When very much is due at once, one call puts a part of it into the queues, and says that there is more."""
    for n in range(2 * constants.PROMOTED):
        redis.zadd(keys.scheduled_key(f"messages.{n % 8}"), {f"r1-{n}": 1})
    take.many("w1")
    assert sum(redis.zcard(keys.scheduled_key(f"messages.{n}")) for n in range(8)) == constants.PROMOTED  # type: ignore[misc]
    assert take.last[0] == 0
    take.many("w1")
    assert not redis.keys(f"{keys.RQ}:scheduled:*")


def test_revive_makes_some_due_at_a_time(runner: Any, redis: Redis) -> None:
    """One call of revive does a part, and the flow calls it until nothing is left; what was not put off stays."""
    count = 2 * constants.REVIVED + 1
    redis.zadd(keys.scheduled_key("statuses"), {f"w1-{n}": 1 << 40 for n in range(count)} | {"r1-0": 1 << 40})
    redis.sadd(keys.PUT_OFF, *(f"statuses|w1-{n}" for n in range(count)))
    flow = runner(Handlers()).flow
    flow.revive()
    for left in (constants.REVIVED + 1, 1, 0):
        flow._loop.run_until_complete(flow._turn(takes=False))
        assert redis.scard(keys.PUT_OFF) == left
    assert redis.zcount(keys.scheduled_key("statuses"), "-inf", 1 << 39) == count
    assert redis.llen(keys.doorbell_key("statuses")) == 1


def test_revived_in_the_order_of_arrival(
    commit: Any, take: Any, runner: Any, message: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the handler works again, what was put off comes as it arrived, whenever each next try would have been."""
    handlers, seen, away = Handlers(), [], [True]
    delays = {"m1": 300.0, "m2": 100.0, "m3": 5.0}

    @handlers.message()
    def handle(event: Any) -> None:
        if away[0]:
            raise Unreachable("away")
        seen.append(event.id)

    made = runner(handlers)
    for number, (id, delay) in enumerate(delays.items()):
        monkeypatch.setattr(retries, "put_off", lambda waits, delay=delay: delay)
        commit(message(id), received_ms=1_700_000_000_000 + number)
        made.run(*take.many("w1", "messages"))
    assert redis.scard(keys.PUT_OFF) == 3
    away[0] = False
    other = runner(handlers, "w2")
    other.flow.revive()
    other.flow._loop.run_until_complete(other.flow._turn(takes=False))
    while given := take.many("w2", "messages"):
        other.run(*given)
    assert seen == ["m1", "m2", "m3"]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Handlers:
    """What a handler of messages needs is away, so that they are put off for an hour."""
    handlers = Handlers()

    @handlers.message()
    def handle(event: Any) -> None:
        raise Unreachable("away")

    monkeypatch.setattr(retries, "put_off", lambda waits: 3600.0)
    return handlers


def test_new_events_beside_what_was_put_off(
    away: Handlers, commit: Any, take: Any, runner: Any, message: Any, redis: Redis
) -> None:
    """While thousands of events catch up, each take gives new ones, too: for these no other handler waits."""
    commit(*[message(f"old-{n:03}", sender="1") for n in range(400)])
    runner(away).run(*take.many("w1", "messages"))
    assert sum(map(len, _parked(redis).values())) == 400
    _make_due(redis)
    commit(message("new", sender="1"))
    batches = [batch for _, batch in take.many("w2", "messages")]
    given = [unpack(one).body for batch in batches for one in redis.lrange(keys.batch_key(batch), 0, -1)]  # type: ignore[union-attr]
    assert any(b"new" in body for body in given)
    assert constants.PUT_OFF_PART / 2 <= len(given) - 1 <= 2 * constants.PUT_OFF_PART


def test_little_of_what_was_put_off_at_a_time(
    away: Handlers, commit: Any, take: Any, runner: Any, message: Any, redis: Redis
) -> None:
    """A call gives so many parts of it, over all partitions, of others with each call; without room for more none."""
    commit(*[message(f"{n}", sender=str(n)) for n in range(100)])
    made = runner(away)
    while given := take.many("w1", "messages"):
        made.run(*given)
    _make_due(redis)
    waiting = {queue.decode() for queue in redis.scan_iter(f"{keys.RQ}:scheduled:*")}
    assert len(waiting) > 4
    assert take.many("w2", "messages", put_offs=0) == []
    assert 0 <= take.last[0] <= 1000 * constants.PUT_OFF_SECONDS + 1
    given, seen = take.many("w2", "messages", put_offs=2), set()
    assert len(given) == 2
    while given:
        seen |= {queue for queue, _ in given}
        given = take.many("w2", "messages", put_offs=2)
    assert len(seen) == len(waiting)
