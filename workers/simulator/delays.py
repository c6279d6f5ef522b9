"""How long each sender waits before it posts a notification again, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

Form = Literal["onprem", "cloud"]

DAY = 86400.0


class Delays(NamedTuple):
    """The patience of a sender, in seconds."""

    wait: Callable[[int], float]
    """Seconds from the n-th failed try, from 1, to the next one."""
    give_up: float
    """Seconds after the first try; none is made later."""


DELAYS: dict[Form, Delays] = {
    # The client's settings callback_backoff_delay_ms (3000, linear) and max_callback_backoff_delay_ms (900000); it
    # goes on "typically 24 hours". 239 tries fit in, and the cap is never reached.
    "onprem": Delays(lambda failures: min(3.0 * failures, 900.0), DAY),
    # Meta says no more than: at once, then less and less often, for up to 7 days. Our choice: 1 s, doubling up to 6
    # hours, about forty tries.
    "cloud": Delays(lambda failures: min(2.0 ** min(failures - 1, 20), 6 * 3600.0), 7 * DAY),
}
