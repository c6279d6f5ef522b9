"""One request on the public listener, from its head to its answer."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, web

from ingest import metrics
from ingest.commit.committer import Committer, NotDurable
from ingest.http.answers import Answer, Refused, unavailable
from ingest.http.bodies import Bodies
from ingest.http.guards import Guards
from ingest.http.kept_headers import kept
from ingest.http.refusals import Refusals
from ingest.settings import Settings
from ingest.store.queues import lane_of
from ingest.store.records import digest, notification_id

if TYPE_CHECKING:
    from ingest.telemetry.spans import Spans


class _Kept(web.StreamResponse):
    """200 without a body, to a connection that stays open: nearly every answer. One object gives them all.

    Its bytes are made once a second. aiohttp would build them from a header map for each request, which took a seventh
    of its time (docs/performance.md). aiohttp calls `prepare`, then `write_eof`, and looks at `keep_alive`.
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

    def __init__(self, settings: Settings, committer: Committer, spans: Spans | None = None) -> None:
        self._spans = spans
        self._route: dict[str, str | int] = {
            "http.route": settings.path,
            "url.scheme": "https" if settings.tls_cert else "http",
        }
        self._committer = committer
        self._guards = Guards(settings)
        self._bodies = Bodies(settings)
        self._keep = settings.keep_headers
        self.refusals = Refusals()
        self._in_work = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._accepted: list[tuple[str, int, float]] = []  # not counted yet

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
        """Return when all requests whose head has arrived are answered, or after so many seconds. Each answer now ends
        its connection. aiohttp's own shutdown would not read the rest of their bodies.
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
                lane, size = await self._receive(request, began)
                self._count(lane, size, time.perf_counter() - began)
                self.refusals.accepted += 1
                plain = request.version == HttpVersion11 and request.keep_alive and not self._draining
                return _KEPT if plain else Answer()
            if request.method == "GET":
                answer = self._guards.challenge(request.query)
                return Answer(text=answer, headers={"X-Content-Type-Options": "nosniff"})
            raise Refused(405, "method", Allow="GET, POST")
        except Refused as refusal:
            self.refusals.note(refusal)
            metrics.refused(refusal.status, refusal.reason, time.perf_counter() - began)
            if self._spans is not None and request.method == "POST":
                attributes = ({} if refusal.reason == "path" else self._route) | {"wa.refused": refusal.reason}
                self._spans.received(None, refusal.status, time.perf_counter() - began, request.headers, attributes)
            response = Answer(refusal.status, refusal.headers)
            if not request.content.is_eof():
                response.force_close()  # the rest of the body would be read as the next request
            return response

    def _count(self, lane: str, size: int, seconds: float) -> None:
        """Count a notification together with the others of its commit, which are answered in the same turn."""
        if not self._accepted:
            asyncio.get_running_loop().call_soon(self._count_all)
        self._accepted.append((lane, size, seconds))

    def _count_all(self) -> None:
        accepted, self._accepted = self._accepted, []
        metrics.accepted(accepted)

    async def _receive(self, request: web.BaseRequest, began: float) -> tuple[str, int]:
        """Read the body and return when it is durable: its lane and size."""
        self._guards.admit_post(request.headers)
        body = await self._bodies.read(request)
        try:
            received_ms = time.time_ns() // 1_000_000
            self._guards.admit_body(request.headers, body)
            if not body.startswith(b"{"):
                body = self._bodies.unpack(body, request.headers.get("Content-Encoding", ""))
            routes = self._committer.route(body)
            headers = kept(request, self._keep) if self._keep else b""
            await self._committer.commit(body, received_ms, routes, headers)
        except NotDurable:
            raise unavailable("not_durable") from None
        finally:
            self._bodies.release(body)
        lane = lane_of(routes[0].queue)
        if self._spans is not None:
            notification = notification_id(received_ms, digest(body))
            attributes = self._route | {"wa.lane": lane, "http.request.body.size": len(body)}
            self._spans.received(notification, 200, time.perf_counter() - began, request.headers, attributes)
        return lane, len(body)
