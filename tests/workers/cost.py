"""What a notification costs, step by step, from the receiver to what is told Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ingest.routing import route
from ingest.store.records import pack
from workers.dispatch.outcomes import Outcome
from workers.dispatch.ready import Item, Source
from workers.engine import claims
from workers.engine.batch_state import BatchState
from workers.engine.profiles import said
from workers.engine.results import Results
from workers.events import Message


def _collected(state: BatchState) -> list[Results]:
    found = [state.collect()]
    while not state.is_collected and (found[-1].done or found[-1].left):
        found.append(state.collect())
    return found


def steps(body: bytes) -> Iterator[tuple[str, float]]:
    """The CPU's seconds for each step, with all events in one partition; half of them fail, half are rejected."""
    began = time.process_time()
    routes = route(body, 1)
    yield "route", time.process_time() - began
    route(body, 32)
    began = time.process_time()
    state = BatchState(routes[0].queue, "b", [pack(body, 1_700_000_000_000)], 3, 1e12, "t")
    yield "parse", time.process_time() - began
    began = time.process_time()
    claimed = [(index, event, claims.of(event)) for index, event in state.events]
    yield "claim", time.process_time() - began
    began = time.process_time()
    source = Source("messages")
    for index, event in state.events:
        Item(index, event, None, source)  # type: ignore[arg-type]
        if isinstance(event, Message):
            said(event)
        (event.notification, event.subject, event.timestamp, getattr(event, "name", None), event.envelope)
    yield "dispatch", time.process_time() - began
    for _, event, claim in claimed:
        state.claimed(event, claim)
    half = len(state.events) // 2
    for what, outcome, some in (
        ("retry", Outcome("failed", "x", "E", "h"), state.events[:half]),
        ("letter", Outcome("rejected", "x", "E", "h"), state.events[half:]),
    ):
        began = time.process_time()
        for index, event in some:
            state.finish(index, event, outcome)
        _collected(state)
        yield what, time.process_time() - began
