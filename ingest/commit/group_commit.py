"""Group commit: what arrives while one Redis call is under way goes together in the next one.

One call is in flight at a time, so the cost per notification falls as load rises, and a batch's order is the order of
arrival at this receiver. With a spool, what Redis cannot take goes to the disk (`ingest.spool.fallback` says when).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from time import perf_counter
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from ingest import metrics
from ingest.routing import Route
from ingest.settings import Settings
from ingest.spool.fallback import SpoolFallback
from ingest.spool.spool import Spool
from ingest.store import append, connection, formats, scripts
from ingest.store.append import APPEND_KEYS, append_arguments, append_head
from ingest.store.jobs import job_template
from ingest.store.records import pack_into
from ingest.telemetry.outage import Outage

FLUSH_BYTES = 8 << 20
"""A flush takes no more once it holds this much, so that one call does not hold Redis up for long."""

FLUSH_RECORDS = 4000

WAIT_MS = 1500
"""How long WAIT and WAITAOF may take; below the client's command time-out, so that the answer is always read."""


class NotDurable(Exception):
    """The notification could not be kept; nothing was acknowledged. The message says why."""


class _Flush:
    """What goes in one call. All its requests wait for one future: `None`, or the reason it was not kept."""

    __slots__ = ("bytes", "count", "done", "notifications", "records")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.records: dict[str, list[bytes]] = {}
        self.notifications: list[tuple[int, bytes]] = []
        self.count = 0
        self.bytes = 0
        self.done: asyncio.Future[str | None] = loop.create_future()


class Committer:
    """Makes notifications durable.

    `pending` is the number of bytes accepted from senders that are not durable yet; whoever reads a body adds to it
    with `reserve` before reading and gives it back with `release` after the answer is decided.
    """

    def __init__(
        self, redis: Redis, settings: Settings, spool: Spool | None = None, outage: Outage | None = None
    ) -> None:
        self._redis = redis
        self.fallback = SpoolFallback(spool, self._write, settings.partitions) if spool else None
        instead = "notifications go to the disk spool" if spool else "senders get 503"
        self._outage = outage or Outage(f"Redis is not used, {instead}", "Redis is used again")
        self._disk_outage = Outage("the spool cannot be used, senders get 503", "the spool can be used again")
        self._limit = int(settings.max_pending)
        self._template, self._batch = job_template(), settings.batch
        self._confirm = _confirmation(settings.durability)
        self._script = scripts.lua(append.__file__, "append.lua")
        self._sha = ""
        self._flush_ids = map("n{}-{:08x}".format, itertools.repeat(secrets.token_hex(5)), itertools.count())
        self._waiting: list[_Flush] = []
        self._runner: asyncio.Task[None] | None = None
        self.pending = 0

    def reserve(self, size: int) -> bool:
        """Claim room for `size` bytes; False when the bound on pending bytes would be passed."""
        if self.pending + size > self._limit:
            return False
        self.pending += size
        return True

    def release(self, size: int) -> None:
        self.pending -= size

    async def commit(self, body: bytes, received_ms: int, routes: tuple[Route, ...]) -> None:
        """Return when the notification is durable. Raises NotDurable."""
        flush = self._next_flush()
        flush.notifications.append((received_ms, body))
        flush.bytes += pack_into(flush.records, routes, body, received_ms)
        flush.count += len(routes)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        # One future serves the whole flush. aiohttp cancels a handler only when shutdown takes too long
        # (handler_cancellation is off), and then nobody is left to be answered.
        reason = await flush.done
        if reason is not None:
            raise NotDurable(reason)

    def _next_flush(self) -> _Flush:
        """The flush that the next record joins. Full ones queue up, so a large record cannot be overtaken."""
        last = self._waiting[-1] if self._waiting else None
        if last is None or last.bytes >= FLUSH_BYTES or last.count >= FLUSH_RECORDS:
            last = _Flush(asyncio.get_running_loop())
            self._waiting.append(last)
        return last

    async def _run(self) -> None:
        while self._waiting:
            flush = self._waiting.pop(0)
            reason = await self._keep(flush)
            if not flush.done.done():
                flush.done.set_result(reason)
        self._runner = None

    async def _keep(self, flush: _Flush) -> str | None:
        """In Redis, or else on the disk: None, or the reason why it is in neither."""
        fallback = self.fallback
        try:
            if fallback is not None and fallback.in_use() and await self._spooled(fallback, flush):
                return None
            began = perf_counter()
            reason = await self._write(flush.records)
            metrics.flushed(flush.count, perf_counter() - began, reason)
            if fallback is not None and reason is not None:
                fallback.redis_failed(reason)
                await self._spooled(fallback, flush)
                return None
        except OSError as error:
            reason = f"the spool is not writable: {error.strerror}"
            self._disk_outage.down(reason)
        return reason

    async def _spooled(self, fallback: SpoolFallback, flush: _Flush) -> bool:
        kept = await fallback.keep(flush.notifications)
        self._disk_outage.up()
        return kept

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def probe(self) -> str | None:
        """Why a notification could not be kept at this moment, or None: a commit of nothing."""
        return await self._write({})

    async def _write(self, records_by_queue: dict[str, list[bytes]]) -> str | None:
        reason = await self._try_to_write(records_by_queue)
        if reason is None:
            self._outage.up()
        else:
            self._outage.down(reason)
        return reason

    async def _try_to_write(self, records_by_queue: dict[str, list[bytes]]) -> str | None:
        head = append_head(next(self._flush_ids), self._template, self._batch)
        args = append_arguments(head, records_by_queue)
        try:
            await self._call(args)
        except (RedisError, OSError, RuntimeError) as error:  # RuntimeError: uvloop, on a transport just closed
            if misuse := connection.config_error(error):
                return str(misuse)
            if isinstance(error, ResponseError):
                return f"Redis refuses: {error}"
            return f"Redis is away: {type(error).__name__}"
        except (NotDurable, formats.NewerFormat) as error:
            return str(error)
        return None

    async def _call(self, args: list[Any]) -> None:
        command = ("EVALSHA", self._sha, len(APPEND_KEYS), *APPEND_KEYS, *args)
        try:
            if self._confirm is None:
                await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
                return
            # WAIT and WAITAOF speak of the writes of their own connection: one pipeline, one round trip.
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.execute_command(*command)
                pipe.execute_command(*self._confirm)
                # Not raise_on_error: redis-py would quote the command, and so the bodies, in the message.
                results = await pipe.execute(raise_on_error=False)
            for result in results:
                if isinstance(result, Exception):
                    raise result
            got = results[1]
        except NoScriptError:  # Redis was restarted, or this is the first call
            if not self._sha:  # a receiver that has once written there goes on
                await formats.agree_async(self._redis)
            self._sha = await self._redis.script_load(self._script)
            await self._call(args)
            return
        reached = got[0] if isinstance(got, list) else got
        if reached < self._confirm[1]:
            raise NotDurable(f"{self._confirm[0]} reached {reached} of {self._confirm[1]}")


def _confirmation(durability: str) -> tuple[str, int, *tuple[int, ...]] | None:
    """The command that confirms a flush, its second word the number that must be reached."""
    if durability == "fsync":
        return ("WAITAOF", 1, 0, WAIT_MS)
    if durability.startswith("replicas:"):
        return ("WAIT", int(durability.removeprefix("replicas:")), WAIT_MS)
    return None
