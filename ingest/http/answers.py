"""All answers but the ready-made 200, and the exception that refuses a request."""

from __future__ import annotations

from typing import Any

from aiohttp import web

RETRY_AFTER = "5"
"""Seconds that a sender is asked to wait after a 503."""


_SERVER = {"Server": "wa-ingest"}  # else aiohttp names itself, Python and their versions


class Answer(web.Response):
    """An answer that is written at once."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(status=status, headers=_SERVER | (headers or {}), **more)


class StreamedAnswer(web.StreamResponse):
    """A 200 that is written piece by piece."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__(headers=_SERVER | headers)


class Refused(Exception):
    """Raised to answer with this status. `reason` is a word for the metrics; header names have `_` for `-`.

    `because` is the reason in more detail, where that needs another remedy (`ingest.state.refusals`).
    """

    def __init__(self, status: int, reason: str, because: str = "", **headers: str) -> None:
        self.status = status
        self.reason = reason
        self.because = because or reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def unavailable(reason: str) -> Refused:
    """503: the sender should try again soon."""
    return Refused(503, reason, Retry_After=RETRY_AFTER)
