"""The admin listener: is it alive, is it ready, what are the figures. Never reachable through the public one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import orjson
from aiohttp import web
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from ingest import backlog, connection, metrics, spool
from ingest.answers import Answer
from ingest.committer import Committer
from ingest.settings import Settings


class Admin:
    """Answers requests; give it to a `Listener`."""

    def __init__(self, settings: Settings, committer: Committer) -> None:
        self._committer = committer
        # A Redis that hangs must not keep the figures of the spool from whoever scrapes.
        redis = connection.all_for_tools(settings, connection.COMMAND_SECONDS)
        self._collectors: list[Collector] = [_Backlog(redis)]
        self._spool = settings.spool_dir
        if self._spool is not None:
            self._collectors.append(_Spool(self._spool))
        self._pages = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        page = self._pages.get(request.path)
        if page is None:
            return Answer(404)
        if request.method not in ("GET", "HEAD"):
            return Answer(405, {"Allow": "GET, HEAD"})
        return await page()

    async def _healthz(self) -> web.Response:
        return _json(200, {"alive": True, "pid": os.getpid()})

    async def _readyz(self) -> web.Response:
        standby = self._committer.standby
        reason = (standby and standby.reason) or await self._committer.probe()
        content: dict[str, object] = {"ready": reason is None, "reason": reason}
        if self._spool is not None:
            problem = await asyncio.to_thread(spool.problem, self._spool) if reason else None
            if problem:
                content["reason"] = f"{reason}; the spool cannot be written: {problem}"
            content["ready"] = problem is None
            content["spooled"] = (await asyncio.to_thread(spool.figures, self._spool)).notifications
        return _json(200 if content["ready"] else 503, content)

    async def _metrics(self) -> web.Response:
        text = await asyncio.to_thread(metrics.text, *self._collectors)
        return Answer(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _json(status: int, content: dict[str, object]) -> web.Response:
    return Answer(status, body=orjson.dumps(content), content_type="application/json")


class _Backlog(Collector):
    """The figures that live in Redis. Without Redis they are left out, and `wa_redis_up` is 0.

    Of several Redis each has its own `wa_redis_up`; the other figures are of those that answer.
    """

    def __init__(self, redis: dict[str, Redis]) -> None:
        self._redis = redis

    def collect(self) -> Iterable[Metric]:
        several = len(self._redis) > 1
        up = GaugeMetricFamily("wa_redis_up", "1 when Redis answers", labels=["redis"] if several else [])
        try:
            now = backlog.read_all(self._redis)
        except (RedisError, OSError):
            now = None
        for name in self._redis:
            up.add_metric([name] if several else [], now is not None and name not in now.away)
        yield up
        if now is None:
            return
        for name, meaning in _LANE_GAUGES.items():
            gauge = GaugeMetricFamily(f"wa_lane_{name}", meaning, labels=["lane"])
            for lane, figures in now.lanes.items():
                gauge.add_metric([lane], getattr(figures, name))
            yield gauge
        yield GaugeMetricFamily("wa_workers", "Workers alive", value=now.workers)
        events = CounterMetricFamily("wa_events", "Events by kind and outcome", labels=["kind", "outcome"])
        duplicates = CounterMetricFamily("wa_duplicates", "Copies of events that were dropped", labels=["kind"])
        for count, value in sorted(now.counts.items()):
            outcome, _, kind = count.partition(".")
            if outcome == "duplicate":
                duplicates.add_metric([kind], value)
            else:
                events.add_metric([kind, outcome], value)
        yield events
        yield duplicates


class _Spool(Collector):
    """The figures of the folder that all receiver processes share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        try:
            now = spool.figures(self._folder)
        except OSError:
            return
        yield GaugeMetricFamily("wa_spool_notifications", "Notifications on the disk", value=now.notifications)
        yield GaugeMetricFamily("wa_spool_bytes", "Bytes on the disk that Redis does not have", value=now.bytes)
        yield GaugeMetricFamily("wa_spool_oldest_seconds", "Age of the oldest of them", value=now.oldest_seconds)
        yield CounterMetricFamily("wa_spool_corrupt", "Damaged parts set aside", value=now.corrupt)


_LANE_GAUGES = {
    "waiting": "Notifications waiting",
    "batches": "Batches waiting",
    "oldest_seconds": "Age of the oldest waiting notification",
    "working": "Notifications in work",
    "retrying": "Events waiting for their next try",
    "dead": "Dead letters",
}
