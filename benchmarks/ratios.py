"""What is compared and what was asked for: ratios of one run, its targets, and the gate against a baseline.

Every ratio is one of two figures taken in the same run, the larger the better: absolute times mean little on a machine
that others use too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import HERE, BenchError
from benchmarks.names import OURS, PYTHON_QUEUES

BASELINE = HERE / "baseline.json"
FALL = 0.25
"""A ratio that fell by more than this part of its baseline fails the gate."""

_WAITS = (
    ("slow", "handlers of 5 s with a slot for each", 100.0),
    ("hangs", "beside a contact whose handler hangs", 500.0),
    ("flood", "beside a business that floods", 2000.0),
    ("fails", "beside a handler that fails", 500.0),
    ("one_core", "3,300/s, receiver and worker on one core", 250.0),
)
_PYTHON_ASYNC = ("taskiq", "saq", "streaq")  # benchmarks/waiting/sides.py

Measures = dict[str, Any]


class Target(NamedTuple):
    """A bound to keep; `value` is None when it was not measured."""

    text: str
    value: float | None
    bound: float
    at_least: bool = True

    @property
    def reached(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


class Change(NamedTuple):
    """A ratio beside its baseline; None: not measured there."""

    name: str
    before: float | None
    now: float | None

    @property
    def fell(self) -> bool:
        # The rounding of the files must not decide.
        return None not in (self.before, self.now) and self.now < self.before * (1 - FALL) - 1e-9  # type: ignore[operator]


def of(measures: Measures) -> dict[str, float]:
    """All ratios that a run's measures allow."""
    found: dict[str, float | None] = {}
    for measure, peers in (("accept", ("bare_aiohttp", "bullmq")), ("drain", ("bullmq", "rq_simple", "limit"))):
        rates = measures.get(measure, {}).get("median", {})
        found |= {f"{measure}: ours / {peer}": _over(rates.get("ours"), rates.get(peer)) for peer in peers}
        best = max((rates[name] for name in PYTHON_QUEUES if name in rates), default=None)
        found[f"{measure}: ours / best Python peer"] = _over(rates.get("ours"), best)
    accept = measures.get("accept", {}).get("median", {})
    found["accept: ours, AOF always / bare_aiohttp"] = _over(accept.get("ours_always"), accept.get("bare_aiohttp"))
    found["memory: bodies / ours"] = _over(1.0, _at(measures, "memory", "ours", "of_bodies"))
    waiting = _at(measures, "growth", "waiting") or {}
    if waiting:
        least, most = min(waiting, key=int), max(waiting, key=int)
        for figure in ("drain", "accept"):
            found[f"growth: {figure} with most / least waiting"] = _over(waiting[most][figure], waiting[least][figure])
    updates = _at(measures, "growth", "updates") or {}
    found["growth: bodies of 1,000 / 1 updates"] = _over(updates.get("1000"), updates.get("1"))
    for form in ("async", "plain"):
        part = {
            name: _at(one, "100", "drain", "of_slots") for name, one in (_at(measures, "waiting", form) or {}).items()
        }
        best = max((rate for name, rate in part.items() if rate and name != OURS), default=None)
        found[f"waiting: {form}, 100 ms, ours / slots"] = part.get(OURS)
        found[f"waiting: {form}, 100 ms, ours / best peer"] = _over(part.get(OURS), best)
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def targets(measures: Measures, cores: int) -> list[Target]:
    """What the project set itself."""
    ratio = of(measures)
    most = ratio.get("growth: drain with most / least waiting")
    trips = _at(measures, "accept", "redis", "64", "round_trips")
    answer = _at(measures, "latency", "3300", "ours") or {}
    idle = _at(measures, "latency", "idle", "to_handler", "p50_ms")
    parents = [command["parent"] for command in measures.get("processes", {}).values()]
    found = [
        Target("accept: of bare aiohttp, AOF everysec", ratio.get("accept: ours / bare_aiohttp"), 0.85),
        Target("accept: of bare aiohttp, AOF always", ratio.get("accept: ours, AOF always / bare_aiohttp"), 0.65),
        Target("accept: times the best Python peer", ratio.get("accept: ours / best Python peer"), 4.0),
        Target("accept: times Fastify + BullMQ", ratio.get("accept: ours / bullmq"), 1.0),
        Target("accept: round trips per notification", trips, 0.1, False),
        Target("drain: times the best Python peer", ratio.get("drain: ours / best Python peer"), 8.0),
        Target("drain: times BullMQ", ratio.get("drain: ours / bullmq"), 6.0),
        Target("drain: times RQ's SimpleWorker", ratio.get("drain: ours / rq_simple"), 100.0),
        Target("memory: times the bodies", _at(measures, "memory", "ours", "of_bodies"), 1.15, False),
        Target("Redis' CPU: a message in a backlog, µs", _at(measures, "redis", "message_backlog"), 30.0, False),
        Target("Redis' CPU: a message alone, µs", _at(measures, "redis", "message_alone"), 250.0, False),
        Target("processes: a parent, MiB", max(parents, default=None), 25.0, False),
        Target("processes: an idle worker, MiB", _at(measures, "processes", "work", "worker"), 50.0, False),
        Target("latency: answer p50 at 3,300/s, ms", answer.get("p50_ms"), 20.0, False),
        Target("latency: answer p99 at 3,300/s, ms", answer.get("p99_ms"), 250.0, False),
        Target("latency: idle, to the handler, p50, ms", idle, 5.0, False),
        Target("lanes: message to the handler, p99, ms", _at(measures, "lanes", "to_handler", "p99_ms"), 1000.0, False),
        Target("growth: drain with most / least waiting", most, 0.9),
    ]
    found += [
        Target(
            f"waiting: {form}, 100 ms, of what the slots allow",
            ratio.get(f"waiting: {form}, 100 ms, ours / slots"),
            0.9,
        )
        for form in ("async", "plain")
    ]
    waiting = measures.get("waiting", {})
    fastest = max((_rate(waiting, "async", name, "10") or 0.0 for name in _PYTHON_ASYNC), default=0.0)
    ours = _rate(waiting, "async", OURS, "10")
    found.append(Target("waiting: async, 10 ms, of the best Python peer", _over(ours, fastest), 0.9))
    for ms in ("1", "10", "100"):
        beside = _over(_rate(waiting, "plain", OURS, ms), _rate(waiting, "plain", "dramatiq", ms))
        found.append(Target(f"waiting: plain, {ms} ms, of dramatiq with threads", beside, 1.0))
    twelve = _at(waiting, "situations", "processes_12", "of_slots")
    found.append(Target("waiting: plain, 100 ms, 12 processes, of what the slots allow", twelve, 0.8))
    for name, text, bound in _WAITS:
        wait = _at(measures, "waiting", "situations", name, "p99_ms")
        found.append(Target(f"waiting: {text}, p99, ms", wait, bound, False))
    if cores > 2:  # on two, Valkey has no core of its own beside two workers
        workers = _at(measures, "growth", "workers") or {}
        found.append(Target("growth: two workers / one", _over(workers.get("2"), workers.get("1")), 1.6))
    return found


def compare(now: dict[str, float], before: dict[str, float]) -> list[Change]:
    """Each ratio beside its baseline."""
    return [Change(name, before.get(name), now.get(name)) for name in before | now]


def baseline(file: Path = BASELINE) -> dict[str, float]:
    """The ratios to compare with."""
    try:
        found: dict[str, float] = json.loads(file.read_text())["ratios"]
    except OSError:
        raise BenchError(f"{file} is not there; a quick run with --write-baseline writes it") from None
    return found


def _rate(waiting: dict[str, Any], form: str, name: str, ms: str) -> float | None:
    """Events a second of one side."""
    rate: float | None = _at(waiting, form, name, ms, "drain", "rate")
    return rate


def _over(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _at(found: Any, *path: str) -> Any:
    """A figure deep inside, None when it was not measured."""
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found
