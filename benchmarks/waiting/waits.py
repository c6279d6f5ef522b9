"""Rates and waits of events, from when they were posted, began and ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.bench import spread
from benchmarks.machine import BenchError
from benchmarks.programs import wait_until
from benchmarks.waiting.marks import Marks, Times


def rate_of(times: Times) -> float:
    """Events a second from the first begin to the last end. Raises BenchError when none ended."""
    ended = [moment for moment in times.ended if moment]
    if not ended:
        raise BenchError("no handler ended in time")
    return len(ended) / (max(ended) - min(moment for moment in times.began if moment))


def waited(times: Marks, posted: Sequence[float], patience: float) -> dict[str, Any]:
    """The waits of the events that were posted, once all have begun or patience is at an end."""
    return waited_for(times, posted, range(len(posted)), patience)


def waited_for(times: Marks, posted: Sequence[float], numbers: Sequence[int], patience: float) -> dict[str, Any]:
    """The same of the events with these numbers alone."""
    end = time.monotonic() + patience

    def over() -> bool:
        began = times.read().began
        return all(began[number] for number in numbers) or time.monotonic() > end

    now = wait_until(over, patience + 30, "the time", every=0.05)
    began = times.read().began
    return of([posted[number] for number in numbers], [began[number] for number in numbers], now)


def of(posted: Sequence[float], began: Sequence[float], now: float) -> dict[str, Any]:
    """From posted to begun; what has not begun counts with what it has waited until now, and is counted as missing."""
    found = [(begin or now) - moment for moment, begin in zip(posted, began, strict=True)]
    return spread(found) | {"missing": sum(not begin for begin in began)}
