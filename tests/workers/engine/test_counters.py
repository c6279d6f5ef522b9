"""What workers count with their settles and reapings: exactly what was settled, once."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.state import backlog, counters
from ingest.store import keys
from ingest.store.records import pack
from workers import Discard, Handlers, Reject, RetryIn, Snooze
from workers.engine import reaper

ROOM = __name__


def counted(parts: dict[str, int]) -> int:
    """How many durations a histogram holds."""
    return sum(count for part, count in parts.items() if part not in ("sum", "failed", "seen"))


@pytest.mark.parametrize("is_async", [False, True])
def test_handlers_and_waits(
    is_async: bool, commit: Any, take: Any, runner: Any, message: Any, status: Any, redis: Redis
) -> None:
    """Each call is timed under its handler's name, failures are counted apart; each handled event's wait is there."""
    handlers = Handlers()

    def first(event: Any) -> None:
        time.sleep(0.02)

    def second(event: Any) -> None:
        if event.id == "fails":
            raise ValueError
        if event.id in ("later", "dropped", "no"):
            raise {"later": RetryIn(9), "dropped": Discard("x"), "no": Reject("x")}[event.id]

    async def second_async(event: Any) -> None:
        second(event)

    first.__qualname__ = "first"
    second.__qualname__ = second_async.__qualname__ = "second"
    handlers.message()(first)
    handlers.message()(second_async if is_async else second)
    ids = ("good", "fails", "later", "dropped", "no")
    commit(*(message(id, sender="15550001") for id in ids), received_ms=time.time_ns() // 1_000_000 - 20_000)
    commit(status("unhandled"))
    made = runner(handlers)
    for _ in range(2):
        made.run(*take())
    found = counters.read(redis)
    slow, quick = found[counters.HANDLER][f"{ROOM}.first"], found[counters.HANDLER][f"{ROOM}.second"]
    assert (counted(slow), counted(quick)) == (5, 5)
    assert slow["sum"] >= 5 * 20_000 > quick["sum"]
    assert not any(slow.get(str(bound)) for bound in (0.0005, 0.001, 0.0025, 0.005, 0.01))
    assert (slow.get("failed", 0), quick["failed"]) == (0, 1)
    assert list(found[counters.WAIT]) == ["messages"]
    assert found[counters.WAIT]["messages"].keys() == {"60.0", "sum"}
    assert counted(found[counters.WAIT]["messages"]) == 1
    assert 20_000 <= found[counters.WAIT]["messages"]["sum"] < 60_000
    assert found[counters.DEAD] == {"messages": {"rejected": 1}}


def flowed(redis: Redis) -> Counter[str]:
    """Notifications in and out so far, by lane."""
    found = Counter[str]()
    for key in redis.keys(keys.flow_key("[0-9]*")):  # type: ignore[union-attr, arg-type]
        found.update({name.decode(): int(n) for name, n in redis.hgetall(key).items() if b"." in name[:4]})  # type: ignore[union-attr]
    return found


def test_only_what_has_ended_is_out(commit: Any, take: Any, runner: Any, message: Any, redis: Redis) -> None:
    """A notification counts as out when all of it has ended, however it did, not while a part of it is tried again."""
    handlers = Handlers()
    tries = Counter[str]()

    @handlers.message()
    def answer(event: Any) -> None:
        tries[event.id] += 1
        if event.id == "dropped":
            raise Discard("x")
        if event.id == "no":
            raise Reject("x")
        if event.id in ("fails", "one of two") and tries[event.id] == 1:
            raise RetryIn(0)
        if event.id == "snoozes":
            raise Snooze(3600)

    two = json.loads(message("one of two", sender="15550001"))
    two["messages"].append(two["messages"][0] | {"id": "the other"})
    ids = ("good", "dropped", "no", "fails", "snoozes")
    commit(*(message(id, sender="15550001") for id in ids), json.dumps(two).encode())
    made = runner(handlers)
    made.run(*take())
    assert tries.total() == 7
    assert flowed(redis) == {"in.messages": 6, "out.messages": 3}
    made.run(*take())
    assert (tries["fails"], tries["one of two"], tries.total()) == (2, 2, 9)
    assert flowed(redis) == {"in.messages": 6, "out.messages": 5}


def test_types_that_no_handler_wants(
    commit: Any, take: Any, runner: Any, status: Any, message: Any, redis: Redis
) -> None:
    """They are counted by type, as far as it is known: what a sender invents takes no room of its own."""
    handlers = Handlers()
    handlers.message("image")(lambda event: None)
    commit(message("1"), message("2", type="image"), message("3", type="invented"), message("4", type="Kerry_Fisher"))
    commit(status("5", status="read"), status("6", status="read"), b'{"errors":[{"code":131000}]}')
    made = runner(handlers)
    while given := take.many():
        made.run(*given)
    now = backlog.read(redis)
    assert now.unhandled == {"message.text": 1, "message.other": 2, "status.read": 2, "error.other": 1}
    assert now.counts == {
        "handled.message": 1,
        "unhandled.message": 3,
        "unhandled.status": 2,
        "unhandled.error": 1,
    }


def test_what_was_counted_lately(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """Calls, failures and the events of lists are counted in the bucket of the moment, too, which expires."""
    handlers = Handlers()

    @handlers.status()
    def single(event: Any) -> None:
        if event.id == "0":
            raise ValueError

    @handlers.status(bulk=10)
    def lists(events: list[Any]) -> None: ...

    commit(*(status(str(n)) for n in range(5)))
    runner(handlers).run(*take())
    found: Counter[str] = Counter()
    for key in redis.keys(keys.flow_key("[0-9]*")):  # type: ignore[union-attr, arg-type]
        assert 0 < redis.ttl(key) <= 600  # type: ignore[operator]
        found.update({field.decode(): int(count) for field, count in redis.hgetall(key).items()})  # type: ignore[union-attr]
    one, many = handlers.registered
    assert found[f"handler|{one.name}|failed"] == 1
    assert found[f"list|{many.name}|sum"] == 5
    assert (
        sum(count for field, count in found.items() if field.startswith(f"handler|{one.name}|") and field[-1] != "m")
        == 5 + 1
    )


def test_each_way_to_fail_is_counted_lately(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """Beside a handler's failures of the last minute stands how often it failed in which way, and what failed before
    its outage is not told as that; the counters of all time do not have it.
    """
    handlers = Handlers()

    @handlers.status()
    def crm(event: Any) -> None:
        raise KeyError("15550001") if int(event.id) < 2 else ConnectionError("15550001")

    commit(*(status(str(n)) for n in range(5)))
    runner(handlers).run(*take())
    (found,) = backlog.read(redis).handlers
    assert (found.failures, list(found.errors.values())) == (5, [3, 2])
    assert [error.partition(" at ")[0] for error in found.errors] == ["ConnectionError", "KeyError"]
    assert "15550001" not in str(found)
    assert not [field for field in redis.hkeys(keys.COUNTERS) if field.startswith(b"error")]  # type: ignore[union-attr]


def test_a_settle_that_comes_twice(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """What redis-py sends again is counted once."""
    handlers = Handlers()
    handlers.status()(lambda event: None)
    made = runner(handlers)
    connection, send = made.flow._connection, made.flow._settling._settle.send

    def twice(*command: Any) -> Any:
        call = send(*command)
        answer = connection.answer(call)
        before = redis.hgetall(keys.COUNTERS)
        assert connection.answer(send(*command)) == answer
        assert redis.hgetall(keys.COUNTERS) == before
        return call

    made.flow._settling._settle.send = twice
    commit(*(status(str(n)) for n in range(5)), b"no JSON")
    for _ in range(2):
        made.run(*take())
    found = counters.read(redis)
    (parts,) = found[counters.HANDLER].values()
    assert counted(parts) == counted(found[counters.WAIT]["statuses"]) == 5
    assert found[counters.DEAD] == {"other": {"unreadable": 1}}


def test_a_lost_batch_counts_nothing(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """A worker whose batch is another's by now adds nothing."""
    handlers = Handlers()
    commit(status())
    queue, batch = take()
    handlers.status()(lambda event: redis.hset(keys.TAKEN, f"{queue}|{batch}", "other#1"))
    runner(handlers).run(queue, batch)
    assert not redis.exists(keys.COUNTERS)


