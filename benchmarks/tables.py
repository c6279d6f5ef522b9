"""A run's figures on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import ratios
from benchmarks.names import ACCEPT_TITLES, OURS, TITLES
from benchmarks.ratios import Change, Target
from benchmarks.waiting import figures
from benchmarks.waiting.figures import Figures

_REACHED = {True: ("yes", "green"), False: ("no", "red"), None: ("not measured", "dim")}


def show(console: Console, result: dict[str, Any]) -> None:
    """Print every measure that was taken, and the targets."""
    measures = result["measures"]
    for table in _tables(measures):
        console.print(table)
    console.print(_targets(ratios.targets(measures, int(result["machine"]["cores"]))))


def changes(found: list[Change]) -> Table:
    """Each ratio beside its baseline."""
    table = _table("Ratios beside benchmarks/baseline.json", "", "baseline", "now", "change", "")
    for one in found:
        change = f"{one.now / one.before - 1:+.0%}" if one.now is not None and one.before else ""
        verdict = Text("fell", style="red") if one.fell else Text("not measured" if one.now is None else "")
        table.add_row(one.name, _number(one.before), _number(one.now), change, verdict)
    return table


def _tables(measures: dict[str, Any]) -> Iterator[Table]:
    if "accept" in measures:
        yield _rates("Accept: notifications a second", measures["accept"]["median"], ACCEPT_TITLES)
        yield _redis(measures["accept"]["redis"])
    if "drain" in measures:
        yield _rates("Drain: events a second, one worker process", measures["drain"]["median"], TITLES)
    if "memory" in measures:
        yield _memory(measures["memory"])
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
        table = _table("Recovery", "", "s")
        table.add_row("worker killed, its batch settled by another", _number(measures["recovery"]["median"]))
        yield table
    if "waiting" in measures:
        yield from map(_figures, figures.tables(measures["waiting"]))


def _figures(found: Figures) -> Table:
    table = _table(found.title, "", *found.columns)
    for row in found.rows:
        table.add_row(*row, style="bold" if row[0] == TITLES[OURS] else "")
    return table


def _rates(title: str, rates: dict[str, float], titles: dict[str, str]) -> Table:
    table = _table(title, "", "a second", "ours is")
    for name, rate in sorted(rates.items(), key=lambda one: -one[1]):
        ours = "" if name.startswith(OURS) else f"{rates[OURS] / rate:.2f} times"
        table.add_row(titles[name], f"{rate:,.0f}", ours, style="bold" if name.startswith(OURS) else "")
    return table


def _redis(found: dict[str, dict[str, float]]) -> Table:
    table = _table("What an accepted notification asks of Redis", "connections", "round trips", "commands")
    for connections, calls in found.items():
        table.add_row(connections, f"{calls['round_trips']:.3f}", f"{calls['commands']:.2f}")
    return table


def _memory(found: dict[str, dict[str, float]]) -> Table:
    table = _table("Memory: Redis bytes per waiting notification", "", "bytes", "times the body")
    for name, used in sorted(found.items(), key=lambda one: one[1]["bytes"]):
        style = "bold" if name == OURS else ""
        table.add_row(TITLES[name], f"{used['bytes']:,.0f}", f"{used['of_bodies']:.2f}", style=style)
    return table


def _processes(found: dict[str, dict[str, float]]) -> Table:
    table = _table("Processes: MiB resident, idle", "", "parent", "receiver", "worker")
    for command, sizes in found.items():
        table.add_row(command, *(_number(sizes.get(name)) for name in ("parent", "receiver", "worker")))
    return table


def _latencies(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for load in ("1000", "3300", "idle"):
        name = "idle" if load == "idle" else f"{int(load):,}/s"
        titles = {"ours": "answer", "bare_aiohttp": "bare aiohttp: answer", "to_handler": "answer to handler"}
        titles["messages_to_handler"] = "of messages: answer to handler"
        for part, title in titles.items():
            if part in found[load] and not (load == "idle" and part == "messages_to_handler"):
                yield f"{name}: {title}", found[load][part]


def _times(title: str, rows: Iterable[tuple[str, dict[str, Any]]]) -> Table:
    table = _table(title, "", "p50 ms", "p99 ms", "max ms", "count", "missing")
    for name, spread in rows:
        missing = spread.get("missing", 0) + spread.get("not_answered", 0)
        figures = [_number(spread.get(key)) for key in ("p50_ms", "p99_ms", "max_ms")]
        table.add_row(name, *figures, f"{spread['count']:,}", f"{missing:,}")
    return table


def _growth(found: dict[str, Any]) -> Iterator[Table]:
    table = _table("Growth: a second, by what waits", "waiting", "accept", "drain")
    for size, rates in found["waiting"].items():
        table.add_row(f"{int(size):,}", f"{rates['accept']:,.0f}", f"{rates['drain']:,.0f}")
    yield table
    table = _table("Growth: events a second", "", "drain")
    for workers, rate in found["workers"].items():
        table.add_row(f"worker processes: {workers}", f"{rate:,.0f}")
    for updates, rate in found["updates"].items():
        table.add_row(f"updates in a body: {int(updates):,}", f"{rate:,.0f}")
    yield table


def _targets(targets: list[Target]) -> Table:
    table = _table("Targets", "", "asked", "found", "reached")
    for target in targets:
        word, style = _REACHED[target.reached]
        asked = f"{'≥' if target.at_least else '≤'} {target.bound:g}"
        table.add_row(target.text, asked, _number(target.value), Text(word, style=style))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
