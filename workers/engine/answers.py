"""Answers of Redis, waited for without blocking the loop: handlers go on, also while Redis is away."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError, RedisError

from ingest.store import connection as connections
from ingest.store.pipelined import Call, PipelinedConnection
from ingest.telemetry.outage import Outage

outage = Outage("Redis is away", "Redis is back")

_AWAY_SECONDS = 0.5  # between looks for a Redis that is away


class Answers:
    """Of the commands on one connection. `meanwhile` is called from time to time while Redis is away.

    Once `stopping()`, the error of a Redis that is away is raised.
    """

    def __init__(
        self,
        connection: PipelinedConnection,
        loop: asyncio.AbstractEventLoop,
        stopping: Callable[[], bool],
        meanwhile: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._stopping = stopping
        self._meanwhile = meanwhile

    async def of(self, call: Call) -> Any:
        """The answer to a command. While Redis is away, handlers go on, and the command is sent again."""
        broke = False
        while True:
            try:
                if self._connection.has_answered(call):
                    reply = self._connection.answer(call)
                    outage.up()
                    return reply
                await self._readable(call, self._connection.await_answer())
            except (RedisError, OSError) as error:
                if call.is_answered and not connections.refuses(error):
                    raise
                if broke or call.is_answered or not isinstance(error, ConnectionError):
                    await self.until_back(error)
                broke = True  # a connection may end at any time: that alone is no outage
                if call.is_answered:
                    call = self._connection.send(*call.command)

    async def _readable(self, call: Call, descriptor: int) -> None:
        """Wait until there is something to read, or this answer was read: a rate limit or a cap waits for its own on
        the same connection, and reads those before it.
        """
        ready = self._loop.create_future()
        call.then = lambda _: _resolve(ready)
        self._loop.add_reader(descriptor, _resolve, ready)
        try:
            await asyncio.wait_for(ready, connections.WORKER_SECONDS)
        except TimeoutError:
            if _is_readable(descriptor):
                return  # Redis has answered: the loop stood still, since a handler blocked it
            self._connection.hang_up()
            raise
        finally:
            call.then = None
            self._loop.remove_reader(descriptor)

    async def until_back(self, error: Exception) -> None:
        """Wait until Redis answers again, or some time has passed; raises at a stop."""
        diagnosed = connections.config_error(error) or connections.refuses(error)
        outage.down(str(connections.diagnose(error)) if diagnosed else connections.reason(error))
        while True:
            if self._stopping():
                raise error
            await asyncio.sleep(_AWAY_SECONDS)
            self._meanwhile()
            try:
                await self._loop.run_in_executor(None, self._connection.redis.ping)
                return
            except (RedisError, OSError):
                continue


def _is_readable(descriptor: int) -> bool:
    look = select.poll()
    look.register(descriptor, select.POLLIN)
    return bool(look.poll(0))


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
