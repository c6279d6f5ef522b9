"""Connections to Redis, for the receiver (async) and for everything else (sync)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from ingest.settings import Settings, SettingsError, redis_url

COMMAND_SECONDS = 2.0
"""A Redis that has not answered a receiver's command by then counts as away."""

OLDEST = (7, 0)
"""Script flags came with Redis 7.0 (every Valkey has them): without them a full Redis could stop a script half-way."""

OLDEST_FSYNC = (7, 2)
"""WAITAOF came with Redis 7.2."""


def for_receiver(settings: Settings) -> redis.asyncio.Redis:
    """A client that fails fast. One retry, because a connection may have died unnoticed while idle; none after a
    time-out, which has already used up the sender's patience.
    """
    with _named():
        return redis.asyncio.Redis.from_url(
            redis_url(settings),
            socket_timeout=COMMAND_SECONDS,
            socket_connect_timeout=COMMAND_SECONDS,
            retry=AsyncRetry(NoBackoff(), 1, (RedisConnectionError,)),
        )


def for_worker(settings: Settings) -> redis.Redis:
    """A client for RQ, which sets the time-outs it needs for blocking commands itself."""
    with _named():
        return redis.Redis.from_url(
            redis_url(settings), socket_connect_timeout=COMMAND_SECONDS, retry=Retry(NoBackoff(), 1)
        )


def for_tools(settings: Settings, seconds: float = 10.0) -> redis.Redis:
    """A client for commands that a person waits for, `seconds` for each answer."""
    with _named():
        return redis.Redis.from_url(
            redis_url(settings),
            socket_timeout=seconds,
            socket_connect_timeout=COMMAND_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )


@contextmanager
def _named() -> Iterator[None]:
    """redis-py says what is wrong with a URL, but not which variable holds it."""
    try:
        yield
    except ValueError:
        raise SettingsError("WA_REDIS_URL: give redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH") from None


def reason(error: Exception) -> str:
    """Why Redis cannot be used, in words for a person; never the data of the command."""
    text = str(error).split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_version(client: redis.Redis, settings: Settings) -> None:
    """Raise SettingsError when the server is too old for what is asked of it."""
    info = client.info("server")
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < OLDEST:
        raise SettingsError(
            f"WA_REDIS_URL: the server is Redis {_dotted(version)}, {_dotted(OLDEST)} or Valkey is needed"
        )
    if settings.durability != "fsync":
        return
    if version < OLDEST_FSYNC:
        raise SettingsError(
            f"WA_DURABILITY=fsync needs WAITAOF, which came with Redis 7.2; the server is Redis {_dotted(version)}: "
            "upgrade it, or set appendfsync always there and WA_DURABILITY=redis"
        )
    try:
        client.waitaof(1, 0, 1)
    except RedisError as error:
        raise SettingsError(
            f"WA_DURABILITY=fsync needs the append-only file, but the server says: {error}; set appendonly yes there"
        ) from None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
