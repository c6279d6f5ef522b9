"""Metrics that are read at each scrape: from Redis, the same at every receiver, and from this receiver's spool."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from ingest.state import backlog, counters, totals
from ingest.state.spooled import spool_figures
from ingest.store.queues import LANES

LANE_GAUGES = {
    "waiting": "Notifications waiting",
    "batches": "Batches waiting",
    "oldest_seconds": "Age of the oldest notification that waits, in its queue or in a worker",
    "working": "Notifications in work",
    "working_oldest_seconds": "For how long a call of a handler has been under way, at most",
    "retrying": "Events waiting for their next try",
    "retrying_oldest_seconds": "Age of the oldest of them, since it arrived",
    "behind": "Events waiting behind one of their contact that is to be tried again (strict order)",
    "dead": "Dead letters",
    "paused": "1 when an operator paused the lane",
}


class InRedis(Collector):
    """The figures that lie in Redis. Without Redis they are left out, and `wa_redis_up` is 0.

    With several Redis, `wa_redis_up` and memory have a label `redis`; the other figures add up those that answer.
    """

    def __init__(self, clients: dict[str, Redis]) -> None:
        self._clients = clients

    def collect(self) -> Iterable[Metric]:
        found: list[Metric] = []
        there: dict[str, Redis] = {}
        try:
            now = backlog.read_all(self._clients)
            there = {name: redis for name, redis in self._clients.items() if name not in now.away}
            found += _backlog(now)
            found += _if_allowed(_tally, there)
            found += _if_allowed(_memory, there)
        except (RedisError, OSError):
            found, there = [], {}
        yield _of_each("wa_redis_up", "1 when Redis answers", {name: name in there for name in self._clients})
        yield from found


class Spool(Collector):
    """The figures of the folder that all receiver processes share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        try:
            now = spool_figures(self._folder)
        except OSError:
            return
        yield GaugeMetricFamily("wa_spool_notifications", "Notifications on the disk", value=now.notifications)
        yield GaugeMetricFamily("wa_spool_bytes", "Bytes on the disk that Redis does not have", value=now.bytes)
        yield GaugeMetricFamily("wa_spool_oldest_seconds", "Age of the oldest of them", value=now.oldest_seconds)
        yield CounterMetricFamily("wa_spool_corrupt", "Damaged parts set aside", value=now.corrupt)


def _of_each(name: str, meaning: str, values: Mapping[str, float]) -> Metric:
    """A gauge for each Redis, with a label only when there are several."""
    gauge = GaugeMetricFamily(name, meaning, labels=["redis"] if len(values) > 1 else [])
    for redis, value in values.items():
        gauge.add_metric([redis] if len(values) > 1 else [], value)
    return gauge


def _if_allowed(part: Callable[[Mapping[str, Redis]], Iterator[Metric]], there: Mapping[str, Redis]) -> list[Metric]:
    """Nothing when the Redis user may not read it, or the server lacks the command; the other metrics still show."""
    try:
        return list(part(there))
    except ResponseError:
        return []


def _backlog(now: backlog.Backlog) -> Iterator[Metric]:
    for name, meaning in LANE_GAUGES.items():
        gauge = GaugeMetricFamily(f"wa_lane_{name}", meaning, labels=["lane"])
        for lane, figures in now.lanes.items():
            gauge.add_metric([lane], getattr(figures, name))
        yield gauge
    limit = GaugeMetricFamily("wa_lane_limit", "Most events per second, set by an operator", labels=["lane"])
    for lane, figures in now.lanes.items():
        if figures.limit is not None:
            limit.add_metric([lane], figures.limit)
    yield limit
    yield from _handlers(now)
    yield GaugeMetricFamily("wa_workers", "Workers alive", value=now.workers)
    events = CounterMetricFamily("wa_events", "Events by kind and outcome", labels=["kind", "outcome"])
    duplicates = CounterMetricFamily("wa_duplicates", "Copies of events that were dropped", labels=["kind"])
    again = 0
    for count, value in sorted(now.counts.items()):
        outcome, _, kind = count.partition(".")
        if outcome == totals.AGAIN:
            again = value
        elif outcome in (totals.REQUEUED, totals.REMOVED):
            continue  # they were counted as dead, and a counter never falls
        elif outcome == "duplicate":
            duplicates.add_metric([kind], value)
        else:
            events.add_metric([kind, outcome], value)
    yield events
    yield duplicates
    meaning = "Events that came again after their worker died or stopped, though they had ended; in wa_duplicates, too"
    yield CounterMetricFamily("wa_events_again", meaning, value=again)


