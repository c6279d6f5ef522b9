"""Follows what the workers of a Redis handle, as they do: for an admin listener, and for commands beside their server.

What comes is JSON: `{"worker": NAME, "events": […], "dropped": N}` as workers publish it, the first of each worker
without events; `{"away": WHY}` when Redis cannot be read, and `{"again": ADDRESS}` once it can be again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import redis.asyncio
from redis.exceptions import RedisError

from ingest.state import listeners
from ingest.state.listeners import Wanted
from ingest.store import connection, keys, urls


async def follow(
    url: str,
    name: str,
    wanted: Wanted,
    put: Callable[[bytes], None],
    diagnose: Callable[[Exception], object] = connection.diagnose,
) -> None:
    """Hand on what the workers of one Redis tell, until cancelled, whatever becomes of it meanwhile.

    `name` is the listener's, unlike that of any other. `diagnose` says why Redis cannot be read, and what to do.
    """
    was_away = False

    def hears() -> None:
        nonlocal was_away
        if was_away:
            put(orjson.dumps({"again": urls.address(url)}))
        was_away = False

    while True:
        client = connection.for_receiver(url)
        try:
            await _hear(client, name, wanted, put, hears)
        except (RedisError, OSError) as error:
            was_away = True
            put(orjson.dumps({"away": f"{urls.address(url)}: {diagnose(error)}"}))
        finally:
            with suppress(RedisError, OSError):
                await listeners.withdraw(client, name, wanted)
            await client.aclose()
        await asyncio.sleep(listeners.AGAIN_SECONDS)


async def _hear(
    client: redis.asyncio.Redis, name: str, wanted: Wanted, put: Callable[[bytes], None], hears: Callable[[], None]
) -> None:
    loop = asyncio.get_running_loop()
    async with client.pubsub() as channel:
        await channel.subscribe(keys.tail_channel(name, connection.database(client)))
        next_at = 0.0
        while True:
            told: Any = await channel.get_message(timeout=listeners.AGAIN_SECONDS / 4)
            if told is not None and told["type"] == "message":
                put(told["data"])
            # Not before it has subscribed: the first answer says so.
            if (told is not None or next_at) and loop.time() >= next_at:
                await listeners.announce(client, name, wanted)
                hears()
                next_at = loop.time() + listeners.AGAIN_SECONDS
