"""How much a worker takes."""

from __future__ import annotations

import pytest

from ingest.store.queues import MESSAGES
from workers import Handlers
from workers.dispatch.dispatcher import Dispatcher
from workers.engine.demand import MOST_IN_HAND, Demand
from workers.engine.hand import Hands


@pytest.mark.parametrize(("room", "taken"), [(20, 0), (600, 600)])
def test_a_full_hand_takes_in_larger_parts(room: int, taken: int) -> None:
    """While thousands of events wait here for their handler's turn, a worker does not take one whenever one ends: each
    batch would be of a few records, and a batch costs as much as thirty events."""
    handlers = Handlers()
    handlers.message(concurrency=1)(lambda event: None)
    dispatcher = Dispatcher(handlers, 100, 1, 30.0)
    try:
        hands = Hands(dispatcher)
        hands.of("messages.0").source.waiting = dict.fromkeys(range(MOST_IN_HAND - room))  # type: ignore[arg-type]  # only counted
        demand = Demand(dispatcher, hands, [MESSAGES])
        assert demand.rooms() == {MESSAGES: taken}
        demand.asked({MESSAGES: 1})
        assert demand.rooms() == {MESSAGES: 0}
    finally:
        dispatcher.close()
