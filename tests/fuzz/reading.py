"""What must hold of any body at all: it is placed, it is taken apart, and everything in it can be read and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson

from ingest.routing import route
from ingest.store.queues import MESSAGES, lane_of
from workers.engine import claims
from workers.events import Broken, Call, Change, Event, Message
from workers.events.chat import ChatEvent
from workers.events.envelope import write_json
from workers.events.parsing import parse

ARRAYS = ("messages", "message_echoes", "statuses", "calls", "user_preferences", "errors")
RECEIVED_MS, ATTEMPT, PARTITIONS = 1_700_000_000_123, 2, 8


def check(body: bytes) -> list[Event | Broken]:
    """What is in a body. Raises AssertionError, or whatever the code under test raises, when it is not treated as it
    must be.
    """
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
    return items


def _is_old(event: Event) -> bool:
    return isinstance(event, Message) and event.history


def _check_nothing_vanishes(body: bytes, items: list[Event | Broken]) -> None:
    """There are as many events as elements in arrays with a known name. What is missing among them is in a dead letter,
    in the errors of a call, or part of a change that is one event.
    """
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    elements = Counter(map(write_json, _elements(tree)))
    if missing := elements - Counter(write_json(item.raw) for item in items if isinstance(item, Event)):
        elsewhere = [orjson.loads(item.body) for item in items if isinstance(item, Broken)]
        elsewhere += [item.raw for item in items if isinstance(item, Change)]
        elsewhere += [item._beside for item in items if isinstance(item, Call)]
        missing -= Counter(map(write_json, _objects(elsewhere)))
    assert not missing, f"{missing.total()} elements vanished"


def _elements(tree: Any) -> Iterator[Any]:
    """What stands in arrays with a known name, in the values of whichever field, one by one."""
    for value in _values(tree):
        for array in ARRAYS:
            elements = value.get(array)
            yield from elements if isinstance(elements, list) else ()


def _values(tree: Any) -> Iterator[dict[str, Any]]:
    """The values in which elements stand, and what stands one level deeper in standby."""
    if not isinstance(tree, dict):
        return
    if "entry" not in tree:
        yield tree
        return
    for entry in tree["entry"] if isinstance(tree["entry"], list) else []:
        changes = entry.get("changes") if isinstance(entry, dict) else None
        for change in changes if isinstance(changes, list) else []:
            value = change.get("value") if isinstance(change, dict) else None
            if isinstance(value, dict):
                yield value
                if isinstance(inside := value.get("standby"), dict):
                    yield inside


def _objects(tree: Any) -> Iterator[Any]:
    """Everything in a tree, at every depth."""
    todo = [tree]
    while todo:
        item = todo.pop()
        yield item
        todo += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


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
