"""When a failed event is tried again."""

from __future__ import annotations

import random

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 3600.0
LONGEST_PUT_OFF = 300.0


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
