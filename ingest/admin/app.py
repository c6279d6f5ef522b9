"""The admin listener: page, health, readiness, metrics. Never reachable through the public one."""

from __future__ import annotations

import asyncio
import os

import orjson
from aiohttp import web
from prometheus_client.registry import Collector

from ingest import metrics
from ingest.admin import collectors, page
from ingest.admin.actions import Actions
from ingest.admin.doorkeeper import Names
from ingest.admin.event_stream import EventStream
from ingest.commit.committer import Committer
from ingest.http.answers import Answer
from ingest.settings import Settings, redis_url
from ingest.state.spooled import spool_figures
from ingest.store import connection, disk

_READ = ("GET", "HEAD")


class Admin:
    """Answers requests; give it to a `Listener`."""

    def __init__(self, settings: Settings, committer: Committer) -> None:
        self._committer = committer
        self._names = Names(settings)
        # With a short time-out: a Redis that hangs must not keep the figures of the spool from a scrape.
        redis = connection.all_for_tools(redis_url(settings), connection.COMMAND_SECONDS)
        self._collectors: list[Collector] = [collectors.InRedis(redis)]
        self._spool = settings.spool_dir
        if self._spool is not None:
            self._collectors.append(collectors.Spool(self._spool))
        self.events = EventStream(settings, redis, committer)
        self._actions = Actions(settings, redis)
        self._pages: dict[str, tuple[tuple[str, ...], page.Page]] = {
            "/healthz": (_READ, self._healthz),
            "/readyz": (_READ, self._readyz),
            "/metrics": (_READ, self._metrics),
            "/events": (("GET",), self.events.events),
            **{path: (_READ, file) for path, file in (page.files(self.events.first) | page.help_pages()).items()},
            **{path: (("POST",), action) for path, action in self._actions.pages().items()},
        }

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self._names.include(request):
            return Answer(403, text=self._names.refuse())
        methods, answer = self._pages.get(request.path, ((), None))
        if answer is None:
            return Answer(404)
        if request.method not in methods:
            return Answer(405, {"Allow": ", ".join(methods)})
        return await answer(request)

    def close(self) -> None:
        """End event streams and actions, so that a stop does not wait for them."""
        self.events.close()
        self._actions.close()

    async def _healthz(self, request: web.BaseRequest) -> web.Response:
        return _json(200, {"alive": True, "pid": os.getpid()})

    async def _readyz(self, request: web.BaseRequest) -> web.Response:
        fallback = self._committer.fallback
        reason = (fallback and fallback.reason) or await self._committer.probe()
        content: dict[str, object] = {"ready": reason is None, "reason": reason}
        if self._spool is not None:
            problem = await asyncio.to_thread(disk.problem, self._spool) if reason else None
            if problem:
                content["reason"] = f"{reason}; the spool cannot be written: {problem}"
            content["ready"] = problem is None
            content["spooled"] = (await asyncio.to_thread(spool_figures, self._spool)).notifications
        return _json(200 if content["ready"] else 503, content)

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        text = await asyncio.to_thread(metrics.text, *self._collectors)
        return Answer(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _json(status: int, content: dict[str, object]) -> web.Response:
    return Answer(status, body=orjson.dumps(content), content_type="application/json")
