"""What a worker gives back: to others that have nothing to do, and when it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from redis import Redis

from ingest.store import keys
from workers import Handlers
from workers.engine import reaper
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


def test_what_is_left_to_others_is_work_that_is_left(runner: Any) -> None:
    """A burst does not end while a partition is left to others: they may have ended just before they could take it."""
    taking = runner(Handlers()).flow._taking
    taking.took([-1, 0, 0, [], []])
    assert taking.may_end
    taking.leave_to_others("messages.0", time.monotonic() + 60)
    assert not taking.may_end
