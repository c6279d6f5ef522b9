"""Bulk handlers in a flow on a real Valkey."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.state import counters
from ingest.store import keys
from ingest.store.records import unpack
from workers import Discard, Handlers, Message, PartialFailure, Reject, RetryIn, Snooze, Status
from workers.dispatch.breakdowns import FAILURES
from workers.engine.hand import Taken

SOON = 30.0  # far less than any linger that is not to be waited for

both = pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])


def of_statuses(handlers: Handlers, is_async: bool, does: Callable[[list[Status]], object], **options: Any) -> None:
    """Register a handler of lists of statuses, of one kind or the other."""
    if is_async:

        @handlers.status(**options)
        async def on_statuses(statuses: list[Status]) -> None:
            await asyncio.sleep(0)
            does(statuses)

    else:
        handlers.status(**options)(does)


def work(made: Any) -> None:
    """Take and handle until nothing is left, as a worker with --burst does."""
    made.flow._taking.rung()
    while (taken := made.flow.next(None)) is not None:
        made.flow.admit(taken)


def given(take: Any, *lanes: str) -> list[Taken]:
    take.many("w1", *lanes)
    return [Taken(q.decode(), b.decode(), t.decode(), records, -1) for q, b, t, records, _ in take.last[4]]


def scheduled(redis: Redis) -> list[Any]:
    """The records that wait for their next try."""
    found: list[Any] = []
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        for id in redis.zrange(key, 0, -1):  # type: ignore[union-attr]
            found += [unpack(record) for record in redis.lrange(keys.batch_key(id.decode()), 0, -1)]  # type: ignore[union-attr]
    return found


def is_due(redis: Redis) -> None:
    """Have all that waits for its next try be due."""
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        redis.zadd(key, dict.fromkeys(redis.zrange(key, 0, -1), 1))  # type: ignore[union-attr]


@both
def test_events_of_several_batches_go_together(
    is_async: bool, commit: Any, take: Any, runner: Any, status: Any, nothing_left: Any
) -> None:
    """What comes in several notifications and batches is one list, in order of arrival."""
    handlers, lists = Handlers(), []
    of_statuses(handlers, is_async, lambda statuses: lists.append([one.id for one in statuses]), bulk=50, linger=0.3)
    ids = [f"{n:02}" for n in range(30)]
    for n in range(0, 30, 5):
        commit(*map(status, ids[n : n + 5]), batch=5)
    batches = take.many("w1", "statuses")
    assert len(batches) == 6
    runner(handlers, threads=4).run(*batches)
    assert lists == [ids]
    nothing_left()


@both
def test_a_full_list_waits_for_nothing(is_async: bool, commit: Any, take: Any, runner: Any, status: Any) -> None:
    """Once N events are there, the function is called, however long they might wait for company."""
    handlers, lists = Handlers(), []
    of_statuses(handlers, is_async, lambda statuses: lists.append(len(statuses)), bulk=10, linger=10 * SOON)
    commit(*[status(str(n)) for n in range(20)])
    began = time.monotonic()
    runner(handlers).run(*take.many("w1", "statuses"))
    assert time.monotonic() - began < SOON
    assert lists == [10, 10]


def test_linger(commit: Any, take: Any, runner: Any, status: Any) -> None:
    """The first event of a list waits so long for others, and what comes meanwhile is in its list."""
    handlers, lists = Handlers(), []

    @handlers.status(bulk=10, linger=0.5)
    async def on_statuses(statuses: list[Status]) -> None:
        lists.append((time.monotonic(), [one.id for one in statuses]))

    flow = runner(handlers).flow
    run = flow.dispatcher.loop.run_until_complete
    began = time.monotonic()
    for n in range(3):
        commit(status(str(n)))
        for one in given(take, "statuses"):
            flow.admit(one)
        run(flow._turn(takes=False))
    run(asyncio.wait_for(flow._finish(), 20))
    ((at, ids),) = lists
    assert ids == ["0", "1", "2"]
    assert 0.5 <= at - began < 10


def test_linger_is_waited_for_once(commit: Any, take: Any, runner: Any, status: Any) -> None:
    """What has waited behind another event of its message does not wait for company again."""
    handlers, at, linger = Handlers(), [], 3.0

    @handlers.status(bulk=10, linger=linger)
    async def on_statuses(statuses: list[Status]) -> None:
        at.append(time.monotonic())

    commit(*[status("a", stage) for stage in ("sent", "delivered", "read")])
    runner(handlers).run(*take.many("w1", "statuses"))
    assert len(at) == 3
    assert at[-1] - at[0] < linger


def test_no_waiting_in_a_backlog(
    commit: Any, runner: Any, status: Any, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    """When more waits than a worker may have in hand, a list that cannot be filled is called at once."""
    monkeypatch.setattr("workers.engine.demand.MOST_READY", 100)
    handlers, lists = Handlers(), []
    handlers.status(bulk=1000, linger=1.0)(lambda statuses: lists.append(len(statuses)))
    commit(*[status(str(n)) for n in range(2000)])
    began = time.monotonic()
    work(runner(handlers, threads=4))
    assert time.monotonic() - began < 15  # twenty lists that wait would take twenty seconds
    assert sum(lists) == 2000
    assert max(lists) > 20


def test_one_contact_in_several_batches(commit: Any, take: Any, runner: Any, message: Any, nothing_left: Any) -> None:
    """A contact's events keep their order over lists, batches and failures; never are two lists of it in flight."""
    handlers, seen, running = Handlers(), [], threading.Lock()

    @handlers.message(bulk=7, linger=0.05)
    def on_messages(messages: list[Message]) -> None:
        assert running.acquire(blocking=False)
        time.sleep(0.01)
        seen.extend(one.id for one in messages)
        running.release()

    ids = [f"{n:02}" for n in range(40)]
    for n in range(0, 40, 10):
        commit(*[message(id, sender="15550001") for id in ids[n : n + 10]], batch=10)
    runner(handlers, threads=4).run(*take.many("w1", "messages"))
    assert seen == ids
    nothing_left()


