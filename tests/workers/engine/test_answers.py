"""Answers of a real Valkey, waited for on a loop."""

from __future__ import annotations

import asyncio
import time

from redis import Redis

from ingest.store.pipelined import PipelinedConnection
from workers.engine.answers import Answers


def test_an_answer_that_somebody_else_has_read(redis: Redis) -> None:
    """It is noticed at once, though nothing more comes on the connection."""

    async def go() -> float:
        connection = PipelinedConnection(redis)
        answers = Answers(connection, asyncio.get_running_loop(), lambda: False, lambda: None)
        slow = connection.send("DEBUG", "SLEEP", "0.5")
        waiting = asyncio.create_task(answers.of(slow))
        await asyncio.sleep(0)  # it waits now
        assert connection.answer(connection.send("PING")) in (b"PONG", "PONG")
        began = time.monotonic()
        await waiting
        connection.hang_up()
        return time.monotonic() - began

    assert asyncio.run(go()) < 5  # it would give up after 15 s
