"""Rates as people write them: 200/s, 50/m, 10/h."""

from __future__ import annotations

import math

_SECONDS = {"s": 1, "m": 60, "h": 3600}


def per_second(text: str) -> float:
    """Events per second. Raises ValueError, with what is expected."""
    number, _, unit = text.partition("/")
    try:
        rate = float(number) / _SECONDS[unit.strip()]
    except (ValueError, KeyError):
        rate = 0.0
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(
            f"{text!r} is no rate: give a number above 0 per second, minute or hour, such as 200/s, 50/m or 10/h"
        )
    return rate


def in_words(rate: float) -> str:
    """The reverse, in the shortest unit that makes the number whole: 200/s, 50/m, 10/h."""
    for unit, seconds in _SECONDS.items():
        whole = round(rate * seconds)
        if whole and abs(rate * seconds - whole) < 1e-4 * whole:
            return f"{whole}/{unit}"
    return f"{rate:.3g}/s"
