"""Handlers that always fail, as workers tell in Redis (`workers/dispatch/breakdowns.py`)."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

OLD_SECONDS = 120.0
"""So long after its next try was due, a breakdown is told no more: nothing has come for the handler since."""


@dataclass
class Broken:
    """A handler that always fails: its last error with the place, the seconds until it is tried again, and since when
    (ISO 8601), as the worker knows that told it last.
    """

    handler: str
    error: str
    next_seconds: float
    since: str | None = None

    def __str__(self) -> str:
        return f"handler {self.handler} fails ({self.error}), next try in {max(0, round(self.next_seconds))} s"


def parse(fields: dict[bytes, bytes], alive: Collection[bytes]) -> list[Broken]:
    """The hash, which a worker writes at each failed try and clears when the handler works again. What the next one has
    to say is known once that has tried: it may have other handlers.
    """
    found = []
    now = time.time()
    for name, value in sorted(fields.items()):
        known: Any = orjson.loads(value)
        left = known["next_try"] - now
        is_there = "worker" not in known or known["worker"].encode() in alive
        if left > -OLD_SECONDS and is_there:
            since = known.get("since")  # earlier versions do not tell
            iso = None if since is None else datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds")
            found.append(Broken(name.decode(), known["error"], left, iso))
    return found


def told_by(worker: str, fields: dict[bytes, bytes]) -> dict[str, float]:
    """The handlers of which that worker was the last to tell so, and since when they fail (seconds since the epoch)."""
    told: dict[str, Any] = {name.decode(): orjson.loads(value) for name, value in fields.items()}
    return {name: one.get("since", time.time()) for name, one in told.items() if one.get("worker") == worker}
