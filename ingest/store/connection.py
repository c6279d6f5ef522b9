"""Connections to Redis, for the receiver (async) and for everything else (sync)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    NoPermissionError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from ingest import trust
from ingest.errors import SettingsError
from ingest.store import discovery, reconnect, urls
from ingest.store.allow_oom import AllowOom

WORKER_SECONDS = 15.0
"""A Redis that has not answered a worker's command by then counts as away."""

COMMAND_SECONDS = 2.0
"""A Redis that has not answered a receiver's small command by then counts as away. See `seconds_for`."""

FIRST_SECONDS = 4.0
"""A Redis that has answered nothing on a new connection by then keeps no command waiting for longer."""

OLDEST = (7, 0)
"""Script flags came with Redis 7.0 (every Valkey has them): without them a full Redis could stop a script half-way."""

OLDEST_FSYNC = (7, 2)
"""WAITAOF came with Redis 7.2."""

_TLS = "with TLS: rediss://HOST:PORT/DB?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE"
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_OPTION = re.compile(r"(?:keyword argument|Invalid value for) '(\w+)'")
_Client = TypeVar("_Client", redis.Redis, redis.asyncio.Redis)


def for_receiver(url: str) -> redis.asyncio.Redis:
    """A client that fails fast. It retries once, because a connection may have died unnoticed while idle; but not after
    a time-out, which has already used up the sender's patience.
    """
    options: dict[str, Any] = {
        "socket_timeout": COMMAND_SECONDS,
        "socket_connect_timeout": COMMAND_SECONDS,
        "retry": AsyncRetry(NoBackoff(), 1, (RedisConnectionError,)),
    }
    with _named():
        url = trust.redis_url(urls.only(url))
        return _checked(discovery.async_client(url, **options) or redis.asyncio.Redis.from_url(url, **options), url)


def database(client: redis.Redis | redis.asyncio.Redis) -> int:
    """The number of the database that it uses."""
    return int(client.get_connection_kwargs().get("db") or 0)


def seconds_for(size: int) -> float:
    """How long a receiver waits for the answer to a command of so many bytes."""
    return COMMAND_SECONDS + size / reconnect.SLOWEST


def for_worker(url: str) -> redis.Redis:
    """A client for RQ, which sets the time-outs it needs for blocking commands itself."""
    return _sync(url, socket_connect_timeout=COMMAND_SECONDS, retry=Retry(NoBackoff(), 1))


def for_tools(url: str, seconds: float = 10.0) -> redis.Redis:
    """A client for commands that a person waits for, `seconds` for each answer, for the first one less."""
    made = _sync(url, socket_timeout=seconds, socket_connect_timeout=COMMAND_SECONDS, retry=Retry(NoBackoff(), 0))
    reconnect.gives_up(made, min(seconds, FIRST_SECONDS))
    return made


def all_for_tools(redis_url: str, seconds: float = 10.0) -> dict[str, redis.Redis]:
    """Such a client for each Redis that WA_REDIS_URL names, by its address."""
    return {urls.address(one): for_tools(one, seconds) for one in urls.split(redis_url)}


def _sync(url: str, **options: Any) -> redis.Redis:
    with _named():
        url = trust.redis_url(urls.only(url))
        return _checked(discovery.client(url, **options) or AllowOom.from_url(url, **options), url)


def _checked(client: _Client, url: str) -> _Client:
    """Raise SettingsError for a wrong option in the URL: redis-py would notice it only when it connects."""
    reconnect.asks_again(client, url)
    pool = client.connection_pool
    options: dict[str, Any] = pool.connection_kwargs
    try:
        pool.connection_class(**options)  # does not connect
    except TypeError as error:
        found = _OPTION.search(str(error))
        what = found[1] if found else "something in it"
        raise SettingsError(f"WA_REDIS_URL: {what} is no option of such a URL; {_TLS}") from None
    except RedisError as error:
        raise SettingsError(f"WA_REDIS_URL: {error}") from None
    for name in _FILES:
        if (path := options.get(name)) and not os.access(path, os.R_OK):
            raise SettingsError(f"WA_REDIS_URL: {name}: {path} cannot be read")
    return client