def test_lists_and_single_calls_of_many_contacts(
    commit: Any, take: Any, runner: Any, message: Any, nothing_left: Any
) -> None:
    """What is in flight of a contact is one event, or events of one list; each handler has them in order."""
    handlers, lock = Handlers(), threading.Lock()
    in_flight: dict[str, list[tuple[str, ...]]] = {}
    order: dict[tuple[str, str], list[str]] = {}

    @contextmanager
    def noted(name: str, messages: list[Message]) -> Iterator[None]:
        ids: dict[str, tuple[str, ...]] = {}
        for one in messages:
            ids[one.sender or ""] = (*ids.get(one.sender or "", ()), one.id or "")
        with lock:
            for sender, some in ids.items():
                assert all(others == some for others in in_flight.setdefault(sender, []))
                in_flight[sender].append(some)
                order.setdefault((name, sender), []).extend(some)
        yield
        with lock:
            for sender, some in ids.items():
                in_flight[sender].remove(some)

    @handlers.message("text", bulk=8, linger=0.02)
    def texts(messages: list[Message]) -> None:
        with noted("texts", messages):
            time.sleep(0.003)

    @handlers.message("image", bulk=5)
    async def images(messages: list[Message]) -> None:
        with noted("images", messages):
            await asyncio.sleep(0.003)

    @handlers.message("image")
    async def single(message: Message) -> None:
        with noted("single", [message]):
            await asyncio.sleep(0.002)

    kinds = ["text", "image", "text", "text"]
    commit(*[message(f"{n:03}", sender=str(n % 9), type=kinds[n // 9 % 4]) for n in range(180)])
    runner(handlers, threads=4).run(*take.many("w1", "messages"))
    assert {name: len(ids) for (name, _), ids in order.items()} == {"texts": 15, "images": 5, "single": 5}
    assert all(ids == sorted(ids) for ids in order.values())
    nothing_left()


def test_superseded_statuses(commit: Any, take: Any, runner: Any, status: Any) -> None:
    """A status that comes after a later stage of its message says so in a list, too."""
    handlers, seen = Handlers(), []

    @handlers.status(bulk=10, linger=0.02)
    def on_statuses(statuses: list[Status]) -> None:
        seen.extend((one.id, one.status, one.superseded) for one in statuses)

    commit(status("a", "read"), status("b", "sent"), status("a", "delivered"), status("b", "read"))
    runner(handlers).run(*take.many("w1", "statuses"))
    assert sorted(seen) == [
        ("a", "delivered", True),
        ("a", "read", False),
        ("b", "read", False),
        ("b", "sent", False),
    ]


def test_news_of_a_profile_among_lists(commit: Any, take: Any, runner: Any, redis: Redis) -> None:
    """A message that is news of a profile goes to that handler, too, though messages of its contact are in a list."""
    handlers, names, ids = Handlers(), [], []
    handlers.message(bulk=10)(lambda messages: ids.extend(one.id for one in messages))
    handlers.profile()(lambda profile: names.append(profile.new))

    def body(id: str, name: str) -> bytes:
        message = {"from": "15550001", "id": id, "timestamp": "1700000000", "type": "text", "text": {"body": "Hello"}}
        contact = {"profile": {"name": name}, "wa_id": "15550001"}
        return orjson.dumps({"contacts": [contact], "messages": [message]})

    commit(*[body(f"{n}", "Ada" if n < 4 else "Ada L.") for n in range(8)])
    runner(handlers, threads=4).run(*take.many("w1", "messages"))
    assert ids == [str(n) for n in range(8)]
    assert len(names) == 1


@both
def test_one_event_at_fault(
    is_async: bool, commit: Any, runner: Any, status: Any, redis: Redis, dead: Any, nothing_left: Any
) -> None:
    """Of a list of 500 the others are handled with ten calls more at most; it is tried again alone, to the end."""
    handlers, calls = Handlers(), []

    def does(statuses: list[Status]) -> None:
        calls.append([one.id for one in statuses])
        if "77" in calls[-1]:
            raise ValueError

    of_statuses(handlers, is_async, does, bulk=500)
    commit(*[status(str(n)) for n in range(500)])
    made = runner(handlers, max_attempts=3)
    work(made)
    assert len(calls[0]) == 500
    assert len(calls) <= 11
    for attempt in (2, 3):
        is_due(redis)
        before = len(calls)
        work(made)
        assert calls[before:] == [["77"]], attempt
    assert [(letter["reason"], letter["attempt"]) for letter in dead("statuses")] == [("failed", "3")]
    assert redis.hget(keys.COUNTS, "handled.status") == b"499"
    nothing_left()


def test_partial_failure(commit: Any, take: Any, runner: Any, status: Any, redis: Redis, dead: Any) -> None:
    """Each event ends by its own error: dropped, a dead letter, or tried again with an attempt more, or none."""
    handlers = Handlers()
    errors = {"drop": Discard("d"), "no": Reject("r"), "in": RetryIn(100), "snooze": Snooze(100), "bad": ValueError()}

    @handlers.status(bulk=10)
    def on_statuses(statuses: list[Status]) -> None:
        raise PartialFailure({one: errors[one.id] for one in statuses if one.id in errors})

    commit(*map(status, ["fine", *errors]))
    runner(handlers).run(*take.many("w1", "statuses"))
    counts = {name.decode(): int(count) for name, count in redis.hgetall(keys.COUNTS).items()}  # type: ignore[union-attr]
    assert counts == {
        "handled.status": 1,
        "discarded.status": 1,
        "dead.status": 1,
        "retried.status": 2,
        "snoozed.status": 1,
    }
    assert [letter["reason"] for letter in dead("statuses")] == ["rejected"]
    assert sorted(record.attempt for record in scheduled(redis)) == [1, 2, 2]


def test_a_stop_gives_back_what_waits_for_company(
    commit: Any, take: Any, runner: Any, status: Any, redis: Redis
) -> None:
    """It has not begun: the function is not called, and the batch is back in its queue as it was."""
    handlers, lists = Handlers(), []
    handlers.status(bulk=10, linger=10 * SOON)(lists.append)
    commit(*[status(str(n)) for n in range(5)])
    made = runner(handlers)
    run = made.flow.dispatcher.loop.run_until_complete
    for one in given(take, "statuses"):
        made.flow.admit(one)
    run(made.flow._turn(takes=False))
    assert made.flow.dispatcher.in_flight == 5
    made.stop.set()
    began = time.monotonic()
    made.flow.leave()
    assert time.monotonic() - began < 10
    assert lists == []
    assert redis.hlen(keys.TAKEN) == 0
    (batch,) = redis.lrange(keys.queue_key("statuses"), 0, -1)  # type: ignore[misc]
    assert redis.llen(keys.batch_key(batch.decode())) == 5


def test_what_another_worker_has_by_now(
    commit: Any, take: Any, runner: Any, status: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events whose batch was lost while they waited for company are not in the list."""
    monkeypatch.setattr("workers.dispatch.company._LONG_SECONDS", 0.1)
    handlers, seen = Handlers(), []
    of_statuses(handlers, True, lambda statuses: seen.extend(one.id for one in statuses), bulk=10, linger=0.3)
    flow = runner(handlers).flow
    run = flow.dispatcher.loop.run_until_complete
    for id in ("a", "b"):
        commit(status(id))
        for one in given(take, "statuses"):
            flow.admit(one)
        run(flow._turn(takes=False))
    lost, kept = flow._hands.batches
    redis.hset(keys.TAKEN, f"{lost.state.queue}|{lost.state.batch}", "w2#1")
    lost.settled_at = 0.0
    run(flow._turn(takes=False))
    assert (lost.state.lost, kept.state.lost) == (True, False)
    run(asyncio.wait_for(flow._finish(), 20))
    assert seen == ["b"]


def test_a_stop_between_two_handlers(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """What another handler has done of an event that waits for company is not done again."""
    handlers, called, lists = Handlers(), [], []

    @handlers.status()
    async def single(one: Status) -> None:
        called.append(one.id)

    handlers.status(bulk=10, linger=10 * SOON)(lambda statuses: lists.extend(one.id for one in statuses))
    commit(status("a"))
    made = runner(handlers)
    run = made.flow.dispatcher.loop.run_until_complete
    for one in given(take, "statuses"):
        made.flow.admit(one)
    run(made.flow._turn(takes=False))
    run(asyncio.sleep(0.1))
    assert called == ["a"]
    made.stop.set()
    made.flow.leave()
    is_due(redis)
    handlers.registered[1].linger = 0.0
    work(runner(handlers, worker="w2"))
    assert (called, lists) == (["a"], ["a"])
    assert redis.zcard(keys.LEDGER) == 0


@both
def test_rate_is_in_events(is_async: bool, commit: Any, take: Any, runner: Any, status: Any) -> None:
    """A list is no larger than what the rate allows now, however many wait."""
    handlers, lists = Handlers(), []
    of_statuses(
        handlers, is_async, lambda statuses: lists.append((time.monotonic(), len(statuses))), bulk=500, rate="100/s"
    )
    commit(*[status(str(n)) for n in range(100)])
    runner(handlers).run(*take.many("w1", "statuses"))
    sizes = [size for _, size in lists]
    assert sum(sizes) == 100
    assert max(sizes) <= 25
    assert 0.5 < lists[-1][0] - lists[0][0] < 10


def test_concurrency_is_in_lists(commit: Any, take: Any, runner: Any, status: Any) -> None:
    """So many lists are in flight at a time; what waits meanwhile fills the next ones."""
    handlers, lists, running = Handlers(), [], []

    @handlers.status(bulk=10, concurrency=2)
    async def on_statuses(statuses: list[Status]) -> None:
        running.append(len(statuses))
        lists.append((len(running), len(statuses)))
        await asyncio.sleep(0.02)
        running.pop()

    commit(*[status(str(n)) for n in range(100)])
    runner(handlers).run(*take.many("w1", "statuses"))
    assert max(most for most, _ in lists) == 2
    assert [size for _, size in lists] == [10] * 10


def test_a_broken_bulk_handler(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """Each list that fails is one failure. After some, events wait with the tries they have; one at a time is tried."""
    handlers, calls, fails = Handlers(), [], [True]

    @handlers.status(bulk=5)
    async def on_statuses(statuses: list[Status]) -> None:
        calls.append(len(statuses))
        await asyncio.sleep(0.01)
        if fails[0]:
            raise ConnectionError

    commit(*[status(str(n)) for n in range(200)])
    made = runner(handlers, concurrency=1)
    made.run(*take.many("w1", "statuses"))
    assert calls.count(5) == FAILURES
    attempts = Counter(record.attempt for record in scheduled(redis))
    assert attempts == {1: 200 - 5 * (FAILURES - 1), 2: 5 * (FAILURES - 1)}
    fails[0] = False
    calls.clear()
    for state in made.flow.dispatcher.breakdowns.failing.values():
        state.until = 1e-9
    is_due(redis)
    work(made)
    while made.flow.dispatcher.breakdowns.failing or scheduled(redis):
        is_due(redis)
        work(made)
    assert calls[0] == 1
    assert sum(calls) == 200
    assert redis.zcard(keys.LEDGER) == 0


def test_a_broken_handler_and_a_contact_with_many_events(commit: Any, take: Any, runner: Any, message: Any) -> None:
    """What is put off while others wait behind it leaves no wrong count of these, by which lists would seem full."""
    handlers = Handlers()

    @handlers.message(bulk=5)
    async def on_messages(messages: list[Message]) -> None:
        raise ConnectionError

    commit(*[message(f"{n}", sender="15550001") for n in range(100)])
    made = runner(handlers)
    made.run(*take.many("w1", "messages"))
    assert made.flow.dispatcher.breakdowns.failing
    assert [one.behind for one in made.flow.dispatcher._lists._gatherings.values()] == [0]


@both
def test_a_stop_between_two_halves(
    is_async: bool, commit: Any, take: Any, runner: Any, status: Any, redis: Redis
) -> None:
    """No part of a list is called once the worker was told to stop: what is not settled goes back with its tries."""
    handlers, calls = Handlers(), []

    def fails(statuses: list[Status]) -> None:
        calls.append(len(statuses))
        if len(calls) == 2:
            made.stop.set()
        raise ValueError

    of_statuses(handlers, is_async, fails, bulk=8)
    commit(*[status(str(n)) for n in range(8)])
    made = runner(handlers)
    made.run(*take.many("w1", "statuses"))
    assert calls == [8, 4]
    assert scheduled(redis) == []
    (batch,) = redis.lrange(keys.queue_key("statuses"), 0, -1)  # type: ignore[misc]
    assert redis.llen(keys.batch_key(batch.decode())) == 8


def test_sizes_are_counted(commit: Any, take: Any, runner: Any, status: Any, redis: Redis) -> None:
    """Each call is in the histogram of its handler with the size of its list, and once in that of times."""
    handlers = Handlers()

    @handlers.status(bulk=8)
    def on_statuses(statuses: list[Status]) -> None: ...

    commit(*[status(str(n)) for n in range(20)])
    runner(handlers).run(*take.many("w1", "statuses"))
    found = counters.read(redis)
    (name,) = found[counters.LIST]
    assert name.endswith("on_statuses")
    assert found[counters.LIST][name] == {"sum": 20, "5.0": 1, "10.0": 2}
    times = found[counters.HANDLER][name]
    assert sum(count for part, count in times.items() if part not in ("sum", "seen")) == 3
