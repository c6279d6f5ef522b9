"""What every measure is given, and the arithmetic that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple


class Bench(NamedTuple):
    """One run. `step` tells the progress bar what is being done."""

    quick: bool
    step: Callable[[str], None]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


CURVE = (0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100)
"""The percentiles that a plot is drawn of."""


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Of times in seconds: count, and p50, p99, max and the curve in milliseconds."""
    if not seconds:
        return {"count": 0}
    curve = {f"{percent:g}": round(percentile(seconds, percent) * 1000, 3) for percent in CURVE}
    return {"count": len(seconds), "p50_ms": curve["50"], "p99_ms": curve["99"], "max_ms": curve["100"], "curve": curve}


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    """Each one's median, rounded."""
    return {name: round(median(values), 1) for name, values in rates.items() if values}
