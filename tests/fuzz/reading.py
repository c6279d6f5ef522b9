"""What must hold of any body at all: it is placed, it is taken apart, and everything in it can be read and kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from ingest.routing import route
from ingest.store.queues import MESSAGES, lane_of
from workers.engine import claims
from workers.events import Broken, Change, Event, Message
from workers.events.chat import ChatEvent
from workers.events.parsing import parse

ARRAYS = ("messages", "message_echoes", "statuses", "calls", "user_preferences", "errors")
RECEIVED_MS, ATTEMPT, PARTITIONS = 1_700_000_000_123, 2, 8


def check(body: bytes) -> None:
    """Raise AssertionError, or whatever the code under test raises, when a body is not treated as it must be."""
    routes = route(body, PARTITIONS)
    queues = {found.queue for found in routes}
    assert len(queues) == len(routes) >= 1
    items = parse(body, RECEIVED_MS, ATTEMPT)
    assert items
    for item in items:
        if isinstance(item, Broken):
            _check_broken(item)
            continue
        _check_event(item)
        if isinstance(item, ChatEvent) and not _is_old(item) and item.field != "history":
            assert f"{MESSAGES}.{int(item.order_key or '0', 16) % PARTITIONS}" in queues
    assert len({lane_of(queue) for queue in queues}) == 1
    _check_nothing_vanishes(body, items)


def _is_old(event: Event) -> bool:
    return isinstance(event, Message) and event.history


def _check_nothing_vanishes(body: bytes, items: list[Event | Broken]) -> None:
    """Each element of an array with a known name is an event, or a broken part."""
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    given = [item.raw for item in items if isinstance(item, Event)]
    broken = sum(isinstance(item, Broken) for item in items)
    for value in _values(tree):
        for array in ARRAYS:
            elements = value.get(array)
            for element in elements if isinstance(elements, list) else []:
                assert broken or element in given or element in value.get("errors", ()), (
                    f"an element of {array} vanished"
                )


def _values(tree: Any) -> Iterator[dict[str, Any]]:
    """The values in which messages are looked for."""
    if not isinstance(tree, dict):
        return
    if "entry" not in tree:
        yield tree
        return
    for entry in tree["entry"] if isinstance(tree["entry"], list) else []:
        changes = entry.get("changes") if isinstance(entry, dict) else None
        for change in changes if isinstance(changes, list) else []:
            if isinstance(change, dict) and change.get("field") == "messages" and isinstance(change.get("value"), dict):
                yield change["value"]


def _check_broken(broken: Broken) -> None:
    """Its body is what an operator feeds back: it can be read again, and is as broken as before."""
    assert "\n" not in broken.detail
    again = parse(broken.body, RECEIVED_MS, ATTEMPT)
    assert all(isinstance(item, Broken) for item in again) or broken.kind == "notification"


def _check_event(event: Event) -> None:
    """Its body is what a retry is written from: it gives this event again, and nothing else."""
    found = parse(event.body(), RECEIVED_MS, ATTEMPT, event.body_digest)
    assert len(found) == 1
    (again,) = found
    assert type(again) is type(event)
    assert isinstance(again, Event)
    assert again.raw == event.raw
    assert _read(again) == _read(event)
    assert claims.of(again) == claims.of(event)
    assert again.body() == event.body()


def _read(event: Event) -> dict[str, Any]:
    """Every public property. The `profile` of a message or change is an event of its own; of the `envelope` a retry
    has only what is small, and no contact but its own."""
    elsewhere = ("profile", "envelope")
    read = {name: getattr(event, name) for name in dir(event) if not name.startswith("_") and name not in elsewhere}
    profile = event.profile if isinstance(event, Message | Change) else None
    properties = {name: value for name, value in read.items() if not callable(value)}
    return properties | {"repr": repr(event), "profile": profile and _read(profile)}
