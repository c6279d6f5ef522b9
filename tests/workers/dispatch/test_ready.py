"""Which event begins next."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from workers.dispatch.ready import Item, Ready, Shares, Source
from workers.events import Event
from workers.events.parsing import parse


def _item(lane: str, business: str, sender: str = "15550001") -> Item:
    value = {"metadata": {"phone_number_id": business}, "messages": [{"from": sender, "id": "m", "type": "text"}]}
    body = orjson.dumps({"entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}]})
    (event,) = [event for event in parse(body, 0) if isinstance(event, Event)]
    return Item(0, event, _Account(), Source(lane))


class _Account:
    """That of a batch of which nothing was tried before."""

    def done_before(self, index: int) -> frozenset[bytes]:
        return frozenset()

    def order(self, event: Event) -> str | None:
        return None

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is called when an event begins, not before")


def test_urgent_first_and_a_tenth_for_the_others() -> None:
    """With all lanes full, messages come first, and each lower lane keeps a tenth of the work, by its cost."""
    shares = Shares()
    ready = Ready(shares)
    cost = {"messages": 0.1, "statuses": 0.3, "other": 0.05}
    for lane in cost:
        for _ in range(1000):
            ready.add(_item(lane, "1"))
    spent: Counter[str] = Counter()
    for _ in range(300):
        item = ready.next()
        assert item is not None
        lane = item.source.lane
        shares.add({lane: cost[lane]})
        spent[lane] += round(cost[lane] * 1000)
    assert 0.08 * spent.total() < spent["statuses"] < 0.2 * spent.total()
    assert 0.08 * spent.total() < spent["other"] < 0.2 * spent.total()


def test_businesses_have_their_turn() -> None:
    """Behind a flood of one business, another's event is the next but one; each keeps its own order."""
    ready = Ready(Shares())
    flood = [_item("messages", "flood", str(n)) for n in range(100)]
    other = [_item("messages", "other", str(n)) for n in range(3)]
    for item in [*flood, *other]:
        ready.add(item)
    begun = [ready.next() for _ in range(8)]
    assert begun == [flood[0], other[0], flood[1], other[1], flood[2], other[2], flood[3], flood[4]]
    assert len(ready) == ready.count("messages") == 95


def test_closed_lanes_are_left_out() -> None:
    """Nothing of a lane that is closed is given out, and nothing of it is forgotten."""
    ready = Ready(Shares())
    urgent, later = _item("messages", "1"), _item("statuses", "1")
    ready.add(urgent)
    ready.add(later)
    assert ready.next({"messages"}) is later
    assert ready.next({"messages"}) is None
    assert ready.next() is urgent
