"""A worker that gave no sign of life for long, and goes on: others may have its batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from workers import Handlers
from workers.engine.hand import Taken


@pytest.mark.parametrize("lost", [False, True])
def test_it_begins_nothing_before_it_knows(
    lost: bool, commit: Callable[..., None], take: Any, runner: Any, message: Any, redis: Redis
) -> None:
    """Nothing of its batches begins until Redis has said that they are still its own; what it lost never does."""
    begun, go_on = [], asyncio.Event()
    handlers = Handlers()

    @handlers.message()
    async def handle(event: Any) -> None:
        begun.append(event.id)
        await go_on.wait()

    commit(message("m1"), message("m2"))
    flow = runner(handlers).flow
    run = flow.dispatcher.loop.run_until_complete
    ((queue, batch),) = take.many("w1")
    token: Any = redis.hget(keys.TAKEN, f"{queue}|{batch}")
    flow.admit(Taken(queue, batch, token.decode(), redis.lrange(keys.batch_key(batch), 0, -1), -1))  # type: ignore[arg-type]
    run(flow._turn(takes=False))
    run(asyncio.sleep(0))
    flow.note_heartbeat(time.monotonic() - 20)
    go_on.set()
    while flow.dispatcher.in_flight:
        run(asyncio.sleep(0))
    assert flow.dispatcher.begin() is None
    assert begun == ["m1"]
    if lost:
        redis.hset(keys.TAKEN, f"{queue}|{batch}", "w2#99")
    flow.note_heartbeat(time.monotonic())
    assert flow.dispatcher.begin() is None
    assert begun == ["m1"]
    run(asyncio.wait_for(flow._finish(), 20))
    assert begun == (["m1"] if lost else ["m1", "m2"])
