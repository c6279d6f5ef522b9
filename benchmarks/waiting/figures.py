"""The figures of handlers that wait as tables, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.figures import Figures
from benchmarks.waiting.sides import SIDES

_LATE = 0.95
"""Below this part of the rate that was planned, the sender itself was too slow, and the cell says so."""

_FORMS = {"async": "async handlers (asyncio.sleep)", "plain": "plain handlers (time.sleep)"}

RATES = "events a second, and the part of slots / time"

_WAITS = {
    "slow": "100 contacts, 10/s in all, async 5 s",
    "at_random": "500/s, async 100 ms, contacts at random: 1 in 20 waits for its contact's last message",
    "hangs": "8 contacts of a partition, one's handler hangs: the others",
    "flood": "a business floods 1,000 of 50 ms (plain): another one's, 1/s",
    "fails": "a handler that always fails: the healthy one beside it, 20/s",
    "one_core": "3,300/s, receiver and worker on one core, 1 in 11 a message",
}
_RATES = {
    "processes_1": "plain 100 ms, 1 process",
    "processes_12": "plain 100 ms, 12 processes",
}


def tables(found: dict[str, Any]) -> Iterator[Figures]:
    """First how fast, then how long events wait, of each form; then the situations."""
    for form, text in _FORMS.items():
        slots = found["slots"][form]
        head = f"Waiting: {text}, {slots} slots"
        yield _sides(found[form], form, f"{head}: {RATES}", "drain")
        yield _sides(found[form], form, f"{head}, half load: wait before begin, p50 / p99 ms", "wait")
    yield from _situations(found["situations"])


def _sides(found: dict[str, Any], form: str, title: str, part: str) -> Figures:
    times = list(dict.fromkeys(ms for one in found.values() for ms in one))
    rows = [
        (side.title, *(_cell(found[side.name].get(ms, {}), part) for ms in times), "yes" if side.ordered else "no")
        for side in SIDES
        if side.form == form and side.name in found
    ]
    return Figures(title, [*(f"{int(ms):,} ms" for ms in times), "order per contact"], rows)


def _cell(found: dict[str, Any], part: str) -> str:
    if "failed" in found:
        return "failed"
    one = found.get(part)
    if one is None:
        return ""
    if part == "drain":
        return f"{one['rate']:,.0f} ({one['of_slots']:.0%})"
    text = f"{_ms(one['p50_ms'])} / {_ms(one['p99_ms'])}"
    if one["missing"]:
        text += f", {one['missing']:,} of {one['count']:,} not begun"
    if one["posted"] < one["rate"] * _LATE:
        text += f" at {one['posted']:,.0f}/s"
    return text


def _situations(found: dict[str, Any]) -> Iterator[Figures]:
    waits = [(text, *_wait(found[name])) for name, text in _WAITS.items() if name in found]
    yield Figures("Waiting: ours, wait before begin", ["p50 ms", "p99 ms", "max ms", "not begun"], waits)
    rates = [(text, *_rate(found[name])) for name, text in _RATES.items() if name in found]
    yield Figures("Waiting: ours, rates", ["events/s", "of slots / time"], [*rates, *_scale(found.get("scale", {}))])


def _wait(one: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in one:
        return ("failed", "", "", "")
    missing = f"{one['missing']:,} of {one['count']:,}" if one["missing"] else "0"
    return (*(_ms(one[name]) for name in ("p50_ms", "p99_ms", "max_ms")), missing)


def _rate(one: dict[str, Any]) -> tuple[str, str]:
    return ("failed", "") if "failed" in one else (f"{one['rate']:,.0f}", f"{one['of_slots']:.0%}")


def _scale(one: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each phase: the median of its seconds, and all of them in the order they came."""
    phases = (("1 worker", 1), ("then 4", 4), ("then 1 again", 1))
    for (text, workers), rate, each in zip(phases, one.get("rates", []), one.get("per_second", []), strict=False):
        part = f"{rate / (workers * one['allowed']):.0%}"
        yield (f"plain 50 ms, {text}: each second {', '.join(f'{count:,}' for count in each)}", f"{rate:,.0f}", part)


def _ms(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