def _handlers(now: backlog.Backlog) -> Iterator[Metric]:
    """Only of those that are held up, limited, or owed something."""
    down = GaugeMetricFamily(
        "wa_handler_down", "1 while a handler always fails and its events wait", labels=["handler"]
    )
    for broken in now.broken:
        down.add_metric([broken.handler], 1)
    yield down
    paused = GaugeMetricFamily("wa_handler_paused", "1 when an operator paused the handler", labels=["handler"])
    limit = GaugeMetricFamily("wa_handler_limit", "Most events per second, set by an operator", labels=["handler"])
    for one in now.steered:
        if one.paused_since is not None:
            paused.add_metric([one.handler], 1)
        if one.limit is not None:
            limit.add_metric([one.handler], one.limit)
    yield paused
    yield limit
    owed = GaugeMetricFamily(
        "wa_handler_owed", "Events that wait for the handler: for their next try, or for its turn", labels=["handler"]
    )
    oldest = GaugeMetricFamily("wa_handler_owed_oldest_seconds", "Age of the oldest of them", labels=["handler"])
    for handler in now.handlers:
        if handler.owed:
            owed.add_metric([handler.name], handler.owed)
            oldest.add_metric([handler.name], handler.oldest_seconds)
    yield owed
    yield oldest


def _tally(there: Mapping[str, Redis]) -> Iterator[Metric]:
    """Every lane and reason is there before its first event, so that rates start at zero."""
    found = counters.read_all(there.values())
    handlers = found[counters.HANDLER]
    yield _histogram("wa_handler_seconds", "From a handler's call to its return", "handler", counters.HANDLER, handlers)
    failures = CounterMetricFamily("wa_handler_failures", "Calls that ended with an exception", labels=["handler"])
    for name, parts in sorted(handlers.items()):
        failures.add_metric([name], parts.get("failed", 0))
    yield failures
    meaning = "Events in one list that a bulk handler was called with"
    yield _histogram("wa_handler_list_events", meaning, "handler", counters.LIST, found[counters.LIST])
    waits = {lane: found[counters.WAIT].get(lane, {}) for lane in LANES}
    meaning = "From a notification's arrival until its event was handled"
    yield _histogram("wa_handled_after_seconds", meaning, "lane", counters.WAIT, waits)
    answers = CounterMetricFamily("wa_destination_answers", "Answers of destinations", labels=["destination", "answer"])
    for name, sorts in sorted(found[counters.DESTINATION].items()):
        for answer, count in (dict.fromkeys(counters.ANSWERS, 0) | sorts).items():
            answers.add_metric([name, answer], count)
    yield answers
    letters = CounterMetricFamily("wa_dead_letters", "Events and bodies that were given up", labels=["lane", "reason"])
    reaped = CounterMetricFamily(
        "wa_batches_reaped", "Batches that workers put back because another one died or RQ lost them", labels=["lane"]
    )
    for lane in LANES:
        for reason, count in (dict.fromkeys(counters.REASONS, 0) | found[counters.DEAD].get(lane, {})).items():
            letters.add_metric([lane, reason], count)
        reaped.add_metric([lane], found[counters.REAPED].get(lane, {}).get("batches", 0))
    yield letters
    yield reaped


def _histogram(name: str, meaning: str, label: str, what: str, found: Mapping[str, Mapping[str, int]]) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=[label])
    for value, parts in sorted(found.items()):
        buckets, count = [], 0
        for bound in counters.BOUNDS[what]:
            count += parts.get(str(bound), 0)
            buckets.append(("+Inf" if bound == math.inf else str(bound), count))
        family.add_metric([value], buckets, parts.get("sum", 0) / counters.PARTS[what])
    return family


def _memory(there: Mapping[str, Redis]) -> Iterator[Metric]:
    found = {name: redis.info("memory") for name, redis in there.items()}
    used = {name: memory["used_memory"] for name, memory in found.items()}
    # Without maxmemory, Redis has no limit of its own.
    left = {n: max(0, memory["maxmemory"] - used[n]) for n, memory in found.items() if memory.get("maxmemory")}
    yield _of_each("wa_redis_memory_used_bytes", "Memory that Redis uses", used)
    if left:
        meaning = "Memory that Redis may still use before it refuses writes"
        yield _of_each("wa_redis_memory_left_bytes", meaning, left)
