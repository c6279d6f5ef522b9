"""What a worker gives back: to others that have nothing to do, and when it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.state import totals
from ingest.store import keys
from ingest.store.records import pack
from workers import Handlers
from workers.dispatch.outcomes import HANDLED
from workers.engine import reaper, settle
from workers.engine.batch_state import BatchState
from workers.engine.hand import Taken


def _given(take: Any, worker: str, *lanes: str) -> list[Taken]:
    take.many(worker, *lanes)
    return [Taken(q.decode(), b.decode(), t.decode(), records, -1) for q, b, t, records, _ in take.last[4]]


def test_a_contact_whose_partition_was_given_back_is_handled_when_it_returns(
    commit: Callable[..., None], take: Any, runner: Any, message: Any, status: Any
) -> None:
    """Events that waited for a slot when their partition went back do not stand before those that come later."""
    seen, go_on = [], asyncio.Event()
    handlers = Handlers()

    @handlers.status()
    async def occupy(event: Any) -> None:
        await go_on.wait()

    @handlers.message()
    async def handle(event: Any) -> None:
        seen.append(event.id)

    commit(status(), message("m1"), message("m2"))
    flow = runner(handlers, concurrency=1).flow
    run = flow.dispatcher.loop.run_until_complete
    for lane in ("statuses", "messages"):
        for one in _given(take, "w1", lane):
            flow.admit(one)
        run(flow._turn(takes=False))
    assert flow.dispatcher.is_full
    flow._hands.share(1)
    go_on.set()
    while flow.dispatcher.in_flight:
        run(asyncio.sleep(0))
    run(flow._turn(takes=False))
    assert flow.is_idle
    assert seen == []
    for one in _given(take, "w1", "messages"):
        flow.admit(one)
    run(asyncio.wait_for(flow._finish(), 20))
    assert seen == ["m1", "m2"]


def test_a_stop_keeps_the_order_of_a_queue(
    commit: Callable[..., None], take: Any, runner: Any, message: Any, redis: Redis
) -> None:
    """A worker that stops gives back what it had in work, and what it had not yet begun behind that."""
    handlers = Handlers()

    @handlers.message()
    async def wait(event: Any) -> None:
        await asyncio.sleep(600)

    commit(message("m1"), message("m2"), message("m3"), batch=1)
    flow = runner(handlers).flow
    first, *others = _given(take, "w1", "messages")
    flow.admit(first)
    flow.dispatcher.loop.run_until_complete(flow._turn(takes=False))
    flow._hands.given.extend(others)
    flow.stop_seconds = 0.0
    flow.leave()
    reaper.heartbeat_and_reap(redis, "w1", leaves=True)
    left = [id.decode() for id in redis.lrange(keys.queue_key(first.queue), 0, -1)]  # type: ignore[union-attr]
    assert left == [first.batch, *(one.batch for one in others)]
    assert redis.hlen(keys.LEASES) == redis.hlen(keys.TAKEN) == 0


@pytest.mark.parametrize("replay", [b"", b"rply"])
def test_what_is_done_does_not_go_back(replay: bytes, message: Callable[..., bytes]) -> None:
    """A batch that goes back has nothing in it that has ended, also where an earlier event has not."""
    records = [pack(message(f"m{n}"), 1, force=True, replay=replay) for n in range(4)]
    state = BatchState("messages.0", "b", records, 8, 1e12, "w1#1")
    for index, event in state.events:
        if index in (1, 2):
            state.finish(index, event, HANDLED)
    results = state.give_back()
    assert results.parts == records[:1]
    assert results.left == 3
    assert results.counts == {"handled.message": 2}


def test_what_is_left_to_others_is_work_that_is_left(runner: Any) -> None:
    """A burst does not end while a partition is left to others: they may have ended just before they could take it."""
    taking = runner(Handlers()).flow._taking
    taking.took([-1, 0, 0, [], []])
    assert taking.may_end
    taking.leave_to_others("messages.0", time.monotonic() + 60)
    assert not taking.may_end


def test_what_had_ended_when_its_worker_died_counts_once(
    commit: Callable[..., None], take: Any, runner: Any, message: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that were settled before an earlier one of their batch come again as copies when the worker dies. They are
    counted apart, so that what has ended is what came in; a copy that a sender sent is still one.
    """
    monkeypatch.setattr(settle, "SETTLE_SECONDS", 0.0)
    handlers, sleeps = Handlers(), True

    @handlers.message()
    async def handle(event: Any) -> None:
        if event.id == "m0" and sleeps:
            await asyncio.sleep(600)

    commit(*(message(f"m{n}", f"1555{n}") for n in range(5)), message("m4", "15554"), partitions=1)
    flow = runner(handlers).flow
    run = flow.dispatcher.loop.run_until_complete
    reaper.heartbeat_and_reap(redis, "w1")
    (one,) = _given(take, "w1", "messages")
    flow.admit(one)
    for _ in range(3):
        run(flow._turn(takes=False))
    assert totals.ended(_counts(redis)) == {"handled": 4, "duplicate": 1}
    reaper.heartbeat_and_reap(redis, "w2")
    reaper.heartbeat_and_reap(redis, "w2", ended="w1")  # killed: what the flow has in hand is nobody's
    assert totals.ended(_counts(redis)) == {"handled": 4}
    sleeps = False
    other = runner(handlers, worker="w2")
    while isinstance(given := take("w2", "messages"), tuple):
        other.run(*given)
    assert _counts(redis) == {"handled.message": 5, "duplicate.message": 6, "again": 5}
    assert totals.ended(_counts(redis)) == {"handled": 5, "duplicate": 1}


