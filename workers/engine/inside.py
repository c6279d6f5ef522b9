"""What a worker has in hand, as it tells it with its heartbeat: nothing is counted before that."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator

from ingest.state.in_work import Begun, Inside, Standing, Turn
from workers.dispatch import calls
from workers.dispatch.calls import BegunEvent
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.lists import ListCall
from workers.dispatch.ready import Item
from workers.engine.hand import Hands
from workers.handler import Handler

_Call = tuple[calls.Begun, Handler, float]
_Record = tuple[int, int]


def of(hands: Hands, dispatcher: Dispatcher) -> Inside:
    """All that is in hand; another thread may ask, while events begin and end: then a few count twice or not at all."""
    now = dispatcher.calls()
    gathered = list(dispatcher.gathered())
    turns = [(name, items) for name, items in dispatcher.turns() if items]
    theirs = {id(item) for _, items in turns for item in items}
    waiting = [item for hand in hands if hand.source.open for item in list(hand.source.waiting)]
    ready = [item for item in waiting if item.room is not None and id(item) not in theirs]
    return Inside(
        calls=list(_begun(now, dispatcher)),
        waits=_waits(hands, gathered),
        turns=[turn for name, items in turns for turn in _by_lane(name, items)],
        ready=[turn for name, items in _by_handler(ready).items() for turn in _by_lane(name, items)],
        lanes=_lanes(hands, now, [items for _, items in turns], [items for _, items in gathered], waiting),
    )


def _begun(now: list[_Call], dispatcher: Dispatcher) -> Iterator[Begun]:
    """By lane and handler."""
    found: dict[tuple[str, Handler], list[float]] = {}
    for begun, handler, began in now:
        found.setdefault((begun.lane, handler), []).append(began)
    since_epoch = time.time() - time.monotonic()
    for (lane, handler), each in found.items():
        yield Begun(lane, handler.name, len(each), since_epoch + min(each), dispatcher.full(handler))


def _waits(hands: Hands, gathered: list[tuple[Handler, list[Item]]]) -> dict[str, float]:
    """By lane, since when the event waits that has waited longest, for a slot, a handler's rate or company (ms since
    the epoch). What waits behind an earlier event of its contact does not count.
    """
    found: dict[str, float] = {}
    first = [next((item for item in list(hand.source.waiting) if item.room is not None), None) for hand in hands]
    first += [min(items, key=lambda item: item.number, default=None) for _, items in gathered]
    for item in first:
        if item is not None:
            lane = item.source.lane
            found[lane] = min(found.get(lane, item.owed_since), item.owed_since)
    return found


def _by_handler(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The events for each handler that is still to be called."""
    found: dict[str, list[Item]] = {}
    for item in items:
        done = item.account.done_before(item.index)
        for handler in item.handlers or ():
            if handler.digest not in done:
                found.setdefault(handler.name, []).append(item)
    return found


def _by_lane(name: str, items: list[Item]) -> Iterator[Turn]:
    by_lane: dict[str, list[Item]] = {}
    for item in items:
        by_lane.setdefault(item.source.lane, []).append(item)
    for lane, mine in by_lane.items():
        arrived = min(item.event.received_ms for item in mine)
        yield Turn(lane, name, len(mine), arrived, min(filter(None, map(_first_try_ms, mine)), default=None))


def _first_try_ms(item: Item) -> int | None:
    """When an event arrived of which no handler has ended yet, nor was called."""
    tried = item.event.attempt > 1 or item.account.done_before(item.index)
    return None if tried else item.event.received_ms


def _lanes(
    hands: Hands, now: list[_Call], turns: list[list[Item]], gathered: list[list[Item]], waiting: list[Item]
) -> dict[str, Standing]:
    """Where the records of each lane stand. One with several events counts once, where the first of these stands."""
    running = [item for begun, _, _ in now for item in _items(begun)]
    stands: dict[_Record, tuple[str, str]] = {}
    for place, items in (
        ("running", running),
        *(("turns", each) for each in turns),
        *(("gathering", each) for each in gathered),
        ("ready", [item for item in waiting if item.room is not None]),
        ("in_line", [item for item in waiting if item.room is None]),
    ):
        for item in items:
            stands.setdefault((id(item.account), item.index), (item.source.lane, place))
    counted = Counter(stands.values())
    # What was given to the threads ahead of time has begun, but nobody is at it, and it waits for no list.
    not_begun = set(map(id, waiting))
    known = {id(item): item for items in (running, *turns, *gathered) for item in items if id(item) not in not_begun}
    for hand in hands:
        counted[hand.lane, "ready"] += hand.source.in_flight
    for item in known.values():
        counted[item.source.lane, "ready"] -= 1
    lanes = {hand.lane for hand in hands}
    return {lane: Standing(**{place: max(0, counted[lane, place]) for place in Standing._fields}) for lane in lanes}


def _items(begun: calls.Begun) -> Iterable[Item]:
    if isinstance(begun, BegunEvent):
        return (begun.item,)
    return (place.item for place in begun.of.places) if isinstance(begun, ListCall) else ()
