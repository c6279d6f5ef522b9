"""What every measure is given, and the arithmetic that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

Figures = dict[str, object]


class Bench(NamedTuple):
    """One run. `step` tells the progress bar what is being done."""

    quick: bool
    step: Callable[[str], None]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Of times in seconds: count, and p50, p99, max in milliseconds."""
    if not seconds:
        return {"count": 0}
    shown = {"p50_ms": percentile(seconds, 50), "p99_ms": percentile(seconds, 99), "max_ms": max(seconds)}
    return {"count": len(seconds)} | {name: round(value * 1000, 3) for name, value in shown.items()}


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    """Each one's median, rounded."""
    return {name: round(median(values), 1) for name, values in rates.items() if values}
