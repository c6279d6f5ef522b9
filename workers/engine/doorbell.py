"""Wakes a worker that has room when there is something to take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from ingest.store import keys

LISTEN_SECONDS = 5.0
"""How long a worker listens before it looks for itself: a safety net, and how long `rq resume` may go unnoticed."""


class Doorbell:
    """Blocks on the doorbells of some lanes (BLPOP), on a connection of its own, without blocking the loop.

    `rung` is called when one rang, when the wait of `seconds` is over, and when the connection broke.
    """

    def __init__(self, redis: Redis, lanes: list[str], seconds: float, rung: Callable[[], None]) -> None:
        self._pool = redis.connection_pool
        self._command = ("BLPOP", *map(keys.doorbell_key, lanes), seconds)
        self._rung = rung
        self._connection: Any = None
        self._descriptor: int | None = None
        self._loop: asyncio.AbstractEventLoop

    def listen(self) -> None:
        """Begin to wait, unless it waits already."""
        if self._descriptor is not None:
            return
        try:
            descriptor = self._send()
        except (RedisError, OSError):  # the connection may have ended while it was idle
            self.close()
            descriptor = self._send()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)
        self._descriptor = descriptor

    def _send(self) -> int:
        if self._connection is None:
            self._connection = self._pool.get_connection()
        try:
            self._connection.send_command(*self._command, check_health=False)
            descriptor: int = self._connection._sock.fileno()  # redis-py has no public name for it
        except (RedisError, OSError):
            self.close()
            raise
        return descriptor

    def _read(self) -> None:
        self._stop()
        try:
            self._connection.read_response()
        except (RedisError, OSError):  # the next take finds out what it is
            self.close()
        self._rung()

    def _stop(self) -> None:
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            self._descriptor = None

    def close(self) -> None:
        """Hang up."""
        self._stop()
        if self._connection is not None:
            self._connection.disconnect()
            self._pool.release(self._connection)
            self._connection = None
