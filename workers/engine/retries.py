"""When an event is tried again that failed, was snoozed or put off."""

from __future__ import annotations

import math
import random

from ingest.store.constants import SLOTS_PER_SECOND

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 3600.0
LONGEST_PUT_OFF = 300.0

_STEPS = SLOTS_PER_SECOND  # a delay of a second or more is that many steps long, up to twice as many


def delay(attempt: int) -> float:
    """Seconds to wait after try number `attempt` failed: 5 s, doubling up to an hour, a quarter more or less.

    The jitter keeps what failed together (a database was away) from coming back together.
    """
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.25)  # noqa: S311


def put_off(waits: int) -> float:
    """Seconds for which an event waits at least that was put off `waits` times before, since its handler always fails.

    When the handler works again, all that was put off is due at once (revive.lua).
    """
    return min(LONGEST_PUT_OFF, FIRST_SECONDS * 2.0 ** min(waits, 10)) * random.uniform(0.75, 1.25)  # noqa: S311


def step(seconds: float) -> float:
    """The step to which a delay, and the time at which it ends, are rounded up, so that events share few due times.

    It is a power of two: a second for a minute or two, half a minute for an hour.
    """
    return float(2.0 ** (math.frexp(max(1.0, seconds) / _STEPS)[1] - 1))


def rounded(seconds: float) -> float:
    """A delay, rounded up to its step."""
    return math.ceil(seconds / step(seconds)) * step(seconds)
