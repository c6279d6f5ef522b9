"""Connections that are closed when they can no longer be trusted; the next one asks again.

After a failover behind a name or a balancer, a connection may stay open to a primary that was demoted. It is closed as
soon as the server says so, and the next one resolves the name again. A new connection also reads the files of its
certificates again, and user and password, which may have been rotated in WA_REDIS_URL_FILE.

NOPERM closes no connection: Redis applies changed rights to open connections, too.

Those of the receiver also wait longer for the answer to a large command: a time-out that is right for a small one would
give it up half-way, and again whenever it is repeated.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ingest.store import urls

_DEMOTED = (ClusterDownError, MasterDownError, ReadOnlyError)
_MOVED = (AskError, TryAgainError)  # MovedError is an AskError. Where nobody looks for the slot, the URL is wrong.
_WORDS = (
    "UNBLOCKED",  # what a primary that is demoted ends a BLPOP with
    "ttempted to access a non local key",  # a script says it, Redis and Valkey in words that begin differently
    "while the cluster is down",
)


SLOWEST = 4 << 20
"""Bytes in a second that a Redis is expected to take at least."""


class NotPrimary(RedisConnectionError):
    """The server does not serve our keys any more, or not now. The message is what it said.

    LOADING, NOAUTH and WRONGPASS need nothing here: redis-py itself takes them for an error of the connection.
    """


class NoAnswer(RedisTimeoutError):
    """The server has accepted a connection, and answers nothing there."""


def _elsewhere(error: ResponseError, kinds: tuple[type[ResponseError], ...]) -> NotPrimary | None:
    """What to raise instead when the server says that it is not the primary for our keys."""
    if isinstance(error, kinds) or any(words in str(error) for words in _WORDS):
        return NotPrimary(f"{error.status_code or ''} {error}".strip())
    return None


class _Connection(redis.connection.AbstractConnection):
    """redis-py raises no connection error for most answers of a demoted primary, or of a node that lost the slot: RQ's
    loop would end. And over sentinels it keeps the connection when the wait for an answer was interrupted, and gives
    that answer to the next command (redis-py#4292).
    """

    elsewhere: tuple[type[ResponseError], ...] = _DEMOTED

    def __init__(self, *, url: str, first_seconds: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._url = url
        self._first_seconds = first_seconds

    def on_connect_check_health(self, check_health: bool = True) -> None:
        self.username, self.password = urls.credentials(urls.as_now(self._url))
        opened: Any = self._sock
        if self._first_seconds is not None:
            opened.settimeout(self._first_seconds)
        try:
            super().on_connect_check_health(check_health)
        except RedisTimeoutError:
            raise NoAnswer("it accepts connections, but does not answer") from None
        opened.settimeout(self.socket_timeout)

    def read_response(self, *arguments: Any, disconnect_on_error: bool = True, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, disconnect_on_error=disconnect_on_error, **options)
        except ResponseError as error:
            elsewhere = _elsewhere(error, self.elsewhere)
            if elsewhere is None:
                raise
            self.disconnect()  # type: ignore[no-untyped-call]
            raise elsewhere from None


class _Tcp(_Connection, redis.Connection):
    pass


class _Tls(_Connection, redis.SSLConnection):
    pass


class _Unix(_Connection, redis.UnixDomainSocketConnection):
    pass


class _Found(_Connection, redis.sentinel.SentinelManagedConnection):  # type: ignore[misc] # read_response
    elsewhere = (*_DEMOTED, *_MOVED)


class _FoundTls(_Connection, redis.sentinel.SentinelManagedSSLConnection):  # type: ignore[misc] # the same
    elsewhere = (*_DEMOTED, *_MOVED)


class _AsyncConnection(redis.asyncio.connection.AbstractConnection):
    elsewhere: tuple[type[ResponseError], ...] = _DEMOTED

    def __init__(self, *, url: str, **options: Any) -> None:
        super().__init__(**options)
        self._url = url
        self._seconds = self.socket_timeout

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        # What must come first are commands, too: they have the time of small ones.
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        if self._seconds is not None:
            size = len(command) if isinstance(command, bytes | str) else sum(map(len, command))
            self.socket_timeout = self._seconds + size / SLOWEST
        await super().send_packed_command(command, check_health=False)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        self.username, self.password = urls.credentials(urls.as_now(self._url))
        await super().on_connect_check_health(check_health)

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except ResponseError as error:
            elsewhere = _elsewhere(error, self.elsewhere)
            if elsewhere is None:
                raise
            await self.disconnect()
            raise elsewhere from None


class _AsyncTcp(_AsyncConnection, redis.asyncio.Connection):
    pass


class _AsyncTls(_AsyncConnection, redis.asyncio.SSLConnection):
    async def _connect(self) -> None:
        self.ssl_context.context = None  # redis-py would keep what it read from the files
        await super()._connect()  # type: ignore[no-untyped-call]


class _AsyncUnix(_AsyncConnection, redis.asyncio.UnixDomainSocketConnection):
    pass


class _AsyncFound(_AsyncConnection, redis.asyncio.sentinel.SentinelManagedConnection):
    elsewhere = (*_DEMOTED, *_MOVED)


class _AsyncFoundTls(_AsyncTls, redis.asyncio.sentinel.SentinelManagedSSLConnection):
    elsewhere = (*_DEMOTED, *_MOVED)


_INSTEAD_OF: dict[type[Any], type[Any]] = {
    redis.Connection: _Tcp,
    redis.SSLConnection: _Tls,
    redis.UnixDomainSocketConnection: _Unix,
    redis.sentinel.SentinelManagedConnection: _Found,
    redis.sentinel.SentinelManagedSSLConnection: _FoundTls,
    redis.asyncio.Connection: _AsyncTcp,
    redis.asyncio.SSLConnection: _AsyncTls,
    redis.asyncio.UnixDomainSocketConnection: _AsyncUnix,
    redis.asyncio.sentinel.SentinelManagedConnection: _AsyncFound,
    redis.asyncio.sentinel.SentinelManagedSSLConnection: _AsyncFoundTls,
}


def asks_again(client: redis.Redis | redis.asyncio.Redis, url: str) -> None:
    """Make a client, which has not connected yet, use such connections. `url` is where user and password stand."""
    pool: Any = client.connection_pool
    pool.connection_class = _INSTEAD_OF[pool.connection_class]
    pool.connection_kwargs["url"] = url


def gives_up(client: redis.Redis, seconds: float) -> None:
    """Make such a client, which has not connected yet, raise NoAnswer when a new connection has no answer by then."""
    client.connection_pool.connection_kwargs["first_seconds"] = seconds
