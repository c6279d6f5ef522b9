"""Answers but for the ready 200, and what ends a request without keeping anything."""

from __future__ import annotations

from typing import Any

from aiohttp import web

RETRY_AFTER = "5"
"""Seconds that a sender is asked to wait after a 503."""


class Answer(web.Response):
    """A response that does not name aiohttp, Python, and their versions."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(status=status, headers={"Server": "wa-ingest"} | (headers or {}), **more)


class Refused(Exception):
    """The request is answered with this status. `reason` is a word for the metrics; header names have `_` for `-`."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        self.status = status
        self.reason = reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def unavailable(reason: str) -> Refused:
    """503: the sender is to try again soon."""
    return Refused(503, reason, Retry_After=RETRY_AFTER)
