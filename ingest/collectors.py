"""Metrics that are read when somebody asks for them: what lies in Redis, and the spool. The same at each receiver."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from ingest import backlog, spool, steering, tally
from ingest.routing import LANES

LANE_GAUGES = {
    "waiting": "Notifications waiting",
    "batches": "Batches waiting",
    "oldest_seconds": "Age of the oldest waiting notification",
    "working": "Notifications in work",
    "retrying": "Events waiting for their next try",
    "dead": "Dead letters",
}


class InRedis(Collector):
    """The figures that live in Redis. Without Redis they are left out, and `wa_redis_up` is 0."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def collect(self) -> Iterable[Metric]:
        found: list[Metric] = []
        try:
            found += _backlog(backlog.read(self._redis))
            for part in (_tally, _steering, _memory):
                found += _if_allowed(part, self._redis)
        except (RedisError, OSError):
            found = []
        yield GaugeMetricFamily("wa_redis_up", "1 when Redis answers", value=bool(found))
        yield from found


class Spool(Collector):
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


def _if_allowed(part: Callable[[Redis], Iterator[Metric]], redis: Redis) -> list[Metric]:
    """Nothing when the user may not read it, or the server does not know it: the rest is worth having."""
    try:
        return list(part(redis))
    except ResponseError:
        return []


def _backlog(now: backlog.Backlog) -> Iterator[Metric]:
    for name, meaning in LANE_GAUGES.items():
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


def _tally(redis: Redis) -> Iterator[Metric]:
    """Lanes and reasons are there before the first event: so their rates start at zero."""
    found = tally.read(redis)
    handlers = found[tally.HANDLER]
    yield _histogram("wa_handler_seconds", "From a handler's call to its return", "handler", tally.HANDLER, handlers)
    failures = CounterMetricFamily("wa_handler_failures", "Calls that ended with an exception", labels=["handler"])
    for name, parts in sorted(handlers.items()):
        failures.add_metric([name], parts.get("failed", 0))
    yield failures
    waits = {lane: found[tally.WAIT].get(lane, {}) for lane in LANES}
    meaning = "From a notification's arrival until its event was handled"
    yield _histogram("wa_handled_after_seconds", meaning, "lane", tally.WAIT, waits)
    letters = CounterMetricFamily("wa_dead_letters", "Events and bodies that were given up", labels=["lane", "reason"])
    reaped = CounterMetricFamily("wa_batches_reaped", "Batches of dead workers that went back", labels=["lane"])
    for lane in LANES:
        for reason, count in (dict.fromkeys(tally.REASONS, 0) | found[tally.DEAD].get(lane, {})).items():
            letters.add_metric([lane, reason], count)
        reaped.add_metric([lane], found[tally.REAPED].get(lane, {}).get("batches", 0))
    yield letters
    yield reaped


def _histogram(name: str, meaning: str, label: str, what: str, found: Mapping[str, Mapping[str, int]]) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=[label])
    for value, parts in sorted(found.items()):
        buckets, count = [], 0
        for bound in tally.BOUNDS[what]:
            count += parts.get(str(bound), 0)
            buckets.append(("+Inf" if bound == math.inf else str(bound), count))
        family.add_metric([value], buckets, parts.get("sum", 0) / 1_000_000)
    return family


def _steering(redis: Redis) -> Iterator[Metric]:
    now = steering.read(redis)
    paused = GaugeMetricFamily("wa_lane_paused", "1 when an operator paused the lane", labels=["lane"])
    limit = GaugeMetricFamily("wa_lane_limit", "Events per second that an operator allows it", labels=["lane"])
    for lane in LANES:
        paused.add_metric([lane], lane in now.paused)
        if lane in now.limits:
            limit.add_metric([lane], now.limits[lane])
    yield paused
    yield limit


def _memory(redis: Redis) -> Iterator[Metric]:
    found = redis.info("memory")
    used, most = found["used_memory"], found.get("maxmemory")
    yield GaugeMetricFamily("wa_redis_memory_used_bytes", "Memory that Redis uses", value=used)
    if most:  # else it has no limit of its own
        meaning = "Memory that Redis may still use before it refuses writes"
        yield GaugeMetricFamily("wa_redis_memory_left_bytes", meaning, value=max(0, most - used))
