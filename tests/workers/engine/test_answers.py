"""Answers of a real Valkey, waited for on a loop."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis import Redis

from ingest.store.pipelined import PipelinedConnection
from workers.engine import answers as module
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


def test_a_loop_that_stood_still_is_no_outage(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that blocks the loop for longer than an answer may take: Redis is not said to be away, and the command
    is not sent again.
    """
    told: list[str] = []
    monkeypatch.setattr(module.outage, "down", told.append)
    monkeypatch.setattr(module.connections, "WORKER_SECONDS", 0.1)

    async def go() -> None:
        connection = PipelinedConnection(redis)
        answers = Answers(connection, asyncio.get_running_loop(), lambda: False, lambda: None)
        slow = connection.send("EVAL", "redis.call('INCR', KEYS[1]) return 1", "1", "n")
        waiting = asyncio.create_task(answers.of(slow))
        await asyncio.sleep(0)  # it waits now
        time.sleep(0.5)  # noqa: ASYNC251
        assert await waiting == 1
        connection.hang_up()

    asyncio.run(go())
    assert told == []
    assert redis.get("n") == b"1"
