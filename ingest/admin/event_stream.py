"""`GET /events`: sends what the page shows to every viewer, once a second. Without viewers nothing is read."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import orjson
from aiohttp import web
from redis import Redis
from redis.exceptions import RedisError

from ingest.admin import page
from ingest.commit.committer import Committer
from ingest.http.answers import Answer, StreamedAnswer
from ingest.loggers import get_logger
from ingest.settings import Settings
from ingest.state import health, history, snapshot

log = get_logger(__name__)

VIEWERS = 20
"""Most viewers at a time; one more is answered 503."""

STEP_SECONDS = 1.0
"""From one snapshot to the next; longer when reading one takes longer than half of it."""

_FIRST_SECONDS = 0.5  # so long the page's HTML waits for its first figures; a Redis that hangs does not keep it
_QUIET_SECONDS = 5.0  # without news for so long, send a comment: it shows whether the viewer is still there
_HEADERS = page.HEADERS | {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # or nginx would buffer them
}


class EventStream:
    """Server-sent events: one `history` with the samples of the last hour, then one `snapshot` after another."""

    def __init__(self, settings: Settings, clients: dict[str, Redis], committer: Committer) -> None:
        self._clients = clients
        self._committer = committer
        self._reader = snapshot.Reader(settings, clients)
        self._actions = settings.admin_token is not None
        self._viewers = 0
        self._reading: asyncio.Task[None] | None = None
        self._latest = b""
        self._redis_answers = False
        self._news = asyncio.Event()
        self._over = False

    async def events(self, request: web.BaseRequest) -> web.StreamResponse:
        """Stream to one viewer, until it or the receiver ends that. A viewer that reads slowly misses snapshots."""
        if page.foreign(request):
            return Answer(403, page.HEADERS)
        if self._viewers >= VIEWERS or self._over:
            return Answer(503, page.HEADERS | {"Retry-After": "5"})
        response = StreamedAnswer(_HEADERS)
        self._viewers += 1
        try:
            await response.prepare(request)
            await self._stream(response)
        except ConnectionError:
            pass  # the viewer is gone
        finally:
            self._viewers -= 1
        return response

    async def first(self) -> bytes:
        """The snapshot that a viewer who comes now is told first, as JSON; nothing when it cannot be had soon."""
        if self._over:
            return b""
        self._begin()
        if not self._latest:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _FIRST_SECONDS)
        return self._latest

    async def sample(self) -> None:
        """Take a sample for the plots, unless another receiver has, or Redis is away."""
        for redis in self._clients.values():
            with suppress(RedisError, OSError):
                await asyncio.to_thread(history.take, redis)
                self._reader.answered()

    def close(self) -> None:
        """End all streams."""
        self._over = True
        self._news.set()

    def _begin(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._latest = b""
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _stream(self, response: web.StreamResponse) -> None:
        reading = self._begin()
        sent, has_history = b"", False
        await response.write(b"retry: 2000\n\n")
        while not self._over and not reading.done():
            news, latest = self._news, self._latest
            if latest is sent:
                try:
                    await asyncio.wait_for(news.wait(), _QUIET_SECONDS)
                except TimeoutError:
                    await response.write(b":\n\n")
                continue
            if self._redis_answers and not has_history:
                samples = await asyncio.to_thread(history.read_all, self._clients)
                await response.write(_event("history", _json(samples)))
                has_history = bool(samples)
            await response.write(_event("snapshot", latest))
            sent = latest

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while not self._over:
                began = loop.time()
                self._latest = _json(await self._snapshot())
                self._wake_all()
                took = loop.time() - began
                await asyncio.sleep(max(STEP_SECONDS - took, took))
                if not self._viewers:
                    break
        except Exception:
            log.exception("the page's figures cannot be read")
        finally:
            self._wake_all()

    async def _snapshot(self) -> dict[str, Any]:
        now = await asyncio.to_thread(self._reader.read, await self._committer.refused())
        self._redis_answers = now.diagnosis is None
        return snapshot.as_json(now) | {"findings": health.findings(now), "actions": self._actions}

    def _wake_all(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _json(content: Any) -> bytes:
    # Samples are named tuples: lists, in JSON.
    return orjson.dumps(content, default=tuple)


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
