"""What ends a request without keeping anything."""

from __future__ import annotations

RETRY_AFTER = "5"
"""Seconds that a sender is asked to wait after a 503."""


class Refused(Exception):
    """The request is answered with this status. `reason` is a word for the metrics; header names have `_` for `-`."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        self.status = status
        self.reason = reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def unavailable(reason: str) -> Refused:
    """503: the sender is to try again soon."""
    return Refused(503, reason, Retry_After=RETRY_AFTER)
