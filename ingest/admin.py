"""The admin listener: is it alive, is it ready, what are the figures. Never reachable through the public one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import orjson
from aiohttp import web
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from ingest import backlog, connection, metrics
from ingest.committer import Committer
from ingest.settings import Settings


class Admin:
    """Answers requests; give it to `aiohttp.web.Server`."""

    def __init__(self, settings: Settings, committer: Committer) -> None:
        self._committer = committer
        self._redis = connection.for_tools(settings)
        self._pages = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        page = self._pages.get(request.path)
        if page is None:
            return web.Response(status=404)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        return await page()

    async def _healthz(self) -> web.Response:
        return _json(200, {"alive": True})

    async def _readyz(self) -> web.Response:
        reason = await self._committer.probe()
        return _json(503 if reason else 200, {"ready": reason is None, "reason": reason})

    async def _metrics(self) -> web.Response:
        text = await asyncio.to_thread(metrics.text, _Backlog(self._redis))
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _json(status: int, content: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")


class _Backlog(Collector):
    """The figures that live in Redis. Without Redis they are left out, and `wa_redis_up` is 0."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("wa_redis_up", "1 when Redis answers")
        try:
            now = backlog.read(self._redis)
        except (RedisError, OSError):
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        for name, meaning in _LANE_GAUGES.items():
            gauge = GaugeMetricFamily(f"wa_lane_{name}", meaning, labels=["lane"])
            for lane, figures in now.lanes.items():
                gauge.add_metric([lane], getattr(figures, name))
            yield gauge
        yield GaugeMetricFamily("wa_workers", "Workers alive", value=now.workers)
        events = CounterMetricFamily("wa_events", "Events by kind and outcome", labels=["kind", "outcome"])
        for count, value in sorted(now.counts.items()):
            outcome, _, kind = count.partition(".")
            events.add_metric([kind, outcome], value)
        yield events


_LANE_GAUGES = {
    "waiting": "Notifications waiting",
    "batches": "Batches waiting",
    "oldest_seconds": "Age of the oldest waiting notification",
    "working": "Notifications in work",
    "retrying": "Events waiting for their next try",
    "dead": "Dead letters",
}
