"""What every peer's task does with a notification: parse it, and call a function that does nothing for each event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson


def handle(body: bytes | str) -> None:
    for value in _values(orjson.loads(body)):
        for event in value.get("messages", ()):
            nothing(event)
        for event in value.get("statuses", ()):
            nothing(event)


def nothing(event: dict[str, Any]) -> None:
    pass


def _values(notification: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts that hold the events: the whole in the On-Premises form, one for each change in the Cloud form."""
    if "entry" not in notification:
        yield notification
        return
    for entry in notification["entry"]:
        for change in entry["changes"]:
            yield change["value"]
