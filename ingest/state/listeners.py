"""Who listens to what workers handle (`wa-ingest tail`): admin listeners announce it in Redis, workers look.

Each listener is a member of a sorted set by when its announcement ends. Workers publish what it wants on a channel of
its own, so that nothing is read or sent that nobody asked for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
import redis.asyncio
from redis import Redis

from ingest.store import keys

AGAIN_SECONDS = 2.0
"""How often a listener is announced."""

_KEPT_MS = 10_000


class Wanted(NamedTuple):
    """What a listener wants to be told. Of each empty tuple: all.

    `body`: with the event as a notification of its own. `personal`: with numbers and ids, which are masked otherwise.
    """

    kinds: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    business: tuple[str, ...] = ()
    contacts: tuple[str, ...] = ()
    body: bool = False
    personal: bool = False


def named(process: int | str) -> str:
    """The name of the listener that is this process of `up`; all others have random ones."""
    return f"console-{process}"


async def announce(client: redis.asyncio.Redis, listener: str, wanted: Wanted) -> None:
    """Have workers tell this listener, for some seconds."""
    seconds, micros = await client.time()
    now = int(seconds) * 1000 + int(micros) // 1000
    async with client.pipeline(transaction=False) as pipe:
        pipe.zremrangebyscore(keys.LISTENERS, "-inf", now)
        pipe.zadd(keys.LISTENERS, {_member(listener, wanted): now + _KEPT_MS})
        pipe.pexpire(keys.LISTENERS, _KEPT_MS)
        await pipe.execute()


async def withdraw(client: redis.asyncio.Redis, listener: str, wanted: Wanted) -> None:
    """The listener has gone."""
    await client.zrem(keys.LISTENERS, _member(listener, wanted))


def read(client: Redis) -> dict[str, Wanted]:
    """Who listens now, and what each wants, as far as this version understands it."""
    found: Any = client.zrange(keys.LISTENERS, 0, -1)
    return dict(filter(None, map(_read, found)))


def _read(member: bytes) -> tuple[str, Wanted] | None:
    try:
        listener, wanted = orjson.loads(member)
        fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in wanted.items()}
        return listener, Wanted(**fields)
    except (ValueError, TypeError, AttributeError):  # a receiver of another version; a worker must not end of it
        return None


def _member(listener: str, wanted: Wanted) -> bytes:
    return orjson.dumps((listener, wanted._asdict()))
