"""Group commit: what arrives while one flush is under way goes together in the next one.

One flush is under way at a time, so the cost per notification falls as load rises, and records are written in the order
of arrival at this receiver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from time import perf_counter

from ingest import metrics
from ingest.routing import Route, Router
from ingest.spool.fallback import SpoolFallback, Writer, routed
from ingest.store.append import flush_ids
from ingest.store.headers import enclose
from ingest.store.records import pack_into

FLUSH_BYTES = 8 << 20
"""A flush holds no more, unless it is a single notification, so that one call does not hold Redis up for long."""

FLUSH_RECORDS = 4000


class _Flush:
    """What goes in one call. All its requests wait for one future: `None`, or the reason it was not kept."""

    __slots__ = ("bytes", "count", "done", "notifications", "records", "unknown")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.records: dict[str, list[bytes]] = {}
        self.notifications: list[tuple[int, bytes]] = []
        self.unknown: set[bytes] = set()  # user ids, see `ingest.routing.Route`
        self.count = 0
        self.bytes = 0
        self.done: asyncio.Future[str | None] = loop.create_future()


class GroupCommit:
    """Collects notifications into flushes and hands these to a writer, one after another.

    With a spool, the disk keeps what the writer cannot (`ingest.spool.fallback` says when). With a router, a flush is
    routed again when Redis knows which contact a user id in it belongs to.
    """

    def __init__(self, writer: Writer, fallback: SpoolFallback | None = None, router: Router | None = None) -> None:
        self._writer = writer
        self._router = router
        self._fallback = fallback
        self._waiting: list[_Flush] = []
        self._runner: asyncio.Task[None] | None = None
        self._names = flush_ids()

    def commit(
        self, body: bytes, received_ms: int, routes: tuple[Route, ...], headers: bytes = b""
    ) -> asyncio.Future[str | None]:
        """Put a notification into the next flush. The result: None when it is durable, else the reason.

        All of a flush share the future, so cancelling one cancels all. aiohttp cancels a handler only when shutdown
        takes too long (handler_cancellation is off), and then nobody is left to be answered.
        """
        size = len(body) + len(headers)
        if len(routes) > 1:
            size = sum(len(route.part or body) + len(headers) for route in routes)
        flush = self._next_flush(size)
        flush.notifications.append((received_ms, enclose(body, headers)))
        flush.bytes += pack_into(flush.records, routes, body, received_ms, headers=headers)
        flush.count += len(routes)
        if routes[0].unknown:
            flush.unknown.update(routes[0].unknown)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return flush.done

    def _next_flush(self, size: int) -> _Flush:
        """The flush that records of this size join. Full ones queue up, so a large record cannot be overtaken."""
        last = self._waiting[-1] if self._waiting else None
        if last is None or last.bytes + size > FLUSH_BYTES or last.count >= FLUSH_RECORDS:
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

    def _keep(self, flush: _Flush) -> Awaitable[str | None]:
        name = next(self._names)
        if self._fallback is None:
            return self._write(flush, name)
        return self._fallback.keep(flush.notifications, partial(self._write, flush, name), name)

    async def _write(self, flush: _Flush, name: str) -> str | None:
        began = perf_counter()
        again = partial(routed, flush.notifications, self._router) if self._router else None
        reason = await self._writer.write(flush.records, flush.unknown, again, name)
        metrics.flushed(flush.count, perf_counter() - began, reason)
        return reason
