"""One request on the public listener, from its head to its answer."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from typing import NoReturn

import structlog
from aiohttp import ClientError, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from ingest import metrics
from ingest.committer import Committer, NotDurable
from ingest.guards import Guards
from ingest.routing import lane_of, place
from ingest.settings import Settings

log = structlog.get_logger()

RETRY_AFTER = "5"
"""Seconds that a sender is asked to wait after a 503."""


class _Refuse(Exception):
    """The request is answered with this status, nothing is kept."""

    def __init__(self, status: int, **headers: str) -> None:
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def _unavailable() -> NoReturn:
    raise _Refuse(503, Retry_After=RETRY_AFTER)


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
    """Answers requests; give it to `aiohttp.web.Server`."""

    def __init__(self, settings: Settings, committer: Committer) -> None:
        self._settings = settings
        self._committer = committer
        self._guards = Guards(settings)
        self._max_body = int(settings.max_body)
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
            if request.path != self._settings.path:
                raise _Refuse(404)
            if request.method == "POST":
                lane, size = await self._receive(request)
                metrics.accepted(lane, size, time.perf_counter() - began)
                plain = request.version == HttpVersion11 and request.keep_alive and not self._draining
                return _KEPT if plain else web.Response()
            if request.method == "GET":
                return self._handshake(request)
            raise _Refuse(405, Allow="GET, POST")
        except _Refuse as refusal:
            metrics.refused(refusal.status, time.perf_counter() - began)
            response = web.Response(status=refusal.status, headers=refusal.headers)
            if not request.content.is_eof():
                response.force_close()  # the rest of the body would be read as the next request
            return response

    def _handshake(self, request: web.BaseRequest) -> web.Response:
        answer = self._guards.challenge(request.query)
        if answer is None:
            raise _Refuse(403)
        return web.Response(text=answer, headers={"X-Content-Type-Options": "nosniff"})

    async def _receive(self, request: web.BaseRequest) -> tuple[str, int]:
        """Read the body and return when it is durable: its lane and size."""
        declared = request.content_length
        if declared is not None and declared > self._max_body:
            raise _Refuse(413)
        # Room is claimed before the bytes are read; a body that does not say its length may become the largest.
        room = self._max_body if declared is None else declared
        if not self._committer.reserve(room):
            _unavailable()
        try:
            body = await self._read(request)
            received_ms = time.time_ns() // 1_000_000
            if not self._guards.admits(request.headers, body):
                raise _Refuse(401)
            places = place(body, self._settings.partitions)
            await self._committer.commit(body, received_ms, places)
        except NotDurable as error:
            self._warn(str(error))
            _unavailable()
        finally:
            self._committer.release(room)
        return lane_of(places[0].queue), len(body)

    async def _read(self, request: web.BaseRequest) -> bytes:
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            if request.content.is_eof():  # small bodies have come with their head: no timer for them
                body = request.content.read_nowait()
                if len(body) > self._max_body:
                    raise _Refuse(413)
                return body
            async with asyncio.timeout(self._settings.body_timeout):
                return await request.read()
        except TimeoutError:
            raise _Refuse(408) from None
        except web.HTTPRequestEntityTooLarge:
            raise _Refuse(413) from None
        except (ClientError, HttpProcessingError, web.RequestPayloadError, ConnectionError):
            raise _Refuse(400) from None  # a broken body, or a sender that is gone and reads no answer

    def _warn(self, reason: str) -> None:
        """One line a second at most: every waiting sender fails at once when Redis goes."""
        now = time.monotonic()
        if now - self._last_warning >= 1:
            self._last_warning = now
            log.warning("answering 503: not durable", reason=reason)
