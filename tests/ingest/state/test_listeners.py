"""Who listens, as it stands in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import redis.asyncio
from redis import Redis

from ingest.state import listeners
from ingest.state.listeners import Wanted
from ingest.store import keys

WANTED = Wanted(("message",), ("text", "image"), ("1055",), ("15550001",), body=True, personal=False)


def _run(url: str, *steps: Callable[[redis.asyncio.Redis], Awaitable[None]]) -> None:
    async def run() -> None:
        client = redis.asyncio.Redis.from_url(url)
        try:
            for step in steps:
                await step(client)
        finally:
            await client.aclose()

    asyncio.run(run())


def test_announced_until_withdrawn(redis: Redis, redis_url: str) -> None:
    """Workers read what was announced, however often, and nothing of a listener that has gone; others stay."""
    assert listeners.read(redis) == {}
    _run(
        redis_url,
        lambda client: listeners.announce(client, "a", WANTED),
        lambda client: listeners.announce(client, "a", WANTED),
        lambda client: listeners.announce(client, "b", Wanted()),
    )
    assert listeners.read(redis) == {"a": WANTED, "b": Wanted()}
    assert 0 < redis.pttl(keys.LISTENERS) <= 10_000
    _run(redis_url, lambda client: listeners.withdraw(client, "a", WANTED))
    assert listeners.read(redis) == {"b": Wanted()}


def test_who_died_is_forgotten(redis: Redis, redis_url: str) -> None:
    """A listener that is not announced any more goes with the next announcement of another one after its time."""
    _run(redis_url, lambda client: listeners.announce(client, "dead", WANTED))
    (member,) = redis.zrange(keys.LISTENERS, 0, -1)
    redis.zadd(keys.LISTENERS, {member: 1})
    _run(redis_url, lambda client: listeners.announce(client, "b", Wanted()))
    assert listeners.read(redis) == {"b": Wanted()}


def test_another_version(redis: Redis) -> None:
    """What a receiver of another version announces is left alone, and ends no worker."""
    members = [b"no JSON", b"[]", b"1", b'["x", 1]', orjson.dumps(("new", {"color": "red"}))]
    redis.zadd(keys.LISTENERS, dict.fromkeys(members, 1) | {orjson.dumps(("a", WANTED._asdict())): 1})
    assert listeners.read(redis) == {"a": WANTED}
