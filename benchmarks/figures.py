"""The figures of a run as tables, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.names import ACCEPT_TITLES, OURS, TITLES
from benchmarks.ratios import Target

_REACHED = {True: "yes", False: "no", None: "not measured"}


class Figures(NamedTuple):
    """A table: the first column has no name."""

    title: str
    columns: list[str]
    rows: Sequence[tuple[str, ...]]


def tables(measures: dict[str, Any]) -> Iterator[Figures]:
    """Of every measure that was taken, but those of handlers that wait."""
    if "accept" in measures:
        yield _rates("Accept: notifications a second", measures["accept"]["median"], ACCEPT_TITLES)
        yield _redis(measures["accept"]["redis"])
    if "drain" in measures:
        yield _rates("Drain: events a second, one worker process", measures["drain"]["median"], TITLES)
    if "memory" in measures:
        yield _memory(measures["memory"])
    if "redis" in measures:
        yield _redis_cpu(measures["redis"])
    if "processes" in measures:
        yield _processes(measures["processes"])
    if "latency" in measures:
        yield _times("Latency, AOF always, open loop", _latencies(measures["latency"]))
    if "lanes" in measures:
        found = measures["lanes"]
        rows = [("answers", found["answers"]), ("message: answer to handler", found["to_handler"])]
        title = (
            f"Lanes: {found['statuses_before']:,} statuses waiting, 3,000/s arriving, {found['statuses_after']:,} left"
        )
        yield _times(title, rows)
    if "growth" in measures:
        yield from _growth(measures["growth"])
    if "recovery" in measures:
        killed = "worker killed, its batch settled by another"
        yield Figures("Recovery", ["s"], [(killed, number(measures["recovery"]["median"]))])


def of_targets(targets: Iterable[Target]) -> Figures:
    """What the project set itself."""
    rows = [
        (one.text, f"{'≥' if one.at_least else '≤'} {one.bound:g}", number(one.value), _REACHED[one.reached])
        for one in targets
    ]
    return Figures("Targets", ["asked", "found", "reached"], rows)


def number(value: float | None) -> str:
    """Three digits."""
    return "" if value is None else f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _rates(title: str, rates: dict[str, float], titles: dict[str, str]) -> Figures:
    rows = [
        (titles[name], f"{rate:,.0f}", "" if name.startswith(OURS) else f"{rates[OURS] / rate:.2f} times")
        for name, rate in sorted(rates.items(), key=lambda one: -one[1])
    ]
    return Figures(title, ["a second", "ours is"], rows)


def _redis(found: dict[str, dict[str, float]]) -> Figures:
    rows = [(name, f"{calls['round_trips']:.3f}", f"{calls['commands']:.2f}") for name, calls in found.items()]
    return Figures("What an accepted notification asks of Redis, by connections", ["round trips", "commands"], rows)


def _redis_cpu(found: dict[str, float]) -> Figures:
    kinds = [name.removesuffix("_backlog") for name in found if name.endswith("_backlog")]
    rows = [(kind, number(found[f"{kind}_backlog"]), number(found[f"{kind}_alone"])) for kind in kinds]
    return Figures("Redis' CPU for a notification, in and out: µs", ["in a backlog", "one at a time"], rows)


def _memory(found: dict[str, dict[str, float]]) -> Figures:
    by_size = sorted(found.items(), key=lambda one: one[1]["bytes"])
    rows = [(TITLES[name], f"{used['bytes']:,.0f}", f"{used['of_bodies']:.2f}") for name, used in by_size]
    return Figures("Memory: Redis bytes per waiting notification", ["bytes", "times the body"], rows)


def _processes(found: dict[str, dict[str, float]]) -> Figures:
    names = ["parent", "receiver", "worker"]
    rows = [(command, *(number(sizes.get(name)) for name in names)) for command, sizes in found.items()]
    return Figures("Processes: MiB resident, idle", names, rows)


def _latencies(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for load in ("1000", "3300", "idle"):
        name = "idle" if load == "idle" else f"{int(load):,}/s"
        titles = {"ours": "answer", "bare_aiohttp": "bare aiohttp: answer", "to_handler": "answer to handler"}
        titles["messages_to_handler"] = "of messages: answer to handler"
        for part, title in titles.items():
            if part in found[load] and not (load == "idle" and part == "messages_to_handler"):
                yield f"{name}: {title}", found[load][part]


def _times(title: str, found: Iterable[tuple[str, dict[str, Any]]]) -> Figures:
    rows = []
    for name, spread in found:
        missing = spread.get("missing", 0) + spread.get("not_answered", 0)
        times = [number(spread.get(key)) for key in ("p50_ms", "p99_ms", "max_ms")]
        rows.append((name, *times, f"{spread['count']:,}", f"{missing:,}"))
    return Figures(title, ["p50 ms", "p99 ms", "max ms", "count", "missing"], rows)


def _growth(found: dict[str, Any]) -> Iterator[Figures]:
    waiting = [
        (f"{int(size):,}", f"{rates['accept']:,.0f}", f"{rates['drain']:,.0f}")
        for size, rates in found["waiting"].items()
    ]
    yield Figures("Growth: a second, by what waits", ["accept", "drain"], waiting)
    rows = [(f"worker processes: {workers}", f"{rate:,.0f}") for workers, rate in found["workers"].items()]
    rows += [(f"updates in a body: {int(updates):,}", f"{rate:,.0f}") for updates, rate in found["updates"].items()]
    yield Figures("Growth: events a second", ["drain"], rows)
