"""What a destination's answer means for the events that were posted to it."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from workers.raised import DestinationError, Reject, RetryIn, Snooze

KEPT_BYTES = 500
"""So much of an answer is kept with a dead letter."""

TOO_MANY = 429
_LATER = frozenset({408, 425})
_LONGEST = 7 * 86_400.0
_UNSAID = 1.0  # seconds, where a 429 does not say for how long


class Answered(DestinationError):
    """A destination answered that it could not take what was posted; it is tried again."""


class Postponed(DestinationError, RetryIn):
    """It also said when to try again."""

    def __init__(self, told: str, seconds: float) -> None:
        RetryIn.__init__(self, seconds)
        DestinationError.__init__(self, told, f"{told}, asked for a retry in {seconds:g} s")


class Refused(DestinationError, Reject):
    """A destination answered that it will never take what was posted."""


def meaning(status: int, wait: float | None, body: bytes) -> Exception | None:
    """None when the events are handled; else what is raised for them. `wait` is what Retry-After asks for, in seconds.

    A 429 uses up no try: it says nothing of the event.
    """
    if 200 <= status < 300:
        return None
    if status == TOO_MANY:
        return Snooze(_UNSAID if wait is None else wait)
    said = body[:KEPT_BYTES].decode("utf-8", "replace")
    told = f"answered {status}"
    text = f"{told}: {said}" if said else told
    if status in _LATER or status >= 500:
        return Answered(told, text) if wait is None else Postponed(told, wait)
    return Refused(told, text)


def sort(status: int) -> str:
    """2xx, 3xx, 4xx, 429 or 5xx."""
    return "429" if status == TOO_MANY else f"{min(max(status // 100, 2), 5)}xx"


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After asks for, as number or date; None when it is not there or says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(0.0, seconds), _LONGEST)
