"""Strict order: while a contact's event waits for its next try, its later ones wait behind it.

Redis keeps for each such contact the one batch whose events are next (`heads`), and the list of those that wait behind
it (`behind:ORDER`). Its first batch holds the event that failed. When that batch is done, the first of the list become
the next one (order.lua), until the list is empty. Whatever else of the contact a worker opens meanwhile goes to the end
of the list, by claim.lua's answer and with the next settle.
"""

from __future__ import annotations

from collections.abc import Container
from hashlib import blake2b

from ingest.store.queues import MESSAGES, lane_of
from workers.events import Event
from workers.handlers import Handlers


def order_of(event: Event, queue: str, handlers: Handlers, done: Container[bytes]) -> str:
    """The strict order of an event in this queue, or nothing. `done` are its handlers that are not called again."""
    if lane_of(queue) != MESSAGES or not handlers.in_strict_order(event, done) or event.order_key is None:
        return ""
    name = f"{event.kind}\0{event.business or ''}\0{event.order_key}"
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
