"""Registers destinations as handlers."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from ingest.store.records import handler_digest
from workers.destinations.destination import Destination
from workers.destinations.pace import Pace
from workers.destinations.posting import Poster, Session
from workers.handler import Handler
from workers.handlers import Handlers

_TOGETHER = 100
"""Events of notifications that are gathered, where whole notifications are posted."""


def register(handlers: Handlers, destinations: Iterable[Destination]) -> None:
    """Have each event posted to the destinations that want it."""
    session = Session()
    for destination in destinations:
        handlers.add(_handler(destination, session))
    handlers.startup(session.open)
    handlers.shutdown(session.close)


def _handler(destination: Destination, session: Session) -> Handler:
    pace = Pace()
    poster = Poster(destination, session, pace)
    bulk = destination.bulk
    post = poster.one if bulk is None else poster.several
    if destination.body == "notification":
        bulk, post = bulk or _TOGETHER, poster.notifications
    return Handler(
        functools.partial(post),
        "event",
        frozenset(),
        True,
        destination.name,
        destination.rate,
        destination.concurrency,
        bulk,
        destination.linger,
        handler_digest(f"destination {destination.name}"),
        business=frozenset(destination.business),
        by_kind=destination.wants,
        pace=pace,
        strict_order=destination.strict_order,
        answers=poster.answers,
    )
