"""Handlers that wait, ours beside peers with as many slots: how well the slots are used, and how long events wait.

Throughput: a backlog waits, then the worker starts. The rate is that of the events that ended, from the first begin to
the last end, and at most a bounded time. Slots / time is what the slots allow: 100 slots of 100 ms each are 1,000/s.

Wait: events are posted by the clock at half of what the slots allow. It counts from when an event was posted to when
its handler began. What had not begun at the end counts with what it had waited by then, and is listed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks import machine
from benchmarks.bench import Bench
from benchmarks.machine import BenchError
from benchmarks.programs import folder, valkey, wait_until
from benchmarks.waiting import marks, schedule, sides, situations, waits
from benchmarks.waiting.sides import SLOTS, Side

MOST_POSTED = 1_000.0  # a second
WARM = 20  # events before those that count
_START = 30.0  # seconds for a worker to begin with its first event
_EVERY = 0.05


def run(bench: Bench) -> dict[str, Any]:
    """For each form, side and waiting time the rate and the wait; then the situations, of ours alone."""
    found: dict[str, Any] = {"slots": SLOTS, "async": {}, "plain": {}}
    for side in sides.chosen():
        for ms in (100,) if bench.quick else (1, 10, 100, 1000):
            bench.step(f"waiting: {side.title}, {side.form}, {ms:,} ms")
            found[side.form].setdefault(side.name, {})[str(ms)] = _figures(side, ms, bench.quick)
    return found | {"situations": situations.run(bench)}


def _figures(side: Side, ms: int, quick: bool) -> dict[str, Any]:
    """One that fails does not stop the others, which take minutes."""
    try:
        return {"drain": _drain(side, ms, 1.5 if quick else 5.0), "wait": _wait(side, ms, _seconds(ms, quick))}
    except BenchError as error:
        return {"failed": error.message}


def allowed(form: str, ms: int) -> float:
    """Events a second that the slots of a form allow."""
    return SLOTS[form] * 1000 / ms


def _seconds(ms: int, quick: bool) -> float:
    """Handlers of a second are few in a second."""
    return 1.5 if quick else 10.0 if ms >= 1000 else 5.0


def _drain(side: Side, ms: int, seconds: float) -> dict[str, Any]:
    """A backlog for so many seconds, measured for at most twice as long."""
    count = int(min(allowed(side.form, ms), side.most) * seconds)
    with ExitStack() as stack:
        place = stack.enter_context(folder())
        store = stack.enter_context(valkey("everysec"))
        times = marks.create(place / "marks", count)
        with sides.entrance(side, store, place / "marks") as post:
            post(schedule.at_once(count, ms))
        program = stack.enter_context(sides.working(side, store, place / "marks", machine.FRONT))
        began = wait_until(
            lambda: any(times.read().began), _START, f"the first event of {side.title}", program, every=_EVERY
        )
        end = began + 2 * seconds
        wait_until(lambda: all(times.read().ended) or time.monotonic() > end, 60.0, "the time", program, every=_EVERY)
        rate = waits.rate_of(times.read())
    return {"count": count, "rate": round(rate, 1), "of_slots": round(rate / allowed(side.form, ms), 3)}


def _wait(side: Side, ms: int, seconds: float) -> dict[str, Any]:
    """Events by the clock, at half of what the slots allow."""
    rate = min(allowed(side.form, ms) / 2, MOST_POSTED)
    count = int(rate * seconds)
    with ExitStack() as stack:
        place = stack.enter_context(folder())
        store = stack.enter_context(valkey("everysec"))
        times = marks.create(place / "marks", count + WARM)
        post = stack.enter_context(sides.entrance(side, store, place / "marks"))
        program = stack.enter_context(sides.working(side, store, place / "marks", machine.FRONT))
        post(schedule.at_once(WARM, 1, first=count))
        wait_until(lambda: all(times.read().ended[count:]), _START, f"the first events of {side.title}", program)
        posted = post(schedule.steadily(count, rate, ms))
        return waits.waited(times, posted, seconds) | {"rate": round(rate, 1), "posted": round(_rate(posted), 1)}


def _rate(posted: Sequence[float]) -> float:
    return (len(posted) - 1) / (posted[-1] - posted[0])