@pytest.mark.parametrize("names", [(b"", b""), (b"rpl1", b"rpl2")], ids=["dead letters", "replays"])
def test_what_was_fed_back_is_done_once_though_its_worker_dies(
    names: tuple[bytes, bytes],
    commit: Callable[..., None],
    take: Any,
    runner: Any,
    message: Any,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what `dead retry` or a replay fed back, what was settled before its worker died is not done again; feeding it
    back once more has it done once more.
    """
    monkeypatch.setattr(settle, "SETTLE_SECONDS", 0.0)
    handlers, sleeps, seen, replays = Handlers(), True, [], iter(names)

    @handlers.message()
    async def handle(event: Any) -> None:
        if event.id == "m0" and sleeps:
            await asyncio.sleep(600)
        seen.append(event.id)

    def fed_back() -> Taken:
        commit(message("other"), partitions=1)
        (one,) = _given(take, "w1", "messages")
        key = keys.batch_key(one.batch)
        redis.delete(key)
        replay = next(replays)
        redis.rpush(key, *(pack(message(f"m{n}", f"1555{n}"), 1, force=True, replay=replay) for n in range(40)))
        return one._replace(records=redis.lrange(key, 0, -1))  # type: ignore[arg-type]

    flow = runner(handlers).flow
    run = flow.dispatcher.loop.run_until_complete
    reaper.heartbeat_and_reap(redis, "w1")
    flow.admit(fed_back())
    for _ in range(3):
        run(flow._turn(takes=False))
    assert len(seen) == 39
    reaper.heartbeat_and_reap(redis, "w2")
    reaper.heartbeat_and_reap(redis, "w2", ended="w1")
    sleeps = False
    other = runner(handlers, worker="w2")
    while isinstance(given := take("w2", "messages"), tuple):
        other.run(*given)
    assert sorted(seen) == sorted(f"m{n}" for n in range(40))
    again = runner(handlers).flow
    again.admit(fed_back())
    for _ in range(3):
        again.dispatcher.loop.run_until_complete(again._turn(takes=False))
    assert len(seen) == 80


def _counts(redis: Redis) -> dict[str, int]:
    found: Any = redis.hgetall(keys.COUNTS)
    return {name.decode(): int(count) for name, count in found.items()}