@contextmanager
def _named() -> Iterator[None]:
    """redis-py says what is wrong with a URL, but not which variable holds it."""
    try:
        yield
    except ValueError as error:
        if name := _OPTION.search(str(error)):
            raise SettingsError(f"WA_REDIS_URL: the value of {name[1]} cannot be used") from None
        raise SettingsError(
            "WA_REDIS_URL: give redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH, "
            "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB or redis+cluster://HOST:PORT,HOST:PORT"
        ) from None


def reason(error: Exception) -> str:
    """Why Redis cannot be used, in words for a person; never the data of the command."""
    # Of sentinels that do not answer, redis-py appends every option of every client; to errors in a pipeline it
    # prepends the command.
    text = str(error).split("\n")[0].split(" : <")[0].rpartition(" of pipeline caused error: ")[2]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


NOT_REACHED = "see WA_REDIS_URL, and that it runs"
"""The remedy where no server answers."""

HUNG_UP = "see WA_REDIS_URL: does it want TLS (rediss://), a client certificate (ssl_certfile, ssl_keyfile)?"
"""The remedy where a server ends the connection."""


class Diagnosis(NamedTuple):
    """What is wrong with Redis and what to do about it, for a person."""

    finding: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.finding}; {self.remedy}"


def config_error(error: Exception) -> Diagnosis | None:
    """The diagnosis of an error that lasts until somebody corrects WA_REDIS_URL or the server's users; else None."""
    why = reason(error)
    # In a script Redis says NOPERM in other words; 7.0 in others than those that came later.
    in_script = "ACL failure in script: " in why or "The user executing the script can't" in why
    if isinstance(error, NoPermissionError) or in_script:
        what = why.rpartition("ACL failure in script: ")[2].partition(" script: ")[0]
        return Diagnosis(
            f"the user of WA_REDIS_URL lacks a right: {what.removeprefix('NoPermissionError: ')}",
            "deploy/redis/users.acl has what is needed",
        )
    if isinstance(error, AuthenticationError):
        return Diagnosis("Redis refuses the user or the password of WA_REDIS_URL", "see ACL LIST or requirepass there")
    if isinstance(error, AskError | ClusterCrossSlotError):  # MovedError is an AskError
        return Diagnosis(
            "the server of WA_REDIS_URL is a node of a Redis Cluster",
            "give redis+cluster://HOST:PORT,HOST:PORT, and a {hash tag}: RQ_KEY_PREFIX={wa}",
        )
    if "cluster support disabled" in why:
        return Diagnosis("the server of WA_REDIS_URL is no node of a cluster", "give redis://HOST:PORT/DB")
    if "[SSL" in why:
        return Diagnosis(f"no TLS with Redis: {why}", f"see WA_REDIS_URL; {_TLS}")
    return None


def refuses(error: Exception) -> bool:
    """True when Redis is there and takes no writes: its disk fails, it lacks replicas, or it is one itself."""
    said = reason(error)
    return isinstance(error, reconnect.NotPrimary) or bool(re.search(r"\b(MISCONF|NOREPLICAS)\b", said))


def diagnose(error: Exception) -> Diagnosis:
    """The cause of an error of redis-py or of the network, and its remedy; never a password, never data."""
    known = config_error(error)
    if known:
        return known
    why = reason(error)
    if isinstance(error, BusyLoadingError):
        return Diagnosis("Redis is loading its data", "try again in a moment")
    if isinstance(error, reconnect.NoAnswer):
        return Diagnosis(
            "Redis accepts connections, but does not answer",
            "its process hangs or is stopped, or one command takes long: see its log, its CPU and its disk",
        )
    if refuses(error):
        return Diagnosis(f"Redis takes no writes: {why}", "see its log: its disk, its role, its replicas")
    if "closed by server" in why or "reset by peer" in why:
        return Diagnosis(f"Redis ends the connection: {why}", HUNG_UP)
    return Diagnosis(f"Redis is not reachable: {why}", NOT_REACHED)


def check_version(client: redis.Redis, durability: str) -> None:
    """Raise SettingsError when the server is too old. Where INFO is forbidden, it counts as new enough."""
    try:
        info = client.info("server")
    except NoPermissionError:
        info = {"redis_version": _dotted(OLDEST_FSYNC)}
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < OLDEST:
        raise SettingsError(
            f"WA_REDIS_URL: the server is Redis {_dotted(version)}, {_dotted(OLDEST)} or Valkey is needed"
        )
    if durability != "fsync":
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
