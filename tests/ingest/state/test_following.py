"""Following what the workers of a Redis handle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
import pytest
from redis import Redis

from ingest.state import listeners
from ingest.state.following import follow
from ingest.state.listeners import Wanted
from ingest.store import keys


def test_what_is_told_is_handed_on(redis: Redis, redis_url: str, wait_for: Callable[..., None]) -> None:
    """It is announced what is wanted, what workers publish comes as it is, and at the end it is withdrawn."""

    async def run() -> list[bytes]:
        heard: list[bytes] = []
        news = asyncio.Event()

        def put(line: bytes) -> None:
            heard.append(line)
            news.set()

        task = asyncio.create_task(follow(redis_url, "a", Wanted(kinds=("message",)), put))
        await asyncio.to_thread(wait_for, lambda: listeners.read(redis))
        assert listeners.read(redis) == {"a": Wanted(kinds=("message",))}
        redis.publish(keys.tail_channel("a"), b"{}")
        await asyncio.wait_for(news.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return heard

    assert asyncio.run(run()) == [b"{}"]
    assert listeners.read(redis) == {}


def test_redis_that_is_away_is_told(free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on trying, and each time says why."""
    monkeypatch.setattr(listeners, "AGAIN_SECONDS", 0.01)

    async def run() -> list[bytes]:
        heard: list[bytes] = []
        twice = asyncio.Event()

        def put(line: bytes) -> None:
            heard.append(line)
            if len(heard) == 2:
                twice.set()

        task = asyncio.create_task(follow(f"redis://127.0.0.1:{free_port()}/0", "a", Wanted(), put))
        await asyncio.wait_for(twice.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return heard

    for line in asyncio.run(run()):
        assert "Redis is not reachable" in orjson.loads(line)["away"]
