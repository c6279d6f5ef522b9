"""One request on the public listener, from its head to its answer."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache

import structlog
from aiohttp import HttpVersion11, web

from ingest import metrics
from ingest.answers import Answer, Refused, unavailable
from ingest.bodies import Bodies
from ingest.committer import Committer, NotDurable
from ingest.guards import Guards
from ingest.routing import lane_of, place
from ingest.settings import Settings

log = structlog.get_logger()


class _Kept(web.StreamResponse):
    """200 without a body, to a connection that stays open: nearly every answer. One object gives them all.

    It writes the same bytes each second; aiohttp would build them from a header map for each request, which took a
    seventh of its time (docs/performance.md). It calls `prepare`, then `write_eof`, and looks at `keep_alive`.
    """

    keep_alive = True

    async def prepare(self, request: web.BaseRequest) -> None:
        if request.transport is None:
            raise ConnectionResetError("the sender is gone")
        request.transport.write(_kept_bytes(int(time.time())))

    async def write_eof(self, data: bytes = b"") -> None:
        pass


@lru_cache(maxsize=1)
def _kept_bytes(now: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: {formatdate(now, usegmt=True)}\r\n\r\n".encode()


_KEPT = _Kept()


class Webhook:
    """Answers requests; give it to a `Listener`."""

    def __init__(self, settings: Settings, committer: Committer) -> None:
        self._partitions = settings.partitions
        self._committer = committer
        self._guards = Guards(settings)
        self._bodies = Bodies(settings, committer)
        self._last_warning = 0.0
        self._in_work = 0
        self._draining = False
        self._idle = asyncio.Event()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_work += 1
        try:
            response = await self._answer(request)
        finally:
            self._in_work -= 1
            if self._draining and not self._in_work:
                self._idle.set()
        if self._draining:
            response.force_close()
        return response

    async def drain(self, seconds: float) -> None:
        """Return when all requests whose head has come are answered; from now on each answer ends its connection.

        aiohttp's own shutdown throws away what is still to come of their bodies.
        """
        self._draining = True
        if self._in_work:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        began = time.perf_counter()
        try:
            self._guards.admit_head(request)
            if request.method == "POST":
                lane, size = await self._receive(request)
                metrics.accepted(lane, size, time.perf_counter() - began)
                plain = request.version == HttpVersion11 and request.keep_alive and not self._draining
                return _KEPT if plain else Answer()
            if request.method == "GET":
                answer = self._guards.challenge(request.query)
                return Answer(text=answer, headers={"X-Content-Type-Options": "nosniff"})
            raise Refused(405, "method", Allow="GET, POST")
        except Refused as refusal:
            metrics.refused(refusal.status, refusal.reason, time.perf_counter() - began)
            response = Answer(refusal.status, refusal.headers)
            if not request.content.is_eof():
                response.force_close()  # the rest of the body would be read as the next request
            return response

    async def _receive(self, request: web.BaseRequest) -> tuple[str, int]:
        """Read the body and return when it is durable: its lane and size."""
        self._guards.admit_post(request.headers)
        body = await self._bodies.read(request)
        try:
            received_ms = time.time_ns() // 1_000_000
            self._guards.admit_body(request.headers, body)
            places = place(body, self._partitions)
            await self._committer.commit(body, received_ms, places)
        except NotDurable as error:
            self._warn(str(error))
            raise unavailable("not_durable") from None
        finally:
            self._bodies.release(body)
        return lane_of(places[0].queue), len(body)

    def _warn(self, reason: str) -> None:
        """One line a second at most: every waiting sender fails at once when Redis goes."""
        now = time.monotonic()
        if now - self._last_warning >= 1:
            self._last_warning = now
            log.warning("answering 503: not durable", reason=reason)
