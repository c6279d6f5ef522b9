"""When a failed event is tried again."""

from __future__ import annotations

import random

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 3600.0


def delay(attempt: int) -> float:
    """Seconds to wait after try number `attempt` failed: 5 s, doubling up to an hour, a quarter more or less.

    The jitter keeps what failed together (a database was away) from coming back together.
    """
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.25)  # noqa: S311
