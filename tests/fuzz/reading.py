"""What must hold of any body at all: it is placed, it is taken apart, and everything in it can be read and kept."""

from __future__ import annotations

from typing import Any

from ingest.routing import route
from ingest.store.queues import MESSAGES, lane_of
from workers.engine import claims
from workers.events import Broken, Event, Message
from workers.events.parsing import parse

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
        if isinstance(item, Message):
            assert f"{MESSAGES}.{int(item.order_key or '0', 16) % PARTITIONS}" in queues
    assert len({lane_of(queue) for queue in queues}) == 1


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
    """Every public property. A message's `profile` is an event of its own."""
    read = {name: getattr(event, name) for name in dir(event) if not name.startswith("_") and name != "profile"}
    profile = event.profile if isinstance(event, Message) else None
    properties = {name: value for name, value in read.items() if not callable(value)}
    return properties | {"repr": repr(event), "profile": profile and _read(profile)}