@pytest.mark.parametrize("record", [{"force": True}, {"attempt": 0}], ids=["dead letter", "archive"])
def test_what_is_fed_back_has_not_waited(
    record: dict[str, Any], take: Any, runner: Any, status: Any, redis: Redis, commit: Any
) -> None:
    """What a person feeds back after days is timed in its handler, not as a wait of its lane."""
    handlers = Handlers()
    handlers.status()(lambda event: None)
    commit(status())
    queue, batch = take()
    redis.lset(keys.batch_key(batch), 0, pack(status(), 1, **record))
    runner(handlers).run(queue, batch)
    found = counters.read(redis)
    assert counted(next(iter(found[counters.HANDLER].values()))) == 1
    assert found[counters.WAIT] == {}


def test_dead_letters_by_reason(
    commit: Any, take: Any, runner: Any, status: Any, redis: Redis, dead: Callable[[str], list[dict[str, str]]]
) -> None:
    """Out of attempts is `failed`; the reasons add up to what lies there."""
    handlers = Handlers()
    handlers.status()(lambda event: 1 / 0)
    commit(status("1"), status("2"), b'{"statuses": [1]}', b"{}")
    made = runner(handlers, max_attempts=1)
    for _ in range(2):
        made.run(*take())
    assert counters.read(redis)[counters.DEAD] == {
        "statuses": {"failed": 2, "malformed": 1},
        "other": {"unknown_form": 1},
    }
    assert (len(dead("statuses")), len(dead("other"))) == (3, 1)


def test_what_the_reaper_puts_back(
    commit: Any, take: Any, message: Any, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of dead workers are counted by lane; one that kills for the third time is a dead letter, and a line."""
    commit(message("kills"))
    for _ in range(3):
        reaper.heartbeat_and_reap(redis, "dying")
        take("dying")
        redis.zadd(keys.ALIVE, {"dying": 1, "bystander": int(redis.time()[0]) * 1000})  # type: ignore[index]
        redis.delete(keys.REAPER)
        reaper.heartbeat_and_reap(redis, "other")
    found = counters.read(redis)
    assert found[counters.REAPED] == {"messages": {"batches": 2}}
    assert found[counters.DEAD] == {"messages": {"poison": 1}}
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "dead letters" in line]
    assert "lane=messages" in line
    assert "reason=poison" in line


def test_a_figure_never_ends_a_settle(
    commit: Any, take: Any, runner: Any, status: Any, redis: Redis, nothing_left: Any
) -> None:
    """A sum that has no room for more is left as it is; the batch is settled as a whole all the same."""
    full = {"wait|statuses|sum": 2**63 - 1, "handler|tests|sum": 2**63 - 1}
    redis.hset(keys.COUNTERS, mapping=full)
    seen: list[str] = []
    handlers = Handlers()
    handlers.status()(lambda event: seen.append(event.id))
    commit(status("a"), status("b"), received_ms=time.time_ns() // 1_000_000 - 20_000)
    running = runner(handlers)
    running.run(*take())
    assert seen == ["a", "b"]
    nothing_left()
    assert counters.read(redis)[counters.WAIT]["statuses"] == {"sum": 2**63 - 1, "60.0": 2}
